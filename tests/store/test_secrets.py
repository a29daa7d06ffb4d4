"""Keys, sealing, and secrets that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.store.secrets import SecretError, Vault, mint_key, new_secret, parse_key

SECRET = new_secret()


def test_a_minted_key_is_parsed_and_recognised() -> None:
    minted = mint_key()
    parsed = parse_key(minted.text)
    assert parsed is not None
    assert (parsed.public_id, parsed.secret) == (minted.public_id, minted.secret)
    vault = Vault.from_secret(SECRET)
    assert vault.digest(parsed.secret) == Vault.from_secret(SECRET).digest(minted.secret)
    assert vault.digest(parsed.secret) != Vault.from_secret(new_secret()).digest(minted.secret)


@given(st.integers(0, 66), st.sampled_from("abcXYZ019_-é "))
def test_no_typo_gets_past_the_checksum(at: int, letter: str) -> None:
    text = mint_key().text
    if text[at] != letter:
        assert parse_key(text[:at] + letter + text[at + 1 :]) is None


@given(st.text(max_size=80))
def test_nothing_else_is_a_key(text: str) -> None:
    assert parse_key(text) is None


def test_a_sealed_credential_opens_only_where_it_belongs() -> None:
    vault = Vault.from_secret(SECRET)
    sealed = vault.seal("sk-real", "connection:a:1")
    assert b"sk-real" not in sealed
    assert vault.unseal(sealed, "connection:a:1") == "sk-real"
    for other, context in ((vault, "connection:b:1"), (Vault.from_secret(new_secret()), "connection:a:1")):
        with pytest.raises(SecretError) as refused:
            other.unseal(sealed, context)
        assert "sk-real" not in str(refused.value)


@pytest.mark.parametrize(
    "secret", ["", "short", "a" * 64, "changeme" * 6, "sk-1234" * 8, "waystation" * 5, "0123456789" * 3, "password" * 5]
)
def test_a_guessable_secret_starts_nothing(secret: str) -> None:
    with pytest.raises(SecretError) as refused:
        Vault.from_secret(secret)
    assert not secret or secret not in str(refused.value)

"""How a credential becomes headers, and which can become none."""

from __future__ import annotations

import pytest

from shared.domain.catalogue import Auth
from shared.providers.auth import headers


@pytest.mark.parametrize(
    ("auth", "sent"),
    [
        (Auth.BEARER, [("authorization", "Bearer s3cret")]),
        (Auth.X_API_KEY, [("x-api-key", "s3cret")]),
        (Auth.X_GOOG_API_KEY, [("x-goog-api-key", "s3cret")]),
        (Auth.API_KEY, [("api-key", "s3cret")]),
        (Auth.NONE, []),
    ],
)
def test_each_scheme_sends_the_secret_in_its_own_header(auth: Auth, sent: list[tuple[str, str]]) -> None:
    assert headers(auth, "s3cret") == sent


@pytest.mark.parametrize("secret", ["a", "sk-proj_A.b~c+d/e==", "two words", '!"#$%&()*,:;<=>?@[\\]^`{|}'])
def test_any_printable_ascii_is_sent_as_it_is(secret: str) -> None:
    assert headers(Auth.BEARER, secret) == [("authorization", f"Bearer {secret}")]


@pytest.mark.parametrize("auth", [auth for auth in Auth if auth is not Auth.NONE])
@pytest.mark.parametrize(
    "secret",
    [
        "",
        " ",
        " s3cret",
        "s3cret ",
        "s3cret\n",
        "s3\r\nx-evil: 1",
        "s3\0cret",
        "s3\tcret",
        "s3cret\x7f",
        "s3crét",
        "s3cret\u00a0",
    ],
)
def test_a_secret_that_no_header_can_carry_is_refused_without_being_told(auth: Auth, secret: str) -> None:
    with pytest.raises(ValueError, match="the credential is empty or has characters that no header can carry") as caught:
        headers(auth, secret)
    assert "s3" not in str(caught.value)


@pytest.mark.parametrize("secret", ["", "s3cret", "s3\r\ncret"])
def test_without_a_scheme_no_secret_is_looked_at(secret: str) -> None:
    assert headers(Auth.NONE, secret) == []

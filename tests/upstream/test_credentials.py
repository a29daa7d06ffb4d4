"""A connection's sealed credential becomes the ready head of a request."""

from __future__ import annotations

import msgspec
import pytest

from shared.domain.catalogue import Auth, Connection, Deployment, Model, Provider
from shared.store.secrets import Vault, credential_context
from shared.upstream import credentials as module
from shared.upstream.credentials import Credentials
from shared.upstream.transport import CredentialUnusable, NothingSent

SECRET = "sk-live-9f8e7d6c"
VAULT = Vault.from_secret("q7Rk2mZx9Lp4Vt8Wb3Nc6Hs1Jd5Fg0Ya")
PROVIDER = Provider(name="lab", title="Lab", prefix="lab", base_url=None)


def connection(version: int = 1, secret: str | None = SECRET, sealed_for: int | None = None, name: str = "lab") -> Connection:
    sealed_for = version if sealed_for is None else sealed_for
    return Connection(
        connection_id=f"con_{name}",
        name=name,
        provider="lab",
        prefix=name,
        base_url="https://api.lab.example/v1/",
        sealed_credential=None if secret is None else VAULT.seal(secret, credential_context(f"con_{name}", sealed_for)),
        credential_version=version,
        connect_timeout_s=1.0,
        first_byte_timeout_s=2.0,
        idle_timeout_s=3.0,
    )


def deployment(to: Connection, provider: Provider = PROVIDER) -> Deployment:
    return Deployment(provider=provider, connection=to, model=Model(model_id="m"))


class CountingVault(Vault):
    """Counts how often a credential is opened."""

    def __init__(self) -> None:
        self.opened = 0

    def unseal(self, sealed: bytes, context: str) -> str:
        self.opened += 1
        return VAULT.unseal(sealed, context)


def test_a_request_carries_the_credential_and_the_connections_timeouts() -> None:
    request = Credentials(VAULT).request(deployment(connection()), "chat", b"{}")
    assert request.head.wire(2) == (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: api.lab.example\r\naccept-encoding: identity\r\n"
        b"user-agent: waystation\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer sk-live-9f8e7d6c\r\ncontent-length: 2\r\n\r\n"
    )
    assert (request.connect_timeout_s, request.first_byte_timeout_s, request.idle_timeout_s) == (1.0, 2.0, 3.0)


def test_the_credential_travels_as_the_provider_wants_it() -> None:
    provider = msgspec.structs.replace(PROVIDER, auth=Auth.X_API_KEY, endpoints={"chat": "/messages"})
    lines = Credentials(VAULT).request(deployment(connection(), provider), "chat", b"").head.wire(0)
    assert b"POST /v1/messages HTTP/1.1\r\n" in lines
    assert b"\r\nx-api-key: sk-live-9f8e7d6c\r\n" in lines


def test_a_connection_without_credential_sends_none() -> None:
    lines = Credentials(VAULT).request(deployment(connection(secret=None)), "chat", b"").head.wire(0)
    assert b"authorization" not in lines.lower()


def test_a_credential_is_opened_once_per_version() -> None:
    vault = CountingVault()
    credentials = Credentials(vault)
    first, second = connection(1), connection(2, "sk-rotated")
    for _ in range(3):
        assert b"sk-live" in credentials.request(deployment(first), "chat", b"").head.wire(0)
    assert vault.opened == 1
    for _ in range(3):
        assert b"sk-rotated" in credentials.request(deployment(second), "chat", b"").head.wire(0)
    assert vault.opened == 2


def test_a_changed_connection_is_used_as_it_now_is() -> None:
    credentials = Credentials(VAULT)
    old = connection()
    credentials.request(deployment(old), "chat", b"")
    moved = msgspec.structs.replace(old, base_url="http://10.0.0.1:8000")
    head = credentials.request(deployment(moved), "chat", b"").head
    assert (str(head.origin), head.target) == ("http://10.0.0.1:8000", "/chat/completions")


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 3)
    vault = CountingVault()
    credentials = Credentials(vault)
    all_five = [deployment(connection(name=f"c{number}")) for number in range(5)]
    for one in all_five:
        credentials.request(one, "chat", b"")
    for one in all_five[2:]:
        credentials.request(one, "chat", b"")
    assert vault.opened == 5
    credentials.request(all_five[0], "chat", b"")
    assert vault.opened == 6


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        pytest.param(connection(2, sealed_for=1), "does not open", id="sealed for another version"),
        pytest.param(connection(secret="sk-ü"), "no header can carry", id="no header value"),
        pytest.param(connection(secret="sk-a\r\nx: y"), "no header can carry", id="two lines"),
    ],
)
def test_a_credential_that_cannot_be_used_says_so_and_sends_nothing(broken: Connection, why: str) -> None:
    with pytest.raises(CredentialUnusable, match=why) as caught:
        Credentials(VAULT).request(deployment(broken), "chat", b"")
    assert isinstance(caught.value, NothingSent)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize("base_url", ["ftp://lab.example", "https://", "https://lab.example/a b", "nonsense"])
def test_a_base_url_that_cannot_be_called_sends_nothing(base_url: str) -> None:
    broken = msgspec.structs.replace(connection(), base_url=base_url)
    with pytest.raises(NothingSent, match="connection 'lab' cannot be used"):
        Credentials(VAULT).request(deployment(broken), "chat", b"")


def test_an_endpoint_that_the_provider_lacks_sends_nothing() -> None:
    with pytest.raises(NothingSent, match="embeddings"):
        Credentials(VAULT).request(deployment(connection()), "embeddings", b"")


def test_no_repr_shows_the_credential() -> None:
    credentials = Credentials(VAULT)
    request = credentials.request(deployment(connection()), "chat", b"hello")
    shown = "".join(map(repr, [request, request.head, credentials, credentials._entries]))
    assert SECRET not in shown

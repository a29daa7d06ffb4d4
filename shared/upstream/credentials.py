"""Credentials: from a connection's sealed credential to the ready head of a request.

Opened once per connection and version, then only bytes are joined. The credential lives in a Head, whose repr does not
show it, and leaves the cache with the version that it belonged to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from shared.clock import Clock, SystemClock
from shared.domain.catalogue import Auth, Connection, Deployment, Provider
from shared.domain.proxy import Proxy
from shared.providers.auth import headers
from shared.store.secrets import SecretError, Vault, credential_context
from shared.upstream.head import Head, split_url
from shared.upstream.sigv4 import AccessKey, access_key, region_of, signature_headers
from shared.upstream.transport import CredentialUnusable, NothingSent, UpstreamRequest
from shared.wire.transcription.canonical import Step

MANY = 4096
USER_AGENT = "waystation"


Sign = Callable[[bytes], list[tuple[str, str]]]
"""A body → the lines that sign it, where a credential is no line of its own (AWS)."""


class _Entry(NamedTuple):
    connection: Connection
    provider: Provider
    head: Head
    sign: Sign | None


class Credentials:
    """Bounded: the heads of at most `MANY` connection and endpoint pairs are kept, the longest kept goes first."""

    def __init__(self, vault: Vault, clock: Clock | None = None) -> None:
        self._vault = vault
        self._clock = clock or SystemClock()
        self._entries: dict[tuple[str, str], _Entry] = {}

    def request(
        self,
        deployment: Deployment,
        endpoint: str,
        body: bytes,
        forwarded: Sequence[tuple[str, str]] = (),
        proxy: Proxy | None = None,
    ) -> UpstreamRequest:
        """A call to one of the provider's endpoints, credential and timeouts of the connection on it.

        `forwarded`: the client's own headers that this provider understands; they go before the catalogue's of that name.
        Raises NothingSent (CredentialUnusable) when the connection cannot be used as it is configured.
        """
        connection, provider = deployment.connection, deployment.provider
        target = deployment.path(provider.endpoints.get(endpoint, ""))
        entry = self._entries.get((connection.connection_id, target))
        # A snapshot makes new objects of what changed, its version, base URL or provider: identity is enough.
        if entry is None or entry.connection is not connection or entry.provider is not provider:
            if not target:
                raise NothingSent(f"{provider.title} has no endpoint {endpoint!r}")
            entry = self._remember(connection, provider, target)
        head = entry.head
        if provider.headers or forwarded:
            names = {name for name, _ in forwarded}
            head = head.plus([*forwarded, *((name, text) for name, text in provider.headers.items() if name not in names)])
        if entry.sign is not None:
            head = head.plus(entry.sign(body))
        return _request(connection, head, body, proxy)

    def step(self, deployment: Deployment, step: Step, proxy: Proxy | None = None) -> UpstreamRequest:
        """A request to a path of its own, where one call takes several (transcriptions). Raises NothingSent."""
        connection, provider = deployment.connection, deployment.provider
        path = deployment.path(step.path)
        entry = self._entry(connection, provider, path, method=step.method, content_type=step.content_type)
        head = entry.head.plus(provider.headers.items()) if provider.headers else entry.head
        return _request(connection, head, step.body, proxy)

    def _remember(self, connection: Connection, provider: Provider, target: str) -> _Entry:
        entry = self._entry(connection, provider, target)
        self._entries.pop((connection.connection_id, target), None)
        if len(self._entries) >= MANY:
            del self._entries[next(iter(self._entries))]
        self._entries[connection.connection_id, target] = entry
        return entry

    def _entry(
        self,
        connection: Connection,
        provider: Provider,
        target: str,
        *,
        method: str = "POST",
        content_type: str = "application/json",
    ) -> _Entry:
        lines = [("user-agent", USER_AGENT), ("content-type", content_type)]
        try:
            origin, path = split_url(connection.base_url)
            path += target
            authorisation, sign = self._authorisation(connection, provider, origin.authority, path)
            return _Entry(connection, provider, Head(method, origin, path, lines + authorisation), sign)
        except ValueError as error:
            # A ValueError names the header or the URL's fault, never a value of a header.
            raise NothingSent(f"connection {connection.name!r} cannot be used: {error}") from None

    def _authorisation(
        self, connection: Connection, provider: Provider, authority: str, path: str
    ) -> tuple[list[tuple[str, str]], Sign | None]:
        """The lines that carry the credential, or what signs with it."""
        sealed = connection.sealed_credential
        if sealed is None:
            return [], None
        version = connection.credential_version
        try:
            secret = self._vault.unseal(sealed, credential_context(connection.connection_id, version))
            key = access_key(secret) if provider.auth is Auth.AWS else None
            return ([], self._signing(key, authority, path)) if key is not None else (headers(provider.auth, secret), None)
        except (SecretError, ValueError) as error:  # neither says the secret
            raise CredentialUnusable(f"connection {connection.name!r} cannot be used: {error}") from None

    def _signing(self, key: AccessKey, authority: str, path: str) -> Sign:
        region = region_of(authority)

        def sign(body: bytes) -> list[tuple[str, str]]:
            return signature_headers(
                key, method="POST", authority=authority, path=path, body=body, region=region, time_s=self._clock.now_s()
            )

        return sign


def _request(connection: Connection, head: Head, body: bytes, proxy: Proxy | None) -> UpstreamRequest:
    return UpstreamRequest(
        head=head,
        body=body,
        connect_timeout_s=connection.connect_timeout_s,
        first_byte_timeout_s=connection.first_byte_timeout_s,
        idle_timeout_s=connection.idle_timeout_s,
        proxy=proxy,
    )

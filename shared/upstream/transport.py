"""Transport: the seam between a call and the network. One method; what may go wrong is this tree:

TransportError
├── NothingSent            no byte of the request left: nothing was spent, trying elsewhere is free
│   ├── EgressDenied       the address is none that a tenant may reach
│   ├── ProxyFailed        the proxy cannot be reached or used, or will not: the provider is not to blame
│   └── CredentialUnusable the connection's credential cannot be opened or cannot be a header
├── SentNoReply            the request left, the connection ended before a reply's head
├── FirstByteTimeout       the request left, and until the deadline no byte of a reply's body came
├── IdleTimeout            the reply began and then fell silent
├── ReplyCut               the reply began and the connection ended before it was whole
├── MalformedResponse      what came is no HTTP/1.1 reply, or one whose end cannot be known for certain
└── ReplyTooLarge          whole replies only: more bytes than the caller was ready to hold

Messages are about the provider, in words that an operator can act on; they never hold a credential or a body.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import msgspec

from shared.domain.proxy import Proxy
from shared.upstream.head import Head, Origin

__all__ = [
    "CredentialUnusable",
    "EgressDenied",
    "FirstByteTimeout",
    "Head",
    "IdleTimeout",
    "MalformedResponse",
    "NothingSent",
    "Origin",
    "ProxyFailed",
    "ReplyCut",
    "ReplyTooLarge",
    "SentNoReply",
    "Transport",
    "TransportError",
    "UpstreamRequest",
    "UpstreamResponse",
]


class TransportError(Exception):
    """An attempt's bad end, as the network saw it."""


class NothingSent(TransportError): ...


class EgressDenied(NothingSent): ...


class ProxyFailed(NothingSent): ...


class CredentialUnusable(NothingSent): ...


class SentNoReply(TransportError): ...


class FirstByteTimeout(TransportError): ...


class IdleTimeout(TransportError): ...


class ReplyCut(TransportError): ...


class MalformedResponse(TransportError): ...


class ReplyTooLarge(TransportError): ...


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """One request. `first_byte_timeout_s` counts from sending to the first byte of the reply's body, because many
    providers send a head at once and think afterwards; `idle_timeout_s` is the longest silence after that."""

    head: Head
    body: bytes = b""
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 300.0
    idle_timeout_s: float = 120.0
    proxy: Proxy | None = None
    """None: straight to the origin."""

    def __repr__(self) -> str:
        return f"UpstreamRequest({self.head!r}, {len(self.body)} bytes)"


class UpstreamResponse(Protocol):
    """A reply: the head is here, the body comes as it comes. One reader; `close()` whatever happens."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case; a repeated header's values are joined by `, `."""
        ...

    async def read(self, limit: int) -> bytes:
        """The rest of the body. Raises ReplyTooLarge above `limit` bytes, and what iterating raises."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Non-empty pieces, as large as what has arrived since the last one. Raises TransportError."""
        ...

    def close(self) -> None:
        """Let go. A reply that is not whole takes its socket with it, at once: the provider stops working."""
        ...


class Transport(Protocol):
    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Returns when the reply's head is here, whatever its status. Raises TransportError. Cancelling it closes the
        socket. Nothing is followed, stored or repeated, but for a connection that proves to have been closed before."""
        ...

    async def close(self) -> None: ...

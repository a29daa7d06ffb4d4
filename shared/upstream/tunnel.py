"""Tunnel: an open channel to an origin, through a proxy: HTTP CONNECT (RFC 9110 §9.3.6) or SOCKS5 (handshake.py).

What comes out is a channel like any other: TLS to the origin runs inside the tunnel (and inside TLS to the proxy, where
its URL says https), so a proxy sees where calls go and never what they say. Both event loops can do TLS in TLS.

Plain http goes through CONNECT too, and a proxy that refuses that is an error. Forwarding (a request with its whole URL) was
tried and dropped: the proxy's own answers are then taken for the provider's, so that its 403 condemns a credential, its 407
and its error pages become a provider's failure, and a call that never reached a model is booked as if it had.

With a guard the proxy is given an address that we resolved and checked, never the name: it would resolve the name itself,
perhaps to a private address on its side of the network that nobody here ever sees. A proxy that wants names, or a network
without a resolver, refuses such a call; that is the safe way round. The proxy's own address is the operator's word and may
be private.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from shared.domain.proxy import Proxy
from shared.upstream import handshake
from shared.upstream.channel import Channel
from shared.upstream.dial import Dialler, Guard, words
from shared.upstream.handshake import MOST_BYTES, Refuses, Unreachable
from shared.upstream.head import Origin
from shared.upstream.transport import NothingSent, ProxyFailed

MOST_ADDRESSES = 4
"""Of a guarded name: so many are tried, one after the other, within the connect deadline."""


class Tunneller:
    """Opens channels to one origin through one proxy."""

    def __init__(
        self,
        origin: Origin,
        proxy: Proxy,
        guard: Guard | None,
        tls: ssl.SSLContext | None,
        proxy_tls: ssl.SSLContext | None,
    ) -> None:
        self._origin, self._proxy, self._tls = origin, proxy, tls
        self._name = f"proxy {proxy.place}"
        self._to_proxy = Dialler(Origin(proxy.scheme, proxy.host, proxy.port), None, proxy_tls, self._name)
        self._checked = None if guard is None else Dialler(origin, guard, None)

    async def open(self, factory: Callable[[], Channel]) -> Channel:
        if self._checked is None:
            return await self._through(self._origin.host, factory)
        try:
            addresses = await self._checked.addresses()
        except OSError as error:
            why = "a proxy gets no name to resolve where addresses must be checked"
            raise NothingSent(f"cannot connect to {self._origin}: {words(error)} here, and {why}") from None
        refused: NothingSent = NothingSent(f"cannot connect to {self._origin}: its name has no address")
        for _, address in addresses[:MOST_ADDRESSES]:
            try:
                return await self._through(str(address[0]), factory)
            except (Refuses, Unreachable) as error:
                refused = error
        raise refused

    async def _through(self, host: str, factory: Callable[[], Channel]) -> Channel:
        opening = await self._reach()
        try:
            await self._ask(opening, host)
            if self._tls is not None:
                await opening.secure(self._tls, self._origin.host)
            return opening.become(factory())
        except BaseException as error:
            opening.abort()
            if isinstance(error, ssl.SSLCertVerificationError):
                raise NothingSent(f"cannot trust {self._origin} through {self._name}: {error.verify_message}") from None
            if isinstance(error, OSError):
                raise NothingSent(f"cannot connect to {self._origin} through {self._name}: {words(error)}") from None
            raise

    async def _reach(self) -> Opening:
        try:
            return await self._to_proxy.open(partial(Opening, self._name))
        except NothingSent as error:
            raise ProxyFailed(str(error)) from None

    async def _ask(self, opening: Opening, host: str) -> None:
        try:
            if self._proxy.scheme == "socks5":
                await handshake.socks5(opening, self._proxy, host, self._origin.port)
            else:
                await handshake.connect(opening, self._proxy, host, self._origin.port)
        except OSError as error:
            raise ProxyFailed(f"{self._name} ended the connection while it was asked: {words(error)}") from None


class Opening(asyncio.Protocol):
    """The connection while the tunnel is being dug: what the proxy says, read by the step. One reader."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._raw: asyncio.Transport | None = None
        """To the proxy."""
        self._transport: asyncio.Transport | None = None
        """To whoever speaks now: the proxy, or the origin once the tunnel has TLS."""
        self._said = bytearray()
        self._ended: BaseException | None = None
        self._waiting: asyncio.Future[None] | None = None

    # -- what the handshake asks of it

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    async def exactly(self, count: int) -> bytes:
        """Raises OSError when the connection ends first."""
        while len(self._said) < count:
            await self._more()
        return self._taken(count)

    async def head(self) -> bytes:
        """Up to an empty line, or as much as shows that none will come. Raises OSError."""
        while (end := self._said.find(b"\r\n\r\n")) < 0:
            if len(self._said) > MOST_BYTES or not b"HTTP/1.".startswith(self._said[:7]):
                return bytes(self._said)
            await self._more()
        return self._taken(end + 4)

    # -- what the tunneller asks of it

    async def secure(self, tls: ssl.SSLContext, host: str) -> None:
        """TLS to the origin. Raises OSError."""
        self._sound()
        assert self._transport is not None
        outer = cast(Any, self._transport)
        if type(outer).__module__ == "asyncio.sslproto":
            # Python 3.11's passes an argument on that its _abort does not take; a failed handshake would hang.
            outer._force_close = lambda exc: outer.abort()
        made = await self._loop.start_tls(self._transport, self, tls, server_hostname=host)
        if made is None:  # lost in the turn that completed it
            raise ConnectionResetError("the connection ended")
        self._transport = made

    def become(self, channel: Channel) -> Channel:
        """Hand the connection over. Raises OSError, ProxyFailed."""
        self._sound()
        assert self._transport is not None
        self._transport.set_protocol(channel)
        channel.connection_made(self._transport)
        return channel

    def abort(self) -> None:
        for transport in (self._transport, self._raw):
            if transport is not None:
                transport.abort()

    def forget(self) -> None:
        self._ended = ConnectionAbortedError("given up")
        self.abort()

    # -- what the event loop tells it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = self._transport = cast(asyncio.Transport, transport)
        if self._ended is not None:
            self.abort()

    def data_received(self, data: bytes) -> None:
        self._said += data
        if len(self._said) > 2 * MOST_BYTES:
            self.abort()
        self._wake()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._ended = exc or ConnectionResetError("the connection ended")
        self._wake()

    def _sound(self) -> None:
        """Still there, and nothing said that nobody asked for: it would become part of a reply."""
        assert self._transport is not None
        if self._ended is not None or self._transport.is_closing():
            raise self._ended if isinstance(self._ended, OSError) else ConnectionResetError("the connection ended")
        if self._said:
            raise ProxyFailed(f"{self._name} sends more than its answer")

    async def _more(self) -> None:
        if self._ended is not None:
            raise self._ended if isinstance(self._ended, OSError) else ConnectionResetError("the connection ended")
        self._waiting = self._loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _taken(self, count: int) -> bytes:
        taken = bytes(self._said[:count])
        del self._said[:count]
        return taken

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

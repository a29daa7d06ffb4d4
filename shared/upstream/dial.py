"""Dial: from an origin to an open channel. Every address passes the guard before a packet goes to it.

The guard sees what will really be connected to, so a name that resolves differently the second time, a numeric host in
an odd notation or a mixed answer all end at the same check. Addresses race as RFC 8305 says: the next one starts when
one failed or after half a second (a TLS handshake is part of the race), and the winner goes first the next time.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from shared.upstream.head import Origin
from shared.upstream.transport import NothingSent

if TYPE_CHECKING:
    from shared.upstream.channel import Channel
    from shared.upstream.tunnel import Opening

C = TypeVar("C", "Channel", "Opening")

Guard = Callable[[tuple[Any, ...]], None]
"""Takes a socket address as `getaddrinfo` gives it, `(host, port, …)`; raises EgressDenied."""
Address = tuple[int, tuple[Any, ...]]
"""Family, socket address."""

NEXT_ADDRESS_AFTER_S = 0.5
ADDRESSES_LIVE_S = 10.0


class Dials(Protocol):
    """What a pool wants: straight to the origin (Dialler) or through a proxy (tunnel.py)."""

    async def open(self, factory: Callable[[], Channel]) -> Channel:
        """Raises NothingSent (EgressDenied, ProxyFailed). The caller bounds the time."""
        ...


class Dialler:
    """Opens channels to one origin; remembers its addresses for a few seconds, so that a burst asks DNS once."""

    def __init__(self, origin: Origin, guard: Guard | None, tls: ssl.SSLContext | None, name: str | None = None) -> None:
        self._origin = origin
        self._name = name or str(origin)
        self._guard = guard
        self._tls = tls
        self._addresses: asyncio.Task[list[Address]] | None = None
        self._stale_after_s = 0.0

    async def addresses(self) -> list[Address]:
        """All that the name has, each past the guard. Raises EgressDenied, OSError."""
        addresses = await self._resolve(asyncio.get_running_loop())
        if self._guard is not None:
            for _, address in addresses:  # one bad address condemns the name: an honest one has none
                self._guard(address)
        return addresses

    async def open(self, factory: Callable[[], C]) -> C:
        """Raises NothingSent (EgressDenied). The caller bounds the time."""
        loop = asyncio.get_running_loop()
        try:
            addresses = await self.addresses()
            if len(addresses) == 1:
                return await self._connect(addresses[0], factory, loop)
            return await self._race(addresses, factory, loop)
        except ssl.SSLCertVerificationError as error:
            raise NothingSent(f"cannot trust {self._name}: {error.verify_message}") from None
        except OSError as error:
            self._addresses = None
            raise NothingSent(f"cannot connect to {self._name}: {words(error)}") from None

    async def _resolve(self, loop: asyncio.AbstractEventLoop) -> list[Address]:
        """One look-up for all who ask meanwhile; who gives up does not end it for the others."""
        task = self._addresses
        if task is None or (task.done() and (task.cancelled() or loop.time() > self._stale_after_s)):
            self._addresses = task = loop.create_task(self._look_up(loop))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _look_up(self, loop: asyncio.AbstractEventLoop) -> list[Address]:
        found = await loop.getaddrinfo(self._origin.host, self._origin.port, type=socket.SOCK_STREAM)
        self._stale_after_s = loop.time() + ADDRESSES_LIVE_S
        return list(_alternate([(family, tuple(address)) for family, _, _, _, address in found]))

    async def _connect(self, entry: Address, factory: Callable[[], C], loop: asyncio.AbstractEventLoop) -> C:
        """The loop gets the address, not a socket of ours: uvloop (0.23) would close a handed-in socket's descriptor
        twice when the other side ends the connection in the turn that it is made, and hit whoever has its number then.
        """
        channel = factory()
        try:
            await loop.create_connection(
                lambda: channel,
                *entry[1][:2],
                family=entry[0],
                flags=socket.AI_NUMERICHOST,
                ssl=self._tls,
                server_hostname=self._origin.host if self._tls else None,
            )
        except BaseException:
            channel.forget()
            raise
        return channel

    async def _race(self, addresses: list[Address], factory: Callable[[], C], loop: asyncio.AbstractEventLoop) -> C:
        waiting = iter(list(addresses))
        entry = next(waiting, None)
        running: dict[asyncio.Task[C], Address] = {}
        failure = OSError("its name has no address")
        try:
            while entry is not None or running:
                if entry is not None:
                    running[loop.create_task(self._connect(entry, factory, loop))] = entry
                    entry = next(waiting, None)
                await asyncio.wait(
                    running,
                    timeout=NEXT_ADDRESS_AFTER_S if entry is not None else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in [task for task in running if task.done()]:
                    winner = running.pop(task)
                    error = task.exception()
                    if error is None:
                        addresses.sort(key=winner.__ne__)
                        return task.result()
                    if not isinstance(error, OSError):
                        raise error
                    failure = error
            raise failure
        finally:
            for task in running:
                task.add_done_callback(_hang_up)
                task.cancel()


def _alternate(addresses: Iterable[Address]) -> Iterator[Address]:
    """The resolver's order, with families taking turns, so that one broken family costs one attempt."""
    families: dict[int, list[Address]] = {}
    for entry in addresses:
        families.setdefault(entry[0], []).append(entry)
    return (entry for entry in chain.from_iterable(zip_longest(*families.values())) if entry is not None)


def _hang_up(task: asyncio.Task[C]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().abort()


def words(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its name has no address"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "handshake failed").replace("_", " ").lower()
    return os.strerror(error.errno).lower() if error.errno else str(error) or type(error).__name__

"""Pool: the channels to one origin: kept alive while idle, bounded if wished, watched by one sweep.

A sweep looks at every busy channel each 50 ms, so that no request arms a timer: deadlines are exact to that much. With
nothing busy it only looks once a second for channels that idled too long.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress

from shared.upstream.channel import Channel, WentStale
from shared.upstream.dial import Dials
from shared.upstream.inflate import decoded
from shared.upstream.reply import Reply
from shared.upstream.transport import NothingSent, UpstreamRequest, UpstreamResponse

SWEEP_S = 0.05
SLOW_SWEEP_S = 1.0


class Pool:
    def __init__(self, dialler: Dials, *, limit: int | None, keepalive_s: float) -> None:
        self._dialler = dialler
        self._limit = limit
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._idle: deque[Channel] = deque()
        """Least recently used first; some may have been closed meanwhile."""
        self._busy: set[Channel] = set()
        self._open: set[Channel] = set()
        self._sockets = 0
        self._dialling = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._tick: asyncio.TimerHandle | None = None
        self._slow = False
        self._closed: asyncio.Future[None] | None = None

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        channel = self._take() if not self._waiting else None
        if channel is None:
            channel = await self._acquire(request, fresh=False)
        head = self._begin(channel, request)
        try:
            try:
                reply = await head
            except WentStale:
                channel = await self._acquire(request, fresh=True)
                head = self._begin(channel, request)
                reply = await head
        except asyncio.CancelledError:
            channel.give_up(head)  # nothing to do for one that has ended
            raise
        return decoded(reply) if "content-encoding" in reply.headers else reply

    async def close(self) -> None:
        """Abort everything and wait until the sockets are gone."""
        if self._closed is None:
            self._closed = self._loop.create_future()
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        for channel in list(self._open):
            channel.hang_up()
        if self._sockets:
            await asyncio.shield(self._closed)

    @property
    def empty(self) -> bool:
        return not (self._sockets or self._dialling or self._waiting)

    @property
    def sockets(self) -> int:
        return self._sockets

    # -- what a channel tells it

    def made(self, channel: Channel) -> None:
        self._sockets += 1
        self._open.add(channel)

    def release(self, channel: Channel, headers: Mapping[str, str]) -> None:
        """Its reply is whole: keep it for the next request, for as long as the provider says, within our own limit."""
        self._busy.discard(channel)
        keep_s = self._keepalive_s
        if (hint := headers.get("keep-alive")) is not None:
            keep_s = min(keep_s, _promised_s(hint))
        if keep_s <= 0 or self._closed is not None:
            channel.abort()
            return
        channel.idle_until_s = self._loop.time() + keep_s
        self._idle.append(channel)
        if self._waiting:
            self._next_in_line()

    def lost(self, channel: Channel) -> None:
        """It takes no more requests; its place is free."""
        self._busy.discard(channel)
        self._open.discard(channel)
        if self._waiting:
            self._next_in_line()

    def gone(self, channel: Channel) -> None:
        """Its socket is closed."""
        self._sockets -= 1
        if self._closed is not None and not self._sockets and not self._closed.done():
            self._closed.set_result(None)

    # -- channels

    def _begin(self, channel: Channel, request: UpstreamRequest) -> asyncio.Future[Reply]:
        self._busy.add(channel)
        if self._tick is None or self._slow:
            self._arm(SWEEP_S)
        return channel.begin(request)

    def _take(self) -> Channel | None:
        """The idle channel used last: it is the least likely to be closed by the other side just now."""
        idle = self._idle
        while idle:
            channel = idle.pop()
            if channel.idle_until_s <= self._loop.time():
                channel.abort()
            elif channel.open:
                return channel
        return None

    async def _acquire(self, request: UpstreamRequest, *, fresh: bool) -> Channel:
        """A new channel, or with a limit perhaps one that another request gave back. Raises NothingSent."""
        through = f" through proxy {request.proxy.place}" if request.proxy is not None else ""
        why = f"cannot connect to {request.head.origin}{through}: no answer"
        try:
            async with asyncio.timeout(request.connect_timeout_s):
                while self._limit is not None and len(self._open) + self._dialling >= self._limit:
                    if (channel := self._take()) is not None:
                        if not fresh:
                            return channel
                        channel.abort()
                        continue
                    why = f"all {self._limit} connections to {request.head.origin} are busy"
                    await self._turn()
                return await self._dial()
        except TimeoutError:
            raise NothingSent(f"{why} within {request.connect_timeout_s:g} s") from None

    async def _dial(self) -> Channel:
        if self._closed is not None:
            raise NothingSent("this node is shutting down")
        self._dialling += 1
        channel: Channel | None = None
        try:
            channel = await self._dialler.open(lambda: Channel(self, self._loop))
        finally:
            self._dialling -= 1
            if channel is None and self._waiting:
                self._next_in_line()
        if self._closed is not None or not channel.open:
            channel.abort()
            raise NothingSent("the connection was closed as soon as it was open")
        return channel

    async def _turn(self) -> None:
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._next_in_line()  # it was our turn: pass it on
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(waiter)

    def _next_in_line(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    # -- the sweep

    def _arm(self, after_s: float) -> None:
        if self._tick is not None:
            self._tick.cancel()
        self._slow = after_s == SLOW_SWEEP_S
        self._tick = self._loop.call_later(after_s, self._sweep)

    def _sweep(self) -> None:
        self._tick = None
        now_s = self._loop.time()
        for channel in list(self._busy):
            channel.check(now_s)
        idle = self._idle
        if idle and (idle[0].idle_until_s <= now_s or not idle[0].open):
            kept = [channel for channel in idle if channel.open and channel.idle_until_s > now_s]
            late = [channel for channel in idle if channel.idle_until_s <= now_s]
            self._idle = deque(kept)
            for channel in late:
                channel.abort()
        if self._busy:
            self._arm(SWEEP_S)
        elif self._idle:
            self._arm(SLOW_SWEEP_S)


def _promised_s(hint: str) -> float:
    """`timeout=5, max=100` → a second less than the provider keeps it, so that it is not us who finds it closed."""
    for part in hint.split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "timeout" and value.isascii() and value.isdigit() and len(value) < 9:
            return int(value) - 1.0
    return float("inf")

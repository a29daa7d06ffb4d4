"""Live streams of this node: cut the clients that do not read, keep silent streams alive, and end what is left when the grace
period is over."""

from __future__ import annotations

import asyncio
from typing import Protocol

from shared.domain.refusal import Refusal

WRITE_TIMEOUT_S = 30.0
PING_AFTER_S = 12.0
"""A silence that balancers and clients bear; a model that thinks may be silent for minutes."""
SWEEP_S = 1.0


class LiveStream(Protocol):
    blocked_since_s: float | None
    last_write_s: float

    async def ping(self) -> None: ...

    async def fail(self, refusal: Refusal) -> None: ...

    def abort(self) -> None: ...


class LiveStreams:
    """One sweep a second for all streams, instead of a timer for each write."""

    def __init__(self, write_timeout_s: float = WRITE_TIMEOUT_S, ping_after_s: float = PING_AFTER_S) -> None:
        self._streams: set[LiveStream] = set()
        self._write_timeout_s = write_timeout_s
        self._ping_after_s = ping_after_s
        self._pings: set[asyncio.Task[None]] = set()
        self.draining = False

    def __len__(self) -> int:
        return len(self._streams)

    def remember(self, stream: LiveStream) -> None:
        self._streams.add(stream)

    def forget(self, stream: LiveStream) -> None:
        self._streams.discard(stream)

    async def sweep_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep(loop.time())

    def sweep(self, now_s: float) -> None:
        for stream in list(self._streams):
            blocked = stream.blocked_since_s
            if blocked is None:
                if now_s - stream.last_write_s > self._ping_after_s:
                    self._ping(stream)
            elif now_s - blocked > self._write_timeout_s:
                stream.abort()

    def _ping(self, stream: LiveStream) -> None:
        task = asyncio.get_running_loop().create_task(stream.ping())
        self._pings.add(task)
        task.add_done_callback(self._pinged)

    def _pinged(self, task: asyncio.Task[None]) -> None:
        self._pings.discard(task)
        if not task.cancelled():
            task.exception()  # a client that is gone: its own handler is told

    async def end_all(self, farewell: Refusal) -> None:
        """The grace period is over: say so in each stream, then cut it."""
        streams = list(self._streams)
        await asyncio.gather(*(asyncio.wait_for(s.fail(farewell), 1.0) for s in streams), return_exceptions=True)
        for stream in streams:
            stream.abort()

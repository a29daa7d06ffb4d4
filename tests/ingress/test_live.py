"""Live streams: silent ones are kept alive, blocked ones are cut."""

from __future__ import annotations

import asyncio

from services.ingress.live import LiveStreams
from shared.domain.refusal import Refusal


class Stream:
    def __init__(self, last_write_s: float, blocked_since_s: float | None = None, *, gone: bool = False) -> None:
        self.last_write_s = last_write_s
        self.blocked_since_s = blocked_since_s
        self.gone = gone
        self.pings = 0
        self.aborted = False

    async def ping(self) -> None:
        if self.gone:
            raise ConnectionResetError
        self.pings += 1

    async def fail(self, refusal: Refusal) -> None:
        raise AssertionError(refusal)

    def abort(self) -> None:
        self.aborted = True


async def test_only_streams_that_are_silent_and_not_blocked_are_pinged() -> None:
    live = LiveStreams(write_timeout_s=30, ping_after_s=12)
    silent, busy, blocked, stuck, gone = Stream(80), Stream(95), Stream(60, 80), Stream(60, 65), Stream(80, gone=True)
    for stream in (silent, busy, blocked, stuck, gone):
        live.remember(stream)
    live.sweep(100)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [stream.pings for stream in (silent, busy, blocked, stuck)] == [1, 0, 0, 0]
    assert [stream.aborted for stream in (silent, busy, blocked, stuck, gone)] == [False, False, False, True, False]
    live.forget(silent)
    live.sweep(200)
    await asyncio.sleep(0)
    assert silent.pings == 1

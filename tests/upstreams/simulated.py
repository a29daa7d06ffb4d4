"""The simulator inside the test's own process and event loop, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ssl import SSLContext

from services.simulator.app import serving
from services.simulator.state import Fault, Record, State, known_behaviour


class Upstream:
    """A running provider, and what it saw."""

    def __init__(self, state: State, port: int, scheme: str) -> None:
        self.state = state
        self.port = port
        self.origin = f"{scheme}://127.0.0.1:{port}"
        self.url = f"{self.origin}/v1"

    @property
    def requests(self) -> list[Record]:
        """All requests so far, oldest first."""
        return list(self.state.records)

    @property
    def last(self) -> Record:
        return self.state.records[-1]

    def fail(self, behaviour: str, *, model: str | None = None, times: int | None = None, share: float | None = None) -> None:
        """Put a fault in force, after those already there."""
        known_behaviour(behaviour)
        self.state.faults.append(Fault(behaviour, model, times, share))

    def reset(self) -> None:
        self.state.reset()

    async def until_ended(self, index: int = -1, *, within_s: float = 5.0) -> Record:
        """The record at `index` once it has ended. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            await _until(lambda: bool(self.state.records) and self.state.records[index].ended is not None)
        return self.state.records[index]

    async def until_received(self, count: int = 1, *, within_s: float = 5.0) -> Record:
        """The last record once `count` requests have arrived. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            await _until(lambda: len(self.state.records) >= count)
        return self.state.records[-1]


async def _until(met: Callable[[], bool]) -> None:
    while not met():  # noqa: ASYNC110 - the simulator's state is plain data and announces nothing
        await asyncio.sleep(0.002)


@asynccontextmanager
async def upstream(
    *faults: str,
    api_key: str | None = None,
    pace_ms: int = 0,
    any_model: bool = True,
    port: int = 0,
    ssl_context: SSLContext | None = None,
) -> AsyncIterator[Upstream]:
    """A provider whose requests all get `faults` (behaviour names); unknown model ids are served as `chat`."""
    state = State(keep=10_000, api_key=api_key, pace_ms=pace_ms, any_model=any_model)
    async with serving(state, port=port, ssl_context=ssl_context) as bound:
        provider = Upstream(state, bound, "https" if ssl_context else "http")
        if faults:
            provider.fail("+".join(faults))
        yield provider

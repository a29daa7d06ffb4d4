"""Nodes with slots: as the host wires them, each with its own connections to one Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from shared.clock import SystemClock
from shared.domain.catalogue import Connection
from shared.domain.upstream_limits import Queue, UpstreamLimits
from shared.providers import registry
from shared.store import keys
from shared.store.redis import Lane, client
from shared.telemetry.metrics import SlotMeters
from shared.upstream.slots.slots import Slots

PROVIDERS = registry.load()


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What is decided in Redis need not be tried on both event loops."""
    return {"asyncio": asyncio.new_event_loop}


def connection(limits: UpstreamLimits | None, name: str = "main", provider: str = "openai") -> Connection:
    return Connection(
        connection_id=f"conn_{name}",
        name=name,
        provider=provider,
        prefix=provider,
        base_url="http://127.0.0.1:9/v1",
        limits=limits,
    )


def limits(**given: object) -> UpstreamLimits:
    queue = Queue(most=given.pop("most", 100), wait_s=given.pop("wait_s", 10.0))  # type: ignore[arg-type]
    return UpstreamLimits(queue=queue, **given)  # type: ignore[arg-type]


@asynccontextmanager
async def nodes(url: str, count: int) -> AsyncIterator[list[Slots]]:
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(node(url, f"node-{number}", count)) for number in range(count)]
        yield made


@asynccontextmanager
async def node(url: str, name: str, live_nodes: int = 1) -> AsyncIterator[Slots]:
    lane, redis = Lane(url, deadline_s=2.0), client(url)
    slots = Slots(lane, redis, name, lambda: live_nodes, PROVIDERS, SystemClock(), SlotMeters())
    await lane.open()
    hearing = asyncio.ensure_future(slots.run())
    deadline_s = time.monotonic() + 5
    channel = keys.slots_channel(lane.database, name)
    while lane.up and await redis.pubsub_numsub(channel) != [(channel, 1)]:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)
    try:
        yield slots
    finally:
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
        await asyncio.sleep(0.01)
        await lane.close()
        await redis.aclose()


@pytest.fixture
async def slots(redis_url: str) -> AsyncIterator[Slots]:
    async with nodes(redis_url, 1) as (one,):
        yield one

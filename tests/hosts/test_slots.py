"""Connections with limits, through real nodes: one limit for all, what is over it goes elsewhere or waits, then is refused."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path

from tests.hosts.cluster import Cluster, call, client, running
from tests.upstreams import Upstream, upstream


def entry(provider: Upstream, name: str, **limits: object) -> dict[str, object]:
    made = {"name": name, "prefix": name, "provider": "custom", "base_url": provider.url, "api_key": "env:LAB_KEY"}
    return made | ({"limits": limits} if limits else {})


async def asked(cluster: Cluster, node: int, deadline_s: str = "60") -> tuple[int, str, str]:
    """Status, who answered, Retry-After."""
    async with client(cluster, node) as one:
        status, told, _ = await one.chat(call(max_tokens=20), x_waystation_deadline_s=deadline_s)
    return status, told.get("x-waystation-model", ""), told.get("retry-after", "")


async def test_two_nodes_keep_one_limit_and_what_is_over_it_goes_elsewhere(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with upstream() as spare, running(database_url, redis_url, tmp_path, nodes=2) as cluster:
        limited = entry(cluster.provider, "lab", rpm=6, burst_rpm=6)
        await cluster.apply(connections=[limited, entry(spare, "spare")], fallbacks={"lab/chat": ["spare/chat"]})
        seen = await asyncio.gather(*(asked(cluster, at % 2) for at in range(20)))
        assert {status for status, _, _ in seen} == {200}
        assert len(cluster.provider.requests) == 6
        assert len(spare.requests) == 14
        await cluster.apply(connections=[entry(cluster.provider, "lab")])  # live: without limits nothing is held back
        assert {model for _, model, _ in await asyncio.gather(*(asked(cluster, 0) for _ in range(5)))} == {"lab/chat"}


async def test_a_call_waits_in_the_queue_and_not_beyond_its_deadline(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with running(database_url, redis_url, tmp_path) as cluster:
        await cluster.apply(connections=[entry(cluster.provider, "lab", min_gap_ms=400)])
        started_s = time.monotonic()
        seen = await asyncio.gather(*(asked(cluster, 0) for _ in range(4)))
        assert {status for status, _, _ in seen} == {200}
        assert time.monotonic() - started_s >= 1.2
        moments = [record.received_at for record in cluster.provider.requests]
        assert all(later - earlier >= 0.38 for earlier, later in pairwise(moments))
        hurried = await asyncio.gather(*(asked(cluster, 0, "0.6") for _ in range(5)))
        assert 429 in {status for status, _, _ in hurried} <= {200, 429}
        assert all(retry for status, _, retry in hurried if status == 429)


async def test_a_slot_is_free_again_whatever_happens_to_its_call(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with running(database_url, redis_url, tmp_path) as cluster:
        await cluster.apply(connections=[entry(cluster.provider, "lab", concurrent=1)])
        for fault in ("fail-500", "html-502", "truncated-json"):
            cluster.provider.fail(fault, times=1)
            assert (await asked(cluster, 0))[0] in (500, 502)
            assert (await asked(cluster, 0))[0] == 200
        cluster.provider.fail("stall-after-2", times=1)
        async with client(cluster) as one:
            gone = asyncio.ensure_future(one.chat(call(stream=True)))
            await cluster.provider.until_received(7)
            gone.cancel()
        assert (await asked(cluster, 0))[0] == 200


async def test_a_pause_that_a_provider_asks_for_is_kept_by_calls_of_connections_without_limits(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with running(database_url, redis_url, tmp_path) as cluster:
        cluster.provider.fail("fail-429-retry-2", times=1)
        assert (await asked(cluster, 0))[0] == 429
        started_s = time.monotonic()
        hurried = await asked(cluster, 0, "0.3")
        assert (hurried[0], float(hurried[2]) <= 2) == (429, True)
        assert len(cluster.provider.requests) == 1
        assert (await asked(cluster, 0))[0] == 200  # it waited
        assert time.monotonic() - started_s >= 1.5

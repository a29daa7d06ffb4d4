"""The long version of what tests/hosts proves once: nodes and workers killed again and again under load."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.hosts.cluster import Cluster, call, client, running

ROUNDS = int(os.environ.get("SOAK_ROUNDS", "25"))


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_every_answered_call_is_booked_once_whatever_is_killed(database_url: str, redis_url: str, tmp_path: Path) -> None:
    chance = random.Random(11)
    answered: set[str] = set()
    async with running(database_url, redis_url, tmp_path, nodes=2, workers=2) as cluster:
        made = await cluster.new_key(budget_nano=10**12)
        for _ in range(ROUNDS):
            load = [asyncio.ensure_future(calls(cluster, node, made.key, answered)) for node in (-2, -1) for _ in range(5)]
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            cluster.nodes[-2].kill()
            cluster.workers[-2].kill()
            await asyncio.gather(*load)
            await cluster.ready(cluster.start_node())
            cluster.start_worker()
        rows = await cluster.booked(len(answered), within_s=90)
        await asyncio.sleep(45)  # leases of killed calls end
        rows = await cluster.booked(len(answered))
        booked = {str(row["event_id"]) for row in rows if row["entry"] == 0}
        assert answered <= booked
        actual = [str(row["event_id"]) for row in rows if row["kind"] == "actual"]
        assert len(actual) == len(set(actual))
        async with Redis.from_url(redis_url) as redis:
            assert [name async for name in redis.scan_iter(match="ws:*:rsv*")] == []
            cells = [name async for name in redis.scan_iter(match="ws:*:b:*") if not name.endswith(b":u")]
            held = await redis.hgetall(cells[0])
        assert (int(held[b"reserved"]), int(held[b"spent"])) == (0, sum(row["cost_nano_usd"] for row in rows))


async def calls(cluster: Cluster, node: int, key: str, answered: set[str]) -> None:
    async with client(cluster, node, key) as mine:
        for _ in range(20):
            try:
                status, headers, _ = await mine.chat(call(max_tokens=20))
            except aiohttp.ClientError:
                return
            if status == 200:
                answered.add(headers["x-request-id"])

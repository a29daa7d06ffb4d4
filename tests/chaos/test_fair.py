"""One organisation with fifty times the demand of another, at four real nodes with one limited connection."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from shared.store import tenants
from tests.chaos.crowd import percentile
from tests.hosts.cluster import Cluster, call, running

RUN_S = 15.0
EVERY_S, BURST = 3.0, 10
"""The light one's demand: a third of what the connection allows; alone it waits for itself."""
PER_S = 10.0
LIMITS = {"rpm": int(60 * PER_S), "burst_rpm": 1, "queue": {"most": 200, "wait_s": 10}}


class Tenant:
    """Sends `BURST` calls every `every_s`, each to the next node."""

    def __init__(self, cluster: Cluster, key: str, every_s: float) -> None:
        self._cluster, self._key, self._every_s = cluster, key, every_s
        self.waits_s: list[float] = []
        self.statuses: Counter[int] = Counter()

    async def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        connector = aiohttp.TCPConnector(limit=0)
        started_s, number = time.monotonic(), 0
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session, asyncio.TaskGroup() as group:
            while (left_s := started_s + RUN_S - time.monotonic()) > 0:
                for _ in range(BURST):
                    number += 1
                    group.create_task(self._call(session, number))
                await asyncio.sleep(min(self._every_s, left_s))

    async def _call(self, session: aiohttp.ClientSession, number: int) -> None:
        asked_s = time.monotonic()
        url = f"{self._cluster.url(number % 4)}/v1/chat/completions"
        async with session.post(url, json=call("lab/chat", max_tokens=5)) as reply:
            await reply.read()
        self.statuses[reply.status] += 1
        if number > BURST and reply.status == 200:  # whoever comes for the first time shares evenly
            self.waits_s.append(time.monotonic() - asked_s)


@pytest.mark.chaos
async def test_the_light_one_waits_hardly_longer_and_the_limit_is_used(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with running(database_url, redis_url, tmp_path, nodes=4) as cluster:
        lab = {"name": "lab", "prefix": "lab", "provider": "custom", "base_url": cluster.provider.url, "api_key": "env:LAB_KEY"}
        await cluster.apply(connections=[lab | {"limits": LIMITS}])
        async with cluster.pool.begin() as connection:
            organisation = await tenants.add_organisation(connection, "heavy")
            await tenants.add_team(connection, organisation, "heavy")
        busy = await tenants.create_key(cluster.pool, cluster.vault, team="heavy", organisation="heavy")
        await cluster.taken_in()
        alone = Tenant(cluster, cluster.key, EVERY_S)
        await alone.run()
        await asyncio.sleep(2)
        light, heavy = Tenant(cluster, cluster.key, EVERY_S), Tenant(cluster, busy.key, EVERY_S / 50)
        before = len(cluster.provider.requests)
        working = asyncio.ensure_future(heavy.run())
        await asyncio.sleep(EVERY_S)
        await asyncio.gather(working, light.run())
        moments = [record.received_at for record in cluster.provider.requests[before:]]
    used = (len(moments) - 1) / (moments[-1] - moments[0]) / PER_S
    p99_s = percentile(alone.waits_s, 0.99), percentile(light.waits_s, 0.99)
    print(
        f"light alone p99 {p99_s[0] * 1000:.0f} ms, beside {p99_s[1] * 1000:.0f} ms ({p99_s[1] / p99_s[0]:.2f} x), "
        f"{dict(light.statuses)}; heavy {dict(heavy.statuses)}; used {used * 100:.1f} % of {moments[-1] - moments[0]:.1f} s"
    )
    assert set(light.statuses) == {200}
    assert p99_s[1] <= 1.5 * p99_s[0]
    assert 0.95 <= used <= 1.05

"""A provider goes down: nobody notices, nobody floods the others, and nobody goes on asking it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.chaos.crowd import Crowd, percentile
from tests.hosts.cluster import Cluster, running
from tests.upstreams import Upstream

OPEN_S = 2.0
"""Short, so that a test sees many periods; jitter makes it 0.8 to 1.2 times as long, and each failed probe doubles it."""
FAILURES = 5
PROFILE = {"failures": FAILURES, "open_s": OPEN_S, "longest_open_s": OPEN_S}
LONG = float(os.environ.get("CHAOS_TIMES", "1"))
STOPPED_S = 1.25
ROUNDS = 5


pytestmark = pytest.mark.chaos


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path, spare: Upstream) -> AsyncIterator[Cluster]:
    """Four nodes; `lab/chat` falls back to `spare/chat`."""
    async with running(database_url, redis_url, tmp_path, nodes=4) as started:
        await started.apply(connections=connections(started, spare), fallbacks={"lab/chat": ["spare/chat"]})
        yield started


def connections(cluster: Cluster, spare: Upstream) -> list[dict[str, Any]]:
    timeouts = {"connect_timeout_s": 2, "first_byte_timeout_s": 5, "idle_timeout_s": 5}
    entry = {"provider": "custom", "api_key": "env:LAB_KEY", "profile": PROFILE} | timeouts
    return [
        entry | {"name": "lab", "prefix": "lab", "base_url": cluster.provider.url},
        entry | {"name": "spare", "prefix": "spare", "base_url": spare.url},
    ]


async def test_every_call_is_answered_while_a_provider_is_down(cluster: Cluster, spare: Upstream) -> None:
    crowd = Crowd(cluster)
    well = await crowd.run(seconds=4 * LONG, rate=50)
    assert {each.status for each in well} == {200}
    cluster.provider.fail("fail-503")
    failed_at = time.time()
    down = await crowd.run(seconds=8 * LONG, rate=50)
    assert {each.status for each in down} == {200}
    asked = [record.received_at for record in cluster.provider.requests if record.received_at >= failed_at]
    threshold_at = asked[2 * FAILURES - 1]  # a 503 counts half
    late = [at for at in asked if at > threshold_at + STOPPED_S]
    periods = (time.time() - threshold_at) / (0.8 * OPEN_S)
    assert len(late) <= periods + 1, "more than one probe an open period"
    total = len(cluster.provider.requests) + len(spare.requests)
    amplification = total / len(crowd.seen)
    slow = [each.ended - each.began for each in down if each.began > threshold_at + STOPPED_S]
    quick = [each.ended - each.began for each in well]
    print(f"amplification {amplification:.3f}, p99 {percentile(quick, 0.99):.4f} s well, {percentile(slow, 0.99):.4f} s open")
    assert amplification <= 1.11


async def test_from_the_threshold_on_nothing_reaches_an_open_deployment(cluster: Cluster, spare: Upstream) -> None:
    """With an open period that outlasts the test: not even a probe. Failures take their time, so many are under way."""
    shut = {"failures": FAILURES, "open_s": 600, "longest_open_s": 600}
    await cluster.apply(connections=[each | {"profile": shut} for each in connections(cluster, spare)])
    crowd = Crowd(cluster)
    await crowd.run(seconds=2, rate=60)
    cluster.provider.fail("slow-head-200+fail-500")
    failed_at = time.time()
    down = await crowd.run(seconds=8 * LONG, rate=60)
    assert {each.status for each in down} == {200}
    asked = [record.received_at for record in cluster.provider.requests if record.received_at >= failed_at]
    threshold_at = asked[FAILURES - 1] + 0.2
    late_s = [at - threshold_at for at in asked if at > threshold_at]
    after = sum(each.began > threshold_at + STOPPED_S for each in down)
    last_s = max(late_s, default=0.0)
    print(f"{len(asked)} calls met the failure, the last {last_s * 1000:.0f} ms after the threshold; then 0 of {after}")
    assert last_s <= STOPPED_S
    assert after > 200


async def test_an_open_breaker_adds_two_milliseconds_at_most(cluster: Cluster, spare: Upstream) -> None:
    """Calls of the model that is down beside calls of its fallback itself, in turn, so that both meet the same machine."""
    shut = {"failures": FAILURES, "open_s": 600, "longest_open_s": 600}
    await cluster.apply(connections=[each | {"profile": shut} for each in connections(cluster, spare)])
    cluster.provider.fail("fail-500")
    await Crowd(cluster).run(seconds=2, rate=40)
    before, added_s = len(cluster.provider.requests), []
    for _ in range(ROUNDS):
        around, straight = Crowd(cluster), Crowd(cluster, model="spare/chat")
        await asyncio.gather(*(crowd.run(seconds=6, rate=40) for crowd in (around, straight)))
        p99_s = [percentile([each.ended - each.began for each in crowd.seen], 0.99) for crowd in (around, straight)]
        added_s.append(p99_s[0] - p99_s[1])
    added_s.sort()
    print(f"added at the 99th percentile: {', '.join(f'{each * 1000:+.1f}' for each in added_s)} ms")
    assert len(cluster.provider.requests) == before
    assert added_s[ROUNDS // 2] <= 0.002


async def test_one_probe_an_open_period_and_the_first_success_lets_everybody_back(cluster: Cluster, spare: Upstream) -> None:
    crowd = Crowd(cluster)
    cluster.provider.fail("fail-500")
    await crowd.run(seconds=2, rate=40)
    await asyncio.sleep(1.25)
    before = len(cluster.provider.requests)
    began = time.monotonic()
    await crowd.run(seconds=12 * LONG, rate=40)
    probes = [record.received_at for record in cluster.provider.requests[before:]]
    gaps = [later - earlier for earlier, later in pairwise(probes)]
    print(f"{len(probes)} probes in {time.monotonic() - began:.1f} s, {min(gaps):.2f} s apart at least")
    assert probes
    assert min(gaps) >= 0.8 * OPEN_S
    cluster.provider.reset()
    await crowd.run(seconds=OPEN_S * 1.2 + 1, rate=40)
    back = await crowd.run(seconds=2, rate=40)
    assert {each.attempts for each in back} == {"lab/chat"}


async def test_a_route_with_one_deployment_never_locks_itself_out(cluster: Cluster) -> None:
    await cluster.apply(fallbacks={"lab/chat": None})
    crowd = Crowd(cluster)
    cluster.provider.fail("fail-500")
    down = await crowd.run(seconds=3, rate=20)
    assert {each.status for each in down} == {502}
    cluster.provider.reset()
    assert {each.status for each in await crowd.run(seconds=2, rate=20)} == {200}

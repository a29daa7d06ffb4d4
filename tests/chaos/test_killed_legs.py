"""A node is killed while its calls have two legs under way, a hedge or a continuation: each leg is booked, and once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.hosts.cluster import Cluster, call, client, running
from tests.upstreams import Upstream

pytestmark = pytest.mark.chaos

AT_ONCE = 2
WARM = 60 + 40 * AT_ONCE
"""Calls before: twenty earn one hedge, those that happen to be slow spend one, and times must be known."""
NEVER = {"failures": 1000, "least_calls": 100_000}
SAID = [{"role": "user", "content": "one two three four five six seven eight nine ten"}]


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path, spare: Upstream) -> AsyncIterator[Cluster]:
    """`twice` hedges, `onward` goes on; both at `one`, then at `two`."""
    async with running(database_url, redis_url, tmp_path, nodes=2) as started:
        made = await started.new_key(budget_nano=10**12)
        started.key = made.key
        timeouts = {"connect_timeout_s": 2, "first_byte_timeout_s": 60, "idle_timeout_s": 60}
        entry = {"provider": "mistral", "api_key": "env:LAB_KEY", "profile": NEVER} | timeouts
        where = {"one": started.provider.url, "two": spare.url}
        models = [f"{name}/chat" for name in where]
        await started.apply(
            connections=[entry | {"name": name, "prefix": name, "base_url": url} for name, url in where.items()],
            prices={model: {"input": "1", "output": "2"} for model in models},
            routes={"twice": {"targets": models, "hedge": True}, "onward": {"targets": models, "continuation": True}},
        )
        yield started


async def test_two_that_wait_for_a_first_token(cluster: Cluster, spare: Upstream) -> None:
    """Both legs are out, neither has said anything."""
    before = await warmed(cluster, stream=True)
    for provider in (cluster.provider, spare):
        provider.fail("slow-first-token-60000")
    calls = await under_way(cluster, "twice", stream=True)
    await both_have(cluster, spare, AT_ONCE)
    await killed(cluster, calls)
    added = await booked(cluster, before + 2 * AT_ONCE)
    assert Counter((row["connection"], row["kind"]) for row in added) == {
        ("one", "estimated"): AT_ONCE, ("two", "estimated"): AT_ONCE
    }  # fmt: skip
    of_calls(added)


async def test_two_whole_answers(cluster: Cluster, spare: Upstream) -> None:
    before = await warmed(cluster, stream=False)
    for provider in (cluster.provider, spare):
        provider.fail("slow-head-60000")
    calls = await under_way(cluster, "twice", stream=False)
    await both_have(cluster, spare, AT_ONCE)
    await killed(cluster, calls)
    added = await booked(cluster, before + 2 * AT_ONCE)
    assert Counter(row["kind"] for row in added) == {"estimated": 2 * AT_ONCE}
    of_calls(added)


async def test_the_winner_while_the_loser_is_booked(cluster: Cluster, spare: Upstream) -> None:
    """Killed as soon as the second leg's first token is there, so that the loser's end may or may not have been written."""
    before = await warmed(cluster, stream=True)
    cluster.provider.fail("slow-first-token-60000")
    spare.fail("long-2000-20")
    calls = await under_way(cluster, "twice", stream=True)
    await asyncio.gather(*(begun.wait() for _, begun in calls))
    await killed(cluster, calls)
    added = await booked(cluster, before + 2 * AT_ONCE)
    own, lost = of_calls(added)
    assert own == {("estimated", "unknown")}
    assert lost <= {("actual", "hedge_lost"), ("estimated", "unknown")}


async def test_the_second_leg_of_a_stream_that_was_cut(cluster: Cluster, spare: Upstream) -> None:
    cluster.provider.fail("long-2000+cut-after-30")
    spare.fail("long-2000-20")
    calls = await under_way(cluster, "onward", stream=True, max_tokens=400)
    await both_have(cluster, spare, AT_ONCE)
    await asyncio.sleep(0.3)
    await killed(cluster, calls)
    added = await booked(cluster, 2 * AT_ONCE)
    own, first = of_calls(added)
    assert own == {("estimated", "unknown")}
    assert first <= {("actual", "cut"), ("estimated", "cut"), ("estimated", "unknown")}


async def test_no_node_comes_back_for_a_long_time(cluster: Cluster, spare: Upstream) -> None:
    """The reservations' leases end, and a worker books them; the dead node's usage log adds nothing when it is read."""
    cluster.provider.fail("long-2000+cut-after-30")
    spare.fail("long-2000-20")
    calls = await under_way(cluster, "onward", stream=True, max_tokens=400)
    await both_have(cluster, spare, AT_ONCE)
    cluster.nodes[1].kill()
    await killed(cluster, calls, revive=False)
    first = await booked(cluster, 2 * AT_ONCE, within_s=120)
    await cluster.ready(cluster.start_node())
    await asyncio.sleep(3)
    later = await booked(cluster, 2 * AT_ONCE)
    assert {row["event_id"] for row in first} == {row["event_id"] for row in later}
    of_calls(later)


# -- calls and kills


async def warmed(cluster: Cluster, *, stream: bool) -> int:
    """How many entries there are after it: a call that happened to be slow was hedged."""
    async with client(cluster) as one:
        for _ in range(WARM):
            status, _, _ = await one.chat(call("twice", stream=stream, max_tokens=20))
            assert status == 200
    await asyncio.sleep(1)
    return len(await cluster.booked(WARM))


Begun = tuple[asyncio.Task[None], asyncio.Event]


async def under_way(cluster: Cluster, model: str, **fields: Any) -> list[Begun]:
    """Calls that the first node answers, each with an event: its first bytes are there."""

    async def one(begun: asyncio.Event) -> None:
        headers = {"Authorization": f"Bearer {cluster.key}"}
        body = {"max_tokens": 100, "messages": SAID} | fields
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession(headers=headers) as session:
                url = f"{cluster.url()}/v1/chat/completions"
                async with session.post(url, json=call(model, **body)) as reply:
                    await reply.content.readuntil(b"\n\n")
                    begun.set()
                    await reply.content.read()
        raise AssertionError("a call ended before its node")

    made = [asyncio.Event() for _ in range(AT_ONCE)]
    return [(asyncio.ensure_future(one(begun)), begun) for begun in made]


async def both_have(cluster: Cluster, spare: Upstream, count: int) -> None:
    """So many calls under way at the second provider, which nothing but second legs reach here."""
    deadline_s = time.monotonic() + 20
    while sum(record.ended is None for record in spare.requests) < count:
        assert time.monotonic() < deadline_s, (len(cluster.provider.requests), len(spare.requests), cluster.log()[-2000:])
        await asyncio.sleep(0.005)


async def killed(cluster: Cluster, calls: list[Begun], *, revive: bool = True) -> None:
    assert not any(task.done() for task, _ in calls)
    cluster.nodes[0].kill()
    await asyncio.wait([task for task, _ in calls])
    for task, _ in calls:
        task.exception()
    if revive:
        await cluster.ready(cluster.start_node())


# -- the books


async def booked(cluster: Cluster, count: int, within_s: float = 60) -> list[dict[str, Any]]:
    """The entries of two-leg calls, once there are `count` entries in all and not one more; then budget and ledger agree."""
    await cluster.booked(count, within_s)
    async with Redis.from_url(cluster.redis_url) as redis:
        deadline_s = time.monotonic() + 60
        while left := [name async for name in redis.scan_iter(match="ws:*:rsv*")]:
            assert time.monotonic() < deadline_s, left
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        rows = await cluster.booked(count)
        assert len(rows) == len({row["event_id"] for row in rows}) == count
        spent = sum(row["cost_nano_usd"] for row in rows)
        cells = [name async for name in redis.scan_iter(match="ws:*:b:*") if not name.endswith(b":u")]
        held = [await redis.hgetall(cell) for cell in cells]
    assert [(int(cell[b"spent"]), int(cell[b"reserved"])) for cell in held] == [(spent, 0)]
    rows.sort(key=lambda row: row["occurred_at"])
    killed_calls = {row["request_id"] for row in rows if row["kind"] == "estimated"}
    return [row for row in rows if row["request_id"] in killed_calls]


def of_calls(rows: list[dict[str, Any]]) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Two entries of each call, one its own, and all cost something. Kinds and outcomes: of the own, of those beside."""
    own = [row for row in rows if str(row["event_id"]) == str(row["request_id"])]
    beside = [row for row in rows if str(row["event_id"]) != str(row["request_id"])]
    calls = {str(row["request_id"]) for row in rows}
    assert len(own) == len(beside) == len(calls) == AT_ONCE
    assert {str(row["request_id"]) for row in beside} == calls
    assert all(row["cost_nano_usd"] > 0 for row in rows)
    return {(row["kind"], row["outcome"]) for row in own}, {(row["kind"], row["outcome"]) for row in beside}

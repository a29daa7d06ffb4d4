"""From the stream into the ledger: once, whatever dies, hangs, comes twice or is no event."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cli.engines import EmbeddedPostgres, EmbeddedRedis
from services.worker import usage as usage_module
from services.worker.usage import UsageConsumer
from shared.domain.usage import EventKind, Outcome, UsageEvent, encode_event
from shared.store import keys, ledger
from shared.store.redis import client
from tests.store.test_wal import event


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_module, "BLOCK_MS", 50)
    monkeypatch.setattr(usage_module, "BACK_OFF_S", 0.05)
    monkeypatch.setattr(usage_module, "MOST_BACK_OFF_S", 0.2)


@asynccontextmanager
async def consuming(redis: Redis, pool: AsyncEngine, name: str = "w1", claim_idle_ms: int = 0) -> AsyncIterator[UsageConsumer]:
    consumer = UsageConsumer(redis, pool, name, claim_idle_ms)
    task = asyncio.ensure_future(consumer.run())
    try:
        yield consumer
        assert not task.done()
    finally:
        consumer.stop()
        await task


async def send(redis: Redis, *events: UsageEvent) -> None:
    for each in events:
        await redis.xadd(keys.USAGE_STREAM, {"e": encode_event(each)})


async def until(met: Callable[[], Awaitable[bool]], within_s: float = 15) -> None:
    deadline_s = time.monotonic() + within_s
    while not await met():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)


async def drained(redis: Redis) -> None:
    """Nothing waits, nothing is pending."""

    async def met() -> bool:
        return int(await redis.xlen(keys.USAGE_STREAM)) == 0

    await until(met)


async def sums(pool: AsyncEngine) -> tuple[int, int]:
    """Requests and cost by the hourly sums; they must equal the events'."""
    async with pool.connect() as connection:
        hourly = (
            await connection.execute(
                text("SELECT coalesce(sum(requests), 0)::int, coalesce(sum(cost_nano_usd), 0)::bigint FROM usage_hourly")
            )
        ).one()
        events = (
            await connection.execute(
                text("SELECT count(*) FILTER (WHERE entry = 0)::int, coalesce(sum(cost_nano_usd), 0)::bigint FROM usage_events")
            )
        ).one()
    assert tuple(hourly) == tuple(events)
    return hourly[0], hourly[1]


async def buried(pool: AsyncEngine) -> list[bytes]:
    async with pool.connect() as connection:
        return [row.body for row in await connection.execute(text("SELECT body FROM usage_dead ORDER BY id"))]


async def test_events_are_booked_then_acknowledged_then_gone(redis: Redis, pool: AsyncEngine) -> None:
    await send(redis, *[event() for _ in range(50)])
    async with consuming(redis, pool) as consumer:
        await drained(redis)
        assert consumer.booked == 50
    assert await sums(pool) == (50, 250)


async def test_what_was_committed_and_never_acknowledged_counts_once(redis: Redis, pool: AsyncEngine) -> None:
    """As after a kill between COMMIT and XACK: the entries are pending with a member that is no more."""
    made = [event() for _ in range(20)]
    await send(redis, *made)
    await redis.xgroup_create(keys.USAGE_STREAM, keys.USAGE_GROUP, id="0")
    await redis.xreadgroup("ledger", "dead", {keys.USAGE_STREAM: ">"}, count=100)
    await ledger.book(pool, made)
    async with consuming(redis, pool) as consumer:
        await drained(redis)
        assert consumer.booked == 0
    assert await sums(pool) == (20, 100)


CHILD = """
import asyncio, os, sys
from services.worker.usage import UsageConsumer
from shared.store import postgres
from shared.store.redis import client

class Dying(UsageConsumer):
    async def _book_all(self, deliveries):
        if sys.argv[1] == "before":
            os.kill(os.getpid(), 9)
        await super()._book_all(deliveries)
        os.kill(os.getpid(), 9)

async def main():
    await Dying(client(os.environ["REDIS_URL"]), postgres.engine(os.environ["DATABASE_URL"]), "child").run()

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_worker_killed_before_or_after_commit_loses_and_doubles_nothing(
    moment: str, redis: Redis, pool: AsyncEngine, redis_url: str, database_url: str
) -> None:
    await send(redis, *[event() for _ in range(20)])
    environment = os.environ | {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
    child = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", CHILD, moment], env=environment, check=False)
    assert child.returncode == -9
    assert await sums(pool) == ((20, 100) if moment == "after" else (0, 0))
    async with consuming(redis, pool) as consumer:
        await drained(redis)
        assert consumer.booked == (0 if moment == "after" else 20)
    assert await sums(pool) == (20, 100)


async def test_what_a_living_member_holds_is_left_to_it_for_a_while(redis: Redis, pool: AsyncEngine) -> None:
    await send(redis, event())
    await redis.xgroup_create(keys.USAGE_STREAM, keys.USAGE_GROUP, id="0")
    await redis.xreadgroup("ledger", "slow", {keys.USAGE_STREAM: ">"})
    async with consuming(redis, pool, claim_idle_ms=60_000):
        await asyncio.sleep(0.3)
        assert await redis.xlen(keys.USAGE_STREAM) == 1
    assert await sums(pool) == (0, 0)


NO_EVENTS = [
    b"", b"\xc1", b"not msgpack", encode_event(event())[:-3], msgspec.msgpack.encode(["only", "two"]),
    encode_event(event(event_id="01999999-9999-4999-8999-999999999999")),  # version 4: has no time
    encode_event(event(event_id="01999999-9999-7zzz-zzzz-zzzzzzzzzzzz")),
    encode_event(event(event_id="01999999-9999-7AAA-8AAA-AAAAAAAAAAAA")),
    encode_event(event(event_id="ffffffff-ffff-7fff-bfff-ffffffffffff")),  # in the year 10889
    encode_event(event(kind=EventKind.ADJUSTMENT)),
]  # fmt: skip


async def test_what_is_no_event_is_buried_and_the_rest_is_booked(redis: Redis, pool: AsyncEngine) -> None:
    for raw in NO_EVENTS:
        await send(redis, event())
        await redis.xadd(keys.USAGE_STREAM, {"e": raw})
    await redis.xadd(keys.USAGE_STREAM, {"another": "field"})
    async with consuming(redis, pool) as consumer:
        await drained(redis)
        assert (consumer.booked, consumer.buried) == (len(NO_EVENTS), len(NO_EVENTS) + 1)
    assert await buried(pool) == [*NO_EVENTS, b""]


async def test_an_entry_may_hold_many_events_and_a_bad_one_stops_none(redis: Redis, pool: AsyncEngine) -> None:
    good = [event() for _ in range(4)]
    raws = [encode_event(good[0]), b"not msgpack", *[encode_event(each) for each in good[1:]]]
    names = ["e", "e1", "e2", "e3", "e4"]
    entry_id = await redis.xadd(keys.USAGE_STREAM, dict(zip(names, raws, strict=True)))
    async with consuming(redis, pool) as consumer:
        await drained(redis)
        assert (consumer.booked, consumer.buried) == (4, 1)
    assert await buried(pool) == [b"not msgpack"]
    async with pool.connect() as connection:
        assert (await connection.execute(text("SELECT stream_id FROM usage_dead"))).scalar_one() == f"{entry_id.decode()} e1"


async def test_nonsense_numbers_and_text_are_clamped_not_refused(redis: Redis, pool: AsyncEngine) -> None:
    await send(
        redis,
        event(cost_nano_usd=-5),
        event(input_tokens=2**62, output_tokens=-1),
        event(duration_ms=2**63 - 1, attempts=2**40, first_token_ms=-1),
        event(model="lab/a\0b"),
    )
    async with consuming(redis, pool):
        await drained(redis)
    assert await sums(pool) == (4, 15)
    assert await buried(pool) == []
    models = {row["model"]: row for row in await ledger.usage(pool)}
    assert set(models) == {"p/m", "lab/a\ufffdb"}
    assert (models["p/m"]["input_tokens"], models["p/m"]["output_tokens"]) == (10**9 + 6, 8)


async def test_an_event_that_postgres_refuses_does_not_stop_the_others_and_is_not_asked_for_again(
    redis: Redis, pool: AsyncEngine
) -> None:
    async with pool.begin() as connection:
        await connection.execute(text("ALTER TABLE usage_events ADD CONSTRAINT picky CHECK (model <> 'poison')"))
    bad = [event(model="poison") for _ in range(3)]
    good = [event() for _ in range(97)]
    mixed = [*good[:40], *bad[:2], *good[40:], bad[2]]
    await send(redis, *mixed)
    async with consuming(redis, pool) as consumer:
        await drained(redis)
        assert (consumer.booked, consumer.buried) == (97, 3)
    assert await sums(pool) == (97, 97 * 5)
    assert await buried(pool) == [encode_event(each) for each in bad]
    assert await ledger.missing(pool, [each.event_id for each in mixed], estimated=False) == set()


async def test_a_redis_that_comes_back_empty_is_served_again(redis_server: EmbeddedRedis, pool: AsyncEngine) -> None:
    redis = client(redis_server.url)
    async with consuming(redis, pool):
        for _ in range(3):
            await send(redis, event(), event())
            await drained(redis)
            await redis.flushall()
        redis_server.stop()
        await asyncio.sleep(0.3)
        redis_server.start()
        await send(redis, event())
        await drained(redis)
    await redis.aclose()
    assert await sums(pool) == (7, 35)


async def test_a_redis_that_refuses_every_write_does_not_end_the_consumer(
    redis_server: EmbeddedRedis, pool: AsyncEngine
) -> None:
    """OOM, MISCONF, READONLY: error replies, not broken connections, and here the group itself cannot be made."""
    redis = client(redis_server.url)
    await redis.config_set("maxmemory", "1")
    try:
        async with consuming(redis, pool):
            await asyncio.sleep(0.3)
            await redis.config_set("maxmemory", "0")
            await send(redis, event())
            await drained(redis)
    finally:
        await redis.config_set("maxmemory", "0")
        await redis.aclose()
    assert await sums(pool) == (1, 5)


async def test_nothing_is_acknowledged_while_postgres_is_away(
    redis: Redis, pool: AsyncEngine, postgres_server: EmbeddedPostgres
) -> None:
    async with consuming(redis, pool):
        postgres_server.stop()
        await send(redis, *[event() for _ in range(10)])
        await asyncio.sleep(0.5)
        assert await redis.xlen(keys.USAGE_STREAM) == 10
        postgres_server.start()
        await drained(redis)
    await pool.dispose()
    assert await sums(pool) == (10, 50)


async def test_a_member_that_ends_leaves_the_group_unless_something_is_left_with_it(redis: Redis, pool: AsyncEngine) -> None:
    async with consuming(redis, pool, "w1"):
        await send(redis, event())
        await drained(redis)
    assert await redis.xinfo_consumers(keys.USAGE_STREAM, keys.USAGE_GROUP) == []
    await send(redis, event())
    await redis.xreadgroup("ledger", "w2", {keys.USAGE_STREAM: ">"})
    holding = UsageConsumer(redis, pool, "w2")
    holding.stop()
    await holding.run()
    assert [(each["name"], each["pending"]) for each in await redis.xinfo_consumers(keys.USAGE_STREAM, keys.USAGE_GROUP)] == [
        (b"w2", 1)
    ]


async def test_two_members_share_and_an_early_estimate_is_corrected(redis: Redis, pool: AsyncEngine) -> None:
    truths = [event(cost_nano_usd=number) for number in range(200)]
    guesses = [
        msgspec.structs.replace(each, kind=EventKind.ESTIMATED, outcome=Outcome.UNKNOWN, cost_nano_usd=10**6)
        for each in truths[::2]
    ]

    async def trickle(events: Sequence[UsageEvent]) -> None:
        for start in range(0, len(events), 20):
            await send(redis, *events[start : start + 20])
            await asyncio.sleep(0.01)

    async with consuming(redis, pool, "w1"), consuming(client_of(redis), pool, "w2"):
        await asyncio.gather(trickle(guesses), trickle(truths), trickle(truths[::3]))
        await drained(redis)
    assert await sums(pool) == (200, sum(range(200)))


def client_of(redis: Redis) -> Redis:
    """The same pool of connections, as another member."""
    return Redis(connection_pool=redis.connection_pool)

"""A reservation that nobody settled becomes an estimated event; the truth may still come."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cli.engines import EmbeddedPostgres
from services.worker.reaper import Reaping, reap
from shared.admission.reap import Reaper
from shared.domain.limits import Scope
from shared.domain.usage import EventKind, UsageEvent, decode_event
from shared.store import keys, ledger
from tests.admission.nodes import HARD, ORGANISATION, Node, budget_cell, new_event, node

SLOTS = keys.concurrency(ORGANISATION, Scope.ORGANISATION, ORGANISATION)


@pytest_asyncio.fixture
async def serving(redis_url: str, pool: AsyncEngine) -> AsyncIterator[Node]:
    """A node in the cluster, and its organisation in Postgres."""
    async with pool.begin() as connection:
        await connection.execute(text("INSERT INTO organisations (id, name) VALUES (:id, 'test')"), {"id": ORGANISATION})
    async with node(redis_url) as made:
        await made.presence.refresh()
        yield made


async def forsake(redis: Redis, *event_ids: str) -> None:
    """As if their node had been dead for longer than a lease."""
    for event_id in event_ids:
        await redis.zadd(keys.reservations(ORGANISATION), {event_id: 1})


async def sent(redis: Redis) -> list[UsageEvent]:
    return [decode_event(fields[b"e"]) for _, fields in await redis.xrange(keys.USAGE_STREAM)]


async def test_only_reservations_whose_lease_is_over_are_reaped(serving: Node, redis: Redis, pool: AsyncEngine) -> None:
    lost, alive = await serving.admitted(700), await serving.admitted(300)
    await forsake(redis, lost.event.event_id)
    assert await reap({"reaping": Reaping(redis, pool)}) == 1
    events = await sent(redis)
    assert [(each.event_id, each.kind, each.cost_nano_usd) for each in events] == [
        (lost.event.event_id, EventKind.ESTIMATED, 700)
    ]
    held = await budget_cell(redis)
    assert (held["spent"], held["reserved"]) == ("700", "300")
    assert await redis.zrange(SLOTS, 0, -1) == [alive.event.event_id.encode()]
    assert await redis.zrange(keys.reservations(ORGANISATION), 0, -1) == [alive.event.event_id.encode()]


async def test_reaping_twice_changes_nothing(serving: Node, redis: Redis, pool: AsyncEngine) -> None:
    lost = await serving.admitted(700)
    await forsake(redis, lost.event.event_id)
    reaping = Reaping(redis, pool)
    assert [await reaping.once(), await reaping.once()] == [1, 0]
    assert len(await sent(redis)) == 1
    assert (await budget_cell(redis))["spent"] == "700"


async def test_a_truth_that_comes_after_all_corrects_budget_and_ledger_alike(
    serving: Node, redis: Redis, pool: AsyncEngine
) -> None:
    slow = await serving.admitted(700)
    await forsake(redis, slow.event.event_id)
    await Reaping(redis, pool).once()
    serving.settle(slow, 120)
    await serving.gate.drained()
    held = await budget_cell(redis)
    assert (held["spent"], held["reserved"]) == ("120", "0")
    booked = await ledger.book(pool, await sent(redis))
    assert (booked.inserted, booked.adjusted) == (1, 0)  # in one batch the truth needs no correction
    assert sum(row["cost_nano_usd"] for row in await ledger.usage(pool)) == 120


@pytest.mark.parametrize("reaped_first", [False, True])
async def test_an_end_that_a_killed_node_could_not_tell_is_told_by_its_log(
    serving: Node, redis: Redis, pool: AsyncEngine, reaped_first: bool
) -> None:
    """Before its reservation is reaped or after it; told once more, it changes nothing."""
    made, void, alive = await serving.admitted(700), await serving.admitted(500), await serving.admitted(300)
    boot = serving.presence.boot
    assert boot is not None
    ends = [
        new_event(120, event_id=made.event.event_id),
        new_event(0, event_id=void.event.event_id, kind=EventKind.ESTIMATED),
        new_event(90),  # of another call, which Redis had heard of
    ]
    if reaped_first:
        await forsake(redis, made.event.event_id)
        await Reaping(redis, pool).once()
    reaper = Reaper(redis)
    assert [await reaper.ended(ends, boot, lambda _: [HARD]) for _ in range(2)] == [2, 0]
    held = await budget_cell(redis)
    assert (held["spent"], held["reserved"]) == ("120", "300")
    assert await redis.zrange(SLOTS, 0, -1) == [alive.event.event_id.encode()]
    assert await redis.zrange(keys.reservations(ORGANISATION), 0, -1) == [alive.event.event_id.encode()]


async def test_an_estimate_of_what_never_left_stands_as_in_the_ledger(serving: Node, redis: Redis, pool: AsyncEngine) -> None:
    void = await serving.admitted(700)
    await forsake(redis, void.event.event_id)
    await Reaping(redis, pool).once()
    assert serving.presence.boot is not None
    end = new_event(0, event_id=void.event.event_id, kind=EventKind.ESTIMATED)
    assert await Reaper(redis).ended([end], serving.presence.boot, lambda _: [HARD]) == 0
    assert (await budget_cell(redis))["spent"] == "700"


async def test_a_record_that_cannot_be_read_does_not_stop_other_organisations(
    serving: Node, redis: Redis, pool: AsyncEngine
) -> None:
    async with pool.begin() as connection:
        await connection.execute(text("INSERT INTO organisations (id, name) VALUES ('org_a_broken', 'broken')"))
    await redis.zadd(keys.reservations("org_a_broken"), {"x": 1})
    await redis.hset(keys.reservation_records("org_a_broken"), "x", "no record")  # type: ignore[misc, arg-type]
    lost = await serving.admitted(700)
    await forsake(redis, lost.event.event_id)
    assert await Reaping(redis, pool).once() == 1


async def test_without_postgres_the_organisations_known_last_are_reaped(
    serving: Node, redis: Redis, pool: AsyncEngine, postgres_server: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    reaping = Reaping(redis, pool)
    assert await reaping.once() == 0
    lost = await serving.admitted(700)
    await forsake(redis, lost.event.event_id)
    postgres_server.stop()
    assert await reaping.once() == 1
    assert "known before" in caplog.text


async def test_nobody_to_ask_about_is_no_error(redis: Redis, pool: AsyncEngine) -> None:
    assert await Reaping(redis, pool).once() == 0

"""Seeding on a real Redis: a budget cell that is lacking is rebuilt from the truth, exactly, or not at all."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import msgspec
import pytest

from services.cli.engines import EmbeddedRedis
from shared.admission import seeding
from shared.admission.cells import compile_cells
from shared.admission.gate import Unready
from shared.admission.presence import PATIENCE_S
from shared.domain.identity import uuid7
from shared.domain.limits import Period, period_end, period_start
from shared.store import keys
from shared.store.redis import client
from tests.admission.nodes import HARD, ORGANISATION, Books, Node, budget_cell, new_event, node, total_cell, waiting

WAITING = keys.unconfirmed(total_cell())


def cell(node: Node, spent: int, reserved: int = 0) -> dict[str, str]:
    """What a cell seeded by this node holds."""
    return {"boot": node.presence.boot or "", "spent": str(spent), "reserved": str(reserved)}


async def old_enough(node: Node) -> None:
    """Let the boot be as old as it is in a running cluster, where a newcomer's peers have all shown themselves."""
    await node.presence.refresh()
    node.presence.newcomer = False


async def test_a_fresh_installation_is_seeded_in_no_time(redis_url: str) -> None:
    async with node(redis_url) as one:
        began_s = time.monotonic()
        assert await one.seeder.seed(one.cells)
        assert time.monotonic() - began_s < 0.25
        assert await budget_cell(one.redis) == cell(one, 0)


async def test_a_cell_begins_with_what_the_ledger_has_of_its_period(redis_url: str) -> None:
    now = datetime.now(UTC)
    start, end = period_start(Period.MONTH, now), period_end(Period.MONTH, now)
    assert end is not None
    books = Books()
    for at, cost in ((start.timestamp() - 0.001, 1), (start.timestamp(), 20), (end.timestamp() - 0.001, 300)):
        books.book(new_event(cost, event_id=uuid7(int(at * 1000), cost)))
    monthly = msgspec.structs.replace(HARD, period=Period.MONTH)
    async with node(redis_url, books, budgets=(monthly,)) as one:
        await old_enough(one)
        assert await one.seeder.seed(one.cells)
        assert await budget_cell(one.redis, monthly) == cell(one, 320)
        name = keys.budget(ORGANISATION, monthly.budget_id, keys.period_label(Period.MONTH, now))
        assert await one.redis.expiretime(name.decode()) == int(end.timestamp()) + 2 * 24 * 3600  # type: ignore[misc]


async def test_a_budget_without_end_never_expires(redis_url: str) -> None:
    async with node(redis_url) as one:
        await one.seeder.seed(one.cells)
        assert await one.redis.ttl(total_cell()) == -1


async def test_an_event_on_its_way_to_the_ledger_counts_once_wherever_it_is(redis_url: str) -> None:
    books = Books()
    booked, underway = new_event(1_000), new_event(70)
    books.book(booked)
    books.book(new_event(200_000))
    async with node(redis_url, books) as one:
        await old_enough(one)
        await one.redis.hset(WAITING, mapping={booked.event_id: 1_000, underway.event_id: 70})  # type: ignore[misc, arg-type]
        assert await one.seeder.seed(one.cells)
        assert await budget_cell(one.redis) == cell(one, 201_070)
        assert await waiting(one.redis) == {}


async def test_an_event_that_comes_in_while_the_ledger_is_asked_makes_it_be_asked_again(redis_server: EmbeddedRedis) -> None:
    books, late = Books(), new_event(70)
    async with node(redis_server.url, books) as one:
        await old_enough(one)

        def settled_meanwhile() -> None:
            if books.asked == 1:
                redis_server._say(f"HSET {WAITING.decode()} {late.event_id} 70")
            books.book(late)

        books.before_answer = settled_meanwhile
        assert await one.seeder.seed(one.cells)
        assert books.asked == 2
        assert await budget_cell(one.redis) == cell(one, 70)


async def test_calls_in_flight_are_reserved_and_those_of_an_older_life_are_not(redis_url: str) -> None:
    async with node(redis_url) as one:
        await one.presence.refresh()
        held = [await one.admitted(cost) for cost in (5, 60, 700)]
        one.settle(held[0], 3)
        await one.gate.drained()
        records = keys.reservation_records(ORGANISATION)
        other = compile_cells(ORGANISATION, [], [msgspec.structs.replace(HARD, budget_id="b10")], time.time())
        boot = one.presence.boot or ""
        strangers = {
            "old": f"1-old\n9000\n1\n{one.cells.record.decode()}\nx",
            "other": f"{boot}\n9000\n1\n{other.record.decode()}\nx",
        }
        await one.redis.hset(records, mapping=strangers)  # type: ignore[misc, arg-type]
        await one.redis.delete(total_cell())
        one.books.book(new_event(3))
        await old_enough(one)
        assert await one.seeder.seed(one.cells)
        assert await budget_cell(one.redis) == cell(one, 3, 760)


async def test_concurrent_callers_share_one_seeding(redis_url: str) -> None:
    async with node(redis_url) as one:
        assert all(await asyncio.gather(*(one.seeder.seed(one.cells) for _ in range(100))))
        assert one.books.asked == 1


async def test_a_cell_that_is_there_is_not_asked_for_again(redis_url: str) -> None:
    async with node(redis_url) as one:
        for _ in range(3):
            assert await one.seeder.seed(one.cells)
        assert one.books.asked == 1


async def test_nodes_that_race_for_one_cell_settle_on_one_exact_value(redis_server: EmbeddedRedis) -> None:
    books, url = Books(), redis_server.url
    async with node(url, books, "a") as a, node(url, books, "b") as b, node(url, books, "c") as c:
        for round_number in range(5):
            for one in (a, b, c):
                await old_enough(one)
                event = new_event(10**round_number)
                one.log[event.event_id] = event
            redis_server.flush()
            assert await asyncio.gather(*(one.seeder.seed(one.cells) for one in (a, b, c))) == [True] * 3
            total = 3 * sum(10**number for number in range(round_number + 1))
            assert await budget_cell(a.redis) == cell(a, total)
            for one in (a, b, c):
                one.confirm()


async def test_without_the_ledger_nothing_is_seeded_and_calls_are_told_to_come_back(redis_url: str) -> None:
    async with node(redis_url) as one:
        one.books.away = True
        assert not await asyncio.wait_for(one.seeder.seed(one.cells), 1)
        assert await one.admit(5) == Unready("unseeded", 1_000)
        assert await budget_cell(one.redis) == {}
        one.books.away = False
        assert (await one.admitted(5)).reserved_nano_usd == 5


async def test_without_redis_nothing_is_seeded(redis_server: EmbeddedRedis) -> None:
    async with node(redis_server.url) as one:
        redis_server.stop()
        assert not await one.seeder.seed(one.cells)
        assert one.books.asked == 0


async def test_nothing_is_seeded_before_every_node_has_told_what_it_knows(redis_server: EmbeddedRedis) -> None:
    books, url = Books(), redis_server.url
    async with node(url, books, "quick") as quick, node(url, books, "slow") as slow:
        for one in (slow, quick):
            await old_enough(one)
        event = new_event(70)
        slow.log[event.event_id] = event
        redis_server.flush()
        seeding_now = asyncio.ensure_future(quick.seeder.seed(quick.cells))
        await asyncio.sleep(0.4)
        assert not seeding_now.done()
        assert books.asked == 0
        await slow.presence.refresh()
        assert await asyncio.wait_for(seeding_now, 1)
        assert await budget_cell(quick.redis) == cell(quick, 70)


async def test_a_node_that_stays_silent_is_waited_for_only_so_long(
    redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PATIENCE_S == 10.0
    monkeypatch.setattr(seeding, "PATIENCE_S", 0.5)
    url, books = redis_server.url, Books()
    async with node(url, books, "alive") as alive, node(url, books, "dead") as dead:
        for one in (dead, alive):
            await old_enough(one)
        redis_server.flush()
        began_s = time.monotonic()
        assert await alive.seeder.seed(alive.cells)
        assert 0.4 < time.monotonic() - began_s < 1.0


async def test_a_node_that_left_is_not_waited_for(redis_server: EmbeddedRedis) -> None:
    url, books = redis_server.url, Books()
    async with node(url, books, "stays") as stays, node(url, books, "leaves") as leaves:
        for one in (leaves, stays):
            await old_enough(one)
        await leaves.presence.leave()
        await stays.presence.refresh()
        redis_server.flush()
        began_s = time.monotonic()
        assert await stays.seeder.seed(stays.cells)
        assert time.monotonic() - began_s < 0.25


async def test_a_newcomer_to_an_emptied_redis_lets_the_others_speak_first(redis_server: EmbeddedRedis) -> None:
    """It cannot know of them: their heartbeats were lost as well. That the ledger is not empty must make it cautious."""
    url, books = redis_server.url, Books()
    books.book(new_event(1_000))
    async with node(url, books, "old") as old:
        await old.presence.refresh()
        event = new_event(70)
        old.log[event.event_id] = event
        redis_server.flush()
        async with node(url, books, "new") as new:
            seeding_now = asyncio.ensure_future(new.seeder.seed(new.cells))
            await asyncio.sleep(0.9)  # the others' next heartbeat
            await old.presence.refresh()
            assert await asyncio.wait_for(seeding_now, 3)
            assert await budget_cell(new.redis) == cell(new, 1_070)


async def test_a_life_that_ends_during_the_seeding_is_not_seeded(redis_server: EmbeddedRedis) -> None:
    books, event = Books(), new_event(70)
    async with node(redis_server.url, books) as one, client(redis_server.url) as redis:
        await old_enough(one)
        one.log[event.event_id] = event

        def emptied_meanwhile() -> None:
            if books.asked == 1:
                redis_server.flush()

        books.before_answer = emptied_meanwhile
        first = one.presence.boot
        assert await one.seeder.seed(one.cells)
        assert one.presence.boot != first
        assert await budget_cell(redis) == cell(one, 70)

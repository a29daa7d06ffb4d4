"""The ledger: each event once, whatever comes twice, late or in any order; sums always exact."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.domain.limits import Budget, Period, Scope
from shared.domain.usage import EventKind, Outcome, UsageEvent
from shared.store import ledger, postgres
from tests.store.test_wal import event


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(database_url)
    yield made
    await made.dispose()


def estimate_of(made: UsageEvent) -> UsageEvent:
    return msgspec.structs.replace(
        made, kind=EventKind.ESTIMATED, cost_nano_usd=1000, input_tokens=50, output_tokens=60, outcome=Outcome.UNKNOWN
    )


async def totals(pool: AsyncEngine) -> tuple[int, int, int, int]:
    """Requests and cost by the hourly sums, rows and cost by the events."""
    async with pool.connect() as connection:
        sums = (await connection.execute(text("SELECT sum(requests)::int, sum(cost_nano_usd)::bigint FROM usage_hourly"))).one()
        rows = (await connection.execute(text("SELECT count(*), sum(cost_nano_usd)::bigint FROM usage_events"))).one()
    return sums[0], sums[1], rows[0], rows[1]


async def test_a_repeated_event_counts_once(pool: AsyncEngine) -> None:
    made = [event() for _ in range(10)]
    assert await ledger.book(pool, made + made[:3]) == ledger.Booked(10, 0, 3)
    assert await ledger.book(pool, made) == ledger.Booked(0, 0, 10)
    assert await totals(pool) == (10, 50, 10, 50)


async def test_a_late_truth_books_the_difference_once(pool: AsyncEngine) -> None:
    made = event()
    await ledger.book(pool, [estimate_of(made)])
    assert await totals(pool) == (1, 1000, 1, 1000)
    assert await ledger.book(pool, [made]) == ledger.Booked(0, 1, 0)
    assert await ledger.book(pool, [made]) == ledger.Booked(0, 0, 1)
    assert await ledger.book(pool, [estimate_of(made)]) == ledger.Booked(0, 0, 1)
    assert await totals(pool) == (1, 5, 2, 5)
    rows = await ledger.usage(pool, by="model")
    assert [(row["requests"], row["estimated"], row["input_tokens"], row["cost_nano_usd"]) for row in rows] == [(1, 0, 3, 5)]


async def test_any_order_repetition_and_interleaving_of_writers_gives_the_same_sums(pool: AsyncEngine) -> None:
    chance = random.Random(7)
    made = [event(cost_nano_usd=chance.randrange(10_000)) for _ in range(300)]
    deliveries = made + [estimate_of(each) for each in made[:150]] + chance.sample(made, 100)
    chance.shuffle(deliveries)
    batches = [deliveries[at : at + 40] for at in range(0, len(deliveries), 40)]
    await asyncio.gather(*(ledger.book(pool, batch) for batch in batches))
    requests, hourly, _, events = await totals(pool)
    assert (requests, hourly, events) == (300, sum(each.cost_nano_usd for each in made), hourly)


async def test_missing_knows_an_estimate_from_the_truth(pool: AsyncEngine) -> None:
    booked, guessed, absent = event(), event(), event()
    await ledger.book(pool, [booked, estimate_of(guessed)])
    ids = [booked.event_id, guessed.event_id, absent.event_id]
    assert await ledger.missing(pool, ids, estimated=False) == {guessed.event_id, absent.event_id}
    assert await ledger.missing(pool, ids, estimated=True) == {absent.event_id}


async def test_spent_is_the_periods_sum_and_says_which_ids_it_holds(pool: AsyncEngine) -> None:
    booked, absent = event(), event()
    await ledger.book(pool, [booked, event(key_id="other")])
    budget = Budget(budget_id="b", scope=Scope.KEY, scope_id="k", limit_nano_usd=1, period=Period.TOTAL)
    source = ledger.PostgresSpent(pool)
    start = datetime(1970, 1, 1, tzinfo=UTC)
    assert await source.spent(budget, start, None, [booked.event_id, absent.event_id]) == (5, frozenset({booked.event_id}))
    assert await source.spent(budget, datetime(2030, 1, 1, tzinfo=UTC), None, []) == (0, frozenset())


async def test_many_spells_are_asked_for_at_once(pool: AsyncEngine) -> None:
    await ledger.book(pool, [event(), event(key_id="other")])
    long_ago, later = datetime(1970, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
    spells = [
        ledger.Spell(Scope.KEY, "k", long_ago),
        ledger.Spell(Scope.ORGANISATION, event().organisation_id, long_ago),
        ledger.Spell(Scope.KEY, "k", long_ago, end=datetime(1971, 1, 1, tzinfo=UTC)),
        ledger.Spell(Scope.KEY, "k", later),
        ledger.Spell(Scope.TEAM, "nobody", long_ago),
    ]
    async with pool.connect() as connection:
        assert await ledger.spent(connection, spells) == [5, 10, 0, 0, 0]
        assert await ledger.spent(connection, []) == []

"""Hours into days: recomputed whole, so late, missed and repeated runs all come to the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import getrandbits
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.worker.rollup import partitions, reconcile, roll_up_days
from shared.domain.identity import uuid7
from shared.domain.usage import EventKind, Outcome, UsageEvent
from shared.store import ledger
from tests.store.test_wal import event

NOW = datetime.now(UTC)


def ago(days: float, **changes: Any) -> UsageEvent:
    at = NOW.replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=days)
    return event(event_id=uuid7(int(at.timestamp() * 1000), getrandbits(80)), **changes)


async def days(pool: AsyncEngine) -> dict[int, tuple[int, int]]:
    """Requests and cost by days ago."""
    async with pool.connect() as connection:
        rows = await connection.execute(
            text("SELECT day, sum(requests)::int AS requests, sum(cost_nano_usd)::bigint AS cost FROM usage_daily GROUP BY 1")
        )
        return {(NOW.date() - row.day.astimezone(UTC).date()).days: (row.requests, row.cost) for row in rows}


async def test_days_are_the_sums_of_their_hours_however_often_it_runs(pool: AsyncEngine) -> None:
    await ledger.book(pool, [ago(0), ago(0, model="p/other"), ago(0.1), ago(1, cost_nano_usd=7)])
    for _ in range(3):
        await roll_up_days({"pool": pool})
        assert await days(pool) == {0: (3, 15), 1: (1, 7)}
    await ledger.book(pool, [ago(1)])
    await roll_up_days({"pool": pool})
    assert await days(pool) == {0: (3, 15), 1: (2, 12)}


async def test_days_that_passed_while_no_worker_ran_are_made_up_for(pool: AsyncEngine) -> None:
    await ledger.book(pool, [ago(20)])
    await roll_up_days({"pool": pool})
    assert await days(pool) == {20: (1, 5)}
    await ledger.book(pool, [ago(15), ago(9), ago(0)])
    await roll_up_days({"pool": pool})
    assert await days(pool) == {20: (1, 5), 15: (1, 5), 9: (1, 5), 0: (1, 5)}


async def test_a_very_late_truth_changes_its_old_day_at_the_next_reconciliation(pool: AsyncEngine) -> None:
    truth = ago(12, cost_nano_usd=3)
    estimate = msgspec.structs.replace(truth, kind=EventKind.ESTIMATED, outcome=Outcome.UNKNOWN, cost_nano_usd=100)
    await ledger.book(pool, [estimate, ago(0), ago(11)])
    await roll_up_days({"pool": pool})
    await ledger.book(pool, [truth])
    await roll_up_days({"pool": pool})
    assert (await days(pool))[12] == (1, 100)  # too old for the ordinary run
    assert await reconcile({"pool": pool}) == [(NOW - timedelta(days=12)).date()]
    assert await days(pool) == {12: (1, 3), 11: (1, 5), 0: (1, 5)}
    assert await reconcile({"pool": pool}) == []


async def test_sums_that_differ_from_their_events_are_complained_about_and_left(
    pool: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await ledger.book(pool, [ago(1), ago(1)])
    await reconcile({"pool": pool})
    assert caplog.text == ""
    async with pool.begin() as connection:
        await connection.execute(text("UPDATE usage_hourly SET cost_nano_usd = cost_nano_usd - 4, requests = requests - 1"))
    await reconcile({"pool": pool})
    assert "yesterday's sums lack 4 nano-USD and 1 requests" in caplog.text
    async with pool.connect() as connection:
        assert await connection.scalar(text("SELECT sum(cost_nano_usd)::int FROM usage_hourly")) == 6


async def test_partitions_may_be_asked_for_again(pool: AsyncEngine) -> None:
    await partitions({"pool": pool})
    await partitions({"pool": pool})
    await ledger.book(pool, [ago(0), ago(1)])
    async with pool.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM usage_events_default")) == 0

"""Rollup: hours into days, and the partitions of the days to come. All of it can be run again at any time."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.store import records
from shared.store.ledger import COUNTS, PLACE, SUMS
from shared.store.postgres import ensure_partitions

log = logging.getLogger(__name__)

TURN = "SELECT pg_advisory_xact_lock(hashtext('waystation rollup'))"
"""One recomputation at a time: two would lock the same rows in whatever order they come."""

RECENT = (
    "SELECT CASE WHEN max(day) IS NOT NULL THEN least(date_trunc('day', now(), 'UTC') - interval '2 days', max(day)) END "
    "FROM usage_daily"
)
"""From here days are recomputed each time: the last ones, and all that passed while no worker ran. NULL: there are none."""

DAILY = (
    f"INSERT INTO usage_daily (day, {', '.join(PLACE)}, {', '.join(SUMS)}) "
    f"SELECT date_trunc('day', hour, 'UTC') AS day, {', '.join(PLACE)}, {', '.join(f'sum({name})' for name in SUMS)} "
    f"FROM usage_hourly WHERE hour >= :since AND hour < :until GROUP BY 1, {', '.join(PLACE)} "
    f"ON CONFLICT (day, {', '.join(PLACE)}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in SUMS)}"
)
"""Days are recomputed whole, so nothing in them depends on when and how often this runs."""

_TOTALS = ", ".join(f"sum({name}) AS {name}" for name in SUMS)
STALE = (
    f"SELECT day FROM (SELECT date_trunc('day', hour, 'UTC') AS day, {_TOTALS} FROM usage_hourly GROUP BY 1) AS hours "
    f"LEFT JOIN (SELECT day, {_TOTALS} FROM usage_daily GROUP BY 1) AS days USING (day) "
    f"WHERE {' OR '.join(f'hours.{name} IS DISTINCT FROM days.{name}' for name in SUMS)} ORDER BY 1"
)
"""Days that their hours outgrew: an event that came very late, a correction of an old estimate."""

_COUNTS = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in COUNTS)
UNEQUAL = (
    "WITH events AS (SELECT count(*) FILTER (WHERE entry = 0 AND request_id IN ('', event_id::text)) AS requests, "
    f"{_COUNTS} FROM usage_events "
    "WHERE occurred_at >= :since AND occurred_at < :until), "
    f"hours AS (SELECT coalesce(sum(requests), 0) AS requests, {_COUNTS} FROM usage_hourly "
    "WHERE hour >= :since AND hour < :until) "
    "SELECT events.cost_nano_usd - hours.cost_nano_usd AS nano_usd, events.requests - hours.requests AS requests "
    f"FROM events, hours WHERE {' OR '.join(f'events.{name} <> hours.{name}' for name in ('requests', *COUNTS))}"
)
"""What sums lack of their events. One statement sees one moment, so while all is well there is no row."""

BEGINNING, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


async def roll_up_days(context: dict[str, Any]) -> None:
    """The days that may still change."""
    pool: AsyncEngine = context["pool"]
    async with pool.begin() as connection:
        await connection.execute(text(TURN))
        since: datetime | None = await connection.scalar(text(RECENT))
        await _recompute(connection, since or BEGINNING, END)


async def reconcile(context: dict[str, Any]) -> list[date]:
    """Recompute old days that late events changed, and hold yesterday's sums against its events. Returns the days.

    Sums that differ from their events are never mended in silence: that would hide a fault in the ledger.
    """
    pool: AsyncEngine = context["pool"]
    async with pool.begin() as connection:
        await connection.execute(text(TURN))
        stale: list[datetime] = list(await connection.scalars(text(STALE)))
        for day in stale:
            await _recompute(connection, day, day + DAY)
    async with pool.connect() as connection:
        today = await connection.scalar(text("SELECT date_trunc('day', now(), 'UTC')"))
        for row in await connection.execute(text(UNEQUAL), {"since": today - DAY, "until": today}):
            log.error("yesterday's sums lack %s nano-USD and %s requests of its events", row.nano_usd, row.requests)
    return [day.date() for day in stale]


async def _recompute(connection: AsyncConnection, since: datetime, until: datetime) -> None:
    await connection.execute(text(DAILY), {"since": since, "until": until})


async def forget_decisions(context: dict[str, Any]) -> int:
    """Decisions of calls that are older than they are kept."""
    before = datetime.now(UTC) - timedelta(days=context["decisions_kept_days"])
    return await records.forget_decisions(context["pool"], before)


async def partitions(context: dict[str, Any]) -> None:
    await ensure_partitions(context["pool"])

"""Rollup: hours into days, and the partitions of the days to come. Both can be run again at any time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from shared.store.ledger import PLACE, SUMS
from shared.store.postgres import ensure_partitions

DAILY = (
    f"INSERT INTO usage_daily (day, {', '.join(PLACE)}, {', '.join(SUMS)}) "
    f"SELECT date_trunc('day', hour, 'UTC') AS day, {', '.join(PLACE)}, {', '.join(f'sum({name})' for name in SUMS)} "
    "FROM usage_hourly WHERE hour >= date_trunc('day', now(), 'UTC') - interval '2 days' "
    f"GROUP BY 1, {', '.join(PLACE)} "
    f"ON CONFLICT (day, {', '.join(PLACE)}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in SUMS)}"
)
"""The last days are recomputed whole, so late adjustments and missed runs mend themselves."""


async def roll_up_days(context: dict[str, Any]) -> None:
    async with context["pool"].begin() as connection:
        await connection.execute(text(DAILY))


async def partitions(context: dict[str, Any]) -> None:
    await ensure_partitions(context["pool"])

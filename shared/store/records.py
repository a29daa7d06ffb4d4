"""Records: what the books say of one call: its event, the attempts that were billed beside it, and the decision behind it.

Decisions are kept with their events for a set time and then forgotten; the events stay.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.store import ledger

SHOWN = (
    "event_id", "kind", "provider", "connection", "model", "operation", "stream", "outcome", "source", "input_tokens",
    "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_nano_usd", "unpriced",
    "price_version", "attempts", "duration_ms", "first_token_ms", "node",
)  # fmt: skip
BESIDE = (
    "SELECT * FROM usage_events WHERE request_id = :request_id AND event_id::text <> :request_id "
    "AND occurred_at >= :since AND occurred_at <= :until ORDER BY occurred_at"
)
FORGET = (
    "WITH old AS (SELECT event_id, occurred_at, entry FROM usage_events WHERE occurred_at < :before AND decision IS NOT NULL "
    "LIMIT :most) UPDATE usage_events SET decision = NULL FROM old WHERE usage_events.event_id = old.event_id "
    "AND usage_events.occurred_at = old.occurred_at AND usage_events.entry = old.entry"
)
MOST_AT_ONCE = 20_000


async def record(pool: AsyncEngine, request_id: str) -> dict[str, Any] | None:
    """A call by its id: whose it was, its event, its decision, and `beside`; None when it is not booked (yet), or no call."""
    event = await ledger.event(pool, request_id)
    if event is None or event["request_id"] not in ("", request_id):
        return None
    until = event["occurred_at"] + timedelta(milliseconds=event["duration_ms"], minutes=1)
    values = {"request_id": request_id, "since": event["occurred_at"], "until": until}
    async with pool.connect() as connection:
        beside = [dict(row._mapping) for row in await connection.execute(text(BESIDE), values)]
    return {
        "request_id": request_id,
        "occurred_at": event["occurred_at"].isoformat(),
        "organisation_id": event["organisation_id"],
        "team_id": event["team_id"],
        "key_id": event["key_id"],
        "event": _shown(event),
        "beside": [_shown(each) for each in beside],
        "total_cost_nano_usd": sum(int(each["cost_nano_usd"]) for each in (event, *beside)),
        "decision": event["decision"],
    }


def _shown(event: dict[str, Any]) -> dict[str, Any]:
    return {name: str(event[name]) if name == "event_id" else event[name] for name in SHOWN}


async def forget_decisions(pool: AsyncEngine, before: datetime) -> int:
    """Of calls that began before; how many there were."""
    forgotten = 0
    while True:
        async with pool.begin() as connection:
            done = await connection.execute(text(FORGET), {"before": before, "most": MOST_AT_ONCE})
        forgotten += done.rowcount
        if done.rowcount < MOST_AT_ONCE:
            return forgotten

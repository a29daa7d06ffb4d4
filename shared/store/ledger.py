"""Ledger: usage events and their hourly sums in Postgres, each event counted once.

The id decides. Nobody has it: booked. There is only an estimate and the truth arrives: the difference is booked once, as an
adjustment. Anything else is a repetition and changes nothing. Events and sums change in one transaction, so the sums are
exact at every moment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.domain.identity import uuid7_time
from shared.domain.limits import Budget, Scope
from shared.domain.usage import MAX_TOKENS, EventKind, Outcome, UsageEvent

COLUMNS: tuple[tuple[str, str], ...] = (
    ("event_id", "uuid"), ("entry", "smallint"), ("occurred_at", "timestamptz"), ("kind", "text"),
    ("organisation_id", "text"), ("team_id", "text"), ("key_id", "text"), ("provider", "text"), ("connection", "text"),
    ("model", "text"), ("operation", "text"), ("stream", "boolean"), ("outcome", "text"), ("source", "text"),
    ("input_tokens", "bigint"), ("output_tokens", "bigint"), ("cache_read_tokens", "bigint"),
    ("cache_write_tokens", "bigint"), ("reasoning_tokens", "bigint"), ("cost_nano_usd", "bigint"),
    ("unpriced", "boolean"), ("price_version", "text"), ("attempts", "integer"), ("duration_ms", "bigint"),
    ("first_token_ms", "bigint"), ("request_id", "text"), ("node", "text"), ("decision", "jsonb"),
)  # fmt: skip
COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_nano_usd")
SUMS = ("requests", "errors", "estimated", "unpriced", *COUNTS)
PLACE = ("organisation_id", "team_id", "key_id", "provider", "connection", "model")
EXACT = 2**53
"""Up to here Redis counts money exactly (its scripts' numbers are doubles), and so does the ledger."""
MOST = {
    **dict.fromkeys(COUNTS, MAX_TOKENS), "cost_nano_usd": EXACT, "attempts": 2**31 - 1, "duration_ms": EXACT,
    "first_token_ms": EXACT,
}  # fmt: skip
_json = msgspec.json.Encoder().encode
_numbers_of = attrgetter(*(name for name in MOST if name != "first_token_ms"))
TEXTS = (*PLACE, "operation", "price_version", "request_id", "node")
_texts_of = attrgetter(*TEXTS)
_place_of = attrgetter(*PLACE)
_counts_of = attrgetter(*COUNTS)

INSERT = (
    f"INSERT INTO usage_events ({', '.join(name for name, _ in COLUMNS)}) SELECT * FROM unnest("
    + ", ".join(f"${number}::{kind}[]" for number, (_, kind) in enumerate(COLUMNS, 1))
    + ") ON CONFLICT DO NOTHING RETURNING event_id::text"
)
UPSERT = (
    f"INSERT INTO usage_hourly (hour, {', '.join(PLACE)}, {', '.join(SUMS)}) SELECT * FROM unnest($1::timestamptz[], "
    + ", ".join(f"${number}::text[]" for number in range(2, 2 + len(PLACE)))
    + ", "
    + ", ".join(f"${number}::bigint[]" for number in range(2 + len(PLACE), 2 + len(PLACE) + len(SUMS)))
    + f") ON CONFLICT (hour, {', '.join(PLACE)}) DO UPDATE SET "
    + ", ".join(f"{name} = usage_hourly.{name} + excluded.{name}" for name in SUMS)
)


MINTED = "to_timestamp(('x0000' || substr(wanted::text, 1, 8) || substr(wanted::text, 10, 4))::bit(64)::bigint / 1000.0)"
"""When the UUIDv7 `wanted` was minted (RFC 9562 §5.7), exact to its millisecond."""
ID_OF_THE_DEAD = "substring(body FROM 6 FOR 36)"
"""An encoded event is a long array (3 bytes of head) whose first item is a string (2 bytes of head): its id."""


class Booked(msgspec.Struct, frozen=True):
    """What a batch came to."""

    inserted: int
    adjusted: int
    ignored: int


async def book(pool: AsyncEngine, events: Sequence[UsageEvent]) -> Booked:
    """One transaction for the whole batch. Raises what Postgres raises, and then nothing was booked."""
    batch = _distinct(events)
    async with pool.begin() as connection:
        new_ids = await _insert(connection, [(event, 0) for event in batch])
        inserted = [event for event in batch if event.event_id in new_ids]
        late = [event for event in batch if event.event_id not in new_ids and event.kind is not EventKind.ESTIMATED]
        adjustments = await _adjust(connection, late) if late else []
        await _roll_up(connection, [(event, int(is_call(event))) for event in inserted] + [(event, 0) for event in adjustments])
    return Booked(len(inserted), len(adjustments), len(events) - len(inserted) - len(adjustments))


def is_call(event: UsageEvent) -> bool:
    """Not one of the further attempts that are billed beside the call's own event: those are no requests."""
    return event.request_id in ("", event.event_id)


def _distinct(events: Sequence[UsageEvent]) -> list[UsageEvent]:
    """One event an id, the truth before an estimate, in the order of ids so that two writers never deadlock."""
    chosen: dict[str, UsageEvent] = {}
    for event in map(clean, events):
        known = chosen.get(event.event_id)
        if known is None or (known.kind is EventKind.ESTIMATED and event.kind is not EventKind.ESTIMATED):
            chosen[event.event_id] = event
    return [chosen[event_id] for event_id in sorted(chosen)]


def clean(event: UsageEvent) -> UsageEvent:
    """The event as the ledger can hold it: no number below zero or beyond belief, no NUL, which Postgres has no text with."""
    numbers, texts = _numbers_of(event), _texts_of(event)
    late = event.first_token_ms or 0
    if min(numbers) >= 0 <= late <= EXACT and max(numbers) <= MAX_TOKENS and "\0" not in "".join(texts):
        return event
    changes: dict[str, Any] = {}
    for name, most in MOST.items():
        value = getattr(event, name)
        if value is not None and not 0 <= value <= most:
            changes[name] = min(max(value, 0), most)
    for name in TEXTS:
        if "\0" in getattr(event, name):
            changes[name] = getattr(event, name).replace("\0", "\ufffd")
    return msgspec.structs.replace(event, **changes) if changes else event


async def _insert(connection: AsyncConnection, rows: Sequence[tuple[UsageEvent, int]]) -> set[str]:
    """The ids that were new."""
    if not rows:
        return set()
    by_field = zip(*[msgspec.structs.astuple(event) for event, _ in rows], strict=True)
    columns = dict(zip(UsageEvent.__struct_fields__, by_field, strict=True))
    columns["decision"] = tuple(None if made is None else _json(made).decode() for made in columns["decision"])
    columns["entry"] = tuple(entry for _, entry in rows)
    columns["occurred_at"] = tuple(uuid7_time(event.event_id) for event, _ in rows)
    result: Any = await connection.exec_driver_sql(INSERT, tuple(columns[name] for name, _ in COLUMNS))
    return {row[0] for row in result}


async def _adjust(connection: AsyncConnection, late: Sequence[UsageEvent]) -> list[UsageEvent]:
    """Book what the truth adds to the estimates among the ids; the adjustments made."""
    query = (
        f"SELECT event_id::text, {', '.join(COUNTS)} FROM usage_events "
        "WHERE event_id = ANY($1::uuid[]) AND occurred_at = ANY($2::timestamptz[]) AND entry = 0 AND kind = 'estimated'"
    )
    ids = [event.event_id for event in late]
    rows: Any = await connection.exec_driver_sql(query, (ids, [uuid7_time(event_id) for event_id in ids]))
    estimates = {row[0]: row for row in rows}
    adjustments = []
    for event in late:
        estimate = estimates.get(event.event_id)
        if estimate is not None:
            difference = {name: getattr(event, name) - int(estimate._mapping[name]) for name in COUNTS}
            adjustments.append(msgspec.structs.replace(event, kind=EventKind.ADJUSTMENT, **difference))
    new_ids = await _insert(connection, [(event, 1) for event in adjustments])
    return [event for event in adjustments if event.event_id in new_ids]


@lru_cache(maxsize=16_384)
def _hour_of(minted: str) -> datetime:
    """The hour of the ids that begin so; many share a millisecond."""
    return uuid7_time(f"{minted}-7000-8000-000000000000").replace(minute=0, second=0, microsecond=0)


async def _roll_up(connection: AsyncConnection, rows: Sequence[tuple[UsageEvent, int]]) -> None:
    """Add events to their hours; `requests` is 1 for a first entry and 0 for an adjustment. An estimate is no error, so the
    truth that comes late may be one."""
    sums: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(SUMS))
    for event, requests in rows:
        total = sums[(_hour_of(event.event_id[:13]), *_place_of(event))]
        total[0] += requests
        total[1] += event.outcome not in (Outcome.OK, Outcome.UNKNOWN) and is_call(event)
        total[2] += event.kind is EventKind.ESTIMATED
        total[2] -= event.kind is EventKind.ADJUSTMENT
        total[3] += requests * event.unpriced
        for number, count in enumerate(_counts_of(event), 4):
            total[number] += count
    if not sums:
        return
    ordered = sorted(sums.items())
    columns: list[list[Any]] = [[place[number] for place, _ in ordered] for number in range(len(PLACE) + 1)]
    columns += [[total[number] for _, total in ordered] for number in range(len(SUMS))]
    await connection.exec_driver_sql(UPSERT, tuple(columns))


async def missing(pool: AsyncEngine, event_ids: Sequence[str], *, estimated: bool) -> set[str]:
    """Which of the ids Postgres lacks. An actual event is had only when the truth is booked, an estimated one when anything
    is; one that the ledger refused is had as well, in usage_dead. The ids carry their times, so only their days' partitions
    are looked at."""
    if not event_ids:
        return set()
    query = (
        "SELECT wanted::text FROM unnest(string_to_array($1, ',')::uuid[]) AS wanted, "
        f"LATERAL (SELECT {MINTED} AS at) AS minted "
        "LEFT JOIN LATERAL (SELECT 1 AS had FROM usage_events WHERE event_id = wanted AND occurred_at = at "
        "AND ($2 OR entry = 1 OR kind = 'actual') LIMIT 1) AS booked ON true WHERE booked.had IS NULL "
        f"AND NOT EXISTS (SELECT FROM usage_dead WHERE {ID_OF_THE_DEAD} = convert_to(wanted::text, 'UTF8'))"
    )  # LATERAL with LIMIT: one look into the index for each, whatever the planner believes of a table that grows so fast. The
    # ids are one text: asyncpg looks at each item of an array for what it is, on the node's own time.
    async with pool.connect() as connection:
        rows: Any = await connection.exec_driver_sql(query, (",".join(event_ids), estimated))
        return {row[0] for row in rows}


class Spell(NamedTuple):
    """Whose spending, in which time: whole hours from `start`, up to `end` if there is one."""

    scope: Scope
    scope_id: str
    start: datetime
    end: datetime | None = None


SCOPED = {Scope.ORGANISATION: "organisation_id", Scope.TEAM: "team_id", Scope.KEY: "key_id"}


async def spent(connection: AsyncConnection, spells: Sequence[Spell]) -> list[int]:
    """nano-USD of each spell, in their order; one query for all."""
    if not spells:
        return []
    sums: list[str] = []
    values: dict[str, object] = {}
    for number, spell in enumerate(spells):
        until = "" if spell.end is None else f" AND hour < :end{number}"
        sums.append(
            f"(SELECT coalesce(sum(cost_nano_usd), 0) FROM usage_hourly WHERE {SCOPED[spell.scope]} = :id{number} "
            f"AND hour >= :start{number}{until})"
        )
        values |= {f"id{number}": spell.scope_id, f"start{number}": spell.start}
        if spell.end is not None:
            values[f"end{number}"] = spell.end
    row = (await connection.execute(text(f"SELECT {', '.join(sums)}"), values)).one()
    return [int(amount) for amount in row]


class PostgresSpent:
    """The seeder's view of the ledger (admission/seeding.py SpentSource)."""

    def __init__(self, pool: AsyncEngine) -> None:
        self._pool = pool

    async def spent(
        self, budget: Budget, start: datetime, end: datetime | None, event_ids: Sequence[str]
    ) -> tuple[int, frozenset[str]]:
        async with self._pool.connect() as plain:
            connection = await plain.execution_options(isolation_level="REPEATABLE READ")
            async with connection.begin():
                (amount,) = await spent(connection, [Spell(budget.scope, budget.scope_id, start, end)])
                present: frozenset[str] = frozenset()
                if event_ids:
                    rows: Any = await connection.exec_driver_sql(
                        "SELECT DISTINCT event_id::text FROM usage_events "
                        "WHERE event_id = ANY($1::uuid[]) AND occurred_at = ANY($2::timestamptz[])",
                        (list(event_ids), [uuid7_time(event_id) for event_id in event_ids]),
                    )
                    present = frozenset(row[0] for row in rows)
        return amount, present


async def event(pool: AsyncEngine, event_id: str) -> dict[str, Any] | None:
    """One call as it was booked, its later adjustments added; None when it is not there (yet)."""
    query = "SELECT * FROM usage_events WHERE event_id = :event_id AND occurred_at = :occurred_at ORDER BY entry"
    try:
        values = {"event_id": UUID(event_id), "occurred_at": uuid7_time(event_id)}
    except (ValueError, OverflowError):
        return None
    async with pool.connect() as connection:
        rows = [dict(row._mapping) for row in await connection.execute(text(query), values)]
    if not rows:
        return None
    for name in SUMMED:
        rows[0][name] = sum(int(row[name]) for row in rows)
    return rows[0] | {"outcome": rows[-1]["outcome"]}


SUMMED = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_nano_usd")
BY = {
    "key": "key_id", "team": "team_id", "organisation": "organisation_id", "model": "model", "provider": "provider",
    "connection": "connection", "hour": "hour", "day": "date_trunc('day', hour, 'UTC')",
}  # fmt: skip
NAMES = {"key": "keys", "team": "teams", "organisation": "organisations"}


async def usage(
    pool: AsyncEngine,
    *,
    by: str = "model",
    since: datetime | None = None,
    until: datetime | None = None,
    organisation_id: str | None = None,
) -> list[dict[str, Any]]:
    """Sums of the hours in [since, until), grouped; dearest first. `by` is one of BY; with `organisation_id` only its own."""
    expression = BY[by]
    columns = ", ".join(f"sum({name})::bigint AS {name}" for name in SUMS if name != "cost_nano_usd")
    query = f"SELECT {expression} AS {by}, {columns}, sum(cost_nano_usd) AS cost_nano_usd FROM usage_hourly WHERE true"
    values: dict[str, datetime | str] = {}
    if since is not None:
        query, values["since"] = f"{query} AND hour >= :since", since
    if until is not None:
        query, values["until"] = f"{query} AND hour < :until", until
    if organisation_id is not None:
        query, values["organisation_id"] = f"{query} AND organisation_id = :organisation_id", organisation_id
    query += f" GROUP BY {expression} ORDER BY {'cost_nano_usd DESC, ' if by not in ('hour', 'day') else ''}1"
    async with pool.connect() as connection:
        rows = [dict(row._mapping) for row in await connection.execute(text(query), values)]
        names: dict[str, str] = {}
        if by in NAMES:
            found = await connection.execute(
                text(f"SELECT id, name FROM {NAMES[by]} WHERE id = ANY(:ids)"), {"ids": [row[by] for row in rows]}
            )
            names = {row.id: row.name for row in found}
    for row in rows:
        value = row[by]
        row[by] = value.isoformat() if isinstance(value, datetime) else value
        row["cost_nano_usd"] = int(row["cost_nano_usd"])
        if by in NAMES:
            row["name"] = names.get(value, "")
    return rows

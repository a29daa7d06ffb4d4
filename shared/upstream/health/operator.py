"""What an operator may see and undo: the list of marks, and taking them away, by name or all, on every node at once."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.domain.health import Mark, MarkState
from shared.routing.breaker import Clear
from shared.store import tenants
from shared.store.redis import database_of
from shared.upstream.health.script import Call, Look, call_of, look_call, read_look, source
from shared.upstream.slots.pauses import end_pauses, paused

CONNECTIONS = frozenset({MarkState.COOLING, MarkState.LOCKED})


class Undo(StrEnum):
    UNLOCK = "unlock"
    """Connections: locks, cooldowns, and pauses that providers asked for (slots/pauses.py)."""
    RESET = "reset"
    """Those, and breakers."""


async def listed(redis: Redis) -> list[dict[str, Any]]:
    """Every mark, the longest-standing first; see `row`."""
    look = await _look(redis)
    return [row(subject, mark, look.now_ms) for subject, mark in _by_age(look)]


def row(subject: str, mark: Mark, now_ms: int) -> dict[str, Any]:
    """`id`, `name`, `connection`, `provider`, `state`, `reason`, `times`, `since` and `until` (UTC), `due`: whether a call may
    try it again now."""
    return {
        "id": subject,
        "name": name_of(mark),
        "connection": mark.connection,
        "provider": mark.provider,
        "state": mark.state.value,
        "reason": mark.reason(),
        "times": mark.trips,
        "since": _moment(mark.since_ms),
        "until": _moment(mark.due_ms),
        "due": mark.due_ms <= now_ms,
    }


def name_of(mark: Mark) -> str:
    """`prefix/model-id` of a deployment, a connection's name."""
    return mark.model or mark.connection


async def undo(redis: Redis, pool: AsyncEngine, what: Undo, name: str | None, *, by: str) -> list[str]:
    """Take away what is on `name` (None: on everything): a connection's name or id, with `reset` its deployments too; or a
    deployment's `prefix/model-id` or id. The names of what was freed; written to the audit log, or nothing is done."""
    look = await _look(redis)
    found = {subject: mark for subject, mark in _by_age(look) if _meant(subject, mark, what, name)}
    resting = {each: its_name for each, its_name in (await _paused(redis, pool, name)).items() if each not in found}
    if not (found or resting):
        return []
    async with pool.begin() as connection:
        for mark in found.values():
            kind = "deployment" if mark.model else "connection"
            await tenants.audit(
                connection, what.value, f"{kind} {name_of(mark)}", by=by, of=mark.connection, state=mark.state.value,
                reason=mark.reason(),
            )  # fmt: skip
        for its_name in resting.values():
            await tenants.audit(connection, what.value, f"connection {its_name}", by=by, of=its_name, state="paused")
        await end_pauses(redis, [*resting, *(each for each, mark in found.items() if mark.state in CONNECTIONS)])
        if found:
            await _eval(redis, call_of(Clear(subjects=tuple(found))))
    return [*(name_of(mark) for mark in found.values()), *resting.values()]


async def _paused(redis: Redis, pool: AsyncEngine, name: str | None) -> dict[str, str]:
    """Connections (`name`: a name or id; None: any) whose providers asked for a pause that is not over: id → name."""
    async with pool.connect() as connection:
        rows = await connection.execute(text("SELECT id, name FROM connections ORDER BY name"))
        names = {row.id: row.name for row in rows if name is None or name in (row.id, row.name)}
    return {each: names[each] for each in await paused(redis, tuple(names))}


def _meant(subject: str, mark: Mark, what: Undo, name: str | None) -> bool:
    if what is Undo.UNLOCK and mark.state not in CONNECTIONS:
        return False
    return name is None or name in (subject, subject.partition("/")[0], mark.connection, mark.model)


def _by_age(look: Look) -> list[tuple[str, Mark]]:
    return sorted(look.marks.items(), key=lambda found: (found[1].since_ms, found[0]))


async def _look(redis: Redis) -> Look:
    return read_look(await _eval(redis, look_call()))


async def _eval(redis: Redis, call: Call) -> list[Any]:
    called_keys, arguments = call
    reply: list[Any] = await redis.eval(source(database_of(redis)), len(called_keys), *called_keys, *arguments)  # type: ignore[misc, arg-type]
    return reply


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).isoformat(timespec="milliseconds")

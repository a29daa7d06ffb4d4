"""Standing: what is used and left of connections' limits, read from Redis for people and dashboards."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
from redis.asyncio import Redis

from shared.clock import utc
from shared.domain.catalogue import Connection
from shared.domain.upstream_limits import UpstreamLimits
from shared.store import keys
from shared.upstream.slots.cells import EPOCH_S, LEARNED, Cells, compile_cells
from shared.upstream.slots.model import BUCKET_US, BUCKETS


class QuotaStanding(msgspec.Struct, frozen=True):
    """`used` and `limit` in the quota's unit (nano-USD for usd); `ends` is None for a rolling window."""

    unit: str
    window: str
    used: int
    limit: int
    ends: str | None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One connection now. None: not limited. `requests_left` and `tokens_left` may go at once."""

    connection: str
    requests_left: int | None
    tokens_left: int | None
    in_flight: int | None
    concurrent: int | None
    """Calls allowed at once now: below the configured ceiling after the provider pushed back."""
    waiting: int
    paused_s: float
    """How long its provider wants to be left alone."""
    quotas: tuple[QuotaStanding, ...] = ()


async def standings(redis: Redis, connections: Iterable[Connection], now_s: float) -> list[Standing]:
    """Of every connection that has limits, or none but a pause that was learned."""
    learned = await redis.hgetall(keys.SLOTS_LEARNED)  # type: ignore[misc, arg-type]
    found = []
    for connection in connections:
        name = connection.connection_id.encode()
        if connection.limits is not None or (name in learned and int(learned[name]) > now_s * 1000):
            found.append(await _standing(redis, connection, connection.limits or LEARNED, now_s))
    return found


async def _standing(redis: Redis, connection: Connection, limits: UpstreamLimits, now_s: float) -> Standing:
    cells = compile_cells(connection.connection_id, limits, now_s)
    now_us = (now_s - EPOCH_S) * 1_000_000
    pipe = redis.pipeline(transaction=False)
    pipe.hgetall(cells.keys[0])  # type: ignore[arg-type]
    pipe.zcount(cells.keys[1], int(now_s * 1000), "+inf")
    pipe.zcard(cells.keys[2])
    for at, each in enumerate(cells.quotas):
        if each.ends_us:
            pipe.get(cells.keys[6 + at])
        else:
            pipe.hgetall(cells.keys[6 + at])  # type: ignore[arg-type]
    held, in_flight, waiting, *used = await pipe.execute()
    state = {name.decode(): float(value) for name, value in held.items()}
    cap = state.get("cap", 0.0)
    return Standing(
        connection=connection.name,
        requests_left=_left(cells.request_us, cells.request_burst, state.get("r", 0.0), now_us),
        tokens_left=_left(cells.token_us, cells.token_burst, state.get("t", 0.0), now_us),
        in_flight=in_flight if cells.concurrent else None,
        concurrent=min(cells.concurrent, max(1, int(cap))) if cap and cells.adaptive else cells.concurrent or None,
        waiting=waiting,
        paused_s=max(0.0, round((state.get("p", 0.0) - now_us) / 1_000_000, 3)),
        quotas=_quotas(cells, used, now_us),
    )


def _left(us_per_unit: float, burst: int, tat_us: float, now_us: float) -> int | None:
    if not us_per_unit:
        return None
    return max(0, math.floor((burst * us_per_unit - max(0.0, tat_us - now_us)) / us_per_unit))


def _quotas(cells: Cells, used: list[bytes | dict[bytes, bytes] | None], now_us: float) -> tuple[QuotaStanding, ...]:
    oldest, made = math.floor(now_us / BUCKET_US) - BUCKETS, []
    for quota, cell, held in zip(cells.limits.quotas, cells.quotas, used, strict=True):
        if isinstance(held, dict):
            total = sum(int(value) for bucket, value in held.items() if int(bucket) >= oldest)
        else:
            total = int(held or 0)
        ends = utc(EPOCH_S + cell.ends_us / 1_000_000).isoformat() if cell.ends_us else None
        made.append(QuotaStanding(quota.unit.value, quota.window.value, total, quota.limit, ends))
    return tuple(made)

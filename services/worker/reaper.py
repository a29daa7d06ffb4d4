"""Reaper: reservations whose lease is over become estimated events, never a silence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.admission.reap import Reaper
from shared.store import keys

log = logging.getLogger(__name__)

TRIP = 500
"""Organisations asked about in one trip to Redis."""


class Reaping:
    """Goes over every organisation; those known last while Postgres is away."""

    def __init__(self, redis: Redis, pool: AsyncEngine) -> None:
        self._redis = redis
        self._pool = pool
        self._reaper = Reaper(redis)
        self._organisations: Sequence[str] = ()

    async def once(self) -> int:
        """How many reservations were reaped. One organisation's trouble is not another's."""
        reaped = 0
        for organisation_id in await self._with_expired():
            try:
                reaped += await self._reaper.expired(organisation_id)
            except (ValueError, LookupError):  # a record that cannot be read
                log.exception("reservations of %s cannot be reaped", organisation_id)
        return reaped

    async def _with_expired(self) -> list[str]:
        """The organisations that have a reservation whose lease is over."""
        organisations = await self._known()
        if not organisations:
            return []
        seconds, micros = await self._redis.time()
        now_ms = seconds * 1000 + micros // 1000
        found: list[str] = []
        for start in range(0, len(organisations), TRIP):
            asked = organisations[start : start + TRIP]
            pipe = self._redis.pipeline(transaction=False)
            for organisation_id in asked:
                pipe.zcount(keys.reservations(organisation_id), "-inf", now_ms)
            found += [name for name, count in zip(asked, await pipe.execute(), strict=True) if count]
        return found

    async def _known(self) -> Sequence[str]:
        try:
            async with self._pool.connect() as connection:
                self._organisations = list(await connection.scalars(text("SELECT id FROM organisations")))
        except (SQLAlchemyError, OSError) as error:
            log.warning("reaping by the organisations known before: %s", type(error).__name__)
        return self._organisations


async def reap(context: dict[str, Any]) -> int:
    """Every organisation once. Returns how many reservations were reaped."""
    reaping: Reaping = context["reaping"]
    return await reaping.once()

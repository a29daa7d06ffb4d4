"""Usage: from the stream into the ledger, exactly once. Nothing is acknowledged before Postgres has committed it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.domain.identity import uuid7_time
from shared.domain.usage import UsageEvent, decode_event
from shared.store import keys, ledger

log = logging.getLogger(__name__)

BATCH = 2_000
BLOCK_MS = 1_000
CLAIM_IDLE_MS = 60_000
CLAIM_EVERY_S = 15.0
BACK_OFF_S = 1.0

Entry = tuple[bytes, dict[bytes, bytes]]


class UsageConsumer:
    """One member of the group. `claim_idle_ms`: how long an entry may lie with a silent member before another takes it."""

    def __init__(self, redis: Redis, pool: AsyncEngine, name: str, claim_idle_ms: int = CLAIM_IDLE_MS) -> None:
        self._redis = redis
        self._pool = pool
        self._name = name
        self._claim_idle_ms = claim_idle_ms
        self._stopping = False
        self.booked = 0

    def stop(self) -> None:
        """Finish the batch in hand, then end."""
        self._stopping = True

    async def run(self) -> None:
        """Until stop(). Redis or Postgres being away only makes it wait; whatever was not acknowledged comes again."""
        claimed_s = 0.0
        pending_first = True
        loop = asyncio.get_running_loop()
        while not self._stopping:
            try:
                if loop.time() - claimed_s > CLAIM_EVERY_S:
                    claimed_s = loop.time()
                    await self._claim()
                entries = await self._read(b"0" if pending_first else b">")
                pending_first = pending_first and bool(entries)
                if entries:
                    await self._book(entries)
            except ResponseError as error:
                if "NOGROUP" in str(error):
                    await self._make_group()
                else:
                    log.error("usage stream: %s", error)
                    await asyncio.sleep(BACK_OFF_S)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.warning("usage waits: %s: %s", type(error).__name__, str(error).splitlines()[0][:200] if str(error) else "")
                pending_first = True  # what was read and not booked is in our own pending list
                await asyncio.sleep(BACK_OFF_S)

    async def _make_group(self) -> None:
        try:
            await self._redis.xgroup_create(keys.USAGE_STREAM, keys.USAGE_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        except (RedisError, OSError):
            await asyncio.sleep(BACK_OFF_S)

    async def _read(self, after: bytes) -> list[Entry]:
        reply: Any = await self._redis.xreadgroup(
            keys.USAGE_GROUP.decode(),
            self._name,
            {keys.USAGE_STREAM: after},
            count=BATCH,
            block=None if after == b"0" else BLOCK_MS,
        )
        return reply[0][1] if reply else []

    async def _claim(self) -> None:
        """Take over what a dead member read and never acknowledged."""
        start: bytes = b"0-0"
        while True:
            reply: Any = await self._redis.xautoclaim(
                keys.USAGE_STREAM, keys.USAGE_GROUP, self._name, self._claim_idle_ms, start_id=start, count=BATCH
            )
            start, entries = reply[0], [entry for entry in reply[1] if entry[1]]
            if entries:
                await self._book(entries)
            if start == b"0-0":
                return

    async def _book(self, entries: list[Entry]) -> None:
        events: list[UsageEvent] = []
        dead: list[tuple[bytes, str, bytes]] = []
        for entry_id, fields in entries:
            raw = fields.get(b"e", b"")
            try:
                event = decode_event(raw)
                uuid7_time(event.event_id)
                events.append(event)
            except (msgspec.MsgspecError, ValueError) as error:
                dead.append((entry_id, str(error)[:500], raw))
        if dead:
            await self._bury(dead)
        if events:
            booked = await ledger.book(self._pool, events)
            self.booked += booked.inserted
        ids = [entry_id for entry_id, _ in entries]
        pipe = self._redis.pipeline(transaction=False)
        pipe.xack(keys.USAGE_STREAM, keys.USAGE_GROUP, *ids)
        pipe.xdel(keys.USAGE_STREAM, *ids)
        await pipe.execute()

    async def _bury(self, dead: list[tuple[bytes, str, bytes]]) -> None:
        """What cannot be read as an event is kept, and complained about, never dropped."""
        log.error("%d entries of the usage stream are no events; they are in usage_dead", len(dead))
        async with self._pool.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO usage_dead (stream_id, reason, body) VALUES (:id, :reason, :body) "
                    "ON CONFLICT (stream_id) DO NOTHING"
                ),
                [{"id": entry_id.decode(), "reason": reason, "body": raw} for entry_id, reason, raw in dead],
            )

"""Usage: from the stream into the ledger, exactly once. Nothing is acknowledged before Postgres has committed it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.domain.identity import uuid7_time
from shared.domain.usage import EventKind, UsageEvent, decode_event
from shared.store import keys, ledger

log = logging.getLogger(__name__)

EVENT = re.compile(rb"e[0-9]*")
"""Fields of an entry that hold events."""
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

BATCH = 500
"""Entries read at once; a busy node's hold a few events each."""
GATHER_S = 0.2
"""A batch begins no sooner than this after the one before, unless that was full: a transaction costs the same for one event
as for a thousand, so a busy stream is booked five times a second and a quiet one at once."""
BLOCK_MS = 1_000
CLAIM_IDLE_MS = 60_000
CLAIM_EVERY_S = 15.0
BACK_OFF_S = 0.5
MOST_BACK_OFF_S = 10.0

Entry = tuple[bytes, dict[bytes, bytes]]


class Delivery(NamedTuple):
    """An event, and where in the stream it stood: an entry's id, and its field when that is not the first."""

    place: str
    raw: bytes
    event: UsageEvent


class Dead(NamedTuple):
    """What no ledger can take, and why."""

    place: str
    raw: bytes
    reason: str


class UsageConsumer:
    """One member of the group. `claim_idle_ms`: how long an entry may lie with a silent member before another takes it."""

    def __init__(self, redis: Redis, pool: AsyncEngine, name: str, claim_idle_ms: int = CLAIM_IDLE_MS) -> None:
        self._redis = redis
        self._pool = pool
        self._name = name
        self._claim_idle_ms = claim_idle_ms
        self._stopping = asyncio.Event()
        self._has_group = False
        self._own_first = False
        """Whether there may be entries that we read and did not book."""
        self._claimed_s: float | None = None
        self.booked = 0
        self.buried = 0

    def stop(self) -> None:
        """Finish the batch in hand, then end."""
        self._stopping.set()

    async def run(self) -> None:
        """Until stop(). Redis or Postgres being away, full or empty again only makes it wait; whatever was not acknowledged
        comes again."""
        back_off_s = BACK_OFF_S
        while not self._stopping.is_set():
            try:
                await self._turn()
                back_off_s = BACK_OFF_S
            except Exception as error:
                self._own_first = True
                if self._has_group and "NOGROUP" in str(error):  # Redis came back empty, or there never was one
                    self._has_group = False
                    continue
                log.warning("usage waits: %s: %s", type(error).__name__, _first_line(error))
                await self._pause(back_off_s)
                back_off_s = min(2 * back_off_s, MOST_BACK_OFF_S)
        await self._leave()

    async def _turn(self) -> None:
        """Read once, book what came."""
        if not self._has_group:
            await self._make_group()
        now_s = asyncio.get_running_loop().time()
        if self._claimed_s is None or now_s - self._claimed_s > CLAIM_EVERY_S:
            self._claimed_s = now_s
            await self._claim()
        entries = await self._read(own=self._own_first)
        self._own_first = self._own_first and bool(entries)
        if entries:
            begun_s = asyncio.get_running_loop().time()
            await self._book(entries)
            if len(entries) < BATCH:
                await self._pause(begun_s + GATHER_S - asyncio.get_running_loop().time())

    async def _pause(self, seconds: float) -> None:
        """So long, or until stop()."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _make_group(self) -> None:
        try:
            await self._redis.xgroup_create(keys.USAGE_STREAM, keys.USAGE_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._has_group = True

    async def _read(self, *, own: bool) -> list[Entry]:
        """The next new entries, waiting a little for one; or our `own` that were read and not acknowledged."""
        reply: Any = await self._redis.xreadgroup(
            keys.USAGE_GROUP.decode(),
            self._name,
            {keys.USAGE_STREAM: b"0" if own else b">"},
            count=BATCH,
            block=None if own else BLOCK_MS,
        )
        return reply[0][1] if reply else []

    async def _claim(self) -> None:
        """Take over what a dead member read and never acknowledged."""
        start: bytes = b"0-0"
        while not self._stopping.is_set():
            reply: Any = await self._redis.xautoclaim(
                keys.USAGE_STREAM, keys.USAGE_GROUP, self._name, self._claim_idle_ms, start_id=start, count=BATCH
            )
            start, entries = reply[0], reply[1]
            if entries:
                await self._book(entries)
            if start == b"0-0":
                return

    async def _book(self, entries: Sequence[Entry]) -> None:
        deliveries: list[Delivery] = []
        dead: list[Dead] = []
        for place, raw in placed(entries):
            try:
                deliveries.append(Delivery(place, raw, event_in(raw)))
            except (msgspec.MsgspecError, ValueError) as error:
                dead.append(Dead(place, raw, _first_line(error)))
        if deliveries:
            dead += await self._book_all(deliveries)
        if dead:
            await self._bury(dead)
        ids = [entry_id for entry_id, _ in entries]
        pipe = self._redis.pipeline(transaction=False)
        pipe.xack(keys.USAGE_STREAM, keys.USAGE_GROUP, *ids)
        pipe.xdel(keys.USAGE_STREAM, *ids)
        await pipe.execute()

    async def _book_all(self, deliveries: Sequence[Delivery]) -> list[Dead]:
        """Book them; those that Postgres refuses for what they are, found by halving, so that one never stops the others.

        Counting deliveries would not tell: they grow for every event while Postgres is away.
        """
        try:
            self.booked += (await ledger.book(self._pool, [delivery.event for delivery in deliveries])).inserted
        except DBAPIError as error:
            if not refuses_data(error):
                raise
            if len(deliveries) == 1:
                return [Dead(deliveries[0].place, deliveries[0].raw, _first_line(error))]
            half = len(deliveries) // 2
            return await self._book_all(deliveries[:half]) + await self._book_all(deliveries[half:])
        return []

    async def _bury(self, dead: Sequence[Dead]) -> None:
        """What no ledger can take is kept, and complained about, never dropped."""
        log.error("%d events of the usage stream cannot be booked; they are in usage_dead: %s", len(dead), dead[0].reason)
        async with self._pool.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO usage_dead (stream_id, reason, body) VALUES (:id, :reason, :body) "
                    "ON CONFLICT (stream_id) DO NOTHING"
                ),
                [{"id": each.place, "reason": each.reason, "body": each.raw} for each in dead],
            )
        self.buried += len(dead)

    async def _leave(self) -> None:
        """Out of the group, if nothing is left with us: names are never used again, and would pile up."""
        with contextlib.suppress(RedisError, OSError):
            left: Any = await self._redis.xpending_range(
                keys.USAGE_STREAM, keys.USAGE_GROUP, min="-", max="+", count=1, consumername=self._name
            )
            if not left:
                await self._redis.xgroup_delconsumer(keys.USAGE_STREAM, keys.USAGE_GROUP, self._name)


def placed(entries: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
    """Each event (`e`, `e1`, …) of the entries with its place. An entry without fields was deleted since: it is booked."""
    for entry_id, fields in entries:
        for name, raw in (fields or {}).items():
            at = entry_id.decode()
            if EVENT.fullmatch(name) is None:
                yield f"{at} {name.decode('ascii', 'replace')[:40]}", b""
            else:
                yield at if name == b"e" else f"{at} {name.decode()}", raw


def event_in(raw: bytes) -> UsageEvent:
    """The event of an entry. Raises MsgspecError or ValueError when there is none that could be booked."""
    event = decode_event(raw)
    if not UUID7.fullmatch(event.event_id):
        raise ValueError(f"{event.event_id!r} is not an event's id")
    uuid7_time(event.event_id)
    if event.kind is EventKind.ADJUSTMENT:
        raise ValueError("adjustments are made by the ledger, not sent to it")
    return event


def refuses_data(error: DBAPIError) -> bool:
    """Whether Postgres will never take this: a data exception (SQLSTATE class 22) or a broken constraint (23)."""
    return str(getattr(error.orig, "sqlstate", None) or "")[:2] in ("22", "23")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0].replace("\0", "")[:300]

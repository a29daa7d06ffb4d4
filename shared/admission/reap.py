"""Reap: book a reservation that nobody settled, as an estimate, and free what it held. And settle what a node did settle in its
own log, but was killed before it could tell Redis."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis

from shared.admission.cells import FIRST_CELL, places, settle_arguments, settle_keys
from shared.admission.packing import script
from shared.admission.restore import BudgetsOf, budget_cells
from shared.domain.usage import EventKind, UsageEvent, decode_event, encode_event
from shared.store import keys

MOST_AT_ONCE = 1_000
ONE_CALL = msgspec.msgpack.encode([1])
"""Of the first group."""
Touched = tuple[str, bytes, list[float]]
"""A cell that a settlement touches: kind, key, and a rate's µs per unit and burst."""


class Reaper:
    """Idempotent: the event is deduplicated by id in Postgres, the script does nothing without a record."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = redis.register_script(script("settle.lua"))

    async def expired(self, organisation_id: str) -> int:
        """Reap every reservation of an organisation whose lease is over; how many there were."""
        seconds, micros = await self._redis.time()
        now_ms = seconds * 1000 + micros // 1000
        ids = await self._redis.zrangebyscore(keys.reservations(organisation_id), "-inf", now_ms, start=0, num=MOST_AT_ONCE)
        for event_id in ids:
            await self.reap(organisation_id, event_id.decode())
        return len(ids)

    async def reap(self, organisation_id: str, event_id: str) -> UsageEvent | None:
        """The estimated event that was sent, or None when there was no such reservation."""
        records, name = keys.reservation_records(organisation_id), event_id.encode()
        record = await self._redis.hget(records, name)  # type: ignore[misc, arg-type]
        if record is None:
            await self._redis.zrem(keys.reservations(organisation_id), name)
            return None
        boot, reserved, _, cells, encoded = record.split(b"\n", 4)
        event = decode_event(encoded)
        if event.cost_nano_usd != int(reserved):
            event = msgspec.structs.replace(event, cost_nano_usd=int(reserved))  # a clamp made it less than planned
        await self._redis.xadd(keys.USAGE_STREAM, {"e": encode_event(event)})
        await self._settle(event, boot, recorded(cells), "estimate")
        return event

    async def ended(self, events: Sequence[UsageEvent], boot: str, budgets_of: BudgetsOf) -> int:
        """Calls whose end stands in a dead node's log: settle those that Redis did not hear of, and those that it has as an
        estimate by now; how many there were. `budgets_of` names the budgets that an event counts against."""
        pipe = self._redis.pipeline(transaction=False)
        for event in events:
            pipe.hget(keys.reservation_records(event.organisation_id), event.event_id)  # type: ignore[arg-type]
            pipe.get(keys.estimate(event.organisation_id, event.event_id))
        found = await pipe.execute()
        settled = 0
        for event, record, estimate in zip(events, found[::2], found[1::2], strict=True):
            if record is not None:
                of_boot, _, _, cells, _ = record.split(b"\n", 4)
                await self._settle(event, of_boot, recorded(cells), "actual")
            elif estimate is not None and event.kind is EventKind.ACTUAL:  # its slots and rates are over
                await self._settle(event, boot, [("b", cell, []) for cell in budget_cells(event, budgets_of(event))], "actual")
            else:
                continue
            settled += 1
        return settled

    async def _settle(self, event: UsageEvent, boot: str | bytes, touched: Sequence[Touched], mode: str) -> None:
        """settle.lua"""
        organisation_id, event_id = event.organisation_id, event.event_id
        tokens = event.input_tokens + event.output_tokens
        cells = settle_arguments([(kind, key, *rate) for kind, key, rate in touched])
        names = settle_keys([(kind, key) for kind, key, _ in touched])
        at = places([range(FIRST_CELL, FIRST_CELL + len(names))])
        await self._script(
            keys=[
                keys.reservations(organisation_id),
                keys.reservation_records(organisation_id),
                *names,
                keys.estimate(organisation_id, event_id),
                keys.done(organisation_id, event_id),
            ],
            args=["", mode, at, ONE_CALL, cells, event_id, boot, event.cost_nano_usd, tokens],
        )


def recorded(cells: bytes) -> list[Touched]:
    """A reservation's cells, as cells.py wrote them."""
    return [(cell[0], cell[1].encode(), cell[2:]) for cell in json.loads(cells)]

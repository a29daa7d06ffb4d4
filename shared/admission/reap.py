"""Reap: book a reservation that nobody settled, as an estimate, and free what it held."""

from __future__ import annotations

import json
from importlib.resources import files

import msgspec
from redis.asyncio import Redis

from shared.admission.cells import settle_keys
from shared.domain.usage import UsageEvent, decode_event, encode_event
from shared.store import keys

MOST_AT_ONCE = 1_000


class Reaper:
    """Idempotent: the event is deduplicated by id in Postgres, the script does nothing without a record."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = redis.register_script(files("shared.admission").joinpath("settle.lua").read_text())

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
        touched = [(cell[0], cell[1].encode(), cell[2:]) for cell in json.loads(cells)]
        arguments: list[str | bytes | int] = ["", event_id, boot, "estimate", 0, 0]
        for kind, _, rate in touched:
            arguments += [kind, f"{rate[0]:.17g}" if rate else "", str(rate[1]) if rate else ""]
        await self._script(
            keys=[
                keys.reservations(organisation_id),
                records,
                keys.estimate(organisation_id, event_id),
                keys.done(organisation_id, event_id),
                *settle_keys([(kind, key) for kind, key, _ in touched]),
            ],
            args=arguments,
        )
        return event

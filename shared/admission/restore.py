"""Restore: what a node tells Redis when it began a new life: calls in flight, and settled events not yet in Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files

from redis.asyncio import Redis

from shared.admission.verdict import Reservation
from shared.domain.identity import uuid7_time
from shared.domain.limits import Budget
from shared.domain.usage import UsageEvent, encode_event
from shared.store import keys

LEASE_MS = 30_000
BATCH = 500
KEEP_S = 40 * 24 * 3600

UNCONFIRMED = """
-- KEYS[1] budget cell, KEYS[2] its unconfirmed hash; ARGV event id, cost, boot, seconds to keep.
-- A cell of this boot was seeded with the event already; any other cell will be, from the hash.
if redis.call('HGET', KEYS[1], 'boot') == ARGV[3] then return 0 end
redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 1
"""


class Restore:
    """`budgets_of` names the budgets that an event counts against."""

    def __init__(
        self,
        redis: Redis,
        live: Callable[[], Iterable[Reservation]],
        unconfirmed: Callable[[], Iterable[UsageEvent]],
        budgets_of: Callable[[UsageEvent], Sequence[Budget]],
    ) -> None:
        self._redis = redis
        self._live = live
        self._unconfirmed = unconfirmed
        self._budgets_of = budgets_of
        self._restore = redis.register_script(files("shared.admission").joinpath("restore.lua").read_text())
        self._note = redis.register_script(UNCONFIRMED)

    async def __call__(self, boot: str) -> None:
        await self._events(boot)
        for reservation in list(self._live()):
            if reservation.mode == "redis":
                await self._reservation(reservation, boot)

    async def _reservation(self, reservation: Reservation, boot: str) -> None:
        cells = reservation.cells
        concurrent = [cell.key for cell in cells.cells if cell.kind in "cC"]
        budgets = [cell.key for cell in cells.cells if cell.budget is not None]
        event = reservation.event
        await self._restore(
            keys=[*cells.admit_keys[:2], *concurrent, *budgets],
            args=[
                event.event_id, boot, LEASE_MS, event.cost_nano_usd, reservation.rate_tokens, cells.record,
                encode_event(event), len(concurrent),
            ],
        )  # fmt: skip

    async def _events(self, boot: str) -> None:
        pipe = self._redis.pipeline(transaction=False)
        queued = 0
        for event in self._unconfirmed():
            at = uuid7_time(event.event_id)
            for budget in self._budgets_of(event):
                cell = keys.budget(event.organisation_id, budget.budget_id, keys.period_label(budget.period, at))
                await self._note(
                    keys=[cell, keys.unconfirmed(cell)],
                    args=[event.event_id, event.cost_nano_usd, boot, KEEP_S],
                    client=pipe,
                )
                queued += 1
            if queued >= BATCH:
                await pipe.execute()
                queued = 0
        if queued:
            await pipe.execute()

"""Restore: what a node tells Redis when it began a new life: first its calls in flight, then its settled events that may not
be in Postgres yet.

In this order nothing falls between: a call is in flight at the moment of telling, or its end stands in the log by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from redis.asyncio import Redis

from shared.admission.verdict import Reservation
from shared.domain.identity import uuid7_time
from shared.domain.limits import Budget
from shared.domain.usage import UsageEvent
from shared.store import keys
from shared.store.redis import Lane, Script

LEASE_MS = 30_000
BATCH = 1_000
KEEP_S = 40 * 24 * 3600
BudgetsOf = Callable[[UsageEvent], Sequence[Budget]]
"""The budgets that an event counts against."""

UNCONFIRMED = r"""
-- KEYS[1] budget cell, KEYS[2] its unconfirmed hash, KEYS[3] reservations, KEYS[4] reservation records
-- ARGV[1] boot [2] seconds to keep [3..] pairs: event id, cost
-- What is settled has no reservation: one that a server brought back from its disk would be booked again when it expires.
-- A cell of this boot was seeded with the events already; any other cell will be, from the hash.
for i = 3, #ARGV, 2 do
  local record = redis.call('HGET', KEYS[4], ARGV[i])
  if record and string.match(record, '^([^\n]*)\n') ~= ARGV[1] then
    redis.call('HDEL', KEYS[4], ARGV[i])
    redis.call('ZREM', KEYS[3], ARGV[i])
  end
end
if redis.call('HGET', KEYS[1], 'boot') == ARGV[1] then return 0 end
for i = 3, #ARGV, 2 do redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
"""


def put_back(lane: Lane, script: Script, reservation: Reservation, boot: str) -> asyncio.Future[Any]:
    """restore.lua for one call in flight, in this turn's write. From now on it belongs to `boot`."""
    reservation.boot = boot
    cells = reservation.cells
    concurrent = [cell.key for cell in cells.cells if cell.kind in "cC"]
    budgets = [cell.key for cell in cells.cells if cell.budget is not None]
    numbers = [b"%d" % number for number in (LEASE_MS, reservation.reserved_nano_usd, reservation.rate_tokens)]
    return lane.run(
        script,
        [*cells.admit_names.keys[:2], *concurrent, *budgets],
        [
            reservation.event.event_id.encode(), boot.encode(), *numbers, cells.record, reservation.encoded_event,
            b"%d" % len(concurrent),
        ],
    )  # fmt: skip


class Restore:
    """Tells of settled events."""

    def __init__(
        self,
        redis: Redis,
        unconfirmed: Callable[[], Iterable[UsageEvent]],
        budgets_of: BudgetsOf,
    ) -> None:
        self._redis = redis
        self._unconfirmed = unconfirmed
        self._budgets_of = budgets_of
        self._note = redis.register_script(UNCONFIRMED)

    async def __call__(self, boot: str) -> None:
        for costs in self._batches():
            pipe = self._redis.pipeline(transaction=False)
            for (organisation_id, cell), pairs in costs.items():
                touched = [cell, keys.unconfirmed(cell), *_held(organisation_id)]
                await self._note(keys=touched, args=[boot, KEEP_S, *pairs], client=pipe)
            await pipe.execute()

    def _batches(self) -> Iterator[dict[tuple[str, bytes], list[str | int]]]:
        """Event ids and costs by organisation and budget cell, BATCH events at a time."""
        costs: dict[tuple[str, bytes], list[str | int]] = {}
        held = 0
        for event in self._unconfirmed():
            for cell in budget_cells(event, self._budgets_of(event)):
                costs.setdefault((event.organisation_id, cell), []).extend((event.event_id, event.cost_nano_usd))
            held += 1
            if held == BATCH:
                yield costs
                costs, held = {}, 0
        if costs:
            yield costs


def budget_cells(event: UsageEvent, budgets: Sequence[Budget]) -> list[bytes]:
    """The cells that an event counts in: those of the period in which its call came."""
    at = uuid7_time(event.event_id)
    organisation_id = event.organisation_id
    return [keys.budget(organisation_id, budget.budget_id, keys.period_label(budget.period, at)) for budget in budgets]


def _held(organisation_id: str) -> tuple[bytes, bytes]:
    return keys.reservations(organisation_id), keys.reservation_records(organisation_id)

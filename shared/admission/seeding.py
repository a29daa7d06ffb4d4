"""Seeding: a budget cell that Redis lacks is rebuilt from the truth, never taken for zero.

The truth has three parts: what Postgres has booked, what was settled but is still on its way there (nodes' logs tell it
when they register under a new boot, and settlements of unseeded cells say so themselves), and what calls in flight have
reserved. Postgres is asked for the sum and for the ids on their way in one snapshot; seed.lua refuses if another id came
in meanwhile, and then Postgres is asked again. So nothing is lost and nothing counted twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.admission.cells import Cell, Cells
from shared.admission.packing import script
from shared.admission.presence import PATIENCE_S, SHOWN_S, Presence
from shared.domain.limits import Budget, Period, period_end
from shared.store import keys

log = logging.getLogger(__name__)

KEEP_S = 2 * 24 * 3600
TRIES = 50


class SpentSource(Protocol):
    """The ledger's answer, from one snapshot."""

    async def spent(
        self, budget: Budget, start: datetime, end: datetime | None, event_ids: Sequence[str]
    ) -> tuple[int, frozenset[str]]:
        """Nano-USD booked for the budget's scope in [start, end), and which of `event_ids` are booked."""
        ...


class Seeder:
    def __init__(self, redis: Redis, presence: Presence, ledger: SpentSource) -> None:
        self._redis = redis
        self._presence = presence
        self._ledger = ledger
        self._script = redis.register_script(script("seed.lua"))
        self._running: dict[bytes, asyncio.Task[bool]] = {}

    async def seed(self, cells: Cells) -> bool:
        """Rebuild every budget cell of a key that needs it. False: it cannot be done now."""
        try:
            await self._presence.refresh()
        except (RedisError, OSError, TimeoutError):
            return False
        budgets = [cell for cell in cells.cells if cell.budget is not None]
        results = await asyncio.gather(*(self._shared(cells.organisation_id, cell) for cell in budgets))
        return all(results)

    async def _shared(self, organisation_id: str, cell: Cell) -> bool:
        """Concurrent callers for one cell share one seeding."""
        task = self._running.get(cell.key)
        if task is None or task.done():
            task = self._running[cell.key] = asyncio.ensure_future(self._guarded(organisation_id, cell))
        return await asyncio.shield(task)

    async def _guarded(self, organisation_id: str, cell: Cell) -> bool:
        try:
            for _ in range(TRIES):
                if await self._seed(organisation_id, cell):
                    return True
                await asyncio.sleep(0.01)
            return False
        except Exception as error:  # Postgres or Redis is away, in one of their many ways to say so
            log.warning("a budget cannot be rebuilt now: %s", type(error).__name__)
            return False
        finally:
            self._running.pop(cell.key, None)

    async def _seed(self, organisation_id: str, cell: Cell) -> bool:
        """One try. False: things changed under it."""
        boot, budget = self._presence.boot, cell.budget
        assert budget is not None
        if boot is None or not await self._told(boot):
            await self._presence.refresh()
            return False
        start, end = period_of(cell.key, budget.period)
        waiting = keys.unconfirmed(cell.key)
        pipe = self._redis.pipeline(transaction=False)
        pipe.hget(cell.key, "boot")  # type: ignore[arg-type]
        pipe.hkeys(waiting)  # type: ignore[arg-type]
        seeded_under, names = await pipe.execute()
        if seeded_under is not None and seeded_under.decode() == boot:
            return True
        ids = [name.decode() for name in names]
        spent, present = await self._ledger.spent(budget, start, end, ids)
        if (spent or ids) and self._presence.newcomer and not await self._shown(boot):
            return False
        arguments: list[str | int] = [boot, spent, 0 if end is None else int(end.timestamp()) + KEEP_S]
        for event_id in ids:
            arguments += [event_id, "1" if event_id in present else "0"]
        if await self._presence.missing(boot) is None:
            return False
        reply = await self._script(keys=[cell.key, waiting, keys.reservation_records(organisation_id)], args=arguments)
        return bool(reply[0] != 2)

    async def _told(self, boot: str) -> bool:
        """Wait until each live node has told what it knows, or has had its time. False: the boot is over."""
        while (state := await self._presence.missing(boot)) is not None:
            missing, age_s = state
            if not missing or age_s > PATIENCE_S:
                return True
            await asyncio.sleep(0.05)
        return False

    async def _shown(self, boot: str) -> bool:
        """Whether a boot is old enough for every live node to have beaten under it. If not, wait until it is.

        An empty Redis and a node without a past look like a fresh installation; a ledger that is not empty tells that there
        may be others, with more to tell.
        """
        state = await self._presence.missing(boot)
        if state is None or state[1] >= SHOWN_S:
            return state is not None
        await asyncio.sleep(SHOWN_S - state[1])
        await self._presence.refresh()
        return False


def period_of(cell_key: bytes, period: Period) -> tuple[datetime, datetime | None]:
    """The period that a cell's key names."""
    label = cell_key.rpartition(b":")[2].decode()
    if label == "total":
        return datetime(1970, 1, 1, tzinfo=UTC), None
    day = date.fromisoformat(label)
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return start, period_end(period, start)

"""Nodes for tests: the admission parts of one ingress process as the host wires them, with books and logs in memory."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import msgspec
from redis.asyncio import Redis

from shared.admission.budget import Bound
from shared.admission.cells import Cells, compile_cells
from shared.admission.degraded import DegradedGate
from shared.admission.estimate import Quote
from shared.admission.gate import Admitted, Ask, Denied, Gate, Reservation, Unready
from shared.admission.presence import Presence
from shared.admission.restore import Restore
from shared.admission.seeding import Seeder
from shared.clock import SystemClock
from shared.domain.identity import uuid7, uuid7_time
from shared.domain.limits import Budget, Limit, Period, Scope
from shared.domain.usage import EventKind, Outcome, UsageEvent, UsageSource, encode_event
from shared.store import keys
from shared.store.redis import Lane, client

ORGANISATION = "org_test"
HARD = Budget(budget_id="b1", scope=Scope.ORGANISATION, scope_id=ORGANISATION, limit_nano_usd=10**9, period=Period.TOTAL)
SOFT = msgspec.structs.replace(HARD, budget_id="b2", hard=False)
SLOTS = Limit(scope=Scope.ORGANISATION, scope_id=ORGANISATION, concurrent_requests=1_000)


def new_event(cost: int, *, kind: EventKind = EventKind.ACTUAL, event_id: str | None = None) -> UsageEvent:
    return UsageEvent(
        event_id=event_id or uuid7(int(time.time() * 1000), secrets.randbits(80)),
        kind=kind,
        organisation_id=ORGANISATION,
        team_id="team_test",
        key_id="key_test",
        provider="demo",
        connection="demo",
        model="demo/chat",
        operation="chat",
        stream=False,
        outcome=Outcome.OK,
        source=UsageSource.PROVIDER,
        cost_nano_usd=cost,
    )


class Books:
    """What Postgres would hold: events by id. `asked` counts questions; `before_answer` runs inside one."""

    def __init__(self) -> None:
        self.events: dict[str, UsageEvent] = {}
        self.asked = 0
        self.away = False
        self.before_answer: Callable[[], object] | None = None

    def book(self, event: UsageEvent) -> None:
        self.events.setdefault(event.event_id, event)

    async def spent(
        self, budget: Budget, start: datetime, end: datetime | None, event_ids: Sequence[str]
    ) -> tuple[int, frozenset[str]]:
        self.asked += 1
        await asyncio.sleep(0.002)
        if self.away:
            raise ConnectionRefusedError("no Postgres")
        total = sum(event.cost_nano_usd for event in self.events.values() if self._within(event, start, end))
        present = frozenset(event_id for event_id in event_ids if event_id in self.events)
        if self.before_answer is not None:
            self.before_answer()
        await asyncio.sleep(0.002)
        return total, present

    @staticmethod
    def _within(event: UsageEvent, start: datetime, end: datetime | None) -> bool:
        at = uuid7_time(event.event_id)
        return start <= at and (end is None or at < end)


class Node:
    """One node. `log` is its usage log: what it settled and has not seen in the books."""

    def __init__(self, redis: Redis, lane: Lane, books: Books, name: str, cells: Cells, budgets: Sequence[Budget]) -> None:
        self.redis, self.lane, self.books, self.name, self.cells = redis, lane, books, name, cells
        self.log: dict[str, UsageEvent] = {}
        self.presence = Presence(redis, name)
        self.seeder = Seeder(redis, self.presence, books)
        degraded = DegradedGate(SystemClock(), lambda: self.presence.live_nodes)
        self.gate = Gate(lane, self.presence, degraded, self.seeder, SystemClock())
        self.presence.on_new_boot(self.gate.enter)
        self.presence.on_new_boot(Restore(redis, self._unconfirmed, lambda _: budgets))
        self.presence.on_beat(self.gate.retry)

    def _unconfirmed(self) -> Iterator[UsageEvent]:
        yield from list(self.log.values())

    def ask(self, cost: int, tokens: int = 10) -> Ask:
        event = new_event(cost, kind=EventKind.ESTIMATED)
        bound = Bound(fixed_nano_usd=cost, full_nano_usd=cost, output_nano_per_mtok=0, output_cap=0, choices=1)
        quote = Quote(bound, input_tokens_bound=tokens, rate_tokens=tokens, priced=True)
        return Ask(event.event_id, self.cells, quote, event, encode_event(event))

    async def admit(self, cost: int) -> Admitted | Denied | Unready:
        return await self.gate.admit(self.ask(cost))

    async def admitted(self, cost: int) -> Reservation:
        verdict = await self.admit(cost)
        assert isinstance(verdict, Admitted), verdict
        return verdict.reservation

    def settle(self, reservation: Reservation, cost: int) -> UsageEvent:
        """As flow/settle.py does: the log first, then Redis."""
        event = new_event(cost, event_id=reservation.event.event_id)
        self.log[event.event_id] = event
        self.gate.settle(reservation, event, encode_event(event))
        return event

    def confirm(self) -> None:
        """What the usage log does in time: forget what is booked, send again (here: book) what is not."""
        for event in list(self.log.values()):
            self.books.book(event)
            del self.log[event.event_id]


@asynccontextmanager
async def node(
    url: str,
    books: Books | None = None,
    name: str = "node-1",
    *,
    limits: Sequence[Limit] = (SLOTS,),
    budgets: Sequence[Budget] = (HARD,),
    deadline_s: float = 0.5,
) -> AsyncIterator[Node]:
    lane = Lane(url, deadline_s=deadline_s)
    async with client(url) as redis:
        made = Node(redis, lane, books or Books(), name, compile_cells(ORGANISATION, limits, budgets, time.time()), budgets)
        await lane.open()
        try:
            yield made
        finally:
            await made.gate.drained()
            await lane.close()


@asynccontextmanager
async def beating(presence: Presence) -> AsyncIterator[None]:
    task = asyncio.ensure_future(presence.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def budget_cell(redis: Redis, budget: Budget = HARD) -> dict[str, str]:
    """A budget's cell as it is now; empty when there is none."""
    name = keys.budget(ORGANISATION, budget.budget_id, keys.period_label(budget.period, datetime.now().astimezone()))
    return {key.decode(): value.decode() for key, value in (await redis.hgetall(name)).items()}  # type: ignore[misc, arg-type]


def total_cell(budget: Budget = HARD) -> bytes:
    return keys.budget(ORGANISATION, budget.budget_id, "total")


async def waiting(redis: Redis, budget: Budget = HARD) -> dict[str, int]:
    """The costs that wait for a budget's cell to be seeded."""
    held = await redis.hgetall(keys.unconfirmed(total_cell(budget)))  # type: ignore[misc, arg-type]
    return {key.decode(): int(value) for key, value in held.items()}

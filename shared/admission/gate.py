"""Gate: the one trip in, and the one trip out.

Calls that are admitted in the same turn of the event loop leave in one write, and those of one organisation in one run of the
script; so do settlements. `admit` waits for its answer. `settle` never waits: script call and usage event go out in the next
write, and what Redis did not take is kept and tried again (settle.lua is idempotent by event id). Without Redis the degraded
gate decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import hiredis
import msgspec
from msgspec.structs import replace

from shared.admission import packing
from shared.admission.cells import Cells, compile_cells
from shared.admission.degraded import DegradedGate
from shared.admission.estimate import Quote, TypicalOutput
from shared.admission.packing import MOST_EVENTS, MOST_TOGETHER, script
from shared.admission.presence import Presence
from shared.admission.restore import LEASE_MS, put_back
from shared.admission.seeding import Seeder
from shared.admission.verdict import Admitted, Denied, Reservation, Unready
from shared.clock import Clock
from shared.domain.decision import LimitStanding
from shared.domain.limits import Budget, Limit
from shared.domain.limits import Mode as LimitMode
from shared.domain.tenancy import Principal
from shared.domain.usage import UsageEvent
from shared.store import keys
from shared.store.redis import Command, Lane, RedisUnavailable

__all__ = ["Admitted", "Ask", "Denied", "Gate", "Reservation", "Unready"]

log = logging.getLogger(__name__)

SEED_WAIT_S = 2.0
MOST_PENDING = 100_000
MOST_COMPILED = 50_000
End = tuple[Reservation, UsageEvent]
"""What was set aside, and what it came to."""


class Holder(Protocol):
    """A key as the snapshot knows it."""

    @property
    def principal(self) -> Principal: ...
    @property
    def limits(self) -> Sequence[Limit]: ...
    @property
    def budgets(self) -> Sequence[Budget]: ...


class Ask(msgspec.Struct):
    """One call that wants to start. `estimated_event` stands in the ledger if nobody ever settles."""

    event_id: str
    cells: Cells
    quote: Quote
    estimated_event: UsageEvent
    encoded_event: bytes
    boot: str = ""
    """The life of Redis that it was put to; empty until it leaves."""
    answer: asyncio.Future[list[int]] | None = None


class Gate:
    def __init__(
        self,
        lane: Lane,
        presence: Presence,
        degraded: DegradedGate,
        seeder: Seeder,
        clock: Clock,
        typical: TypicalOutput | None = None,
    ) -> None:
        self._lane = lane
        self._presence = presence
        self._degraded = degraded
        self._seeder = seeder
        self._clock = clock
        self.typical = typical or TypicalOutput()
        self._admit = lane.register(script("admit.lua"))
        self._settle = lane.register(script("settle.lua"))
        self._restore = lane.register(script("restore.lua"))
        self._admit_head = packing.head(self._admit)
        self._settle_head = packing.head(self._settle)
        self._live: dict[str, Reservation] = {}
        self._asks: dict[str, list[Ask]] = {}
        self._ends: dict[str, list[End]] = {}
        """On their way to Redis: those of one organisation go together."""
        self._events: list[bytes] = []
        """On their way to the stream: those of one write are one entry."""
        self._pending: deque[End] = deque(maxlen=MOST_PENDING)
        self._compiled: dict[str, tuple[Holder, Cells]] = {}
        self._beside: dict[str, tuple[Holder, Cells]] = {}
        self._unanswered = 0
        self._background: set[asyncio.Task[Any]] = set()

    def live(self) -> Mapping[str, Reservation]:
        """Reservations of calls in flight on this node."""
        return self._live

    def cells(self, holder: Holder) -> Cells:
        """The key's cells, compiled once per snapshot and budget period."""
        known = self._compiled.get(holder.principal.key_id)
        if known is not None and known[0] is holder and known[1].expires_s > self._clock.now_s():
            return known[1]
        return self._compile(self._compiled, holder, holder.limits)

    def cells_beside(self, holder: Holder) -> Cells:
        """For an attempt that is billed beside its call: budgets decide; tokens and slots are counted and refuse nothing, and
        it is no request."""
        known = self._beside.get(holder.principal.key_id)
        if known is not None and known[0] is holder and known[1].expires_s > self._clock.now_s():
            return known[1]
        counted = [replace(limit, requests_per_minute=None, mode=LimitMode.SHADOW) for limit in holder.limits]
        return self._compile(self._beside, holder, counted)

    def _compile(self, into: dict[str, tuple[Holder, Cells]], holder: Holder, limits: Sequence[Limit]) -> Cells:
        if len(into) >= MOST_COMPILED:
            into.clear()
        cells = compile_cells(holder.principal.organisation_id, limits, holder.budgets, self._clock.now_s())
        into[holder.principal.key_id] = (holder, cells)
        return cells

    async def admit(self, ask: Ask) -> Admitted | Denied | Unready:
        """One round trip; a second one only after an unseeded budget was rebuilt, or for a Redis that forgot the script."""
        if not ask.quote.priced and ask.cells.hard_budget:
            return _unpriced(ask)
        taught = seeded = False
        while self._presence.boot is not None and self._lane.up:
            try:
                reply = await self._put(ask)
            except RedisUnavailable:
                break
            except asyncio.CancelledError:  # the client left in between: nobody will hear the answer
                if ask.boot:
                    self._send(*self._void(ask))
                raise
            except hiredis.ReplyError as error:
                if taught or not str(error).startswith("NOSCRIPT"):
                    log.error("admission script failed: %s", error)
                    break
                taught = True
                self._lane.teach(self._admit, self._settle)
                continue
            if reply[0] != 2:
                return self._verdict(ask, reply)
            if seeded or not await self._seeded(ask.cells):
                return Unready("unseeded", 1000)
            seeded = True
        return self._without_redis(ask)

    def settle(self, reservation: Reservation, event: UsageEvent, encoded: bytes) -> None:
        """Book the call's end. Never blocks and never raises."""
        self._live.pop(event.event_id, None)
        if event.output_tokens:
            self.typical.observe(event.key_id, event.model, event.output_tokens)
        if reservation.mode == "degraded":
            self._degraded.settle(reservation, event)
        # An event that Redis does not take stays in the node's log, which sends what Postgres lacks.
        self._events.append(encoded)
        self._send(reservation, event)

    def release(self, reservation: Reservation) -> None:
        """Give back what was set aside for something that came to nothing: no event, nothing spent. Never blocks or raises."""
        event = replace(reservation.event, cost_nano_usd=0, input_tokens=0, output_tokens=0)
        self._live.pop(event.event_id, None)
        if reservation.mode == "degraded":
            self._degraded.settle(reservation, event)
        self._send(reservation, event)

    def retry(self) -> None:
        """Send again what Redis did not take; called now and then while it is up."""
        for _ in range(min(len(self._pending), 1_000)):
            if not self._lane.up:
                return
            self._send(*self._pending.popleft())

    async def enter(self, boot: str) -> None:
        """Redis began a new life: tell it of every call in flight. Raises RedisUnavailable, and then is to be called again.

        All of them leave in this turn's write, on the connection that settlements take: none can be put back after its end.
        Settlements that were not taken go first: no budget is rebuilt yet, so they wait in the unconfirmed hash like what
        the node's log tells next (restore.py), once by id, and a server that kept its data is rid of their reservations.
        """
        if not (self._live or self._pending or self._unanswered):
            return
        self._lane.teach(self._restore, self._settle)
        pending, self._pending = self._pending, deque(maxlen=MOST_PENDING)
        for reservation, event in pending:
            self._queue(reservation, event)
        for packed, answered in self._settlements():
            self._lane.post(packed, answered)
        restored = [put_back(self._lane, self._restore, reservation, boot) for reservation in self._live.values()]
        try:
            await asyncio.gather(*restored, self._lane.call(b"PING"))  # the PING's answer comes after all others'
        except hiredis.ReplyError as error:
            raise RedisUnavailable(f"reservations cannot be restored: {error}") from error

    def renew(self, expiry_ms: int) -> None:
        """Extend the leases of every call in flight, in one write."""
        expiry = b"%d" % expiry_ms
        leases: dict[bytes, list[bytes]] = {}
        slots: set[bytes] = set()
        for event_id, reservation in self._live.items():
            member = event_id.encode()
            leases.setdefault(keys.reservations(reservation.cells.organisation_id), []).extend((expiry, member))
            for cell in reservation.cells.cells:
                if cell.kind in "cC":
                    leases.setdefault(cell.key, []).extend((expiry, member))
                    slots.add(cell.key)
        for key, members in leases.items():
            self._forget(self._lane.call(b"ZADD", key, b"XX", *members))
        for key in slots:  # or a cell would be gone a minute after its last admission, whatever streams it still holds
            self._forget(self._lane.call(b"PEXPIRE", key, b"%d" % (2 * LEASE_MS)))

    async def drained(self, timeout_s: float = 5.0) -> None:
        """Wait until every settlement has its answer (or its failure)."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while self._unanswered and asyncio.get_running_loop().time() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def _put(self, ask: Ask) -> asyncio.Future[list[int]]:
        """With this turn's write; the future is admit.lua's reply."""
        ask.answer = answer = self._lane.future()
        first = not self._asks
        self._asks.setdefault(ask.cells.organisation_id, []).append(ask)
        if first:
            self._lane.gather(self._commands, soon=True)
        return answer

    def _commands(self) -> list[Command]:
        """All that leaves with this write. Ends go first: the next call may need what they free."""
        commands = [*self._settlements(), *self._admissions()]
        events, self._events = self._events, []
        for start in range(0, len(events), MOST_EVENTS):
            commands.append((packing.entry(events[start : start + MOST_EVENTS]), None))
        return commands

    def _admissions(self) -> Iterator[Command]:
        waiting, self._asks = self._asks, {}
        boot = self._presence.boot
        for together in waiting.values():
            asks = [ask for ask in together if ask.answer is not None and not ask.answer.done()]
            for start in range(0, len(asks), MOST_TOGETHER):
                some = asks[start : start + MOST_TOGETHER]
                if boot is None:  # that life ended in this very turn
                    self._answer(some, RedisUnavailable("Redis begins a new life"))
                    continue
                for ask in some:
                    ask.boot = boot
                yield packing.admission(self._admit_head, some, boot), partial(self._answer, some)

    @staticmethod
    def _answer(asks: Sequence[Ask], reply: Any) -> None:
        failed = isinstance(reply, Exception)
        for number, ask in enumerate(asks):
            if ask.answer is None or ask.answer.done():
                continue
            if failed:
                ask.answer.set_exception(reply)
            else:
                ask.answer.set_result(reply[number])

    def _settlements(self) -> Iterator[Command]:
        waiting, self._ends = self._ends, {}
        for ends in waiting.values():
            for start in range(0, len(ends), MOST_TOGETHER):
                some = ends[start : start + MOST_TOGETHER]
                yield packing.settlement(self._settle_head, some), partial(self._settled, some)

    async def _seeded(self, cells: Cells) -> bool:
        """Have the key's budget cells rebuilt, waiting a little; the rebuilding goes on if the wait is over."""
        task = asyncio.ensure_future(self._seeder.seed(cells))
        self._keep(task)
        try:
            return await asyncio.wait_for(asyncio.shield(task), SEED_WAIT_S)
        except TimeoutError:
            return False

    def _without_redis(self, ask: Ask) -> Admitted | Denied | Unready:
        verdict = self._degraded.admit(ask.event_id, ask.cells, ask.quote, ask.estimated_event, ask.encoded_event)
        if isinstance(verdict, Admitted):
            self._live[ask.event_id] = verdict.reservation
        else:  # Redis may have admitted it without our hearing so: give it back when it answers again
            self._pending.append(self._void(ask))
        return verdict

    @staticmethod
    def _void(ask: Ask) -> tuple[Reservation, UsageEvent]:
        """A settlement that gives everything back, if there was anything."""
        void = Reservation.of(ask.cells, ask.quote, ask.estimated_event, ask.encoded_event, "degraded")
        return void, replace(ask.estimated_event, cost_nano_usd=0, input_tokens=0, output_tokens=0)

    def _verdict(self, ask: Ask, reply: list[int]) -> Admitted | Denied:
        if reply[0] == 0:
            _, number, retry_ms, wanted, remaining = reply
            cell = ask.cells.cells[number - 1]
            return Denied(
                kind={"r": "rate", "t": "tokens", "c": "concurrency", "b": "budget"}[cell.kind],  # type: ignore[arg-type]
                scope=cell.scope,
                limit=cell.limit,
                wanted=wanted,
                remaining=remaining,
                retry_after_ms=None if retry_ms < 0 else max(1, retry_ms),
            )
        _, reserved, cap, soft_unseeded = reply[:4]
        reservation = Reservation.of(ask.cells, ask.quote, ask.estimated_event, ask.encoded_event, "redis")
        reservation.boot = ask.boot
        if reserved != reservation.event.cost_nano_usd:
            reservation.clamp(reserved, cap)
        reservation.standing = _standing(ask.cells, reply)
        self._live[ask.event_id] = reservation
        if self._presence.boot is not None and self._presence.boot != ask.boot:  # `enter` came too early for it
            self._forget(put_back(self._lane, self._restore, reservation, self._presence.boot))
        if soft_unseeded:
            self._keep(asyncio.ensure_future(self._seeder.seed(ask.cells)))
        return Admitted(reservation)

    def _send(self, reservation: Reservation, event: UsageEvent) -> None:
        """settle.lua, with the next write."""
        first = not self._ends
        self._queue(reservation, event)
        if first:
            self._lane.gather(self._commands, soon=False)

    def _queue(self, reservation: Reservation, event: UsageEvent) -> None:
        self._ends.setdefault(reservation.cells.organisation_id, []).append((reservation, event))
        self._unanswered += 1

    def _settled(self, ends: Sequence[End], reply: Any) -> None:
        self._unanswered -= len(ends)
        if not isinstance(reply, Exception):
            return
        self._pending.extend(ends)
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("NOSCRIPT"):
                self._lane.teach(self._admit, self._settle)
            else:
                log.error("settlement script failed: %s", reply)

    def _keep(self, task: asyncio.Future[Any]) -> None:
        self._background.add(task)  # type: ignore[arg-type]
        task.add_done_callback(self._background.discard)

    @staticmethod
    def _forget(answer: asyncio.Future[Any]) -> None:
        answer.add_done_callback(lambda done: None if done.cancelled() else done.exception())


def _unpriced(ask: Ask) -> Denied:
    budget = next(cell for cell in ask.cells.cells if cell.kind == "b")
    return Denied(kind="unpriced", scope=budget.scope, limit=budget.limit, wanted=0, remaining=0, retry_after_ms=None)


def _standing(cells: Cells, reply: list[int]) -> dict[str, LimitStanding]:
    """Of each unit the limit that is nearest to its end."""
    tightest: dict[str, LimitStanding] = {}
    for at in (4, 7):
        number = reply[at]
        if number:
            unit, limit = cells.rated[number - 1]
            tightest[unit] = LimitStanding(unit=unit, limit=limit, remaining=reply[at + 1], reset_ms=reply[at + 2])
    return tightest

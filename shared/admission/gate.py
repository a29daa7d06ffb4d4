"""Gate: the one trip in, and the one trip out.

`admit` is one script call; calls admitted in the same turn of the event loop share one write. `settle` never waits: the
script call and the usage event go out in the next write, and what Redis did not take is kept and tried again (settle.lua is
idempotent by event id). Without Redis the degraded gate decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, Protocol

import hiredis
import msgspec

from shared.admission.cells import Cells, compile_cells
from shared.admission.degraded import DegradedGate
from shared.admission.estimate import Quote, TypicalOutput
from shared.admission.presence import Presence
from shared.admission.seeding import Seeder
from shared.admission.verdict import Admitted, Denied, Reservation, Standing, Unready
from shared.clock import Clock
from shared.domain.limits import Budget, Limit
from shared.domain.tenancy import Principal
from shared.domain.usage import UsageEvent
from shared.store import keys
from shared.store.redis import Lane, RedisUnavailable, Script, bulk

__all__ = ["Admitted", "Ask", "Denied", "Gate", "Reservation", "Standing", "Unready"]

log = logging.getLogger(__name__)

LEASE = bulk(b"30000")
SEED_WAIT_S = 2.0
XADD = b"*5\r\n" + bulk(b"XADD", keys.USAGE_STREAM, b"*", b"e")
MOST_PENDING = 100_000
MOST_COMPILED = 50_000


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


def script(name: str) -> str:
    """The source of a Lua script that lies beside this module."""
    return files("shared.admission").joinpath(name).read_text()


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
        self._admit_head = _head(self._admit)
        self._settle_head = _head(self._settle)
        self._live: dict[str, Reservation] = {}
        self._pending: deque[tuple[Reservation, UsageEvent]] = deque(maxlen=MOST_PENDING)
        self._compiled: dict[str, tuple[Holder, Cells]] = {}
        self._unanswered = 0
        self._background: set[asyncio.Task[Any]] = set()

    def live(self) -> Mapping[str, Reservation]:
        """Reservations of calls in flight on this node."""
        return self._live

    def cells(self, holder: Holder) -> Cells:
        """The key's cells, compiled once per snapshot and budget period."""
        key_id = holder.principal.key_id
        known = self._compiled.get(key_id)
        now_s = self._clock.now_s()
        if known is not None and known[0] is holder and known[1].expires_s > now_s:
            return known[1]
        if len(self._compiled) >= MOST_COMPILED:
            self._compiled.clear()
        cells = compile_cells(holder.principal.organisation_id, holder.limits, holder.budgets, now_s)
        self._compiled[key_id] = (holder, cells)
        return cells

    async def admit(self, ask: Ask) -> Admitted | Denied | Unready:
        """One round trip; a second one only after an unseeded budget was rebuilt."""
        if not ask.quote.priced and ask.cells.hard_budget:
            return _unpriced(ask)
        reply = await self._ask(ask)
        if isinstance(reply, list) and reply[0] == 2:
            if not await self._seeded(ask.cells):
                return Unready("unseeded", 1000)
            reply = await self._ask(ask)
            if isinstance(reply, list) and reply[0] == 2:
                return Unready("unseeded", 1000)
        if reply is None:
            return self._without_redis(ask)
        return self._verdict(ask, reply)

    def settle(self, reservation: Reservation, event: UsageEvent, encoded: bytes) -> None:
        """Book the call's end. Never blocks and never raises."""
        self._live.pop(event.event_id, None)
        if event.output_tokens:
            self.typical.observe(event.key_id, event.model, event.output_tokens)
        if reservation.mode == "degraded":
            self._degraded.settle(reservation, event)
        self._send(reservation, event)
        # An event that Redis does not take stays in the node's log, which sends what Postgres lacks.
        self._lane.post(b"%b$%d\r\n%b\r\n" % (XADD, len(encoded), encoded))

    def retry(self) -> None:
        """Send again what Redis did not take; called now and then while it is up."""
        for _ in range(min(len(self._pending), 1_000)):
            if not self._lane.up:
                return
            self._send(*self._pending.popleft())

    def adopt_boot(self, boot: str) -> None:
        """Redis began a new life and this node's reservations were restored under it. What was settled under an older one
        is in the restored books already: sending it again would count it twice."""
        kept = [(reservation, event) for reservation, event in self._pending if reservation.boot == boot]
        self._pending = deque(kept, maxlen=MOST_PENDING)
        for reservation in self._live.values():
            if reservation.mode == "redis":
                reservation.boot = boot

    def renew(self, expiry_ms: int) -> None:
        """Extend the leases of every call in flight, in one write."""
        expiry = b"%d" % expiry_ms
        for event_id, reservation in self._live.items():
            member = event_id.encode()
            self._forget(self._lane.call(b"ZADD", keys.reservations(reservation.cells.organisation_id), b"XX", expiry, member))
            for cell in reservation.cells.cells:
                if cell.kind in "cC":
                    self._forget(self._lane.call(b"ZADD", cell.key, b"XX", expiry, member))

    async def drained(self, timeout_s: float = 5.0) -> None:
        """Wait until every settlement has its answer (or its failure)."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while self._unanswered and asyncio.get_running_loop().time() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def _ask(self, ask: Ask) -> list[int] | None:
        """admit.lua's reply; None when Redis cannot say."""
        boot = self._presence.boot
        if boot is None or not self._lane.up:
            return None
        try:
            return await self._lane.send(self._packed(ask, boot))  # type: ignore[no-any-return]
        except RedisUnavailable:
            return None
        except hiredis.ReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                log.error("admission script failed: %s", error)
                return None
        self._lane.teach(self._admit, self._settle)
        try:
            return await self._lane.send(self._packed(ask, boot))  # type: ignore[no-any-return]
        except (RedisUnavailable, hiredis.ReplyError):
            return None

    def _packed(self, ask: Ask, boot: str) -> bytes:
        """admit.lua's call in RESP; its argument list is the script's header."""
        cells, bound = ask.cells, ask.quote.bound
        cap = -1 if bound.output_cap is None else bound.output_cap
        numbers = (
            bound.fixed_nano_usd, bound.full_nano_usd, bound.output_nano_per_mtok, cap, bound.choices,
            bound.least_output_cap, ask.quote.rate_tokens,
        )  # fmt: skip
        return b"".join(
            (
                b"*%d\r\n" % (3 + len(cells.admit_keys) + 13 + len(cells.admit_args)),
                self._admit_head,
                cells.packed_admit_keys,
                b"$36\r\n%b\r\n$%d\r\n%b\r\n" % (ask.event_id.encode(), len(boot), boot.encode()),
                LEASE,
                *[b"$%d\r\n%b\r\n" % (len(text), text) for text in [b"%d" % number for number in numbers]],
                cells.packed_record,
                b"$%d\r\n%b\r\n" % (len(ask.encoded_event), ask.encoded_event),
                cells.packed_admit_args,
            )
        )

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
            void = Reservation.of(ask.cells, ask.quote, ask.estimated_event, ask.encoded_event, "degraded")
            self._pending.append((void, msgspec.structs.replace(ask.estimated_event, cost_nano_usd=0, output_tokens=0)))
        return verdict

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
        reservation.boot = self._presence.boot or ""
        if reserved != reservation.reserved_nano_usd:
            reservation.clamp(reserved, cap)
        if len(reply) > 4:
            reservation.standing = _standing(ask.cells, reply)
        self._live[ask.event_id] = reservation
        if soft_unseeded:
            self._keep(asyncio.ensure_future(self._seeder.seed(ask.cells)))
        return Admitted(reservation)

    def _send(self, reservation: Reservation, event: UsageEvent) -> None:
        """settle.lua's call in RESP."""
        cells = reservation.cells
        organisation_id, event_id = cells.organisation_id, event.event_id
        boot = reservation.boot.encode()
        cost, tokens = b"%d" % event.cost_nano_usd, b"%d" % (event.input_tokens + event.output_tokens)
        packed = b"".join(
            (
                cells.packed_settle_count,
                self._settle_head,
                cells.packed_settle_keys,
                bulk(keys.estimate(organisation_id, event_id), keys.done(organisation_id, event_id)),
                cells.packed_settle_cells,
                b"$0\r\n\r\n$36\r\n%b\r\n$%d\r\n%b\r\n" % (event_id.encode(), len(boot), boot),
                b"$6\r\nactual\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(cost), cost, len(tokens), tokens),
                cells.packed_settle_args,
            )
        )
        self._unanswered += 1
        self._lane.post(packed, partial(self._settled, reservation, event))

    def _settled(self, reservation: Reservation, event: UsageEvent, reply: Any) -> None:
        self._unanswered -= 1
        if not isinstance(reply, Exception):
            return
        self._pending.append((reservation, event))
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


def _head(script: Script) -> bytes:
    return bulk(b"EVALSHA", script.sha)


def _unpriced(ask: Ask) -> Denied:
    budget = next(cell for cell in ask.cells.cells if cell.kind == "b")
    return Denied(kind="unpriced", scope=budget.scope, limit=budget.limit, wanted=0, remaining=0, retry_after_ms=None)


def _standing(cells: Cells, reply: list[int]) -> tuple[Standing, ...]:
    rated = (cell for cell in cells.cells if cell.rate is not None)
    return tuple(
        Standing("requests" if cell.kind in "rR" else "tokens", cell.limit, reply[at], reply[at + 1])
        for cell, at in zip(rated, range(4, len(reply), 3), strict=True)
    )

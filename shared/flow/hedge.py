"""Hedge: a second attempt when the first is slower than 95 of 100, for routes that ask for it.

Two exchanges race: the call's own, and a copy with a deployment, an event id and a reservation of its own, so that whatever
kills this process, both stand in the books. The first that has something for the client (a stream's first token, a whole
answer) is the call from then on; the other is cancelled at once, which closes its socket, and what it used is booked as an
event beside the call. The call's own event is always the winner's: reservations bound either deployment, so they simply change
hands.
"""

from __future__ import annotations

import asyncio
from copy import copy
from secrets import randbits
from typing import TYPE_CHECKING

from msgspec.structs import replace

from shared.admission.budget import Bound
from shared.admission.estimate import Quote
from shared.admission.gate import Admitted, Ask, Reservation
from shared.domain.identity import uuid7
from shared.domain.refusal import Refused
from shared.domain.usage import Outcome, UsageSource, encode_event
from shared.flow import attempts, record, settle
from shared.flow.paid import Held
from shared.routing.hedging import QUANTILE

if TYPE_CHECKING:
    from shared.domain.catalogue import Deployment
    from shared.flow.exchange import Exchange

HEDGED = frozenset({"chat", "completions", "embeddings", "rerank", "moderations"})
"""Operations that are cheap enough to be done twice."""
WHOLE = " whole"
"""Beside a deployment's key: its times to a whole answer."""


def wanted(x: Exchange) -> bool:
    """Whether the attempt that is about to begin may have a second one beside it."""
    route = x.route
    return route is not None and route.hedge and x.attempts == 1 and x.arrival.operation in HEDGED


class Race:
    """One call's. `won` is called by the exchange that is about to answer, before it does."""

    def __init__(self, x: Exchange) -> None:
        self._own = x
        self._other: Exchange | None = None
        self._running: dict[asyncio.Task[None], Exchange] = {}
        self._winner: Exchange | None = None
        self._waiting = False

    @property
    def open(self) -> bool:
        """Whether another than the one that asks may still be the first: then nothing but an answer may go to the client."""
        return self._winner is None and (self._waiting or len(self._running) > 1)

    async def run(self) -> None:
        """Raises Refused as an attempt does: where both failed, as the last."""
        own, gateway = self._own, self._own.gateway
        gateway.hedges.deposit()
        own.race = self
        ended: asyncio.Task[None] | None = None
        last = own
        try:
            first = self._begin(own)
            pace_s = self._patience_s()
            if pace_s is not None and len(own.plan) > own.attempts:
                self._waiting = True
                if await self._late(first, pace_s):
                    await self._hedge(first)
                self._waiting = False
            while self._running:
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    one = self._running.pop(task)
                    if self._ends_the_call(task, one):
                        ended, last = task, one
        except BaseException:
            last = self._winner or own
            await self._abandon(last)
            raise
        finally:
            self._waiting = False
            _become(own, last)
            own.race = None
        assert ended is not None
        ended.result()

    def won(self, x: Exchange) -> None:
        """`x` answers: whoever else runs is cancelled, and the call's own reservation is `x`'s."""
        if self._winner is not None:
            return
        self._winner = x
        now_s = x.gateway.clock.monotonic_s()
        if not x.call.stream:
            self._learn(x, now_s)
        if x is self._other:
            x.gateway.metrics.hedges.labels("won").inc()
        for task, other in self._running.items():
            if other is x:
                continue
            if other.failure is None and other.outcome is Outcome.UNKNOWN:
                other.outcome = Outcome.HEDGE_LOST
                if other is self._own:  # how slow it would have been is not known, but slower than most it was
                    self._learn(other, now_s)
            self._follows(x, other)
            task.cancel()

    # -- the second attempt

    def _begin(self, x: Exchange) -> asyncio.Task[None]:
        task = asyncio.ensure_future(attempts.once(x))
        self._running[task] = x
        return task

    def _patience_s(self) -> float | None:
        return self._own.gateway.load.quantile(_measured(self._own), QUANTILE)

    async def _late(self, first: asyncio.Task[None], pace_s: float) -> bool:
        """Wait for the first attempt. True: it was sent so long ago, and has nothing yet."""
        own, clock = self._own, self._own.gateway.clock
        while True:
            now_s = clock.monotonic_s()
            left_s = (now_s if own.sent_s is None else own.sent_s) + pace_s - now_s
            if left_s <= 0:
                return now_s < own.deadline_s
            await asyncio.wait({first}, timeout=left_s)
            if first.done() or self._winner is not None:
                return False

    async def _hedge(self, first: asyncio.Task[None]) -> None:
        """Start the second attempt, if the budgets allow it."""
        own = self._own
        gateway, reservation = own.gateway, own.reservation
        assert reservation is not None
        if reservation.clamped or not gateway.hedges.withdraw():
            gateway.metrics.hedges.labels("denied").inc()
            return
        deployment = own.plan[own.attempts]
        if gateway.health.standing(deployment, gateway.clock.now_s()) is not None:
            gateway.metrics.hedges.labels("denied").inc()
            return
        beside = await _set_aside(own, reservation, deployment)
        if beside is None:
            gateway.metrics.hedges.labels("denied").inc()
            return
        if self._winner is not None or first.done():
            gateway.gate.release(beside)
            return
        own.attempts += 1
        other = self._other = copy(own)
        other.deployment, other.reservation, other.intended = deployment, beside, False
        other.began_s = gateway.clock.monotonic_s()
        other.headers, other.dropped, other.fetched = dict(own.headers), [], dict(own.fetched)
        other.sent_s = other.first_token_s = other.failure = other.usage = other.finish_reason = None
        other.slot = other.taking = other.said = other.probe = None
        other.entered, other.passed_over = False, ""
        other.outcome, other.streamed_deltas, other.streamed_bytes = Outcome.UNKNOWN, 0, 0
        gateway.metrics.hedges.labels("started").inc()
        self._begin(other)

    # -- ends

    def _ends_the_call(self, task: asyncio.Task[None], x: Exchange) -> bool:
        """Whether this end of an attempt is the call's. If not, it is booked beside it."""
        if x is self._winner:
            return True
        if self._winner is None:
            if not self._running:
                return True
            if task.cancelled() or not isinstance(task.exception(), Refused):
                self.won(x)  # nothing that another attempt could cure
                return True
            (survivor,) = self._running.values()
            self._follows(survivor, x)
        elif not task.cancelled():
            task.exception()  # heard: it failed as the other won
        _book_beside(x)
        return False

    async def _abandon(self, last: Exchange) -> None:
        """The client left (or something broke here): everything stops, and what runs beside the call is booked."""
        running = dict(self._running)
        if not running:
            return
        for task, one in running.items():
            task.cancel()
            if one is not last and self._winner is None:
                one.outcome = Outcome.CLIENT_GONE
                self._follows(last, one)
        await asyncio.wait(running)
        for task, one in running.items():
            if not task.cancelled():
                task.exception()
            if one is not last:
                _book_beside(one)

    def _follows(self, x: Exchange, other: Exchange) -> None:
        """`other` is out: `x` has the call's reservation, and `other` on its list of attempts."""
        x.tried = (*x.tried, record.tried(other))
        if other is self._own:
            x.reservation, other.reservation = other.reservation, x.reservation
            x.intended, other.intended = other.intended, x.intended

    def _learn(self, x: Exchange, now_s: float) -> None:
        if x.sent_s is not None:
            x.gateway.load.first_token(_measured(x), now_s - x.sent_s)


def _measured(x: Exchange) -> str:
    return x.deployment.key if x.call.stream else x.deployment.key + WHOLE


async def _set_aside(x: Exchange, reservation: Reservation, deployment: Deployment) -> Reservation | None:
    """As much as the call's own: that bounds every deployment of the plan. None: a budget does not cover both."""
    price = deployment.model.price
    event = replace(
        reservation.event,
        event_id=uuid7(int(x.gateway.clock.now_s() * 1000), randbits(80)),
        provider=deployment.provider.name,
        connection=deployment.connection.name,
        model=deployment.name,
        unpriced=price is None,
        price_version="" if price is None else price.version,
        attempts=x.attempts + 1,
    )
    cost, choices = reservation.reserved_nano_usd, reservation.choices
    quote = Quote(
        bound=Bound(cost, cost, 0, reservation.output_tokens_cap, choices),
        input_tokens_bound=reservation.input_tokens_bound,
        rate_tokens=reservation.rate_tokens,
        priced=not reservation.event.unpriced,
    )
    gate = x.gateway.gate
    verdict = await gate.admit(Ask(event.event_id, gate.cells_beside(x.key), quote, event, encode_event(event)))
    return verdict.reservation if isinstance(verdict, Admitted) else None


def _book_beside(x: Exchange) -> None:
    """The attempt that is not the call's: an event if it used anything, and else nothing but its reservation back."""
    gateway, reservation = x.gateway, x.reservation
    assert reservation is not None
    event_id = reservation.event.event_id
    if x.failure is not None:
        gateway.metrics.failed(x.deployment.provider.name, x.failure.failure_class)
    usage, source = settle.final_usage(x)
    if source is UsageSource.NONE:
        if x.intended:
            gateway.wal.void(reservation.event, reservation.encoded_event)
        gateway.gate.release(reservation)
        return
    event = settle.event_of(x, event_id, usage, source, gateway.clock.monotonic_s())
    Held(gateway, reservation, event).let_go()


def _become(x: Exchange, other: Exchange) -> None:
    """`other`'s state is the call's."""
    if other is not x:
        for name in x.__slots__:
            if hasattr(other, name):
                setattr(x, name, getattr(other, name))

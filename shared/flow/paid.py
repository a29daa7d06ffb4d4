"""Paid: attempts that failed and that their provider bills all the same. Each becomes a usage event of its own, so that the
call can go on and both are booked exactly.

What it did cost is known when it is over: that much is set aside and spent at once, beside the call's reservation, which stays
whole for the attempts to come. Where a budget does not cover both, the call ends with the failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from secrets import randbits
from typing import TYPE_CHECKING

from msgspec.structs import replace

from shared.admission.budget import Bound
from shared.admission.estimate import Quote
from shared.admission.gate import Admitted, Ask, Reservation
from shared.domain.identity import uuid7
from shared.domain.usage import EventKind, Usage, UsageEvent, UsageSource, encode_event
from shared.flow import settle
from shared.store.wal import WalFull

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange, Gateway


async def booked(x: Exchange) -> bool:
    """Book the attempt that just failed, if it is to be paid for. False: a budget does not cover it and another attempt."""
    done = await held(x)
    if done is None:
        return False
    done.let_go()
    return True


@dataclass(slots=True)
class Held:
    """An attempt to be booked, and set aside with it what the next may cost beyond the call's own reservation."""

    gateway: Gateway
    reservation: Reservation | None = None
    """None: there is nothing to be booked or to be given back."""
    event: UsageEvent | None = None

    def let_go(self) -> None:
        """Book the attempt, give the rest back."""
        gateway, reservation, event = self.gateway, self.reservation, self.event
        if reservation is None:
            return
        if event is None:
            gateway.gate.release(reservation)
            return
        settle.book(gateway, reservation, event)
        gateway.metrics.paid(event)


async def held(x: Exchange, more_nano_usd: int = 0) -> Held | None:
    """Set aside what the attempt that just failed did cost, and `more`. None: a budget does not cover that."""
    gateway = x.gateway
    usage, source = settle.final_usage(x)
    unpaid = source is UsageSource.NONE
    if x.reservation is None or (unpaid and not more_nano_usd):
        return Held(gateway)
    event_id = uuid7(int(gateway.clock.now_s() * 1000), randbits(80))
    event = settle.event_of(x, event_id, usage, source, gateway.clock.monotonic_s())
    most = event
    if more_nano_usd:
        most = replace(event, kind=EventKind.ESTIMATED, cost_nano_usd=event.cost_nano_usd + more_nano_usd)
    encoded = encode_event(most)
    verdict = await gateway.gate.admit(Ask(event_id, gateway.gate.cells_beside(x.key), quote_of(most, usage), most, encoded))
    if not isinstance(verdict, Admitted):
        return None
    if more_nano_usd and not unpaid:
        try:
            gateway.wal.intend(most, encoded)
        except WalFull:
            gateway.metrics.usage_log_full.inc()
    return Held(gateway, verdict.reservation, None if unpaid else event)


def quote_of(event: UsageEvent, usage: Usage) -> Quote:
    """Exactly this much: nothing to clamp."""
    bound = Bound(event.cost_nano_usd, event.cost_nano_usd, 0, None, 1)
    return Quote(bound=bound, input_tokens_bound=usage.input_tokens, rate_tokens=usage.total_tokens, priced=not event.unpriced)

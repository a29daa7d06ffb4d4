"""Paid: attempts that failed and that their provider bills all the same. Each becomes a usage event of its own, so that the
call can go on and both are booked exactly.

What it did cost is known when it is over: that much is set aside and spent at once, beside the call's reservation, which stays
whole for the attempts to come. Where a budget does not cover both, the call ends with the failure.
"""

from __future__ import annotations

from secrets import randbits
from typing import TYPE_CHECKING

from shared.admission.budget import Bound
from shared.admission.estimate import Quote
from shared.admission.gate import Admitted, Ask
from shared.domain.identity import uuid7
from shared.domain.usage import Usage, UsageEvent, UsageSource, encode_event
from shared.flow import settle
from shared.store.wal import WalFull

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange


async def booked(x: Exchange) -> bool:
    """Book the attempt that just failed, if it is to be paid for. False: a budget does not cover it and another attempt."""
    usage, source = settle.final_usage(x)
    if source is UsageSource.NONE or x.reservation is None:
        return True
    event_id = uuid7(int(x.gateway.clock.now_s() * 1000), randbits(80))
    event = settle.event_of(x, event_id, usage, source, x.gateway.clock.monotonic_s())
    encoded = encode_event(event)
    quote = quote_of(event, usage)
    cells = x.gateway.gate.cells_beside(x.key)
    verdict = await x.gateway.gate.admit(Ask(event_id, cells, quote, event, encoded))
    if not isinstance(verdict, Admitted):
        return False
    try:
        x.gateway.wal.settle(event, encoded)
    except WalFull:
        x.gateway.metrics.usage_log_full.inc()
    x.gateway.gate.settle(verdict.reservation, event, encoded)
    x.gateway.metrics.paid(event)
    return True


def quote_of(event: UsageEvent, usage: Usage) -> Quote:
    """Exactly this much: nothing to clamp."""
    bound = Bound(event.cost_nano_usd, event.cost_nano_usd, 0, None, 1)
    return Quote(bound=bound, input_tokens_bound=usage.input_tokens, rate_tokens=usage.total_tokens, priced=not event.unpriced)

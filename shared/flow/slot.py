"""Slot: a call's leave to use a connection that has limits of its own. Connections without pay one attribute look-up.

The first deployment's slot is asked for in the same write as the admission. A call waits for one only where nobody else could
be asked, within the connection's queue and its own deadline; otherwise it goes on at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shared.domain.catalogue import Deployment
from shared.domain.money import cost_nano_usd
from shared.domain.refusal import Reason, refuse
from shared.flow.settle import in_force
from shared.providers.quota import PUSHED_BACK
from shared.upstream.slots.slot import NoSlot, Slot

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange

WHY = {
    "rate": "requests per minute", "tokens": "tokens per minute", "gap": "pace", "concurrency": "calls in flight",
    "quota": "quota", "pause": "own limits", "full": "waiting calls", "late": "limits",
}  # fmt: skip
"""What is used up, by NoSlot.why."""


def ask(x: Exchange, deployment: Deployment, tokens: int, nano: int) -> asyncio.Future[Slot]:
    """Asks at once; NoSlot comes out of the future."""
    left_s = x.deadline_s - x.gateway.clock.monotonic_s() if deployment is x.plan[-1] else 0.0
    return x.gateway.slots.take(
        deployment.connection,
        x.key.principal.organisation_id,
        tokens,
        left_s,
        x.event_id,
        nano,
    )


async def held(x: Exchange) -> None:
    """Fills in the slot of the deployment under way. Raises Refused (429)."""
    reservation, taking, x.taking = x.reservation, x.taking, None
    assert reservation is not None
    try:
        x.slot = await (taking or ask(x, x.deployment, reservation.rate_tokens, reservation.reserved_nano_usd))
    except NoSlot as no:
        title = x.deployment.provider.title
        raise refuse(
            Reason.PROVIDER_LIMITED, 429,
            f"The gateway's account at {title} is at its limit ({WHY[no.why]}). This is not your own limit; retry later.",
            provider=title, retry=True, retry_after_s=no.retry_after_s,
        ) from None  # fmt: skip


def dropped(x: Exchange) -> None:
    """The slot that was asked for beforehand is not needed: the call does not go, or not there."""
    taking, x.taking = x.taking, None
    if taking is not None:
        x.gateway.slots.drop(taking)


def released(x: Exchange) -> None:
    """The attempt under way is over: its slot is free, and what the provider said of its limits is learned."""
    slot, said, usage = x.slot, x.said, x.usage
    x.slot = x.said = None
    if slot is None:
        if said is not None and (x.deployment.provider.rate_headers or said.status in PUSHED_BACK):
            x.gateway.slots.learn(x.deployment.connection, said.status, said.headers, x.gateway.clock.now_s())
        return
    if x.sent_s is None:
        slot.give_back()
        return
    price = in_force(x)
    slot.done(
        slot.tokens if usage is None else usage.total_tokens,
        None if said is None else said.status,
        None if said is None else said.headers,
        None if x.failure is None else x.failure.failure_class,
        slot.nano if usage is None or price is None else cost_nano_usd(usage, price),
    )

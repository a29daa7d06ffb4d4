"""Door: what an attempt passes on its way to a deployment, and tells on its way back.

In: the deployment's breaker and its connection's lock, as the one probe where that is due; a slot, where the connection has
limits. Out: the slot is free, and load, breaker and limits hear how it went. While all is well and nothing is limited, nobody
guards it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.health import Standing
from shared.domain.refusal import Reason, Refused, refuse
from shared.domain.usage import Outcome
from shared.flow import leave, record, slot
from shared.routing.breaker import WEIGHT

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange


OK = Outcome.OK
"""For what every call asks: Python 3.11 looks an enum's members up in Python."""
MOST_PUT_OFF_S = 1.0
"""A probe that found no slot is due again after so long at the latest: the limits may have been changed."""


class Skipped(Refused):
    """The deployment is not to be asked now: it is shut, cooling down, locked or at its limits, and somebody else can be."""


def guarded(x: Exchange) -> bool:
    """Whether it is more than two look-ups to get in: something somewhere is not well, or this connection has limits."""
    return bool(x.gateway.health.marks) or x.gateway.slots.limited(x.deployment.connection)


async def be_let_in(x: Exchange) -> None:
    """Raises Skipped."""
    if x.gateway.health.marks:
        await be_let_through(x)
    if x.gateway.slots.limited(x.deployment.connection):
        await have_slot(x)


def enter(x: Exchange) -> None:
    """After `be_let_in`, where the door is guarded."""
    x.gateway.load.started(x.deployment.key)
    x.entered = True


def go(x: Exchange) -> None:
    """The attempt is over, however it went. Does nothing for one that did not get in."""
    if not x.entered:
        return
    x.entered = False
    gateway, deployment = x.gateway, x.deployment
    slot.released(x)
    gateway.load.ended(deployment.key, speed_of(x), failed=x.failure is not None and x.failure.failure_class in WEIGHT)
    gateway.health.report(deployment, x.failure, neutral=says_nothing(x), probe=x.probe)
    x.probe = None


def says_nothing(x: Exchange) -> bool:
    """Of the deployment: the client left, nothing was sent, or a network proxy failed that only this call goes by."""
    if x.failure is None:
        return x.outcome is not OK
    return x.failure.by_proxy and leave.proxy_is_its_own(x)


async def have_slot(x: Exchange) -> None:
    """Leave to use a connection that has limits. Raises Skipped."""
    try:
        await slot.held(x)
    except Refused as refused:
        give_probe_back(x, min(refused.refusal.retry_after_s or 0.0, MOST_PUT_OFF_S))
        x.passed_over = "skipped"
        raise Skipped(refused.refusal) from None
    except BaseException:
        give_probe_back(x)
        raise


def give_probe_back(x: Exchange, put_off_s: float = 0.0) -> None:
    if x.probe is not None:
        x.gateway.health.give_back(x.probe, put_off_s)
        x.probe = None


async def be_let_through(x: Exchange) -> None:
    """By the deployment's breaker and its connection's lock, as the probe where one is due. Raises Skipped."""
    health = x.gateway.health
    standing = health.standing(x.deployment, x.gateway.clock.now_s())
    if standing is None:
        return
    if standing.state == "half_open_due":
        x.probe = await health.claim(x.deployment)
        if x.probe is not None:
            return
    if standing.state == "locked" or not last_resort(x):
        slot.dropped(x)
        x.passed_over = "skipped"
        raise Skipped(kept_away(x, standing).refusal)


def last_resort(x: Exchange) -> bool:
    """Whether there is nobody else: all that could be asked is shut, and it is better to ask than to be down by ourselves."""
    if x.decision is not None and x.decision.panic:
        return True
    return x.deployment is x.plan[-1] and all(each.result in record.NOT_ASKED for each in x.tried)


def kept_away(x: Exchange, standing: Standing) -> Refused:
    """What a client is told when nobody at all may be asked."""
    title, wait_s = x.deployment.provider.title, max(1.0, standing.until_s - x.gateway.clock.now_s())
    if standing.state == "locked":
        return refuse(
            Reason.PROVIDER_CREDENTIAL, 502,
            f"The gateway's account at {title} is locked: {standing.reason}. Your key is fine; tell whoever runs this gateway.",
            provider=title, retry=False,
        )  # fmt: skip
    return refuse(
        Reason.PROVIDER_ERROR, 503,
        f"{title} is not asked at the moment: {standing.reason}. Retry later, or use another model.",
        provider=title, retry=True, retry_after_s=wait_s,
    )  # fmt: skip


def speed_of(x: Exchange) -> float | None:
    """Tokens per second from the first one on, of a stream that ended well."""
    if x.first_token_s is None or x.usage is None or x.outcome is not OK:
        return None
    took_s = x.gateway.clock.monotonic_s() - x.first_token_s
    return x.usage.output_tokens / took_s if took_s > 0 else None

"""Attempts: the plan's deployments, one after the other, until one answers.

Only what another deployment could cure goes on to it, only before the client has a byte, only within the call's deadline and
the node's retry budget. An attempt that its provider will bill is booked as an event of its own before the next one starts
(paid.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.health import Standing
from shared.domain.refusal import Reason, Refused, refuse
from shared.domain.usage import Outcome
from shared.flow import attempt, leave, paid, record, relay, slot
from shared.routing.plan import CURABLE

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange


class Skipped(Refused):
    """The deployment is not to be asked now: it is shut, cooling down or locked, and somebody else can be."""


async def answer(x: Exchange) -> None:
    """Raises Refused as the last provider that was asked does, else as the first that could not be."""
    told: Refused | None = None
    x.gateway.retries.deposit()
    for deployment in x.plan:
        x.deployment = deployment
        try:
            await once(x)
            return
        except Refused as refused:
            if told is None or x.failure is not None:
                told = refused
            if deployment is x.plan[-1] or x.sink.started or not await goes_on(x, refused):
                raise told from None
        forget(x)


async def once(x: Exchange) -> None:
    """One attempt; the load and the health of its deployment hear of it. Raises Refused."""
    gateway, deployment = x.gateway, x.deployment
    x.began_s = gateway.clock.monotonic_s()
    if gateway.health.marks:
        await be_let_through(x)
    if gateway.slots.limited(deployment.connection):
        await have_slot(x)
    gateway.load.started(deployment.key)
    try:
        response = await attempt.attempt(x)
        await relay.relay(x, response)
    finally:
        slot.released(x)
        gateway.load.ended(deployment.key, speed_of(x))
        gateway.health.report(deployment, x.failure, neutral=says_nothing(x), probe=x.probe)
        x.probe = None


def says_nothing(x: Exchange) -> bool:
    """Of the deployment: the client left, nothing was sent, or a network proxy failed that only this call goes by."""
    if x.failure is None:
        return x.outcome is not Outcome.OK
    return x.failure.by_proxy and leave.proxy_is_its_own(x)


async def have_slot(x: Exchange) -> None:
    """Leave to use a connection that has limits. Raises Skipped."""
    try:
        await slot.held(x)
    except Refused as refused:
        give_probe_back(x)
        x.passed_over = "skipped"
        raise Skipped(refused.refusal) from None
    except BaseException:
        give_probe_back(x)
        raise


def give_probe_back(x: Exchange) -> None:
    if x.probe is not None:
        x.gateway.health.report(x.deployment, None, neutral=True, probe=x.probe)
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
    if x.first_token_s is None or x.usage is None or x.outcome is not Outcome.OK:
        return None
    took_s = x.gateway.clock.monotonic_s() - x.first_token_s
    return x.usage.output_tokens / took_s if took_s > 0 else None


async def goes_on(x: Exchange, refused: Refused) -> bool:
    """Whether the next deployment may be asked: it could cure this, there is time, and the budgets allow it."""
    if isinstance(refused, attempt.Unsuited | Skipped):
        return True  # nothing was sent
    now_s = x.gateway.clock.monotonic_s()
    if x.failure is None or x.failure.failure_class not in CURABLE or now_s >= x.deadline_s:
        return False
    if not x.gateway.retries.withdraw(now_s):
        x.gateway.metrics.retries_denied.inc()
        return False
    return await paid.booked(x)


def forget(x: Exchange) -> None:
    """Make way for the next attempt: what was noted of the one that failed is counted, listed and let go."""
    if x.failure is not None:
        x.gateway.metrics.failed(x.deployment.provider.name, x.failure.failure_class)
    x.tried = (*x.tried, record.tried(x))
    x.failure = x.sent_s = x.first_token_s = x.usage = x.finish_reason = None
    x.outcome, x.streamed_deltas, x.streamed_bytes, x.passed_over = Outcome.UNKNOWN, 0, 0, ""

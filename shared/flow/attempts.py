"""Attempts: the plan's deployments, one after the other, until one answers.

Only what another deployment could cure goes on to it, only before the client has a byte, only within the call's deadline and
the node's retry budget. An attempt that its provider will bill is booked as an event of its own before the next one starts
(paid.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.catalogue import Deployment
from shared.domain.refusal import Refused
from shared.domain.usage import Outcome
from shared.flow import attempt, door, hedge, paid, record, relay
from shared.routing.plan import CURABLE

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange


async def answer(x: Exchange) -> None:
    """Raises Refused as the last provider that was asked does, else as the first that could not be."""
    told: Refused | None = None
    x.gateway.retries.deposit()
    while True:
        begin(x, x.plan[x.attempts])
        try:
            await (hedge.Race(x).run() if hedge.wanted(x) else once(x))
            return
        except Refused as refused:
            if told is None or x.failure is not None:
                told = refused
            if x.attempts == len(x.plan) or x.sink.started or not await goes_on(x, refused):
                say_attempts(x)
                raise told from None
        forget(x)


def begin(x: Exchange, deployment: Deployment) -> None:
    x.deployment = deployment
    x.attempts += 1
    x.began_s = x.gateway.clock.monotonic_s()


async def once(x: Exchange) -> None:
    """The attempt that has begun. Raises Refused."""
    try:
        await door.enter(x)
        response = await attempt.attempt(x)
        await relay.relay(x, response)
    finally:
        door.go(x)


async def goes_on(x: Exchange, refused: Refused) -> bool:
    """Whether the next deployment may be asked: it could cure this, there is time, and the budgets allow it."""
    if isinstance(refused, attempt.Unsuited | door.Skipped):
        return True  # nothing was sent
    now_s = x.gateway.clock.monotonic_s()
    if x.failure is None or x.failure.failure_class not in CURABLE or now_s >= x.deadline_s:
        return False
    if not x.gateway.retries.withdraw(now_s):
        x.gateway.metrics.retries_denied.inc()
        return False
    return await paid.booked(x)


def say_attempts(x: Exchange) -> None:
    """In the error's headers, as an answer says them."""
    asked = x.failure is not None or x.passed_over  # else this node itself stood in the way
    tried = (*x.tried, record.tried(x)) if asked else x.tried
    if tried:
        x.headers["x-waystation-attempts"] = ", ".join(relay.told(tried))


def forget(x: Exchange) -> None:
    """Make way for the next attempt: what was noted of the one that failed is counted, listed and let go."""
    if x.failure is not None:
        x.gateway.metrics.failed(x.deployment.provider.name, x.failure.failure_class)
    x.tried = (*x.tried, record.tried(x))
    x.failure = x.sent_s = x.first_token_s = x.usage = x.finish_reason = None
    x.outcome, x.streamed_deltas, x.streamed_bytes, x.passed_over = Outcome.UNKNOWN, 0, 0, ""

"""Attempts: the plan's deployments, one after the other, until one answers.

Only what another deployment could cure goes on to it, only before the client has a byte, only within the call's deadline and
the node's retry budget. An attempt that its provider will bill is booked as an event of its own before the next one starts
(paid.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from shared.domain.catalogue import Deployment
from shared.domain.failure import FailureClass
from shared.domain.refusal import Refused
from shared.domain.usage import Outcome
from shared.flow import attempt, door, hedge, paid, record, relay, sessions
from shared.routing.plan import CURABLE
from shared.upstream.transport import UpstreamResponse

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange


async def answer(x: Exchange) -> None:
    """Raises Refused as the last provider that was asked does, else as the first that could not be; with the time after which
    the first of those that were asked can be asked again, where one of them said any."""
    told: Refused | None = None
    soonest_s: float | None = None
    x.gateway.retries.deposit()
    while True:
        begin(x, x.plan[x.attempts])
        try:
            await (hedge.Race(x).run() if hedge.wanted(x) else once(x))
            if x.session is not None:
                sessions.ended(x)
            return
        except Refused as refused:
            if told is None or x.failure is not None:
                told = refused
            soonest_s = sooner_s(x, soonest_s)
            if x.attempts == len(x.plan) or x.sink.started or not await goes_on(x, refused):
                say_attempts(x)
                if x.session is not None:
                    sessions.ended(x)
                raise again_after(told, soonest_s, x.gateway.clock.monotonic_s()) from None
        forget(x)


AGAIN = frozenset({FailureClass.RATE_LIMITED, FailureClass.OVERLOADED, FailureClass.PROVIDER_FAULT})
"""Whose Retry-After a client can wait for: another class is about the account, or about what no answer was given to."""


def sooner_s(x: Exchange, soonest_s: float | None) -> float | None:
    """When (monotonic) the first of the providers that failed can be asked again, the attempt just over included."""
    failure = x.failure
    if failure is None or failure.retry_after_s is None or failure.failure_class not in AGAIN:
        return soonest_s
    at_s = x.gateway.clock.monotonic_s() + failure.retry_after_s
    return at_s if soonest_s is None else min(at_s, soonest_s)


def again_after(told: Refused, soonest_s: float | None, now_s: float) -> Refused:
    """The refusal with the shortest wait that is still to come. One that the gateway itself asks for stays."""
    if soonest_s is None or not told.refusal.retry:
        return told
    return Refused(replace(told.refusal, retry_after_s=max(0.0, soonest_s - now_s)))


def begin(x: Exchange, deployment: Deployment) -> None:
    x.deployment = deployment
    x.attempts += 1
    x.began_s = x.gateway.clock.monotonic_s()


async def once(x: Exchange) -> None:
    """The attempt that has begun. Raises Refused."""
    response: UpstreamResponse | None = None
    try:
        response = await asked(x)
        await (relay.relay_stream(x, response) if x.call.stream else relay.relay_whole(x, response))
    finally:
        if response is not None:
            response.close()
        door.go(x)


async def asked(x: Exchange) -> UpstreamResponse:
    """Through the deployment's door, and to its 2xx answer. Raises Refused."""
    if door.guarded(x):
        await door.be_let_in(x)
    door.enter(x)
    if x.call.media.by_reference:
        await attempt.have_media(x)
    return await attempt.send(x, attempt.leaving(x))


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

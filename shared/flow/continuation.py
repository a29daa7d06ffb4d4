"""Continuation: a stream of plain text that breaks off goes on at another deployment, for routes that ask for it.

Only where it is provably safe (wire/seam.py says when, the catalogue who can), and only where the budgets cover both. What was
made until then is booked as an event of its own, like any attempt that is billed; the rest by the call's own. Everywhere else
the stream ends with an error event, as all streams do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.catalogue import Deployment
from shared.domain.failure import FailureClass
from shared.domain.money import MTOK
from shared.domain.refusal import Refused
from shared.domain.usage import Outcome, Usage
from shared.flow import attempts, door, paid, relay, settle, stored
from shared.routing.plan import CURABLE
from shared.wire import codec
from shared.wire.seam import Begun, SeamTap, SeamTranslation

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange

MESSAGE_TOKENS = 16
"""What one more message may add to the prompt, beside its text (admission/estimate.py)."""


def wanted(x: Exchange) -> bool:
    """Whether this call's stream may have to go on elsewhere, so that its client's encoder must outlive an attempt."""
    route = x.route
    return (
        route is not None
        and route.continuation
        and x.call.stream
        and x.call.choices == 1
        and x.arrival.operation == "chat"
        and not x.arrival.openrouter  # its face is put over a bridge of one attempt
        and (len(x.plan) > x.attempts or x.begun is not None)
    )


async def goes_on(x: Exchange, tap: SeamTap, opening: relay.Opening, refused: Refused) -> Refused | None:
    """After a stream that its client has the beginning of broke off. None: its end has been told; else what to tell as it."""
    if await whole_after_all(x, tap):
        return None
    first_token_s, base = x.first_token_s, bound_of(x)
    keep_joinable(x, tap.text)
    while tap.safe and len(x.plan) > x.attempts and x.failure is not None and x.failure.failure_class in CURABLE:
        deployment = x.plan[x.attempts]
        begun = Begun(tap.text, left_of_cap(x, tap))
        if begun.most_tokens is not None and begun.most_tokens < 1:
            break
        if not x.gateway.retries.withdraw(x.gateway.clock.monotonic_s()):
            x.gateway.metrics.retries_denied.inc()
            break
        charged, _ = settle.final_usage(x)
        held = await paid.held(x, more_than_set_aside(x, deployment, begun, base))
        if held is None:
            break
        try:
            door.go(x)
            attempts.forget(x)
            attempts.begin(x, deployment)
            x.begun, x.first_token_s = begun, first_token_s
            widen(x, begun, base)
            x.gateway.metrics.continuations.labels("tried").inc()
            now_s = x.gateway.clock.monotonic_s()
            x.deadline_s = max(x.deadline_s, now_s + deployment.connection.first_byte_timeout_s)  # the answer has begun
            again = await leg(x, tap, opening, charged)
        finally:
            held.let_go()
        if again is None:
            return None
        refused = again
    return refused


async def leg(x: Exchange, tap: SeamTap, opening: relay.Opening, charged: Usage) -> Refused | None:
    """One more attempt, from where the stream stands. A Refused: it did not begin."""
    begun = x.attempts
    try:
        response = await attempts.asked(x)
    except Refused as refused:
        tap.charge(charged)
        return refused
    assert isinstance(x.bridge, SeamTranslation)
    tap.charge(charged)
    tap.next_leg(x.bridge, lambda: charged_for(x, tap))
    try:
        await relay.follow(x, response, tap, opening)
    finally:
        response.close()
    if x.outcome is Outcome.OK and x.attempts == begun:
        x.gateway.metrics.continuations.labels("ended_well").inc()
    return None


def charged_for(x: Exchange, tap: SeamTap) -> Usage:
    relay.note(x, tap)
    return settle.final_usage(x)[0]


async def whole_after_all(x: Exchange, tap: SeamTap) -> bool:
    """Write what the broken leg still had. True: it had said why it stopped, and only its end was lost."""
    lost = tap.error is not None or (x.failure is not None and x.failure.failure_class is FailureClass.MALFORMED)
    tail = b"" if lost else tap.close()  # what comes after something unreadable is no end
    relay.note(x, tap)
    ended = not lost and tap.finish_reason is not None
    if ended:
        x.failure, x.outcome = None, Outcome.OK
        if x.history is not None:
            await stored.keep(x, tap.response)
    if tail:
        await x.sink.write(tail)
    return ended


def keep_joinable(x: Exchange, text: str) -> None:
    """The rest of the plan without those that cannot go on from a text."""
    if text:
        x.plan = (*x.plan[: x.attempts], *(each for each in x.plan[x.attempts :] if codec.joins(each)))


def left_of_cap(x: Exchange, tap: SeamTap) -> int | None:
    """Tokens that the answer may still have."""
    assert x.reservation is not None
    cap = x.reservation.output_tokens_cap
    return None if cap is None else cap - tap.charged_output - settle.final_usage(x)[0].output_tokens


# -- money: the reservation was made for the call as it came; the next leg's prompt is longer, and its output shorter


def bound_of(x: Exchange) -> int:
    """Input tokens that the call as it came can have."""
    assert x.reservation is not None
    added = 0 if x.begun is None else input_of(x.begun)
    return x.reservation.input_tokens_bound - added


def input_of(begun: Begun) -> int:
    return len(begun.text.encode()) + MESSAGE_TOKENS


def more_than_set_aside(x: Exchange, deployment: Deployment, begun: Begun, base: int) -> int:
    """Nano-USD that the next leg can cost beyond the call's reservation; 0 nearly always: output is the dearer."""
    price, reservation = deployment.model.price, x.reservation
    assert reservation is not None
    if price is None or begun.most_tokens is None or reservation.event.unpriced:
        return 0
    given = base + input_of(begun)
    input_price, output_price = price.most(given)
    fixed = -(-given * input_price // MTOK) + price.request_nano
    full = fixed - (-begun.most_tokens * output_price // MTOK)
    return max(0, full - reservation.reserved_nano_usd)


def widen(x: Exchange, begun: Begun, base: int) -> None:
    """Reports are believed up to what is possible now."""
    assert x.reservation is not None
    x.reservation.input_tokens_bound = base + input_of(begun)

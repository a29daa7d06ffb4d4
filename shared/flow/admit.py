"""Admit: which deployment, at what price, and whether it may start. One Redis round trip, and nothing sent before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from shared.admission.estimate import Quote, dearer, quote
from shared.admission.gate import Admitted, Ask, Denied, Reservation, Unready
from shared.domain.catalogue import Deployment
from shared.domain.refusal import Reason, Refused, refuse
from shared.domain.usage import EventKind, Outcome, UsageEvent, UsageSource, encode_event
from shared.flow import slot
from shared.flow.choose import choose, unbounded
from shared.snapshot.snapshot import KeyEntry
from shared.wire.openai_chat import ChatCall

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange


ESTIMATED, UNKNOWN, RESERVED = EventKind.ESTIMATED, Outcome.UNKNOWN, UsageSource.RESERVED
"""For what every call asks: Python 3.11 looks an enum's members up in Python."""
RATE_LIMIT_HEADERS = {
    unit: (f"x-ratelimit-limit-{unit}", f"x-ratelimit-remaining-{unit}", f"x-ratelimit-reset-{unit}")
    for unit in ("requests", "tokens")
}


async def admit(x: Exchange) -> None:
    """Fills in plan, deployment, reservation and the rate-limit headers. Raises Refused: 400, 403, 404, 429 or 503."""
    x.plan = x.plan or choose(x)
    if x.route is not None and x.route.deadline_s is not None and x.arrival.deadline is None:
        x.deadline_s = x.started_s + x.route.deadline_s
    x.deployment = x.plan[0]
    asked, clock = ask(x), x.gateway.clock
    asked_s = clock.monotonic_s()
    if x.gateway.slots.limited(x.deployment.connection):
        x.taking = slot.ask(x, x.deployment, asked.quote.rate_tokens, asked.quote.bound.full_nano_usd)
    verdict = await x.gateway.gate.admit(asked)
    x.gateway.metrics.calls.admission.observe(clock.monotonic_s() - asked_s)
    match verdict:
        case Admitted(reservation):
            x.reservation = reservation
            x.headers = standing_headers(reservation)
        case Denied():
            raise denied(x, verdict)
        case Unready():
            raise unready(verdict)
        case _:
            assert_never(verdict)


def ask(x: Exchange) -> Ask:
    """What admission needs: a true upper bound of the cost, and the event that stands if nobody ever settles."""
    deployment, key, call = x.deployment, x.key, x.call
    principal = key.principal
    price, name = deployment.model.price, deployment.name
    bound = bounded(x, x.gateway.gate.typical.estimate(principal.key_id, name))
    cap = bound.bound.output_cap
    estimated = UsageEvent(
        event_id=x.event_id,
        kind=ESTIMATED,
        organisation_id=principal.organisation_id,
        team_id=principal.team_id,
        key_id=principal.key_id,
        provider=deployment.provider.name,
        connection=deployment.connection.name,
        model=name,
        operation=x.arrival.operation,
        stream=call.stream,
        outcome=UNKNOWN,
        source=RESERVED,
        input_tokens=bound.input_tokens_bound,
        output_tokens=0 if cap is None else cap * call.choices,
        cost_nano_usd=bound.bound.full_nano_usd,
        unpriced=price is None,
        price_version="" if price is None else price.version,
        request_id=x.event_id,
        node=x.gateway.node,
    )
    return Ask(
        event_id=x.event_id,
        cells=x.gateway.gate.cells(key),
        quote=bound,
        estimated_event=estimated,
        encoded_event=encode_event(estimated),
    )


def bounded(x: Exchange, typical_output_tokens: int) -> Quote:
    """What bounds whichever of the plan answers; those that nothing bounds may leave it."""
    bound, kept = covered(x.key, x.call, x.body_bytes, x.plan, typical_output_tokens)
    if len(kept) < len(x.plan):
        x.plan, x.decision = kept, unbounded(x.decision, kept)
    return bound


def covered(
    key: KeyEntry, call: ChatCall, body_bytes: int, plan: tuple[Deployment, ...], typical_output_tokens: int
) -> tuple[Quote, tuple[Deployment, ...]]:
    """A quote that bounds each of the plan. Under a hard budget a fallback that nothing bounds leaves the plan: the call would
    be refused for its sake."""
    bound, kept = quoted(call, body_bytes, plan[0], typical_output_tokens), [plan[0]]
    hard = len(plan) > 1 and any(budget.hard for budget in key.budgets)
    for other in plan[1:]:
        quote_of_it = quoted(call, body_bytes, other, typical_output_tokens)
        if quote_of_it.priced or not hard:
            bound = dearer(bound, quote_of_it)
            kept.append(other)
    return bound, tuple(kept)


def quoted(call: ChatCall, body_bytes: int, deployment: Deployment, typical_output_tokens: int) -> Quote:
    return quote(
        body_bytes=body_bytes,
        messages=call.messages,
        media_urls=call.media.by_reference,
        model=deployment.model,
        max_tokens=call.max_tokens,
        choices=call.choices,
        typical_output_tokens=typical_output_tokens,
        most_audio_ms=0 if call.sound is None else call.sound.most_ms,
    )


def denied(x: Exchange, verdict: Denied) -> Refused:
    """A tenant's own limit or budget said no; the two are different errors (product.md §11.7)."""
    whose = f"this {verdict.scope.value}"
    match verdict.kind:
        case "unpriced":
            return refuse(
                Reason.UNPRICED_MODEL, 403,
                f"{x.deployment.name} has no known price or output maximum, so a hard budget of {whose} cannot cover it. "
                "Set its price in `prices`, or send max_completion_tokens.",
                field="model", retry=False,
            )  # fmt: skip
        case "budget":
            return refuse(
                Reason.BUDGET_EXHAUSTED, 429,
                f"The budget of {whose} does not cover this call: it may cost up to {verdict.wanted} nano-USD and "
                f"{verdict.remaining} are left. It starts again with its next period.",
                retry=False,
            )  # fmt: skip
        case "concurrency":
            what = f"{whose} already has {verdict.limit} calls in flight, its limit"
        case "tokens":
            what = f"the limit of {verdict.limit} tokens per minute of {whose} is reached"
        case _:
            what = f"the limit of {verdict.limit} requests per minute of {whose} is reached"
    if verdict.never:
        return refuse(
            Reason.RATE_LIMITED, 429,
            f"This call alone ({verdict.wanted}) is more than the burst that {whose} may use ({verdict.limit} per minute).",
            retry=False,
        )  # fmt: skip
    retry_after_s = (verdict.retry_after_ms or 1000) / 1000
    return refuse(
        Reason.RATE_LIMITED, 429, f"{what[0].upper()}{what[1:]}. Retry in {retry_after_s:.3f} s.",
        retry_after_s=retry_after_s,
        retry=True,
    )  # fmt: skip


def unready(verdict: Unready) -> Refused:
    """Money cannot be checked now, so nothing that costs money starts."""
    why = (
        "This key has a hard budget and the limits store cannot be reached."
        if verdict.why == "redis"
        else "The budget of this key is being rebuilt from the ledger."
    )
    return refuse(Reason.NOT_READY, 503, f"{why} Retry shortly.", retry_after_s=verdict.retry_after_ms / 1000, retry=True)


def standing_headers(reservation: Reservation) -> dict[str, str]:
    """`x-ratelimit-*` as OpenAI's SDKs read them, for the limit that is nearest to its end."""
    headers: dict[str, str] = {}
    if reservation.clamped and reservation.output_tokens_cap is not None:
        headers["x-waystation-output-tokens-clamped"] = str(reservation.output_tokens_cap)
    for unit, standing in reservation.standing.items():
        limit, remaining, reset = RATE_LIMIT_HEADERS[unit]
        headers[limit] = str(standing.limit)
        headers[remaining] = str(standing.remaining)
        headers[reset] = f"{standing.reset_ms}ms"
    return headers

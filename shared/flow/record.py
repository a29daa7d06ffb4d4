"""Record: the decision behind a call, as it goes into the books with its usage event."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from shared.domain.decision import Considered, Decision, Tried
from shared.domain.usage import Outcome
from shared.routing.plan import Plan

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange

MOST_REMOVED = 50
OK, CLIENT_GONE, HEDGE_LOST = "ok", "client_gone", "hedge_lost"
NOT_ASKED = ("unsuited", "skipped")


def decision_of(x: Exchange) -> Decision:
    """Of a call that was admitted."""
    reservation, plan = x.reservation, x.decision
    assert reservation is not None
    return Decision(
        asked=x.call.model,
        route="" if plan is None else plan.route or "",
        strategy="" if plan is None else plan.strategy,
        candidates=() if plan is None else considered(plan),
        removed=() if plan is None else removed(plan),
        tried=(*x.tried, tried(x)) if x.tried else (),
        limits=tuple(reservation.standing.values()),
        output_clamped_to=reservation.output_cap_to_send,
    )


def considered(plan: Plan) -> tuple[Considered, ...]:
    return tuple(
        Considered(
            deployment=each.name,
            connection=each.connection.name,
            score=finite(plan.scores.get(each.key)),
            state=plan.states.get(each.key, ""),
        )
        for each in plan.candidates
    )


def removed(plan: Plan) -> tuple[Considered, ...]:
    return tuple(
        Considered(deployment=each.name, connection=each.connection, rule=each.rule, why=each.why)
        for each in plan.removed[:MOST_REMOVED]
    )


def finite(score: float | None) -> float | None:
    """JSON has no infinity."""
    return None if score is None or not math.isfinite(score) else score


def tried(x: Exchange) -> Tried:
    """The attempt under way, or just over, as its line in the list of attempts."""
    if x.failure is not None:
        result = x.failure.failure_class.value
    elif x.outcome is Outcome.HEDGE_LOST:
        result = HEDGE_LOST
    else:
        result = x.passed_over or (CLIENT_GONE if x.outcome is Outcome.CLIENT_GONE else OK)
    return Tried(
        deployment=x.deployment.name,
        connection=x.deployment.connection.name,
        result=result,
        status=None if x.failure is None else x.failure.status,
        duration_ms=int((x.gateway.clock.monotonic_s() - x.began_s) * 1000),
    )

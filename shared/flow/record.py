"""Record: the decision behind a call, as it goes into the books with its usage event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.decision import Decision, LimitStanding, Tried
from shared.domain.usage import Outcome

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange

OK, UNSUITED, CLIENT_GONE, HEDGE_LOST = "ok", "unsuited", "client_gone", "hedge_lost"


def decision_of(x: Exchange) -> Decision:
    """Of a call that was admitted."""
    reservation = x.reservation
    assert reservation is not None
    return Decision(
        asked=x.call.model,
        tried=(*x.tried, tried(x)) if x.tried else (),
        limits=tuple(
            LimitStanding(unit=unit, limit=one.limit, remaining=one.remaining, reset_ms=one.reset_ms)
            for unit, one in reservation.standing.items()
        ),
        output_clamped_to=reservation.output_cap_to_send,
    )


def tried(x: Exchange) -> Tried:
    """The attempt under way, or just over, as its line in the list of attempts."""
    if x.failure is not None:
        result = x.failure.failure_class.value
    elif x.outcome is Outcome.REJECTED:
        result = UNSUITED
    elif x.outcome is Outcome.HEDGE_LOST:
        result = HEDGE_LOST
    else:
        result = CLIENT_GONE if x.outcome is Outcome.CLIENT_GONE else OK
    return Tried(
        deployment=x.deployment.name,
        connection=x.deployment.connection.name,
        result=result,
        status=None if x.failure is None else x.failure.status,
        duration_ms=int((x.gateway.clock.monotonic_s() - x.began_s) * 1000),
    )

"""Plan (pure): which deployments a call may go to, in order, and which bad ends another one can cure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from shared.domain.catalogue import Deployment
from shared.domain.failure import FailureClass

MOST_ATTEMPTS = 5
EVERY = "*"
"""The fallbacks of every model that has none of its own."""

CURABLE = frozenset(
    {
        FailureClass.CONNECT, FailureClass.RATE_LIMITED, FailureClass.OVERLOADED, FailureClass.QUOTA,
        FailureClass.CREDENTIAL, FailureClass.PROVIDER_FAULT, FailureClass.FIRST_BYTE_TIMEOUT, FailureClass.IDLE_TIMEOUT,
        FailureClass.CUT, FailureClass.MALFORMED,
    }
)  # fmt: skip
"""What another deployment can cure. A client's own fault is one everywhere, and so is what a content filter refused."""


def plan(first: Sequence[Deployment], chain: Iterable[Deployment]) -> tuple[Deployment, ...]:
    """`first`: the named model on each connection that has it; then the chain. Each once, at most MOST_ATTEMPTS."""
    made: dict[tuple[str, str], Deployment] = {}
    for deployment in (*first, *chain):
        made.setdefault((deployment.connection.connection_id, deployment.model.model_id), deployment)
    return tuple(made.values())[:MOST_ATTEMPTS]


def chain_of(name: str, fallbacks: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The names to go on with after `prefix/model-id`."""
    return fallbacks.get(name) or fallbacks.get(EVERY) or ()

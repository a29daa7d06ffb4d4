"""Sessions: calls that name one (`session_id` at /api/v1) stay at the deployment that served it, as long as it does so well.

Two things together. Whatever a strategy draws or counts, it draws and counts for a session from the session's own number, so
all nodes come to the same deployment with nothing shared. And for ten idle minutes each node remembers who served a session
well, and who failed it: the first is asked first, the second last.

The number is a hash over organisation, model and session: nobody can steer another organisation's calls, and no session's name
is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from shared.domain.usage import Outcome
from shared.routing.plan import CURABLE

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange

IDLE_S = 600.0
MOST = 20_000


class Seat(msgspec.Struct, frozen=True):
    """Deployments by their key: who served the session, or failed it; one of them is empty."""

    served: str
    failed: str
    at_s: float


class Session(msgspec.Struct, frozen=True):
    """Of one call. `seat` None: nothing is remembered."""

    number: int
    seat: Seat | None = None


def numbered(organisation_id: str, model: str, session: str) -> int:
    """64 bits."""
    told = "\0".join((organisation_id, model, session)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(told, digest_size=8).digest())


class Sessions:
    """A node's own. Times are of a monotonic clock."""

    def __init__(self, most: int = MOST) -> None:
        self._seats: OrderedDict[int, Seat] = OrderedDict()
        self._most = most

    def of(self, number: int, now_s: float) -> Seat | None:
        seat = self._seats.get(number)
        return None if seat is None or now_s - seat.at_s >= IDLE_S else seat

    def remember(self, number: int, seat: Seat) -> None:
        self._seats[number] = seat
        self._seats.move_to_end(number)
        while self._seats and (len(self._seats) > self._most or seat.at_s - next(iter(self._seats.values())).at_s >= IDLE_S):
            self._seats.popitem(last=False)

    def __len__(self) -> int:
        return len(self._seats)


def begin(x: Exchange, session: str) -> Session:
    number = numbered(x.key.principal.organisation_id, x.call.model, session)
    return Session(number, x.gateway.sessions.of(number, x.gateway.clock.monotonic_s()))


def ended(x: Exchange) -> None:
    """The call is over: remember how its last deployment did. A client's own fault, or one that left, says nothing of it."""
    assert x.session is not None
    now_s, key = x.gateway.clock.monotonic_s(), x.deployment.key
    if x.failure is not None and x.failure.failure_class in CURABLE:
        x.gateway.sessions.remember(x.session.number, Seat("", key, now_s))
    elif x.outcome is Outcome.OK:
        x.gateway.sessions.remember(x.session.number, Seat(key, "", now_s))

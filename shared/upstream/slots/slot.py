"""A slot: leave to make one call through a connection; and the no in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shared.domain.catalogue import Connection
from shared.domain.failure import FailureClass
from shared.providers.quota import PUSHED_BACK
from shared.upstream.slots.model import Done

WHY = {1: "rate", 2: "tokens", 3: "gap", 4: "concurrency", 5: "quota", 6: "pause", 7: "full"}
"""slots.lua's reasons. `full`: too many wait already; `pause`: the provider asked for it."""


class NoSlot(Exception):
    """The connection cannot take the call in time. `why` is one of WHY; a retry after `retry_after_s` may succeed."""

    def __init__(self, why: str, retry_after_s: float) -> None:
        super().__init__(f"no slot: {why}")
        self.why = why
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class Waiter:
    """One call that asked for a slot and has none yet. `queued`: it stands in Redis' queue or (`local`) in this node's own."""

    connection: Connection
    ticket: str
    organisation_id: str
    tokens: int
    nano: int
    asked_s: float
    until_s: float
    future: asyncio.Future[Slot]
    queued: bool = False
    local: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Slot:
    """Held until `done` or `give_back`; the first of them counts."""

    connection: Connection
    ticket: str
    tokens: int
    nano: int
    era: int
    since_s: float
    local: bool
    _end: Callable[[Slot, Done, int, Mapping[str, str]], None] = field(repr=False)
    _over: bool = False

    def done(
        self,
        tokens: int,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        failure_class: FailureClass | None = None,
        cost_nano_usd: int = 0,
    ) -> None:
        """The call is over: the slot is free, its tokens are put right, and what the provider said is learned. Never blocks.

        `tokens` and `cost_nano_usd` are what was used; `status` and `headers` (lower-case names) the provider's, None when it
        did not answer.
        """
        if failure_class is FailureClass.CONNECT:
            self.give_back()
            return
        pushed = status in PUSHED_BACK or failure_class in (FailureClass.RATE_LIMITED, FailureClass.OVERLOADED)
        went = -1 if pushed else 1 if failure_class is None else 0
        self._finish(
            Done(tokens=tokens - self.tokens, nano=cost_nano_usd - self.nano, era=self.era, went=went), status, headers
        )

    def give_back(self) -> None:
        """Nothing was sent: as if it had never been taken."""
        self._finish(Done(tokens=-self.tokens, nano=-self.nano, era=self.era, unused=True), None, None)

    def _finish(self, end: Done, status: int | None, headers: Mapping[str, str] | None) -> None:
        if not self._over:
            self._over = True
            self._end(self, end, status or 0, headers or {})

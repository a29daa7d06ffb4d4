"""The degraded gate: what a node decides when Redis is away.

Never plain open and never a crash: each live node enforces its share of every limit, four fifths of it, in memory, with the
same model that the scripts are tested against. Money is different: a hard budget cannot be shared out, so its calls are
refused until Redis is back.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from shared.admission.cells import Cell, Cells
from shared.admission.estimate import Quote
from shared.admission.model import No, State, Yes
from shared.admission.verdict import Admitted, Denied, Reservation, Unready
from shared.admission.window import EPOCH_S, Rate
from shared.clock import Clock
from shared.domain.usage import UsageEvent

SHARE = 0.8
LEASE_MS = 24 * 3600 * 1000
"""In memory a slot lives as long as its call: the process that holds it is the one that counts it."""
RETRY_MS = 5_000
"""When a call that is above this node's share, though not above the whole limit, may try again: Redis may be back then."""
BOOT = "degraded"
MOST_ORGANISATIONS = 10_000


def share_of(cell: Cell, nodes: int) -> Cell:
    """One node's part of a rate or concurrency limit; at least one unit."""
    part = SHARE / nodes
    if cell.rate is None:
        return msgspec.structs.replace(cell, limit=max(1, int(cell.limit * part)))
    rate = Rate(cell.rate.us_per_unit / part, max(1, int(cell.rate.burst * part)))
    return msgspec.structs.replace(cell, rate=rate)


def _whole_burst(cells: Cells, share: Cell) -> int:
    return next(cell.rate.burst for cell in cells.cells if cell.key == share.key and cell.rate is not None)


class DegradedGate:
    def __init__(self, clock: Clock, live_nodes: Callable[[], int], on_admission: Callable[[], None] | None = None) -> None:
        self._clock = clock
        self._live_nodes = live_nodes
        self._on_admission = on_admission
        self._states: dict[str, State] = {}

    def admit(
        self, event_id: str, cells: Cells, quote: Quote, event: UsageEvent, encoded: bytes
    ) -> Admitted | Denied | Unready:
        if cells.hard_budget:
            return Unready("redis", 1000)
        if self._on_admission is not None:
            self._on_admission()
        own = self._shares(cells)
        verdict = self._state(cells.organisation_id).admit(
            event_id, BOOT, own, quote.bound, quote.rate_tokens, LEASE_MS, self._now_us()
        )
        if isinstance(verdict, Yes):
            return Admitted(Reservation.of(cells, quote, event, encoded, "degraded"))
        assert isinstance(verdict, No), "without budget cells nothing can be unseeded"
        cell = own[verdict.cell - 1]
        retry_ms = verdict.retry_ms
        if retry_ms < 0 and cell.rate is not None and verdict.wanted <= _whole_burst(cells, cell):
            retry_ms = RETRY_MS
        kinds = {"r": "rate", "t": "tokens", "c": "concurrency"}
        return Denied(
            kind=kinds[cell.kind],  # type: ignore[arg-type]
            scope=cell.scope,
            limit=cell.limit,
            wanted=verdict.wanted,
            remaining=verdict.remaining,
            retry_after_ms=None if retry_ms < 0 else max(1, retry_ms),
        )

    def settle(self, reservation: Reservation, event: UsageEvent) -> None:
        cells = reservation.cells
        self._state(cells.organisation_id).settle(
            event.event_id,
            BOOT,
            self._shares(cells),
            event.cost_nano_usd,
            event.input_tokens + event.output_tokens,
            self._now_us(),
        )

    def _shares(self, cells: Cells) -> tuple[Cell, ...]:
        nodes = max(1, self._live_nodes())
        return tuple(share_of(cell, nodes) for cell in cells.cells if cell.budget is None)

    def _state(self, organisation_id: str) -> State:
        state = self._states.get(organisation_id)
        if state is None:
            if len(self._states) >= MOST_ORGANISATIONS:
                self._states.clear()
            state = self._states[organisation_id] = State()
        return state

    def _now_us(self) -> float:
        return (self._clock.now_s() - EPOCH_S) * 1_000_000

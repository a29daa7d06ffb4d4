"""Cells: the limits and budgets of one key, compiled once into Redis keys and script arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from shared.admission.window import Rate
from shared.clock import utc
from shared.domain.limits import Budget, Limit, Mode, Scope, period_end
from shared.store import keys
from shared.store.redis import bulk

FOREVER_S = float("inf")


class Cell(msgspec.Struct, frozen=True):
    """One thing that an admission checks. `kind`: r, t, c, b; capital letters count without refusing."""

    kind: str
    key: bytes
    scope: Scope
    scope_id: str
    limit: int
    rate: Rate | None = None
    budget: Budget | None = None

    @property
    def enforced(self) -> bool:
        return self.kind.islower()


class Names(msgspec.Struct, frozen=True):
    """Keys as a script gets them: the organisation's two, then the cells'."""

    keys: tuple[bytes, ...]
    packed: bytes
    """RESP."""
    packed_places: bytes
    """RESP: where the cells stand, in msgpack, if no other call's are there."""

    @staticmethod
    def of(keys: Sequence[bytes]) -> Names:
        return Names(tuple(keys), bulk(*keys), bulk(places([range(FIRST_CELL, len(keys) + 1)])))


FIRST_CELL = 3
"""Where a script's cells begin among its keys."""


def places(groups: Sequence[Sequence[int]]) -> bytes:
    """Of each group of calls, where its cells stand among the keys, for the scripts."""
    return msgspec.msgpack.encode([list(group) for group in groups])


class Cells(msgspec.Struct, frozen=True):
    """Everything about a key's cells that a call needs ready-made. Valid until `expires_s`: a budget's period ends then."""

    organisation_id: str
    cells: tuple[Cell, ...]
    expires_s: float
    admit_args: bytes
    settle_args: bytes
    packed_admit_args: bytes
    """RESP: the record's cells and the cells."""
    packed_settle_args: bytes
    """RESP: the cells."""
    admit_names: Names
    settle_names: Names
    estimate_prefix: bytes
    done_prefix: bytes
    """The two keys that a settlement names by its event's id."""
    rated: tuple[tuple[str, int], ...]
    """Unit and limit of each rate cell, in the order of admit.lua's reply."""
    record: bytes
    """The cells that a settlement touches, as JSON in the reservation, for whoever must settle it."""

    @property
    def hard_budget(self) -> bool:
        return any(cell.kind == "b" for cell in self.cells)


def compile_cells(organisation_id: str, limits: Sequence[Limit], budgets: Sequence[Budget], now_s: float) -> Cells:
    """Requests first, tokens, concurrency, budgets last: the order of the scripts' arguments."""
    now = utc(now_s)
    cells = [cell for limit in limits for cell in _of_limit(organisation_id, limit)]
    cells.sort(key=lambda cell: "rtc".index(cell.kind.lower()))
    cells += [_of_budget(organisation_id, budget, now) for budget in budgets]
    ends = [period_end(budget.period, now) for budget in budgets]
    settled = [cell for cell in cells if cell.kind.lower() != "r"]
    admit_keys = (
        keys.reservations(organisation_id),
        keys.reservation_records(organisation_id),
        *(cell.key for cell in cells),
    )
    admit_args = msgspec.msgpack.encode([argument for cell in cells for argument in _arguments(cell)])
    record = json.dumps([_recorded(cell) for cell in settled], separators=(",", ":")).encode()
    touched = settle_keys([(cell.kind.lower(), cell.key) for cell in settled])
    settle_args = settle_arguments([_recorded(cell) for cell in settled])
    return Cells(
        organisation_id=organisation_id,
        cells=tuple(cells),
        expires_s=min((end.timestamp() for end in ends if end is not None), default=FOREVER_S),
        admit_args=admit_args,
        packed_admit_args=bulk(record, admit_args),
        packed_settle_args=bulk(settle_args),
        admit_names=Names.of(admit_keys),
        settle_names=Names.of((*admit_keys[:2], *touched)),
        estimate_prefix=keys.estimate(organisation_id, ""),
        done_prefix=keys.done(organisation_id, ""),
        settle_args=settle_args,
        rated=tuple(("requests" if cell.kind in "rR" else "tokens", cell.limit) for cell in cells if cell.rate is not None),
        record=record,
    )


def _recorded(cell: Cell) -> list[object]:
    """kind, key, and a rate's µs per unit and burst."""
    rate = [] if cell.rate is None else [cell.rate.us_per_unit, cell.rate.burst]
    return [cell.kind.lower(), cell.key.decode(), *rate]


def settle_keys(cells: Sequence[tuple[str, bytes]]) -> tuple[bytes, ...]:
    """A budget cell travels with its unconfirmed hash."""
    return tuple(key for kind, cell in cells for key in ((cell, keys.unconfirmed(cell)) if kind == "b" else (cell,)))


def _of_limit(organisation_id: str, limit: Limit) -> list[Cell]:
    shadow = limit.mode is Mode.SHADOW
    made = []
    if limit.requests_per_minute is not None:
        rate = Rate.per_minute(limit.requests_per_minute, limit.burst_requests)
        key = keys.request_rate(organisation_id, limit.scope, limit.scope_id)
        made.append(("r", key, limit.requests_per_minute, rate))
    if limit.tokens_per_minute is not None:
        rate = Rate.per_minute(limit.tokens_per_minute, limit.burst_tokens)
        key = keys.token_rate(organisation_id, limit.scope, limit.scope_id)
        made.append(("t", key, limit.tokens_per_minute, rate))
    if limit.concurrent_requests is not None:
        key = keys.concurrency(organisation_id, limit.scope, limit.scope_id)
        made.append(("c", key, limit.concurrent_requests, None))  # type: ignore[arg-type]
    return [
        Cell(kind.upper() if shadow else kind, key, limit.scope, limit.scope_id, most, rate) for kind, key, most, rate in made
    ]


def _of_budget(organisation_id: str, budget: Budget, now: datetime) -> Cell:
    key = keys.budget(organisation_id, budget.budget_id, keys.period_label(budget.period, now))
    kind = "b" if budget.hard else "B"
    return Cell(kind, key, budget.scope, budget.scope_id, budget.limit_nano_usd, None, budget)


def _arguments(cell: Cell) -> tuple[str, float, int | bool]:
    """admit.lua's kind, a, b."""
    if cell.rate is not None:
        return cell.kind, cell.rate.us_per_unit, cell.rate.burst
    return cell.kind, cell.limit, False


def settle_arguments(recorded: Sequence[Sequence[Any]]) -> bytes:
    """settle.lua's cells, from those of a reservation's record: kind, key, and a rate's µs per unit and burst."""
    flat: list[object] = []
    for kind, _, *rate in recorded:
        flat += [kind, *(rate or (False, False))]
    return msgspec.msgpack.encode(flat)

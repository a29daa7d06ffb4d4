"""The scripts' model in Python: the same transitions over dictionaries, with time as an argument; one call at a time, where the
scripts take those of a write together.

Tests run it side by side with the Lua on a real Redis. A node that has lost Redis decides with it (degraded.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from shared.admission.budget import Bound, set_aside
from shared.admission.cells import Cell
from shared.admission.window import EPOCH_S, Wait, advance, correct


class No(msgspec.Struct, frozen=True):
    """A refusal by `cell`; `retry_ms` -1: never in this form."""

    cell: int
    retry_ms: int
    wanted: int
    remaining: int


class Unseeded(msgspec.Struct, frozen=True):
    cell: int


class Yes(msgspec.Struct, frozen=True):
    """`nearest`: of the request rates and of the token rates the one that is nearest to its end: (cell, remaining, reset_ms),
    zeros where there is none."""

    reserved_nano_usd: int
    output_cap: int | None
    soft_unseeded: int
    nearest: tuple[tuple[int, int, int], tuple[int, int, int]]


def born(boot: str) -> int:
    """When a life of Redis began, in µs; -1 for what is no life of Redis."""
    digits = boot.partition("-")[0]
    return int(digits) if digits.isdecimal() else -1


@dataclass
class BudgetState:
    boot: str
    spent: int = 0
    reserved: int = 0


@dataclass
class Record:
    boot: str
    reserved: int
    rate_tokens: int
    expires_ms: float


@dataclass
class State:
    """What Redis holds for one organisation."""

    tats: dict[bytes, float] = field(default_factory=dict)
    slots: dict[bytes, dict[str, float]] = field(default_factory=dict)
    budgets: dict[bytes, BudgetState] = field(default_factory=dict)
    unconfirmed: dict[bytes, dict[str, int]] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    estimates: dict[str, int] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    def admit(
        self,
        event_id: str,
        boot: str,
        cells: tuple[Cell, ...],
        bound: Bound,
        rate_tokens: int,
        lease_ms: int,
        now_us: float,
    ) -> Yes | No | Unseeded:
        now_ms = math.floor(now_us / 1000) + EPOCH_S * 1000
        no: No | None = None
        left: int | None = None
        left_cell, soft_unseeded = 0, 0
        tats: dict[bytes, float] = {}
        nearest: dict[str, tuple[float, int, float]] = {}
        charged: list[bytes] = []
        for number, cell in enumerate(cells, 1):
            kind = cell.kind.lower()
            if cell.rate is not None:
                cost = 1 if kind == "r" else rate_tokens
                end = advance(cell.rate, self._tat(cell.key, now_us), cost, now_us)
                tats[cell.key] = end.tat_us
                if isinstance(end, Wait):
                    retry_ms = -1 if end.retry_ms is None else end.retry_ms
                    if cell.enforced and (no is None or (no.retry_ms != -1 and (retry_ms == -1 or retry_ms > no.retry_ms))):
                        no = No(number, retry_ms, cost, end.remaining)
                units_left = (cell.rate.span_us - (end.tat_us - now_us)) / cell.rate.us_per_unit
                if kind not in nearest or units_left < nearest[kind][0]:
                    nearest[kind] = units_left, number, end.tat_us - now_us
            elif kind == "c":
                held = self.slots.get(cell.key, {})
                if len(held) >= cell.limit:
                    for gone in [holder for holder, expiry in held.items() if expiry <= now_ms]:
                        del held[gone]
                if len(held) >= cell.limit and cell.enforced and no is None:
                    no = No(number, 1000, 1, 0)
            else:
                state = self.budgets.get(cell.key)
                if state is None or state.boot != boot:
                    if cell.enforced:
                        return Unseeded(number)
                    soft_unseeded += 1
                    continue
                charged.append(cell.key)
                here = cell.limit - state.spent - state.reserved
                if cell.enforced and (left is None or here < left):
                    left, left_cell = here, number
        aside = set_aside(bound, left)
        if aside is None:
            return No(left_cell, -1, bound.full_nano_usd, max(0, left or 0))
        if no is not None:
            return no
        self.tats.update(tats)
        for cell in cells:
            if cell.kind.lower() == "c":
                self.slots.setdefault(cell.key, {})[event_id] = now_ms + lease_ms
        for key in charged:
            self.budgets[key].reserved += aside.reserved_nano_usd
        self.records[event_id] = Record(boot, aside.reserved_nano_usd, rate_tokens, now_ms + lease_ms)
        return Yes(aside.reserved_nano_usd, aside.output_cap, soft_unseeded, (_told(nearest.get("r")), _told(nearest.get("t"))))

    def settle(
        self,
        event_id: str,
        boot: str,
        cells: tuple[Cell, ...],
        cost: int,
        tokens: int,
        now_us: float,
        *,
        estimate: bool = False,
    ) -> int:
        """The first number of settle.lua's reply."""
        record = self.records.pop(event_id, None)
        if record is None and estimate:
            return 0
        if record is not None:
            boot = record.boot
            if estimate:
                cost = record.reserved
                self.estimates[event_id] = cost
        booked_estimate = self.estimates.pop(event_id, None) if record is None else None
        result = 1 if record is not None else 0
        marked: bool | None = None
        for cell in cells:
            kind = cell.kind.lower()
            if kind == "t" and cell.rate is not None:
                if record is not None and not estimate:
                    tat = correct(cell.rate, self._tat(cell.key, now_us), tokens - record.rate_tokens, now_us)
                    if tat is None:
                        self.tats.pop(cell.key, None)
                    else:
                        self.tats[cell.key] = tat
            elif kind == "c":
                self.slots.get(cell.key, {}).pop(event_id, None)
            elif kind == "b":
                state = self.budgets.get(cell.key)
                if state is not None and born(state.boot) < born(boot):
                    state = None  # not yet rebuilt
                if record is not None:
                    if state is None:
                        self.unconfirmed.setdefault(cell.key, {}).setdefault(event_id, cost)
                    else:
                        state.spent += cost
                        if state.boot == boot:
                            state.reserved -= record.reserved
                elif booked_estimate is not None:
                    result = 3
                    if state is None:
                        self.unconfirmed.setdefault(cell.key, {}).setdefault(event_id, cost)
                    else:
                        state.spent += cost - booked_estimate
                elif state is None:
                    waiting = self.unconfirmed.setdefault(cell.key, {})
                    if event_id not in waiting:
                        waiting[event_id] = cost
                        result = 4
                elif state.boot != boot:
                    if marked is None:
                        marked = event_id not in self.done
                        self.done.add(event_id)
                    if marked:
                        state.spent += cost
                        result = 4
        return result

    def _tat(self, key: bytes, now_us: float) -> float | None:
        """A TAT in the past has expired: Redis forgets it a second after it stopped mattering."""
        tat = self.tats.get(key)
        return None if tat is None or tat <= now_us - 1_000_000 else tat


def _told(nearest: tuple[float, int, float] | None) -> tuple[int, int, int]:
    """Cell, remaining, reset_ms."""
    if nearest is None:
        return 0, 0, 0
    units_left, number, ahead_us = nearest
    return number, max(0, math.floor(units_left + 0.000001)), math.ceil(ahead_us / 1000)

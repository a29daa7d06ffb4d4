"""Budgets (pure): what is set aside before a call, and how far its output must be cut to fit.

A cell holds `spent` and `reserved` in nano-USD of one budget in one period. The invariant of a hard budget is
spent + reserved ≤ limit, and since every reservation is an upper bound, spending never passes the limit.
"""

from __future__ import annotations

import math

import msgspec

LEAST_OUTPUT_TOKENS = 16
"""A clamp below this is no answer: the call is refused instead (unless it asked for less)."""


class Bound(msgspec.Struct, frozen=True, gc=False):
    """The upper bound of a call's cost, and what could be cut: `output_cap` tokens for each of `choices`."""

    fixed_nano_usd: int
    full_nano_usd: int
    output_nano_per_mtok: int
    output_cap: int | None
    choices: int

    @property
    def least_output_cap(self) -> int:
        cap = self.output_cap
        return LEAST_OUTPUT_TOKENS if cap is None or cap > LEAST_OUTPUT_TOKENS else cap


class Set(msgspec.Struct, frozen=True):
    """What is reserved, and the output cap that makes it true."""

    reserved_nano_usd: int
    output_cap: int | None


def set_aside(bound: Bound, left_nano_usd: int | None) -> Set | None:
    """Reserve the full bound if it fits, else as much output as is affordable; None when even that is too little.

    The arithmetic is admit.lua's, in doubles, rounded so that the cut never costs more than is left.
    """
    if left_nano_usd is None or bound.full_nano_usd <= left_nano_usd:
        return Set(bound.full_nano_usd, bound.output_cap)
    if bound.output_cap is None or bound.output_nano_per_mtok <= 0 or left_nano_usd <= bound.fixed_nano_usd:
        return None
    fixed, price = float(bound.fixed_nano_usd), float(bound.output_nano_per_mtok)
    left, choices = float(left_nano_usd), float(bound.choices)
    each = float(math.floor(math.floor((left - fixed) * 1_000_000.0 / price) / choices))
    each = min(each, float(bound.output_cap))
    cost = fixed + math.floor(each * choices * price / 1_000_000.0) + 1
    while each > 0 and cost > left:
        each -= 1
        cost = fixed + math.floor(each * choices * price / 1_000_000.0) + 1
    if each < bound.least_output_cap:
        return None
    return Set(int(cost), int(each))

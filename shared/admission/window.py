"""Rate windows as GCRA cells (pure): one number of state each, no window boundary to game, exact Retry-After.

A cell holds its *theoretical arrival time* (TAT) in µs. A cost of n moves it n × `us_per_unit` ahead; a call is refused
when that would put it more than `burst` units ahead of now. So any 60 s admit at most limit + burst, and settling
`actual - reserved` later is one addition, whatever happened in between. The same floats as in admit.lua.
"""

from __future__ import annotations

import math

import msgspec

MINUTE_US = 60_000_000
EPOCH_S = 1_767_225_600
"""2026-01-01: TATs count from here so that a double still resolves 0.004 µs."""
SLACK_US = 0.5
SKEW_US = 1_000_000.0


class Rate(msgspec.Struct, frozen=True):
    """`us_per_unit` stays a float: an integer would collapse above 60 M units a minute."""

    us_per_unit: float
    burst: int

    @staticmethod
    def per_minute(limit: int, burst: int | None = None) -> Rate:
        """Raises ValueError unless limit ≥ 1 and burst ≥ 0."""
        if limit < 1 or (burst is not None and burst < 0):
            raise ValueError("a rate needs a limit of at least 1 and a burst of at least 0")
        return Rate(MINUTE_US / limit, limit if burst is None else burst)

    @property
    def span_us(self) -> float:
        return self.burst * self.us_per_unit


class Passed(msgspec.Struct, frozen=True):
    tat_us: float
    remaining: int
    reset_ms: int


class Wait(msgspec.Struct, frozen=True):
    """`retry_ms` None: the cost alone is above the burst, so no waiting helps."""

    retry_ms: int | None
    remaining: int
    tat_us: float


def advance(rate: Rate, tat_us: float | None, cost: int, now_us: float) -> Passed | Wait:
    """What `cost` units at `now_us` do to a cell."""
    span = rate.burst * rate.us_per_unit
    tat = tat_us or 0.0
    if tat > now_us + span + SKEW_US:
        tat = now_us + span + SKEW_US
    tat = max(tat, now_us)
    new = tat + cost * rate.us_per_unit
    over = new - now_us - span
    if cost > rate.burst or over > SLACK_US:
        retry_ms = None if cost > rate.burst else math.ceil(over / 1000)
        return Wait(retry_ms, max(0, math.floor((span - (tat - now_us)) / rate.us_per_unit)), new)
    remaining = max(0, math.floor((span - (new - now_us)) / rate.us_per_unit + 0.000001))
    return Passed(new, remaining, math.ceil((new - now_us) / 1000))


def correct(rate: Rate, tat_us: float | None, units: int, now_us: float) -> float | None:
    """The cell after `units` more (or fewer) than reserved turned out to be used; None when it is empty again."""
    tat = (now_us if tat_us is None else max(tat_us, now_us)) + units * rate.us_per_unit
    tat = min(tat, now_us + rate.burst * rate.us_per_unit + SKEW_US)
    return None if tat <= now_us else tat

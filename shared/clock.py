"""The clock, as an argument: decisions take a time; hosts hand in this one, tests their own."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now_s(self) -> float:
        """Wall time: Unix seconds."""
        ...

    def monotonic_s(self) -> float:
        """Time that never goes back, for durations."""
        ...


class SystemClock:
    now_s = staticmethod(time.time)
    monotonic_s = staticmethod(time.monotonic)


class FixedClock:
    """A test's clock: stands still until told to move."""

    def __init__(self, now_s: float = 1_767_225_600.0) -> None:
        self._now_s = now_s

    def now_s(self) -> float:
        return self._now_s

    def monotonic_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds


def utc(now_s: float) -> datetime:
    return datetime.fromtimestamp(now_s, tz=UTC)

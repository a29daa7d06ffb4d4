"""Times: when a price is the cheaper one. Hours, weekdays and dates are UTC's; moments are Unix seconds, passed in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date

import msgspec

DAY_S = 86_400
MINUTES_PER_DAY = 1_440
EPOCH = date(1970, 1, 1).toordinal()
LONGEST_DAYS = 7
"""A span of more days than these is not looked at: no call lasts as long."""

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)")


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Every moment outside the peaks, until a day."""

    peaks: tuple[tuple[int, int], ...] = ()
    """Minutes of the day; the second is no longer within."""
    weekends: bool = False
    """Saturdays and Sundays have no peaks."""
    days: tuple[int, ...] = ()
    """Days since 1970-01-01 that have no peaks: holidays."""
    until: int | None = None
    """The first day since 1970-01-01 that is not within any more, nor is any after it."""

    def hold(self, from_s: float, to_s: float) -> bool:
        """Whether all of the span is within. Who does not know which of its moments counts is safe with that."""
        first_s, last_s = (from_s, to_s) if from_s <= to_s else (to_s, from_s)
        first, last = int(first_s // DAY_S), int(last_s // DAY_S)
        if self.until is not None and last >= self.until:
            return False
        if not self.peaks:
            return True
        return last - first <= LONGEST_DAYS and not any(
            first_s < day * DAY_S + end * 60 and last_s >= day * DAY_S + start * 60
            for day in range(first, last + 1)
            if not self._calm(day)
            for start, end in self.peaks
        )

    def told(self) -> str:
        """For people: `except 01:00-04:00, 06:00-10:00 UTC on weekdays, before 2027-01-01`."""
        parts = []
        if self.peaks:
            peaks = ", ".join(f"{_clock(start)}-{_clock(end)}" for start, end in self.peaks)
            parts.append(f"except {peaks} UTC{' on weekdays' if self.weekends else ''}")
        if self.until is not None:
            parts.append(f"before {date.fromordinal(EPOCH + self.until).isoformat()}")
        return ", ".join(parts)

    def _calm(self, day: int) -> bool:
        return (self.weekends and (day + 3) % 7 >= 5) or day in self.days


def read_times(peaks: Sequence[str], *, weekends: bool, days: Iterable[date], until: date | None) -> Times:
    """`["01:00-04:00"]`, whether weekends are without, days without, the first day after → Times.

    Raises ValueError for what are no hours of one day, and where nothing says when.
    """
    if not peaks and until is None:
        raise ValueError("needs peaks, like 01:00-04:00, or until")
    free = tuple(sorted({each.toordinal() - EPOCH for each in days}))
    if not peaks and (weekends or free):
        raise ValueError("has no peaks that weekends or days could be without")
    last = None if until is None else until.toordinal() - EPOCH
    return Times(peaks=tuple(_minutes(each) for each in peaks), weekends=weekends, days=free, until=last)


def _minutes(hours: str) -> tuple[int, int]:
    found = _HOURS.fullmatch(hours)
    if found is None:
        raise ValueError(f"{hours!r} must be hours of a day (UTC), like 01:00-04:00")
    start = int(found[1]) * 60 + int(found[2])
    end = MINUTES_PER_DAY if found[3] is None else int(found[3]) * 60 + int(found[4])
    if start >= end:
        raise ValueError(f"{hours!r} ends before it begins: what goes past midnight are two")
    return start, end


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"

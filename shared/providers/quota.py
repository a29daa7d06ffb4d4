"""Quota (pure): a provider's rate-limit headers → what is left, and how long a connection had better pause.

Which headers a provider has is catalogue data ([rate_limits.…] in its file). How they say a time is not: durations (`1m30s`,
`6ms`), seconds, Unix time in seconds or milliseconds, and dates are told apart by their look.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from shared.domain.catalogue import RateHeaders
from shared.providers.failure import retry_after_s

MOST_PAUSE_S = 3600.0
"""A limit that starts again later than this is asked after again in between."""
DEFAULT_PAUSE_S = 1.0
"""After a 429 that says nothing about when."""
LEAST_TOKENS = 25
"""Tokens that refill bit by bit are worth a call again when one part in so many of them is back."""
PUSHED_BACK = frozenset({429, 503, 529})

_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
_SECONDS = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?")
_UNIX_S, _UNIX_MS = 1_000_000_000, 1_000_000_000_000


class Left(msgspec.Struct, frozen=True):
    """What a provider says of one of its limits. None: it does not say."""

    unit: str
    remaining: float | None
    limit: float | None
    reset_s: float | None
    """From now; when it is whole again if `refills`, else when something is left again."""
    refills: bool = False

    @property
    def pause_s(self) -> float:
        """How long nothing is left; 0 while something is, or when nobody says how long."""
        if self.remaining is None or self.remaining > 0 or self.reset_s is None:
            return 0.0
        if not self.refills:
            return self.reset_s
        parts = self.limit if self.unit == "requests" and self.limit else LEAST_TOKENS
        return self.reset_s / max(parts, 1.0)


def left(known: Sequence[RateHeaders], headers: Mapping[str, str], now_s: float) -> list[Left]:
    """What the response says of each limit that the catalogue names; limits that it is silent about are left out."""
    found = []
    for names in known:
        remaining, limit = _number(headers.get(names.remaining)), _number(headers.get(names.limit))
        reset_s = span_s(headers.get(names.reset), now_s)
        if remaining is not None or limit is not None or reset_s is not None:
            found.append(Left(names.unit, remaining, limit, reset_s, names.refills))
    return found


def pause_s(known: Sequence[RateHeaders], status: int, headers: Mapping[str, str], now_s: float) -> float:
    """How long a connection had better be left alone after this response, in s; 0: not at all.

    `headers` have lower-case names. A refusal's Retry-After has the first word; then what is spent and when it is back.
    """
    if status in PUSHED_BACK:
        told = retry_after_s(headers, now_s)
        if told is not None:
            return min(told, MOST_PAUSE_S)
    elif not known:
        return 0.0
    pause = max((each.pause_s for each in left(known, headers, now_s)), default=0.0)
    if pause == 0.0 and status == 429:
        pause = DEFAULT_PAUSE_S
    return min(pause, MOST_PAUSE_S)


def span_s(value: str | None, now_s: float) -> float | None:
    """`6ms`, `1m30s`, `12`, `1785182400`, `1785182400000`, `2026-11-21T10:00:00Z` → seconds from now, never negative."""
    if value is None:
        return None
    value = value.strip().lower()
    if _NUMBER.fullmatch(value):
        number = float(value)
        if number >= _UNIX_MS:
            return max(0.0, number / 1000 - now_s)
        return max(0.0, number - now_s) if number >= _UNIX_S else number
    duration = _DURATION.fullmatch(value)
    if value and duration is not None:
        return sum(float(part) * unit for part, unit in zip(duration.groups(), _SECONDS, strict=True) if part)
    try:
        at = datetime.fromisoformat(value.upper())
    except ValueError:
        return None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now_s)


def _number(value: str | None) -> float | None:
    return None if value is None or not _NUMBER.fullmatch(value.strip()) else float(value)

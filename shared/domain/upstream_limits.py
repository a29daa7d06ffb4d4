"""What a connection may be asked for: the limits that its provider sets on the account, and how calls wait for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

import msgspec

from shared.domain.limits import Period, period_end, period_start

PACED = 25
"""Unless said otherwise one call in PACED, of a minute's, may go at once; the others are spread over the minute."""


class QuotaUnit(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"
    USD = "usd"


class Window(StrEnum):
    FIVE_HOURS = "5h"
    """Rolling: whatever five hours one looks at."""
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Quota(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """So much in a window. `limit`: calls, tokens or nano-USD; days, weeks (from Monday), months begin at `at_hour` UTC."""

    unit: QuotaUnit
    limit: int
    window: Window
    at_hour: int = 0

    def span(self, at: datetime) -> tuple[str, datetime] | None:
        """What its window at that moment is called and when it ends; None for a rolling one."""
        if self.window is Window.FIVE_HOURS:
            return None
        shift = timedelta(hours=self.at_hour)
        period, shifted = Period(self.window), at.astimezone(UTC) - shift
        end = period_end(period, shifted)
        assert end is not None
        return period_start(period, shifted).date().isoformat(), end + shift


class Queue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How calls wait: at most `most` of them, on all nodes together, each at most `wait_s`."""

    most: int = 100
    wait_s: float = 10.0


class UpstreamLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits of one connection over all nodes. None: not limited.

    Without a burst of its own no 60 s hold more than the minute's limit: `burst` calls may go at once and the others follow
    evenly. A burst that is given comes on top: then 60 s hold at most limit + burst - 1.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    burst_requests: int | None = None
    burst_tokens: int | None = None
    min_gap_ms: int | None = None
    concurrent_requests: int | None = None
    adaptive: bool = True
    """Whether concurrency falls when the provider pushes back and rises again; `concurrent_requests` is its ceiling."""
    queue: Queue = Queue()
    quotas: tuple[Quota, ...] = ()


def pace(limit: int | None, burst: int | None) -> tuple[float, int]:
    """µs per unit and units at once of a limit per minute; (0.0, 0) when there is none."""
    if limit is None:
        return 0.0, 0
    if burst is not None:
        return 60_000_000 / limit, burst
    burst = 1 + limit // PACED
    return 60_000_000 / (limit - burst + 1), burst

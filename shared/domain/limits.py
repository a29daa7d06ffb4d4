"""Limits and budgets: what they bound, for whom, how strictly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

import msgspec


class Scope(StrEnum):
    ORGANISATION = "organisation"
    TEAM = "team"
    KEY = "key"


class Mode(StrEnum):
    """`enforce` refuses; `shadow` counts and reports what it would have refused."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """Rates and concurrency of one organisation, team or key. `None` means unlimited; a burst defaults to its limit."""

    scope: Scope
    scope_id: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    burst_requests: int | None = None
    burst_tokens: int | None = None
    mode: Mode = Mode.ENFORCE


class Period(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Money that one organisation, team or key may spend in a UTC period. A soft budget counts and warns."""

    budget_id: str
    scope: Scope
    scope_id: str
    limit_nano_usd: int
    period: Period
    hard: bool = True


def period_start(period: Period, at: datetime) -> datetime:
    """First instant of the UTC period that holds `at`. Weeks begin on Monday (ISO 8601); `total` began in 1970."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match period:
        case Period.DAY:
            return day
        case Period.WEEK:
            return day - timedelta(days=day.weekday())
        case Period.MONTH:
            return day.replace(day=1)
        case Period.TOTAL:
            return datetime(1970, 1, 1, tzinfo=UTC)


def period_end(period: Period, at: datetime) -> datetime | None:
    """First instant after the period that holds `at`; None for `total`."""
    start = period_start(period, at)
    match period:
        case Period.DAY:
            return start + timedelta(days=1)
        case Period.WEEK:
            return start + timedelta(days=7)
        case Period.MONTH:
            return (start + timedelta(days=32)).replace(day=1)
        case Period.TOTAL:
            return None

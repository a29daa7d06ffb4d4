"""Limits of connections: when windows begin and end, and that no minute holds more than its limit."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.upstream_limits import Quota, QuotaUnit, Window, pace
from shared.upstream.slots.cells import compile_cells
from shared.upstream.slots.model import GRANTED, State
from tests.upstream.slots.conftest import limits


@pytest.mark.parametrize(
    ("window", "at_hour", "at", "label", "end"),
    [
        (Window.DAY, 0, "2026-11-21T10:00", "2026-11-21", "2026-11-22T00:00"),
        (Window.DAY, 10, "2026-11-21T09:59", "2026-11-20", "2026-11-21T10:00"),
        (Window.DAY, 10, "2026-11-21T10:00", "2026-11-21", "2026-11-22T10:00"),
        (Window.WEEK, 6, "2026-11-23T05:00", "2026-11-16", "2026-11-23T06:00"),
        (Window.MONTH, 3, "2026-12-01T02:00", "2026-11-01", "2026-12-01T03:00"),
        (Window.MONTH, 0, "2026-12-31T23:00", "2026-12-01", "2027-01-01T00:00"),
    ],
)
def test_windows_begin_at_their_hour(window: Window, at_hour: int, at: str, label: str, end: str) -> None:
    quota = Quota(unit=QuotaUnit.TOKENS, limit=1, window=window, at_hour=at_hour)
    moment, ends = (datetime.fromisoformat(value).replace(tzinfo=UTC) for value in (at, end))
    assert quota.span(moment) == (label, ends)


def test_five_hours_roll() -> None:
    assert Quota(unit=QuotaUnit.TOKENS, limit=1, window=Window.FIVE_HOURS).span(datetime.now(UTC)) is None


@given(limit=st.integers(1, 400), waits_ms=st.lists(st.integers(0, 400), max_size=300))
def test_no_minute_holds_more_than_its_limit(limit: int, waits_ms: list[int]) -> None:
    cells, state, now_us, went = compile_cells("c", limits(requests_per_minute=limit), 1_800_000_000.0), State(), 0.0, []
    for number, wait_ms in enumerate([*waits_ms, *[0] * limit]):
        now_us += wait_ms * 1000.0
        said = state.take(cells, now_us, "node", lambda *_: True, str(number), "org", 0, 0, 0)
        if said[0] == GRANTED:
            went.append(now_us)
    for start in went:
        assert sum(start <= at < start + 60_000_000 for at in went) <= limit


def test_a_minute_can_be_used_to_96_parts_of_a_hundred() -> None:
    for limit in (1, 10, 24, 25, 60, 500, 10_000):
        us_per_unit, burst = pace(limit, None)
        assert 60_000_000 / us_per_unit / limit >= 0.96
        assert burst == 1 + limit // 25
    assert pace(60, 60) == (1_000_000.0, 60)
    assert pace(None, None) == (0.0, 0)

"""When a price is the cheaper one, against a model that looks at every minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.money import Price, cost_nano_usd
from shared.domain.times import Times, read_times
from shared.domain.usage import Usage

PEAKS = ["01:00-04:00", "06:00-10:00"]
MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


def seconds(moment: datetime) -> float:
    return moment.timestamp()


def deepseeks(**more: object) -> Times:
    return read_times(PEAKS, weekends=True, days=more.get("days", ()), until=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("clock", "cheap"),
    [("00:59:59", True), ("01:00:00", False), ("03:59:59", False), ("04:00:00", True), ("06:00:00", False), ("10:00:00", True)],
)
@pytest.mark.parametrize(("day", "week"), [(0, True), (4, True), (5, False), (6, False), (7, True)])
def test_a_peak_begins_and_ends_to_the_second_on_weekdays(clock: str, cheap: bool, day: int, week: bool) -> None:
    hours, minutes, rest = map(int, clock.split(":"))
    now_s = seconds(MONDAY + timedelta(days=day, hours=hours, minutes=minutes, seconds=rest))
    assert deepseeks().hold(now_s, now_s) is (cheap or not week)


@pytest.mark.parametrize(
    ("start", "end", "cheap"),
    [
        ("00:30", "00:59", True), ("00:30", "01:00", False), ("03:59", "04:30", False), ("04:00", "05:59", True),
        ("04:30", "11:00", False), ("23:00", "24:30", True), ("23:00", "25:00", False),
    ],
)  # fmt: skip
def test_a_call_that_touches_a_peak_is_not_cheap_whichever_moment_counts(start: str, end: str, cheap: bool) -> None:
    def at(clock: str) -> float:
        hours, minutes = map(int, clock.split(":"))
        return seconds(MONDAY + timedelta(hours=hours, minutes=minutes))

    assert deepseeks().hold(at(start), at(end)) is cheap
    assert deepseeks().hold(at(end), at(start)) is cheap  # a clock that was set back


def test_holidays_have_no_peaks_and_what_ends_ends() -> None:
    peak_s = seconds(MONDAY + timedelta(hours=2))
    assert deepseeks(days=[date(2026, 11, 23)]).hold(peak_s, peak_s)
    assert not deepseeks(days=[date(2026, 11, 24)]).hold(peak_s, peak_s)
    ends = read_times([], weekends=False, days=[], until=date(2027, 1, 1))
    last_s = seconds(datetime(2027, 1, 1, tzinfo=UTC))
    assert ends.hold(last_s - 60, last_s - 1)
    assert not ends.hold(last_s - 60, last_s)
    assert ends.told() == "before 2027-01-01"
    assert deepseeks().told() == "except 01:00-04:00, 06:00-10:00 UTC on weekdays"


@given(
    st.lists(st.tuples(st.integers(0, 1439), st.integers(1, 1440)).filter(lambda each: each[0] < each[1]), max_size=3),
    st.booleans(), st.sets(st.integers(20_780, 20_790), max_size=3), st.none() | st.integers(20_780, 20_790),
    st.integers(20_780 * 1440, 20_790 * 1440), st.integers(0, 3000),
)  # fmt: skip
def test_a_span_is_cheap_if_each_of_its_minutes_is(
    peaks: list[tuple[int, int]], weekends: bool, days: set[int], until: int | None, start: int, length: int
) -> None:
    times = Times(peaks=tuple(peaks), weekends=weekends, days=tuple(days), until=until)

    def cheap(minute: int) -> bool:
        day = minute // 1440
        if until is not None and day >= until:
            return False
        if day in days or (weekends and datetime.fromtimestamp(minute * 60, UTC).weekday() >= 5):
            return True
        return not any(first <= minute % 1440 < last for first, last in peaks)

    assert times.hold(start * 60, (start + length) * 60) is all(map(cheap, range(start, start + length + 1)))


def test_a_span_longer_than_any_call_is_never_cheap() -> None:
    assert not deepseeks().hold(0, 1e12)


@pytest.mark.parametrize("hours", ["1:00-04:00", "01:00-24:01", "04:00-01:00", "01:00-01:00", "01:00", "25:00-26:00", ""])
def test_what_are_no_hours_of_one_day_is_refused(hours: str) -> None:
    with pytest.raises(ValueError, match=r"must be hours|ends before"):
        read_times([hours], weekends=False, days=[], until=None)


def test_times_need_peaks_or_an_end() -> None:
    for weekends, days in ((False, []), (True, []), (False, [date(2026, 1, 1)])):
        with pytest.raises(ValueError, match="needs peaks"):
            read_times([], weekends=weekends, days=days, until=None)
    with pytest.raises(ValueError, match="no peaks that weekends"):
        read_times([], weekends=True, days=[], until=date(2027, 1, 1))
    assert read_times(["18:00-24:00"], weekends=False, days=[], until=None).peaks == ((1080, 1440),)


def test_what_is_not_of_the_tokens_costs_the_same_at_cheaper_times() -> None:
    price = Price(input_nano_per_mtok=2_000_000, output_nano_per_mtok=4_000_000, request_nano=5, minute_nano=60_000)
    made = price.with_cheaper(Price(input_nano_per_mtok=1_000_000, output_nano_per_mtok=2_000_000), deepseeks())
    usage = Usage(input_tokens=10, output_tokens=10, audio_ms=1000)
    calm_s, peak_s = seconds(MONDAY), seconds(MONDAY + timedelta(hours=2))
    assert cost_nano_usd(usage, made.during(calm_s, calm_s)) == 10 + 20 + 5 + 1000
    assert cost_nano_usd(usage, made.during(calm_s, peak_s)) == cost_nano_usd(usage, price) == 20 + 40 + 5 + 1000
    assert price.during(calm_s, calm_s) is price


@pytest.mark.parametrize(
    ("cheaper", "kind"),
    [
        (Price(input_nano_per_mtok=3, output_nano_per_mtok=4), "input"),
        (Price(input_nano_per_mtok=2, output_nano_per_mtok=5), "output"),
        (Price(input_nano_per_mtok=2, output_nano_per_mtok=4), "cache_read"),
        (Price(input_nano_per_mtok=1, output_nano_per_mtok=4, reasoning_nano_per_mtok=5), "reasoning"),
    ],
)
def test_a_price_that_is_not_cheaper_for_every_kind_is_refused(cheaper: Price, kind: str) -> None:
    price = Price(input_nano_per_mtok=2, output_nano_per_mtok=4, cache_read_nano_per_mtok=1)
    with pytest.raises(ValueError, match=f"^{kind} would cost more"):
        price.with_cheaper(cheaper, deepseeks())

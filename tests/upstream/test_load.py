"""What a node remembers of its deployments: counts, a moving average, quantiles."""

from __future__ import annotations

from random import Random

import pytest

from shared.upstream import load
from shared.upstream.load import Load


class At:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def test_what_is_in_flight_and_when_it_was_used() -> None:
    at = At()
    made = Load(at)
    made.started("a")
    at.s += 5
    made.started("a")
    made.ended("a")
    seen = made.figures["a"]
    assert (seen.in_flight, seen.uses, seen.last_use_s) == (1, 2, 1005.0)
    made.ended("a")
    made.ended("a")
    made.ended("never started")
    assert made.figures["a"].in_flight == 0


def test_the_average_follows_with_a_time_constant_of_ten_seconds() -> None:
    at = At()
    made = Load(at)
    made.first_token("a", 1.0)
    at.s += 10
    made.first_token("a", 2.0)
    assert made.figures["a"].ttft_s == pytest.approx(1 + (1 - 1 / 2.718281828), rel=1e-6)
    at.s += 1000
    made.first_token("a", 0.5)
    assert made.figures["a"].ttft_s == pytest.approx(0.5)


def test_throughput_is_averaged() -> None:
    made = Load(At())
    made.started("a")
    made.ended("a", 100.0)
    made.ended("a", 50.0)
    assert made.figures["a"].tokens_per_s == pytest.approx(90)


@pytest.mark.parametrize("part", [0.5, 0.95, 0.99])
def test_a_quantile_is_within_five_percent(part: float) -> None:
    at, chance = At(), Random(7)
    made, samples = Load(at), []
    for _ in range(5_000):
        at.s += 0.01
        samples.append(chance.lognormvariate(-0.5, 0.8))
        made.first_token("a", samples[-1])
    found = made.quantile("a", part)
    assert found == pytest.approx(sorted(samples)[int(part * len(samples))], rel=0.08)


def test_with_few_samples_or_none_there_is_no_quantile() -> None:
    made = Load(At())
    assert made.quantile("a", 0.95) is None
    for number in range(20):
        assert made.quantile("a", 0.95) is None, number
        made.first_token("a", 1.0)
    assert made.quantile("a", 0.95) is not None


def test_what_is_old_counts_for_little() -> None:
    at = At()
    made = Load(at)
    for _ in range(100):
        made.first_token("a", 10.0)
    at.s += 4 * load.SKETCH_DECAY_S
    for _ in range(100):
        made.first_token("a", 0.1)
    assert made.quantile("a", 0.95) == pytest.approx(0.1, rel=0.06)


def test_weights_are_scaled_down_before_they_overflow() -> None:
    at = At()
    made = Load(at)
    for _ in range(2_000):
        at.s += 60
        made.first_token("a", 0.3)
    assert made.quantile("a", 0.5) is None  # one a minute is too little evidence at a decay of five
    for _ in range(50):
        made.first_token("a", 0.3)
    assert made.quantile("a", 0.5) == pytest.approx(0.3, rel=0.06)


@pytest.mark.parametrize("ttft_s", [0.0, 1e-9, 1e9])
def test_odd_times_do_no_harm(ttft_s: float) -> None:
    made = Load(At())
    for _ in range(30):
        made.first_token("a", ttft_s)
    assert made.quantile("a", 0.9) is not None


def test_turns_count_up_from_a_random_place_and_peeking_does_not_count() -> None:
    made = Load(At(), Random(3).random)
    first = made.peek("fast")
    assert [made.turn("fast"), made.turn("fast"), made.peek("fast")] == [first, first + 1, first + 2]
    assert made.turn("other") != first


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MOST", 10)
    at = At()
    made = Load(at)
    made.started("busy")
    for number in range(100):
        at.s += 1
        made.started(str(number))
        made.ended(str(number))
        made.turn(str(number))
    assert len(made.figures) <= 10
    assert {"busy", "99"} <= set(made.figures)


def test_an_outage_begins_with_a_failure_and_ends_by_itself() -> None:
    """Half a minute after the last failure, or as soon as fewer than a fifth of the calls since the first one fail."""
    now_s = 100.0
    load = Load(clock_s=lambda: now_s)

    def call(*, failed: bool = False) -> bool:
        load.started("a")
        load.ended("a", failed=failed)
        return load.recent_outage("a")

    assert not any(call() for _ in range(1000))
    assert call(failed=True)
    assert [call() for _ in range(5)] == [True, True, True, True, False]
    assert call(failed=True)  # two of seven
    now_s = 129.9
    assert load.recent_outage("a")
    now_s = 130.0
    assert not load.recent_outage("a")
    assert not call()
    assert call(failed=True)  # one of one: what was before is forgotten
    assert not load.recent_outage("never asked")


def test_an_outage_after_a_long_bad_day_is_one() -> None:
    load = Load(clock_s=lambda: 1.0)

    def call(*, failed: bool = False) -> bool:
        load.started("a")
        load.ended("a", failed=failed)
        return load.recent_outage("a")

    day = [call(failed=at % 10 == 0) for at in range(5000)]
    assert not any(day[100:])
    assert any(call(failed=True) for _ in range(10))

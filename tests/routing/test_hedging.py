"""The hedge budget: a twentieth of the calls, whatever happens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.routing.hedging import MOST_SAVED, SHARE, HedgeBudget


@given(st.lists(st.booleans(), max_size=2_000))
def test_never_more_than_a_twentieth_of_the_calls(wanted: list[bool]) -> None:
    budget, granted = HedgeBudget(), 0
    for calls, slow in enumerate(wanted, 1):
        budget.deposit()
        granted += slow and budget.withdraw()
        assert granted <= calls * SHARE + 1e-6


def test_when_every_call_is_slow_it_stays_at_a_twentieth_and_a_little_that_was_saved() -> None:
    budget = HedgeBudget()
    for _ in range(10_000):
        budget.deposit()
    granted = 0
    for _ in range(1_000):
        budget.deposit()
        granted += budget.withdraw()
    assert 1_000 * SHARE <= granted <= 1_000 * SHARE + MOST_SAVED

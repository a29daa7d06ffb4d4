"""The retry budget: a tenth of the calls, and a little for quiet nodes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.routing.retries import MOST_SAVED, RESERVE, RESERVE_PER_S, RetryBudget


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=400))
def test_never_more_than_a_tenth_of_the_calls_and_the_reserve(steps: list[tuple[float, bool]]) -> None:
    """Each step: so much later a call comes, and maybe it wants another attempt."""
    budget, now_s, granted = RetryBudget(), 0.0, 0
    for calls, (later_s, retry) in enumerate(steps, 1):
        now_s += later_s
        budget.deposit()
        granted += retry and budget.withdraw(now_s)
        assert granted <= calls / 10 + RESERVE + now_s * RESERVE_PER_S + 1e-6


def test_what_quiet_times_saved_carries_a_burst_and_then_a_tenth_goes_on() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.deposit()
    assert sum(budget.withdraw(0.0) for _ in range(1_000)) == int(MOST_SAVED + RESERVE)
    granted = 0
    for _ in range(1_000):
        budget.deposit()
        granted += budget.withdraw(0.0)
    assert 98 <= granted <= 101

"""The bench's decisions can still be made: it is not run with every change."""

from __future__ import annotations

from typing import Any

from shared.domain.routing import Strategy
from tests.bench import decision


def test_every_decision_that_the_bench_measures_is_made() -> None:
    found: dict[str, Any] = decision.measured(calls=1, rounds=1)
    assert {each.value for each in Strategy} <= set(found["us"])

"""Counted: how much a property test really ran, as its own code counts it. conftest.py adds it up over all processes."""

from __future__ import annotations

from collections import Counter

REQUESTS, BODIES, ANSWERS, STREAMS, SPLITS = "requests encoded", "bodies decoded", "answers decoded", "streams cut", "splits"
COUNTS: Counter[str] = Counter()
"""Of the test that runs now, in this process."""


def total(parts: list[dict[str, int]]) -> str:
    """`180,000 requests encoded, 41,000,000 splits`: the sums, in the order above."""
    sums: Counter[str] = Counter()
    for part in parts:
        sums.update(part)
    return ", ".join(f"{sums[name]:,} {name}" for name in (REQUESTS, BODIES, ANSWERS, STREAMS, SPLITS) if sums[name])

"""What the property tests ran is said at the end, over all processes: it travels with each test's report."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from tests.wire.counted import COUNTS, total

PROPERTY = "codec_counts"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    COUNTS.clear()
    try:
        return (yield)
    finally:
        if COUNTS:
            item.user_properties.append((PROPERTY, dict(COUNTS)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for group in ("passed", "failed") for report in terminalreporter.stats.get(group, ())]
    parts = [value for report in reports for name, value in report.user_properties if name == PROPERTY]
    if parts:
        terminalreporter.section("codecs, counted")
        terminalreporter.write_line(total(parts))

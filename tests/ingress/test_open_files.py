"""A node asks for the open files that its calls need; systems begin with few."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import logging, resource, sys
from services.ingress.open_files import allow
logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(allow({calls}), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "calls", "allowed", "soft_then", "warns"),
    [
        pytest.param(64, 2_000, 500, 1_256, 1_256, False, id="as many as it needs, and no more"),
        pytest.param(64, 1_000, 500, 1_000, 1_000, True, id="up to the hard limit, and it says so"),
        pytest.param(1_500, 2_000, 500, 1_256, 1_500, False, id="enough already: nothing is changed"),
    ],
)
def test_a_node_asks_for_the_files_that_its_calls_need(
    soft: int, hard: int, calls: int, allowed: int, soft_then: int, *, warns: bool
) -> None:
    program = PROGRAM.format(soft=soft, hard=hard, calls=calls)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [int(number) for number in done.stdout.split()] == [allowed, soft_then, hard]
    assert ("may need 1256" in done.stderr) == warns

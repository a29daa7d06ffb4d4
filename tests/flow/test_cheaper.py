"""A price that depends on the time: the dearer one is set aside, the one that held is booked and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.flow.inside import inside

HALF = {"input": "0.5", "output": "1"}
FOREVER, OVER = "9999-01-01", "2000-01-01"


@pytest.mark.parametrize(("until", "part", "version"), [(FOREVER, 2, "v, cheaper"), (OVER, 1, "v")])
async def test_the_price_that_held_is_booked(
    database_url: str, redis_url: str, tmp_path: Path, until: str, part: int, version: str
) -> None:
    prices: dict[str, Any] = {"input": "1", "output": "2", "version": "v", "cheaper": HALF | {"until": until}}
    async with inside(database_url, redis_url, tmp_path, providers=1, prices=prices) as node:
        answer = await node.chat(stream=False)
        (event,) = await node.events()
        held = await node.held()
    assert answer.refusal is None
    assert event.cost_nano_usd == (event.input_tokens * 1000 + event.output_tokens * 2000) // part > 0
    assert (event.price_version, event.unpriced) == (version, False)
    assert held == {"spent": event.cost_nano_usd, "reserved": 0}

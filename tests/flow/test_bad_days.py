"""Providers on a bad day: 99.4 of 100 calls are answered, and of the streams 2 of 100 break off in the middle."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from shared.routing.retries import RetryBudget
from tests.flow.inside import Inside, inside, route, routed

SAID = " ".join(f"{word}\n" if at % 7 == 6 else word for at, word in enumerate(f"word{n}" for n in range(40)))
WHOLE = f"You said: {SAID}"
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "times": {"type": "integer"}},
            "required": ["place", "times"],
        },
    },
}
BREAKS = ("cut-after-3", "reset-after-9", "error-event-after-17", "end-after-24")
CALLS = [
    pytest.param(300, id="short", marks=pytest.mark.chaos),
    pytest.param(6_000, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
]


@pytest.mark.parametrize("calls", CALLS)
async def test_every_call_ends_well_or_with_an_honest_error(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    routed(monkeypatch, route(continuation=True))
    async with inside(database_url, redis_url, tmp_path, kinds=("demo", "demo-messages", "mistral")) as node:
        share = 0.02
        if calls < 1_000:  # more of it, so that a short run sees some
            share, node.gateway.retries = 0.2, RetryBudget(share=1.0)
        for provider in node.providers:
            provider.state.keep = 10
            provider.fail("fail-503", share=0.006)
            for fault in BREAKS:
                provider.fail(fault, share=share / len(BREAKS))
        ends: Counter[str] = Counter()
        chance, left = Random(8), iter(range(calls))

        async def client() -> None:
            for _ in left:
                ends[await one(node, chance.random())] += 1

        await asyncio.gather(*(client() for _ in range(10)))
        events = await node.events()
        held = await node.held()
    counted = {result: node.counted("continuations", result) for result in ("tried", "ended_well")}
    print(dict(ends), counted)
    assert ends.total() == calls
    assert ends["lied"] == 0
    assert ends["well"] / calls >= (0.99 if calls > 1_000 else 0.9)
    assert counted["ended_well"] > 0.7 * counted["tried"] > 0
    assert held == {"spent": sum(event.cost_nano_usd for event in events), "reserved": 0}


async def one(node: Inside, kind: float) -> str:
    """How a call of some kind ended: `well`, with an honest `error`, or `lied`: text twice or lost, a broken tool call."""
    if kind < 0.15:
        answer = await node.chat(SAID, tools=[TOOL], tool_choice="required", max_tokens=1_000)
        deltas = [choice["delta"] for event in answer.events for choice in event.get("choices", ())]
        calls = [call for delta in deltas for call in delta.get("tool_calls") or ()]
        if not answer.ended_well:
            return "error" if answer.refusal is not None or "error" in answer.events[-1] else "lied"
        arguments = json.loads("".join(call["function"].get("arguments") or "" for call in calls))
        return "well" if set(arguments) == {"place", "times"} and answer.text == "" else "lied"
    if kind < 0.3:
        answer = await node.chat(SAID, stream=False, max_tokens=1_000)
        if answer.refusal is not None:
            return "error"
        return "well" if json.loads(answer.body)["choices"][0]["message"]["content"] == WHOLE else "lied"
    answer = await node.chat(SAID, max_tokens=1_000)
    if answer.ended_well:
        return "well" if answer.text == WHOLE else "lied"
    if answer.refusal is not None and not answer.body:
        return "error"
    return "error" if "error" in answer.events[-1] and WHOLE.startswith(answer.text) else "lied"

"""Continuation: one stream of two providers, exact to the byte and to the nano-USD; or an honest error."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shared.domain.catalogue import WireFormat
from shared.domain.usage import Outcome
from shared.routing.retries import RetryBudget
from tests.flow.inside import Answer, Inside, inside, route, routed

SAID = "one  two three four\n\nfive six seven\n    eight nine ten eleven twelve"
WHOLE = f"You said: {SAID}"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CHAT = ("mistral", "mistral")
KINDS = [CHAT, ("demo", "demo-messages"), ("demo-messages", "demo"), ("demo-messages", "demo-messages"), ("kimi", "qwen-api"),
         ("vllm", "vllm")]  # fmt: skip


@pytest_asyncio.fixture
async def node(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Inside]:
    routed(monkeypatch, route(continuation=True))
    kinds = getattr(request, "param", CHAT)
    async with inside(database_url, redis_url, tmp_path, kinds=kinds) as started:
        yield started


async def check_money(node: Inside, count: int) -> None:
    """So many events; what they say is what the budget spent, and nothing stays set aside."""
    events = await node.events()
    assert len(events) == count
    for event in events:
        assert event.cost_nano_usd == event.input_tokens * 1_000 + event.output_tokens * 2_000
    assert await node.held() == {"spent": sum(event.cost_nano_usd for event in events), "reserved": 0}


def one_stream(answer: Answer) -> None:
    """What a chat client sees is one stream, whole."""
    events = answer.events
    assert len({event["id"] for event in events}) == 1
    assert {event["model"] for event in events} == {"lab0/chat"}
    deltas = [choice for event in events for choice in event["choices"]]
    assert {choice["index"] for choice in deltas} == {0}
    assert [choice["delta"]["role"] for choice in deltas if "role" in choice["delta"]] == ["assistant"]
    assert [choice["finish_reason"] for choice in deltas if choice["finish_reason"]] == ["stop"]
    assert answer.ended_well


@pytest.mark.parametrize("node", KINDS, indirect=True)
async def test_whatever_the_seam_it_is_one_text(node: Inside) -> None:
    """Before, within and after white space."""
    first, second = node.providers[:2]
    node.gateway.retries = RetryBudget(share=1.0)
    for after in range(1, 16):
        first.reset()
        first.fail(f"cut-after-{after}", times=1)
        answer = await node.chat(SAID, stream_options={"include_usage": True})
        assert answer.text == WHOLE
        one_stream(answer)
        events = (await node.events())[-2:]
        by = {event.connection: event for event in events}
        assert (by["lab0"].outcome, by["lab1"].outcome) == (Outcome.CUT, Outcome.OK)
        assert by["lab1"].event_id == by["lab0"].request_id == answer.headers["x-request-id"]
        assert by["lab1"].decision is not None
        assert [each.result for each in by["lab1"].decision.tried] == ["cut", "ok"]
        usage = answer.events[-1]["usage"]
        assert usage["prompt_tokens"] == sum(event.input_tokens for event in events)
        assert usage["completion_tokens"] == sum(event.output_tokens for event in events)
    assert len(second.requests) == 15
    await check_money(node, 30)
    assert [node.counted("continuations", result) for result in ("tried", "ended_well")] == [15, 15]


@pytest.mark.parametrize(
    "fault", ["reset-after-6", "end-after-6", "malformed-after-6", "error-event-after-6", "stall-after-6", "truncated-json"]
)
async def test_however_it_breaks(node: Inside, fault: str) -> None:
    node.providers[0].fail(fault)
    answer = await node.chat(SAID)
    assert answer.text == WHOLE
    one_stream(answer)
    await check_money(node, 2)


CLIENTS: dict[WireFormat, dict[str, Any]] = {
    WireFormat.ANTHROPIC_MESSAGES: {"messages": [{"role": "user", "content": SAID}], "max_tokens": 60},
    WireFormat.OPENAI_RESPONSES: {"input": SAID, "max_output_tokens": 60},
    WireFormat.COHERE: {"messages": [{"role": "user", "content": SAID}], "max_tokens": 60},
}


@pytest.mark.parametrize("client", CLIENTS)
async def test_every_client_format_gets_what_it_would_from_one_provider(node: Inside, client: WireFormat) -> None:
    """But for usage, which is of both."""
    whole = await node.call(wire_format=client, stream=True, **CLIENTS[client])
    node.providers[0].fail("cut-after-7")
    joined = await node.call(wire_format=client, stream=True, **CLIENTS[client])

    def shape(answer: Answer) -> list[Any]:
        made: list[Any] = []
        for event in answer.events:
            kind, text = event["type"], text_of(event)
            if made and text and made[-1][0] == kind and made[-1][1]:
                made[-1] = (kind, made[-1][1] + text)
            else:
                made.append((kind, text))
        return made

    assert shape(joined) == shape(whole)
    assert json.dumps(WHOLE)[1:-1] in json.dumps(shape(joined))


def text_of(event: dict[str, Any]) -> str:
    delta = event.get("delta")
    if isinstance(delta, str):
        return delta
    content = (delta or {}).get("message", {}).get("content", {})
    return str((delta or {}).get("text") or (content.get("text") if isinstance(content, dict) else "") or "")


UNSAFE: list[tuple[str, dict[str, Any]]] = [
    ("tools", {"tools": [TOOL]}),
    ("reasoning", {}),
    ("json", {"response_format": {"type": "json_object"}}),
    ("chat", {"stop": ["You said: one tw"]}),
    ("chat", {"messages": [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "You"}]}),
]


@pytest.mark.parametrize("node", [("demo", "demo")], indirect=True)
@pytest.mark.parametrize(("model", "fields"), UNSAFE)
async def test_what_is_not_safe_ends_with_an_error(node: Inside, model: str, fields: dict[str, Any]) -> None:
    node.providers[0].fail(f"{model}+cut-after-3")
    body: dict[str, Any] = {"messages": [{"role": "user", "content": SAID}], "stream": True, "max_tokens": 60} | fields
    answer = await node.call(**body)
    assert not answer.ended_well
    assert "error" in answer.events[-1]
    assert node.providers[1].requests == []
    await check_money(node, 1)


@pytest.mark.parametrize("node", [("mistral", "custom")], indirect=True)
async def test_a_deployment_that_cannot_go_on_from_a_text_is_not_asked(node: Inside) -> None:
    node.providers[0].fail("cut-after-5")
    answer = await node.chat(SAID)
    assert "error" in answer.events[-1]
    assert WHOLE.startswith(answer.text)
    assert node.providers[1].requests == []


@pytest.mark.parametrize("node", [("mistral", "custom", "mistral")], indirect=True)
async def test_the_next_that_can_is_asked_and_may_fail_too(node: Inside) -> None:
    node.providers[0].fail("cut-after-5")
    answer = await node.chat(SAID)
    assert answer.text == WHOLE
    assert [len(each.requests) for each in node.providers] == [1, 0, 1]
    node.providers[2].fail("fail-503")
    answer = await node.chat(SAID)
    assert "error" in answer.events[-1]
    assert WHOLE.startswith(answer.text)


@pytest.mark.parametrize("node", [("mistral", "demo-messages", "demo")], indirect=True)
async def test_three_legs_are_one_stream_and_three_events(node: Inside) -> None:
    node.providers[0].fail("cut-after-4")
    node.providers[1].fail("error-event-after-4")
    answer = await node.chat(SAID, stream_options={"include_usage": True})
    assert answer.text == WHOLE
    one_stream(answer)
    await check_money(node, 3)
    events = await node.events()
    assert answer.events[-1]["usage"]["completion_tokens"] == sum(event.output_tokens for event in events)
    assert [node.counted("continuations", result) for result in ("tried", "ended_well")] == [2, 1]


@pytest.mark.parametrize("node", [("demo", "demo")], indirect=True)
async def test_the_cap_holds_for_both_legs(node: Inside) -> None:
    node.providers[0].fail("long-60+cut-after-20")
    node.providers[1].fail("long-60")
    answer = await node.chat(SAID, max_tokens=50)
    events = await node.events()
    assert sum(event.output_tokens for event in events) <= 50
    assert [e["choices"][0]["finish_reason"] for e in answer.events if e["choices"]][-1] == "length"


async def test_a_model_that_begins_to_think_anew_does_not_go_on(node: Inside) -> None:
    node.providers[0].fail("cut-after-5")
    node.providers[1].fail("reasoning")
    answer = await node.chat(SAID)
    assert "error" in answer.events[-1]
    assert WHOLE.startswith(answer.text)
    await check_money(node, 2)


async def test_a_finish_whose_end_is_lost_is_a_finish(node: Inside) -> None:
    """The connection breaks between the last event and [DONE]."""
    node.providers[0].fail("no-done+split-40")
    answer = await node.chat(SAID)
    assert answer.text == WHOLE
    assert answer.ended_well
    assert node.providers[1].requests == []


async def test_an_embedding_and_a_whole_answer_are_as_ever(node: Inside) -> None:
    node.providers[0].fail("cut-after-5")
    answer = await node.chat(SAID, stream=False)
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == WHOLE
    assert node.counted("continuations", "tried") == 0


@pytest.mark.parametrize(("budget", "goes_on"), [(1_200_000, True), (610_000, False)])
async def test_a_budget_covers_both_legs_or_the_stream_ends(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int, goes_on: bool
) -> None:
    """Output is as cheap as input here, so a longer prompt is not paid for by a shorter answer: more is set aside for it."""
    routed(monkeypatch, route(continuation=True))
    async with inside(
        database_url, redis_url, tmp_path, kinds=CHAT, budget_nano=budget, prices={"input": "0.5", "output": "0.5"}
    ) as node:
        node.providers[0].fail("long-80+cut-after-60")
        node.providers[1].fail("long-80")
        answer = await node.chat(SAID, max_tokens=300)
        assert answer.ended_well is goes_on
        held = await node.held()
        events = await node.events()
        assert held == {"spent": sum(event.cost_nano_usd for event in events), "reserved": 0}
        assert held["spent"] <= budget
        assert len(events) == 1 + goes_on

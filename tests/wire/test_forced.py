"""A JSON schema at a model without structured outputs (wire.md §5 #39): a tool is forced, and the client sees only JSON."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.catalogue import Capability, Model, WireFormat
from tests.wire.translation import Translated, chat_stream, events, named_stream

CHAT, MESSAGES, RESPONSES, GEMINI, BEDROCK = (
    WireFormat.OPENAI_CHAT,
    WireFormat.ANTHROPIC_MESSAGES,
    WireFormat.OPENAI_RESPONSES,
    WireFormat.GEMINI,
    WireFormat.BEDROCK,
)
HELLO = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WANTED = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
ABLE = frozenset({Capability.TEXT, Capability.TOOLS})
TOLD = "Give your whole answer as the input of this tool."


def bridge(client: WireFormat, provider: WireFormat, capabilities: frozenset[Capability] = ABLE, **quirks: Any) -> Translated:
    made = Translated(client, provider, capabilities=capabilities, schema_tool=True, **quirks)
    model = Model(model_id="model", max_output_tokens=8_192, capabilities=capabilities, described=True)
    made.deployment = type(made.deployment)(
        provider=made.deployment.provider, connection=made.deployment.connection, model=model
    )
    return made


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "lab/model", "max_tokens": 100, "messages": [HELLO], "response_format": WANTED} | more


TOOL = {"type": "tool_use", "id": "t", "name": "place", "input": {"city": "Ulm"}}


def message(*blocks: dict[str, Any], stop: str = "tool_use") -> dict[str, Any]:
    return {"content": list(blocks), "stop_reason": stop, "usage": {"input_tokens": 1, "output_tokens": 2}}


def message_stream(*blocks: dict[str, Any], stop: str = "tool_use") -> bytes:
    made: list[dict[str, Any]] = [{"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 1}}}]
    for index, block in enumerate(blocks):
        if block["type"] == "tool_use":
            raw = orjson.dumps(block["input"]).decode()
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in (raw[:5], raw[5:])]
            block = block | {"input": {}}
        else:
            deltas, block = [{"type": "text_delta", "text": block["text"]}], block | {"text": ""}
        made.append({"type": "content_block_start", "index": index, "content_block": block})
        made += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        made.append({"type": "content_block_stop", "index": index})
    made.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 2}})
    return named_stream(*made, {"type": "message_stop"})


def test_a_schema_is_a_tool_that_must_be_called() -> None:
    made = bridge(CHAT, MESSAGES)
    sent = made.sent(asked())
    assert sent == {
        "model": "model",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "tools": [{"name": "place", "input_schema": SCHEMA, "description": TOLD}],
        "tool_choice": {"type": "tool", "name": "place"},
    }
    assert made.dropped == []
    choice = made.answered(message({"type": "text", "text": "Here it is."}, TOOL))["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": '{"city":"Ulm"}', "refusal": None}
    assert choice["finish_reason"] == "stop"


def test_its_call_streams_as_text() -> None:
    made = bridge(CHAT, MESSAGES)
    made.sent(asked(stream=True))
    found = events(made.streamed([message_stream({"type": "text", "text": "Here it is."}, TOOL)]))[:-1]
    choices = [event["choices"][0] for event in found if event["choices"]]
    assert [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")] == ['{"cit', 'y":"Ulm"}']
    assert not any("tool_calls" in choice["delta"] for choice in choices)
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]


def test_a_model_that_answers_in_words_after_all_is_heard() -> None:
    made = bridge(CHAT, MESSAGES)
    made.sent(asked(stream=True))
    words = {"type": "text", "text": '{"city":"Ulm"}'}
    assert made.answered(message(words, stop="end_turn"))["choices"][0]["message"]["content"] == '{"city":"Ulm"}'
    found = events(made.streamed([message_stream(words, stop="end_turn")]))[:-1]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in found) == '{"city":"Ulm"}'


def test_tools_of_the_clients_own_can_still_be_called() -> None:
    made = bridge(CHAT, MESSAGES)
    sent = made.sent(asked(tools=[LOOK], stream=True))
    assert [tool["name"] for tool in sent["tools"]] == ["look", "place"]
    assert sent["tool_choice"] == {"type": "any"}
    look = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    whole = made.answered(message({"type": "text", "text": "I look."}, look))["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"]) == ("I look.", "tool_calls")
    assert whole["message"]["tool_calls"][0]["function"]["name"] == "look"
    found = events(made.streamed([message_stream({"type": "text", "text": "I look."}, look)]))[:-1]
    deltas = [event["choices"][0]["delta"] for event in found]
    assert "".join(delta.get("content") or "" for delta in deltas) == "I look."
    assert next(call["function"].get("name") for delta in deltas for call in delta.get("tool_calls", ())) == "look"
    assert found[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_tool_of_the_same_name_is_another() -> None:
    place = {"type": "function", "function": {"name": "place", "parameters": SCHEMA}}
    made = bridge(CHAT, MESSAGES)
    assert [tool["name"] for tool in made.sent(asked(tools=[place]))["tools"]] == ["place", "place_"]
    assert made.answered(message(TOOL))["choices"][0]["finish_reason"] == "tool_calls"
    assert made.answered(message(TOOL | {"name": "place_"}))["choices"][0]["message"]["content"] == '{"city":"Ulm"}'


def test_a_call_that_came_twice_is_one_answer() -> None:
    made = bridge(CHAT, MESSAGES)
    made.sent(asked(stream=True))
    twice = (TOOL, TOOL | {"id": "t2", "input": {"city": "Bonn"}})
    assert made.answered(message(*twice))["choices"][0]["message"]["content"] == '{"city":"Ulm"}'
    found = events(made.streamed([message_stream(*twice)]))[:-1]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in found) == '{"city":"Ulm"}'


def test_a_call_that_was_cut_off_says_so() -> None:
    made = bridge(CHAT, MESSAGES)
    made.sent(asked())
    assert made.answered(message(TOOL, stop="max_tokens"))["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("capabilities", "more"),
    [
        (ABLE | {Capability.JSON_SCHEMA}, {}),
        (frozenset({Capability.TEXT}), {}),
        (ABLE, {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": {"type": "array"}}}}),
        (ABLE, {"tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "look"}}}),
    ],
)
def test_where_it_cannot_help_nothing_is_forced(capabilities: frozenset[Capability], more: dict[str, Any]) -> None:
    """A model that takes schemas, one without tools, an answer that is no object, a client that wants a call."""
    sent = bridge(CHAT, MESSAGES, capabilities).sent(asked(**more))
    assert "format" in sent["output_config"]
    assert [tool["name"] for tool in sent.get("tools", ())] == ["look"] * ("tools" in more)


def test_it_is_the_same_between_other_formats() -> None:
    """A Responses client at Bedrock, a Gemini client at a Chat vendor."""
    made = bridge(RESPONSES, BEDROCK)
    text = {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA}}
    sent = made.sent({"model": "lab/model", "input": "hi", "text": text})
    assert sent["toolConfig"]["toolChoice"] == {"tool": {"name": "place"}}
    assert "outputConfig" not in sent
    use = {"toolUse": {"toolUseId": "t", "name": "place", "input": {"city": "Ulm"}}}
    usage = {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}
    reply = {"output": {"message": {"role": "assistant", "content": [use]}}, "stopReason": "tool_use", "usage": usage}
    told = made.answered(reply)
    assert [item["type"] for item in told["output"]] == ["message"]
    assert told["output"][0]["content"][0]["text"] == '{"city":"Ulm"}'
    assert told["tools"] == []

    made = bridge(GEMINI, CHAT)
    config = {"responseMimeType": "application/json", "responseSchema": {"type": "OBJECT", "properties": {}}}
    body = {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": config}
    sent = made.sent(body, model="lab/model", stream=True)
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "answer"}}
    assert "response_format" not in sent
    pieces = [{"index": 0, "id": "c", "function": {"name": "answer", "arguments": ""}}]
    pieces += [{"index": 0, "function": {"arguments": piece}} for piece in ('{"a"', ":1}")]
    found = events(made.streamed([chat_stream(*({"tool_calls": [piece]} for piece in pieces), finish="tool_calls")]))
    parts = [part for event in found for part in event["candidates"][0]["content"]["parts"]]
    assert "".join(part["text"] for part in parts) == '{"a":1}'
    assert found[-1]["candidates"][0]["finishReason"] == "STOP"

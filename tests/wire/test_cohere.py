"""Cohere as a provider of Chat clients: what goes out, what comes back, whole and as a stream."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Refused
from tests.wire.translation import Translated, events, named_stream

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}


def translated() -> Translated:
    return Translated(WireFormat.OPENAI_CHAT, WireFormat.COHERE)


def body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "lab/model", "messages": list(messages) or [{"role": "user", "content": "hi"}]} | more


def test_a_call_in_coheres_words() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    bridge = translated()
    made = bridge.sent(
        body(
            {"role": "system", "content": "s"},
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": "let me see", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "seen"},
            tools=[TOOL, OTHER],
            tool_choice={"type": "function", "function": {"name": "other"}},
            top_p=0.5,
            top_k=7,
            stop=["x"],
            user="me",
            reasoning_effort="none",
        )
    )
    assert made == {
        "model": "model",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "go"},
            {
                "role": "assistant",
                "tool_plan": "let me see",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "seen"},
        ],
        "p": 0.5,
        "k": 7,
        "stop_sequences": ["x"],
        "tools": [OTHER],
        "tool_choice": "REQUIRED",
        "thinking": {"type": "disabled"},
    }
    assert bridge.dropped == ["user"]


def test_a_schema_has_a_required_field_in_every_object() -> None:
    """Cohere refuses a schema without one; the field's name is the SDK's (JsonObjectResponseFormatV2)."""
    inner = {"type": "object", "properties": {"b": {"type": "string"}}}
    schema = {"type": "object", "properties": {"a": inner, "c": {"type": "integer"}}, "required": ["c"]}
    made = translated().sent(body(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}))
    assert made["response_format"] == {
        "type": "json_object",
        "json_schema": schema | {"properties": {"a": inner | {"required": ["b"]}, "c": {"type": "integer"}}},
    }


def test_values_beyond_coheres_ranges_are_its_nearest() -> None:
    made = translated().sent(body(top_p=1, frequency_penalty=-1, presence_penalty=2))
    assert (made["p"], made["frequency_penalty"], made["presence_penalty"]) == (0.99, 0, 1)


@pytest.mark.parametrize(
    "given",
    [
        body(n=2),
        body(tools=[OTHER], response_format={"type": "json_object"}),
        body({"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}]}),
    ],
)
def test_what_it_cannot_do_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        translated().sent(given)


def test_a_whole_answer() -> None:
    bridge = translated()
    bridge.sent(body())
    made = bridge.answered(
        {
            "id": "x",
            "finish_reason": "TOOL_CALL",
            "message": {
                "role": "assistant",
                "tool_plan": "I look.",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            },
            "usage": {
                "billed_units": {"input_tokens": 5, "output_tokens": 3},
                "tokens": {"input_tokens": 80, "output_tokens": 9},
            },
        }
    )
    choice = made["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning_content"] == "I look."
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}
    assert (made["usage"]["prompt_tokens"], made["usage"]["completion_tokens"]) == (5, 3)


def delta(kind: str, **message: Any) -> dict[str, Any]:
    return {"type": kind, "index": 0, "delta": {"message": message}}


STREAM = named_stream(
    {"type": "message-start", "id": "x", "delta": {"message": {"role": "assistant"}}},
    delta("content-start", content={"type": "text", "text": ""}),
    delta("content-delta", content={"text": "Grüß"}),
    delta("content-delta", content={"text": "e"}),
    {"type": "content-end", "index": 0},
    delta("tool-call-start", tool_calls={"id": "c", "type": "function", "function": {"name": "look", "arguments": ""}}),
    delta("tool-call-delta", tool_calls={"function": {"arguments": '{"a":'}}),
    delta("tool-call-delta", tool_calls={"function": {"arguments": "1}"}}),
    {"type": "tool-call-end", "index": 0},
    {
        "type": "message-end",
        "delta": {"finish_reason": "TOOL_CALL", "usage": {"billed_units": {"input_tokens": 5, "output_tokens": 3}}},
    },
)


def test_a_stream_wherever_it_is_cut() -> None:
    bridge = translated()
    bridge.sent(body(stream=True, stream_options={"include_usage": True}))
    out = bridge.streamed([STREAM])
    found = events(out)
    deltas = [chunk["choices"][0]["delta"] for chunk in found[:-2]]
    assert "".join(each.get("content") or "" for each in deltas) == "Grüße"
    pieces = [each["tool_calls"][0]["function"]["arguments"] for each in deltas if "tool_calls" in each]
    assert "".join(pieces) == '{"a":1}'
    assert found[-3]["choices"][0]["finish_reason"] == "tool_calls"
    assert found[-2]["usage"]["total_tokens"] == 8
    for size in range(1, len(STREAM), 3):
        bridge.sent(body(stream=True, stream_options={"include_usage": True}))
        assert bridge.streamed(STREAM[at : at + size] for at in range(0, len(STREAM), size)) == out

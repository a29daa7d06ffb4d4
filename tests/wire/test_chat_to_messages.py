"""A Chat client at Anthropic: what goes out, and what comes back."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Refused
from shared.domain.usage import Usage
from shared.wire import anthropic_messages
from shared.wire.canonical import Reply, Used
from tests.wire.translation import STAMP, Translated, events, named_stream

OLD, NEW = "claude-sonnet-4-5", "claude-opus-4-8"
PNG = "iVBORw0KGgoAAAANSUhEUg=="


def translated(model_id: str = OLD, **more: Any) -> Translated:
    return Translated(WireFormat.OPENAI_CHAT, WireFormat.ANTHROPIC_MESSAGES, model_id=model_id, **more)


def body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "lab/model", "messages": list(messages) or [{"role": "user", "content": "hi"}]} | more


def said(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]


def called(*calls: tuple[str, str, str]) -> dict[str, Any]:
    """An assistant's message that calls tools: id, name, arguments."""
    made = [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls]
    return {"role": "assistant", "content": None, "tool_calls": made}


ASKED = {"role": "user", "content": "go"}

CASES: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    (
        "tool messages and the user's text are one user turn",
        body(
            ASKED,
            called(("t1", "f", "{}"), ("t2", "g", '{"a": 1}')),
            {"role": "tool", "tool_call_id": "t1", "content": "one"},
            {"role": "tool", "tool_call_id": "t2", "content": "two"},
            {"role": "user", "content": "on"},
        ),
        [
            {"role": "user", "content": said("go")},
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
                    {"type": "tool_use", "id": "t2", "name": "g", "input": {"a": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
                    {"type": "tool_result", "tool_use_id": "t2", "content": "two"},
                    {"type": "text", "text": "on"},
                ],
            },
        ],
    ),
    (
        "a missing result is told as lost",
        body(ASKED, called(("t1", "f", "{}"), ("t2", "g", "")), {"role": "tool", "tool_call_id": "t2", "content": "two"}),
        [
            {"role": "user", "content": said("go")},
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
                    {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": "(The result of this tool call was lost.)",
                        "is_error": True,
                    },
                    {"type": "tool_result", "tool_use_id": "t2", "content": "two"},
                ],
            },
        ],
    ),
    (
        "neighbours of one role are one turn, empty texts go, system in the midst is the user's",
        body(
            {"role": "user", "content": "a"},
            {"role": "system", "content": "b"},
            {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "c"}]},
            {"role": "assistant", "content": "d"},
            {"role": "user", "content": "e"},
        ),
        [
            {"role": "user", "content": [*said("a"), *said("b"), *said("c")]},
            {"role": "assistant", "content": said("d")},
            {"role": "user", "content": said("e")},
        ],
    ),
    (
        "arguments that are no object are kept in one",
        body(ASKED, called(("t1", "f", "{bad json")), {"role": "tool", "tool_call_id": "t1", "content": ""}),
        [
            {"role": "user", "content": said("go")},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"_raw": "{bad json"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": []}]},
        ],
    ),
    (
        "a conversation that begins with the assistant gets a user's turn before it",
        body({"role": "assistant", "content": "hello"}, ASKED),
        [
            {"role": "user", "content": said("(The conversation continues.)")},
            {"role": "assistant", "content": said("hello")},
            {"role": "user", "content": said("go")},
        ],
    ),
    (
        "images by URL, inline with a wrong type, and a PDF",
        body(
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}},
                    {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PNG}"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjQ="}},
                ],
            }
        ),
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    {
                        "type": "document",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQ="},
                        "title": "a.pdf",
                    },
                ],
            }
        ],
    ),
]


@pytest.mark.parametrize(("given", "messages"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_messages(given: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    assert translated().sent(given)["messages"] == messages


def test_leading_system_and_developer_messages_are_the_system() -> None:
    made = translated().sent(body({"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, ASKED))
    assert made["system"] == [*said("a"), *said("b")]


@pytest.mark.parametrize(
    ("asked", "most", "sent"), [(None, 8192, 8192), (None, None, 4096), (100, 8192, 100), (9000, 8192, 8192)]
)
def test_max_tokens_is_never_missing_nor_above_the_models(asked: int | None, most: int | None, sent: int) -> None:
    given = body() if asked is None else body(max_tokens=asked)
    assert translated(max_output_tokens=most).sent(given)["max_tokens"] == sent


def test_sampling_within_what_the_model_takes() -> None:
    bridge = translated()
    made = bridge.sent(
        body(temperature=1.7, top_p=0.5, top_k=40, seed=3, logprobs=True, presence_penalty=1, logit_bias={"1": 2})
    )
    assert (made["temperature"], made["top_k"], "top_p" in made) == (1, 40, False)
    assert sorted(bridge.dropped) == ["logit_bias", "logprobs", "presence_penalty", "seed", "top_p"]
    modern = translated(NEW)
    made = modern.sent(body(temperature=0.2, top_p=0.5))
    assert "temperature" not in made
    assert sorted(modern.dropped) == ["temperature", "top_p"]


@pytest.mark.parametrize(
    ("asked", "model", "thinking", "config"),
    [
        ({"reasoning_effort": "high", "max_tokens": 8000}, OLD, {"type": "enabled", "budget_tokens": 6400}, None),
        ({"reasoning_effort": "low", "max_tokens": 2000}, OLD, {"type": "enabled", "budget_tokens": 1024}, None),
        ({"reasoning": {"max_tokens": 2000}, "max_tokens": 8000}, OLD, {"type": "enabled", "budget_tokens": 2000}, None),
        ({"reasoning_effort": "high"}, NEW, {"type": "adaptive"}, {"effort": "high"}),
        ({"reasoning_effort": "none"}, NEW, None, None),
        ({"reasoning_effort": "high", "max_tokens": 500}, OLD, None, None),
    ],
)
def test_reasoning(asked: dict[str, Any], model: str, thinking: Any, config: Any) -> None:
    made = translated(model).sent(body(**asked))
    assert made.get("thinking") == thinking
    assert made.get("output_config") == config


def test_no_thinking_over_a_tool_call_whose_own_is_lost() -> None:
    history = (ASKED, called(("t1", "f", "{}")), {"role": "tool", "tool_call_id": "t1", "content": "x"})
    bridge = translated()
    assert "thinking" not in bridge.sent(body(*history, reasoning_effort="high"))
    assert bridge.dropped == ["reasoning_effort"]
    signed = called(("t1", "f", "{}")) | {
        "reasoning_details": [
            {"type": "reasoning.text", "text": "hm", "signature": "SIG", "format": "anthropic-claude-v1"},
            {"type": "reasoning.text", "text": "no", "signature": "wsy1.gemini.G", "format": "anthropic-claude-v1"},
        ]
    }
    made = translated().sent(body(history[0], signed, history[2], reasoning_effort="high"))
    assert made["messages"][1]["content"][0] == {"type": "thinking", "thinking": "hm", "signature": "SIG"}
    assert len(made["messages"][1]["content"]) == 2
    assert made["thinking"]["type"] == "enabled"


def test_tool_ids_and_names_within_the_alphabet_and_the_same_in_the_result() -> None:
    bridge = translated()
    tool = {"type": "function", "function": {"name": "functions.exec", "parameters": {"type": "object"}}}
    made = bridge.sent(
        body(
            ASKED,
            called(("call_ü/1:2", "functions.exec", "{}")),
            {"role": "tool", "tool_call_id": "call_ü/1:2", "content": "a"},
            called(("call_ü/1:2", "functions.exec", "{}")),
            {"role": "tool", "tool_call_id": "call_ü/1:2", "content": "b"},
            tools=[tool],
        )
    )
    messages = made["messages"]
    first, second = messages[1]["content"][0], messages[3]["content"][0]
    assert first["id"] != second["id"]
    assert first["id"].replace("_", "").replace("-", "").isalnum()
    assert messages[2]["content"][0] == {"type": "tool_result", "tool_use_id": first["id"], "content": "a"}
    assert messages[4]["content"][0] == {"type": "tool_result", "tool_use_id": second["id"], "content": "b"}
    assert first["name"] == made["tools"][0]["name"] != "functions.exec"
    reply = {"content": [{"type": "tool_use", "id": "t", "name": first["name"], "input": {}}], "stop_reason": "tool_use"}
    assert bridge.answered(reply)["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "functions.exec"


def test_forced_and_single_tools() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    made = translated().sent(body(tools=[tool], tool_choice="required", parallel_tool_calls=False))
    assert made["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    named = {"type": "function", "function": {"name": "f"}}
    assert translated().sent(body(tools=[tool], tool_choice=named))["tool_choice"] == {"type": "tool", "name": "f"}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
@pytest.mark.parametrize("provider", [WireFormat.ANTHROPIC_MESSAGES, WireFormat.BEDROCK])
@pytest.mark.parametrize(
    ("model", "able"), [("claude-sonnet-5-5", False), ("claude-opus-5-5", False), ("claude-fable-5-1", False),
                        ("claude-haiku-5-5", True), ("claude-sonnet-5", True)],
)  # fmt: skip
def test_a_tool_is_not_forced_on_a_model_that_refuses_it(model: str, able: bool, provider: WireFormat, choice: Any) -> None:
    bridge = Translated(WireFormat.OPENAI_CHAT, provider, model_id=f"anthropic.{model}", max_output_tokens=64_000)
    given = body(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}], tool_choice=choice)
    if able:
        bridge.sent(given)
        return
    with pytest.raises(Refused) as caught:
        bridge.sent(given)
    assert (caught.value.refusal.status, caught.value.refusal.field) == (400, "tool_choice")
    bridge.sent(given | {"tool_choice": "auto"})


@pytest.mark.parametrize(
    ("model", "thinking", "dropped"),
    [
        ("claude-sonnet-5-5", {"type": "between_tools"}, []),
        ("claude-haiku-5-5", {"type": "disabled"}, []),
        ("claude-sonnet-5", {"type": "disabled"}, []),
        ("claude-opus-5-5", None, ["reasoning_effort"]),
        ("claude-fable-5-1", None, ["reasoning_effort"]),
        (OLD, None, []),
    ],
)
def test_thinking_is_turned_off_where_it_is_on_by_default(
    model: str, thinking: dict[str, str] | None, dropped: list[str]
) -> None:
    bridge = translated(model)
    assert bridge.sent(body(reasoning_effort="none")).get("thinking") == thinking
    assert bridge.dropped == dropped


def test_a_schema_is_asked_for_in_the_vendors_way() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True}}
    made = translated().sent(body(response_format=wanted))
    assert made["output_config"] == {
        "format": {"type": "json_schema", "schema": {"type": "object", "additionalProperties": False}}
    }


def test_a_schema_is_closed_and_its_bounds_are_said_in_words() -> None:
    """Claude's grammar knows neither bounds nor open objects (structured outputs: JSON Schema limitations)."""
    days = {"type": "array", "minItems": 2, "items": {"type": "integer", "minimum": 1, "description": "A day."}}
    zone = {"oneOf": [{"type": "string", "format": "uuid"}, {"type": "string", "format": "zone"}]}
    wanted = {"type": "object", "properties": {"days": days, "minimum": zone}, "required": ["days"]}
    made = translated().sent(body(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": wanted}}))
    assert made["output_config"]["format"]["schema"] == {
        "type": "object",
        "properties": {
            "days": {
                "type": "array",
                "items": {"type": "integer", "description": "A day. (minimum: 1)"},
                "description": "(minItems: 2)",
            },
            "minimum": {
                "anyOf": [{"type": "string", "format": "uuid"}, {"type": "string", "description": "(format: zone)"}],
            },
        },
        "required": ["days"],
        "additionalProperties": False,
    }


def test_at_most_four_breakpoints_the_systems_among_them() -> None:
    marked = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    system = {"role": "system", "content": [marked]}
    made = translated().sent(body(system, *[{"role": "user", "content": [marked]} for _ in range(6)]))
    text = json.dumps(made)
    assert text.count("cache_control") == 4
    assert "cache_control" in made["system"][0]


@pytest.mark.parametrize(
    ("given", "model", "field"),
    [
        (body(n=2), OLD, "n"),
        (body(ASKED, {"role": "assistant", "content": "{"}), NEW, "messages"),
        (
            body({"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}]}),
            OLD,
            "messages",
        ),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_its_name(given: dict[str, Any], model: str, field: str) -> None:
    with pytest.raises(Refused) as caught:
        translated(model).sent(given)
    assert (caught.value.refusal.status, caught.value.refusal.field) == (400, field)


def test_a_prefill_is_sent_where_it_is_taken_without_its_last_blank() -> None:
    made = translated().sent(body(ASKED, {"role": "assistant", "content": "It is \n"}))
    assert made["messages"][-1] == {"role": "assistant", "content": said("It is")}


START = {"type": "message_start", "message": {"model": "claude", "usage": {"input_tokens": 10, "cache_read_input_tokens": 90,
         "cache_creation_input_tokens": 50, "output_tokens": 1}}}  # fmt: skip
STREAM = named_stream(
    START,
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "SIG"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "sö"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a"'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ":1}"}},
    {"type": "content_block_stop", "index": 2},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 20}},
    {"type": "message_stop"},
)


def test_a_stream_with_thinking_and_a_tool() -> None:
    bridge = translated()
    bridge.sent(body(stream=True, stream_options={"include_usage": True}))
    out = bridge.streamed([STREAM])
    found = events(out)
    assert found[-1] == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in found[:-2]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
    assert "".join(delta.get("content", "") for delta in deltas) == "sö"
    detail = next(delta["reasoning_details"][0] for delta in deltas if "reasoning_details" in delta)
    assert (detail["signature"], detail["format"]) == ("SIG", "anthropic-claude-v1")
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert calls[0] == {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert "".join(call["function"]["arguments"] for call in calls) == '{"a":1}'
    assert found[-3]["choices"][0]["finish_reason"] == "tool_calls"
    usage = found[-2]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (150, 20)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 90, "cache_write_tokens": 50}
    for size in range(1, 60):
        bridge.sent(body(stream=True, stream_options={"include_usage": True}))
        assert bridge.streamed(STREAM[at : at + size] for at in range(0, len(STREAM), size)) == out
    bridge.sent(body(stream=True))
    assert b'"usage"' not in bridge.streamed([STREAM])


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("end_turn", "stop"), ("max_tokens", "length"), ("stop_sequence", "stop"), ("refusal", "content_filter"),
     ("model_context_window_exceeded", "length"), ("pause_turn", "stop")],
)  # fmt: skip
def test_finish_reasons(reason: str, finish: str) -> None:
    bridge = translated()
    bridge.sent(body())
    made = bridge.answered({"content": [{"type": "text", "text": "x"}], "stop_reason": reason, "usage": {"output_tokens": 1}})
    assert made["choices"][0]["finish_reason"] == finish
    assert made["choices"][0]["message"]["content"] == "x"
    assert made["system_fingerprint"] is None


def test_what_is_cached_for_an_hour_is_told_apart() -> None:
    """And what the start of a stream said of it stands, when the end says only the output."""
    told = {
        "input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 50, "output_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30},
    }  # fmt: skip
    usage = Usage(input_tokens=65, output_tokens=7, cache_read_tokens=5, cache_write_tokens=50, cache_write_1h_tokens=30)
    body = {"content": [], "stop_reason": "end_turn", "usage": told}
    assert anthropic_messages.decode_reply(orjson.dumps(body)).usage == usage
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": told | {"output_tokens": 1}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
    ]
    decoder = anthropic_messages.StreamDecoder()
    heard = decoder.feed(b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events))
    assert heard[-1] == Used(usage)
    assert orjson.loads(anthropic_messages.encode_reply(Reply(choices=(), usage=usage), STAMP))["usage"] == told


@pytest.mark.parametrize("told", [None, [], {}, {"ephemeral_1h_input_tokens": -1}, {"ephemeral_1h_input_tokens": "many"}])
def test_an_odd_account_of_the_cache_is_none(told: Any) -> None:
    raw = {"input_tokens": 1, "cache_creation_input_tokens": 9, "output_tokens": 1, "cache_creation": told}
    usage = anthropic_messages.decode_reply(orjson.dumps({"content": [], "usage": raw})).usage
    assert usage == Usage(input_tokens=10, output_tokens=1, cache_write_tokens=9)

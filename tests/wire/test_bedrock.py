"""Bedrock Converse as a provider: what goes out, what comes back, whole and as AWS's binary event stream."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Refused
from shared.domain.usage import Usage
from shared.wire import bedrock
from shared.wire.bedrock.eventstream import Splitter, message
from shared.wire.reply import MalformedReply
from tests.wire.translation import Translated, events

PNG = "iVBORw0KGgo="
TOOL = {"name": "look", "description": "looks", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}


def translated(model_id: str = "anthropic.claude-sonnet-4-5-20250929-v1:0") -> Translated:
    return Translated(WireFormat.ANTHROPIC_MESSAGES, WireFormat.BEDROCK, model_id=model_id)


def body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "lab/model", "max_tokens": 4000, "messages": list(messages) or [{"role": "user", "content": "hi"}]} | more


def test_a_call_in_converses_words() -> None:
    bridge = translated()
    made = bridge.sent(
        body(
            {
                "role": "user",
                "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig"},
                    {"type": "tool_use", "id": "t.1", "name": "look", "input": {"a": 1}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t.1", "content": "seen", "is_error": True}]},
            system="Be brief.",
            tools=[TOOL],
            tool_choice={"type": "auto"},
            thinking={"type": "enabled", "budget_tokens": 2000},
            stop_sequences=["x"],
            metadata={"user_id": "me"},
        )
    )
    call_id = made["messages"][1]["content"][1]["toolUse"]["toolUseId"]
    assert call_id != "t.1"
    assert call_id.replace("_", "").isalnum()
    assert made == {
        "messages": [
            {"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": PNG}}}]},
            {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
                    {"toolUse": {"toolUseId": call_id, "name": "look", "input": {"a": 1}}},
                ],
            },
            {
                "role": "user",
                "content": [{"toolResult": {"toolUseId": call_id, "content": [{"text": "seen"}], "status": "error"}}],
            },
        ],
        "system": [{"text": "Be brief."}],
        "toolConfig": {
            "tools": [
                {"toolSpec": {"name": "look", "inputSchema": {"json": {"type": "object"}}, "description": "looks"}},
                {"cachePoint": {"type": "default"}},
            ]
        },
        "inferenceConfig": {"maxTokens": 4000, "stopSequences": ["x"]},
        "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    }
    assert bridge.dropped == ["metadata"]


def test_a_json_schema_travels_as_text() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    made = translated().sent(body(output_config={"format": {"type": "json_schema", "schema": schema}}))
    wanted = made["outputConfig"]["textFormat"]
    assert wanted["type"] == "json_schema"
    assert orjson.loads(wanted["structure"]["jsonSchema"]["schema"]) == schema | {"additionalProperties": False}


def test_history_with_calls_but_no_tools_still_names_them() -> None:
    """Bedrock: `The toolConfig field must be defined when using toolUse and toolResult content blocks`."""
    made = translated().sent(
        body(
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": ""}]},
        )
    )
    assert made["toolConfig"]["tools"] == [{"toolSpec": {"name": "look", "inputSchema": {"json": {"type": "object"}}}}]
    assert made["messages"][2]["content"][0]["toolResult"]["content"] == [{"text": "(no output)"}]


def test_a_document_has_a_name_and_a_text_beside_it() -> None:
    pdf = {
        "type": "document",
        "title": "a_b.pdf",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
    }
    made = translated().sent(body({"role": "user", "content": [pdf]}))
    document, text = made["messages"][0]["content"]
    assert document == {"document": {"format": "pdf", "source": {"bytes": "JVBERi0="}, "name": "a-b-pdf"}}
    assert text["text"]


@pytest.mark.parametrize(
    "content",
    [
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/zip", "data": "UEsDBA=="}},
    ],
)
def test_what_it_cannot_take_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        translated().sent(body({"role": "user", "content": [content]}))
    assert caught.value.refusal.field == "messages"


def test_a_whole_answer_counts_the_cache_in() -> None:
    bridge = translated()
    bridge.sent(body())
    made = bridge.answered(
        {
            "output": {
                "message": {
                    "role": "assistant",
                    "content": [
                        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
                        {"text": "Hello"},
                        {"toolUse": {"toolUseId": "t1", "name": "look", "input": {"a": 1}}},
                    ],
                }
            },
            "stopReason": "tool_use",
            "usage": {"inputTokens": 5, "outputTokens": 3, "cacheReadInputTokens": 90, "cacheWriteInputTokens": 10},
        }
    )
    assert made["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}},
    ]
    assert made["stop_reason"] == "tool_use"
    assert made["usage"]["input_tokens"] == 5
    assert made["usage"]["cache_read_input_tokens"] == 90
    assert made["usage"]["cache_creation_input_tokens"] == 10


def event(kind: str, **payload: Any) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return message(headers, orjson.dumps(payload | {"p": "abcdef"}))


STREAM = b"".join(
    [
        event("messageStart", role="assistant"),
        event("contentBlockDelta", contentBlockIndex=0, delta={"reasoningContent": {"text": "h"}}),
        event("contentBlockDelta", contentBlockIndex=0, delta={"reasoningContent": {"text": "m"}}),
        event("contentBlockDelta", contentBlockIndex=0, delta={"reasoningContent": {"signature": "sig"}}),
        event("contentBlockStop", contentBlockIndex=0),
        event("contentBlockDelta", contentBlockIndex=1, delta={"text": "Grüß"}),
        event("contentBlockDelta", contentBlockIndex=1, delta={"text": "e"}),
        event("contentBlockStop", contentBlockIndex=1),
        event("contentBlockStart", contentBlockIndex=2, start={"toolUse": {"toolUseId": "t1", "name": "look"}}),
        event("contentBlockDelta", contentBlockIndex=2, delta={"toolUse": {"input": '{"a":'}}),
        event("contentBlockDelta", contentBlockIndex=2, delta={"toolUse": {"input": "1}"}}),
        event("contentBlockStop", contentBlockIndex=2),
        event("messageStop", stopReason="tool_use"),
        event("metadata", usage={"inputTokens": 5, "outputTokens": 3, "totalTokens": 8}, metrics={"latencyMs": 9}),
    ]
)


def test_a_stream_wherever_it_is_cut() -> None:
    bridge = translated()
    bridge.sent(body(stream=True))
    out = bridge.streamed([STREAM])
    found = events(out)
    starts = [each["content_block"]["type"] for each in found if each["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use"]
    deltas = [each["delta"] for each in found if each["type"] == "content_block_delta"]
    assert "".join(each.get("thinking", "") for each in deltas) == "hm"
    assert [each["signature"] for each in deltas if "signature" in each] == ["sig"]
    assert "".join(each.get("text", "") for each in deltas) == "Grüße"
    assert "".join(each.get("partial_json", "") for each in deltas) == '{"a":1}'
    last = next(each for each in found if each["type"] == "message_delta")
    assert last["delta"]["stop_reason"] == "tool_use"
    assert last["usage"]["output_tokens"] == 3
    for size in range(1, 200, 7):
        bridge.sent(body(stream=True))
        assert bridge.streamed(STREAM[at : at + size] for at in range(0, len(STREAM), size)) == out


def test_an_exception_in_the_stream_is_the_providers_error() -> None:
    bridge = translated()
    bridge.sent(body(stream=True))
    failed = message({":message-type": "exception", ":exception-type": "throttlingException"}, b'{"message":"slow down"}')
    tap = bridge.bridge.tap(hide_usage=False)
    out = tap.feed(event("messageStart", role="assistant") + failed)
    assert tap.error == b'{"message":"slow down"}'
    assert b"throttlingException: slow down" in out


@pytest.mark.parametrize("at", [0, 9, 20, -6, -1])
def test_a_byte_that_changed_on_the_way_ends_the_stream(at: int) -> None:
    raw = bytearray(event("messageStart", role="assistant"))
    raw[at] ^= 0x40
    with pytest.raises(MalformedReply):
        Splitter().feed(bytes(raw) + event("messageStop", stopReason="end_turn"))


def test_what_is_cached_for_an_hour_is_told_apart() -> None:
    details = [{"ttl": "1h", "inputTokens": 30}, {"ttl": "5m", "inputTokens": 20}]
    usage = {"inputTokens": 10, "outputTokens": 7, "cacheWriteInputTokens": 50, "cacheDetails": details}
    body = orjson.dumps({"output": {"message": {"content": []}}, "stopReason": "end_turn", "usage": usage})
    assert bedrock.decode_reply(body).usage == Usage(
        input_tokens=60, output_tokens=7, cache_write_tokens=50, cache_write_1h_tokens=30
    )

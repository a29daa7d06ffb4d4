"""Gemini in both directions: a Chat client at Google, and Google's clients at a Chat provider."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Reason, Refusal, Refused
from shared.domain.usage import Usage
from shared.wire import gemini
from shared.wire.canonical import Stop, Text, ToolCall
from shared.wire.gemini import reply as gemini_reply
from shared.wire.parts import fold
from tests.wire.translation import Translated, chat_stream, events


def to_google(model_id: str = "gemini-2.5-pro") -> Translated:
    return Translated(WireFormat.OPENAI_CHAT, WireFormat.GEMINI, model_id=model_id)


def from_google(**quirks: Any) -> Translated:
    return Translated(WireFormat.GEMINI, WireFormat.OPENAI_CHAT, **quirks)


def body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "lab/model", "messages": list(messages) or [{"role": "user", "content": "hi"}]} | more


def called(*calls: tuple[str, str, str], **more: Any) -> dict[str, Any]:
    made = [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls]
    return {"role": "assistant", "content": None, "tool_calls": made} | more


def result(tool_id: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": tool_id, "content": text}


ASKED = {"role": "user", "content": "go"}


def test_results_are_one_turn_in_the_order_of_the_calls_under_their_names() -> None:
    made = to_google().sent(
        body(ASKED, called(("a", "f", '{"x":1}'), ("b", "g", "")), result("b", "two"), result("a", '{"ok": true}'))
    )
    assert made["contents"] == [
        {"role": "user", "parts": [{"text": "go"}]},
        {
            "role": "model",
            "parts": [{"functionCall": {"name": "f", "args": {"x": 1}}}, {"functionCall": {"name": "g", "args": {}}}],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "f", "response": {"ok": True}}},
                {"functionResponse": {"name": "g", "response": {"result": "two"}}},
            ],
        },
    ]


def test_a_signature_comes_back_to_its_maker_and_foreign_history_gets_the_stand_in() -> None:
    signed = {"type": "reasoning.encrypted", "id": "a", "data": "SIG", "format": "google-gemini-v1"}
    own = called(("a", "f", "{}"), ("b", "g", "{}"), reasoning_details=[signed])
    parts = to_google("gemini-3-pro").sent(body(ASKED, own, result("a", "1"), result("b", "2")))["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == ["SIG", None]
    foreign = called(("a", "f", "{}"), ("b", "g", "{}"))
    history = body(ASKED, foreign, result("a", "1"), result("b", "2"))
    parts = to_google("gemini-3-pro").sent(history)["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == ["skip_thought_signature_validator", None]
    assert "thoughtSignature" not in json.dumps(to_google("gemini-2.5-pro").sent(history))


def test_the_first_turn_is_the_users_and_neighbours_merge() -> None:
    made = to_google().sent(body({"role": "assistant", "content": "hello"}, ASKED, ASKED))
    assert [content["role"] for content in made["contents"]] == ["user", "model", "user"]
    assert made["contents"][2]["parts"] == [{"text": "go"}, {"text": "go"}]


def test_configuration() -> None:
    bridge = to_google()
    made = bridge.sent(
        body(
            max_tokens=100, temperature=0.5, top_p=0.9, top_k=5, seed=3, n=2, stop=list("abcdef"), user="u",
            response_format={"type": "json_object"}, reasoning_effort="high",
        )
    )  # fmt: skip
    assert made["generationConfig"] == {
        "maxOutputTokens": 100, "temperature": 0.5, "topP": 0.9, "topK": 5, "seed": 3, "candidateCount": 2,
        "stopSequences": list("abcde"), "responseMimeType": "application/json",
        "thinkingConfig": {"thinkingBudget": 80, "includeThoughts": True},
    }  # fmt: skip
    assert bridge.dropped == ["stop[5:]", "user"]
    level = to_google("gemini-3-pro").sent(body(reasoning_effort="low"))["generationConfig"]["thinkingConfig"]
    assert level == {"thinkingLevel": "LOW", "includeThoughts": True}


def test_tools_within_the_subset_of_schemas() -> None:
    schema = {
        "$schema": "x",
        "type": "object",
        "additionalProperties": False,
        "$defs": {"city": {"type": "object", "properties": {"name": {"type": ["string", "null"]}}}},
        "properties": {
            "city": {"$ref": "#/$defs/city"},
            "kind": {"const": "a"},
            "level": {"enum": [1, 2]},
            "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "list": {"type": "array"},
            "above": {"type": "integer", "exclusiveMinimum": 0},
        },
        "required": ["city", "gone"],
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    made = to_google().sent(body(tools=[tool], tool_choice="required"))
    assert made["tools"][0]["functionDeclarations"][0]["parameters"] == {
        "type": "object",
        "properties": {
            "city": {"type": "object", "properties": {"name": {"type": "string", "nullable": True}}},
            "kind": {"enum": ["a"], "type": "string"},
            "level": {"enum": ["1", "2"], "type": "string"},
            "maybe": {"nullable": True, "type": "integer"},
            "list": {"type": "array", "items": {"type": "object"}},
            "above": {"type": "integer", "minimum": 0},
        },
        "required": ["city"],
    }
    assert made["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}


def test_an_image_by_url_is_refused_by_name() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    with pytest.raises(Refused) as caught:
        to_google().sent(body({"role": "user", "content": [image]}))
    assert caught.value.refusal.field == "messages"


def answer(*parts: dict[str, Any], reason: str = "STOP", **usage: int) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": reason}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2} | usage,
    }


def test_calls_without_ids_get_some_and_end_as_tool_calls() -> None:
    bridge = to_google()
    bridge.sent(body())
    call = {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "SIG"}
    made = bridge.answered(answer(call, {"functionCall": {"name": "f", "args": {}}}))["choices"][0]
    assert made["finish_reason"] == "tool_calls"
    assert [each["id"] for each in made["message"]["tool_calls"]] == ["call_0", "call_1"]
    detail = made["message"]["reasoning_details"][0]
    assert (detail["data"], detail["id"], detail["format"]) == ("SIG", "call_0", "google-gemini-v1")


def test_a_blocked_prompt_is_a_content_filter() -> None:
    bridge = to_google()
    bridge.sent(body())
    made = bridge.answered({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}})
    assert made["choices"][0]["finish_reason"] == "content_filter"


def test_thoughts_count_as_output_and_cached_tokens_as_input() -> None:
    bridge = to_google()
    bridge.sent(body())
    usage = bridge.answered(
        answer({"text": "x"}, promptTokenCount=100, cachedContentTokenCount=40, candidatesTokenCount=20, thoughtsTokenCount=30)
    )["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (100, 50)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 40
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 30


CHUNKS = [
    answer({"text": "Hmm.", "thought": True}, reason="FINISH_REASON_UNSPECIFIED"),
    answer({"text": "Grü"}, reason="FINISH_REASON_UNSPECIFIED"),
    answer({"text": 'ße "{[]}\\'}, {"functionCall": {"name": "f", "args": {"a": "}"}}}),
]


@pytest.mark.parametrize(
    "stream",
    [
        b"".join([b"data: " + orjson.dumps(chunk) + b"\r\n\r\n" for chunk in CHUNKS]),
        b"[" + b",\r\n".join([orjson.dumps(chunk, option=orjson.OPT_INDENT_2) for chunk in CHUNKS]) + b"\n]",
    ],
    ids=["events", "array"],
)
def test_both_framings_wherever_they_are_cut(stream: bytes) -> None:
    for size in range(1, len(stream) + 1, 5):
        decoder = gemini.StreamDecoder()
        found = [event for at in range(0, len(stream), size) for event in decoder.feed(stream[at : at + size])]
        reply = fold([*found, *decoder.close()])
        assert reply.choices[0].stop is Stop.TOOL
        assert reply.choices[0].parts[1:] == (
            Text('Grüße "{[]}\\'),
            ToolCall(id="call_0", name="f", arguments='{"a":"}"}'),
        )


def test_snake_case_and_camel_case_are_one() -> None:
    camel = {
        "contents": [
            {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}, {"text": "x"}]}
        ],
        "systemInstruction": {"parts": [{"text": "s"}]},
        "tools": [
            {"functionDeclarations": [{"name": "f", "parametersJsonSchema": {"type": "OBJECT", "properties": {"a_b": {}}}}]}
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "generationConfig": {"maxOutputTokens": 9, "thinkingConfig": {"includeThoughts": True, "thinkingBudget": 5}},
    }
    snake = {
        "contents": [
            {"role": "user", "parts": [{"inline_data": {"mime_type": "image/png", "data": "iVBORw0KGgo="}}, {"text": "x"}]}
        ],
        "system_instruction": {"parts": [{"text": "s"}]},
        "tools": [
            {"function_declarations": [{"name": "f", "parameters_json_schema": {"type": "OBJECT", "properties": {"a_b": {}}}}]}
        ],
        "tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["f"]}},
        "generation_config": {"max_output_tokens": 9, "thinking_config": {"include_thoughts": True, "thinking_budget": 5}},
    }
    made = [from_google().sent(each, model="lab/model", stream=False) for each in (camel, snake)]
    assert made[0] == made[1]
    assert made[0]["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {"a_b": {}}}
    assert made[0]["tool_choice"] == {"type": "function", "function": {"name": "f"}}


def test_calls_and_results_without_ids_are_paired() -> None:
    contents = [
        {"role": "user", "parts": [{"text": "go"}]},
        {
            "role": "model",
            "parts": [{"functionCall": {"name": "f", "args": {}}}, {"functionCall": {"name": "f", "args": {"a": 1}}}],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "f", "response": {"result": "one"}}},
                {"functionResponse": {"name": "f", "response": {"error": "two"}}},
            ],
        },
    ]
    messages = from_google().sent({"contents": contents}, model="lab/model", stream=False)["messages"]
    ids = [call["id"] for call in messages[1]["tool_calls"]]
    assert len(set(ids)) == 2
    assert messages[2:] == [
        {"role": "tool", "tool_call_id": ids[0], "content": "one"},
        {"role": "tool", "tool_call_id": ids[1], "content": "Error: two"},
    ]


def test_a_stream_to_google_has_whole_calls_and_one_last_reason() -> None:
    bridge = from_google()
    bridge.sent({"contents": [{"parts": [{"text": "x"}]}]}, model="lab/model", stream=True)
    piece = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a":'}}]}
    rest = {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}
    usage = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
    out = bridge.streamed(
        [chat_stream({"reasoning_content": "hm"}, {"content": "so"}, piece, rest, finish="tool_calls", usage=usage)]
    )
    assert b"[DONE]" not in out
    assert not any(line.startswith(b":") for line in out.splitlines())
    found = events(out)
    parts = [part for chunk in found for part in chunk["candidates"][0]["content"]["parts"]]
    assert parts == [{"text": "so"}, {"functionCall": {"id": "c", "name": "f", "args": {"a": 1}}}, {"text": ""}]
    assert [chunk["candidates"][0].get("finishReason") for chunk in found] == [None, None, "STOP"]
    assert found[-1]["usageMetadata"]["totalTokenCount"] == 16


def test_settings_that_only_google_has_are_ignored_or_listed() -> None:
    bridge = from_google()
    given = {
        "contents": [{"parts": [{"text": "x"}]}],
        "safetySettings": [],
        "tools": [{"googleSearch": {}}],
        "generationConfig": {"speechConfig": {}},
    }
    assert "tools" not in bridge.sent(given, model="lab/model", stream=False)
    assert bridge.dropped == ["generationConfig.speechConfig", "tools[0].googleSearch"]


def test_errors_in_googles_words() -> None:
    refusal = Refusal(reason=Reason.RATE_LIMITED, status=429, message="Slow down.", retry_after_s=2.5)
    status, headers, raw = gemini.encode_refusal(refusal, "req")
    error = orjson.loads(raw)["error"]
    assert (status, error["code"], error["status"]) == (429, 429, "RESOURCE_EXHAUSTED")
    assert error["details"][1] == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2.500s"}
    assert headers["Retry-After"] == "3"


def test_sound_in_a_prompt_is_counted_by_itself() -> None:
    told = {
        "promptTokenCount": 100, "candidatesTokenCount": 5,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 60}, {"modality": "AUDIO", "tokenCount": 40}, "odd"],
    }  # fmt: skip
    assert gemini_reply.read_usage(told) == Usage(input_tokens=100, output_tokens=5, audio_input_tokens=40)
    assert gemini_reply.read_usage(told | {"promptTokensDetails": None}) == Usage(input_tokens=100, output_tokens=5)

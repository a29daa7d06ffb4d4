"""Every value of a rich body, answer and stream replaced by every other type: refused by name or understood, never a crash."""

# ruff: noqa: E501
from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import orjson
import pytest

from services.simulator.answer import Choice, Reply, ToolCall, usage_object
from services.simulator.behaviour import Behaviour
from services.simulator.call import read_call
from services.simulator.formats import bedrock as bedrock_format
from services.simulator.formats import chat, cohere, gemini, messages, responses
from shared.domain.catalogue import Capability, Model, Quirks, WireFormat
from shared.domain.refusal import Refused
from shared.wire.codec import FORMATS, PROVIDERS, read_facts
from shared.wire.envelope import open_envelope
from shared.wire.reply import MalformedReply

JUNK: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    "",
    "x",
    [],
    ["x"],
    [["x"]],
    {},
    {"a": 1},
    [{}],
    [{"type": ["x"]}],
    {"type": {}},
)
PNG = "iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["a"]}
MODEL = Model(model_id="model", max_output_tokens=9999, capabilities=frozenset(Capability))

BODIES: dict[WireFormat, dict[str, Any]] = {
    WireFormat.OPENAI_CHAT: {
        "model": "lab/m", "stream": True, "stream_options": {"include_usage": True}, "n": 1, "max_tokens": 9, "stop": ["x"],
        "temperature": 1, "logprobs": True, "top_logprobs": 1, "logit_bias": {"1": 2}, "user": "u", "metadata": {"a": "b"},
        "reasoning_effort": "low", "reasoning": {"effort": "low", "max_tokens": 5, "exclude": True, "enabled": True},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}},
            {"type": "custom", "custom": {"name": "c", "format": {"type": "grammar", "grammar": {"syntax": "lark"}}}},
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "messages": [
            {"role": "system", "content": "s", "name": "n"},
            {"role": "developer", "content": [{"type": "text", "text": "d", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
            {"role": "user", "content": [
                {"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
                {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PNG}", "filename": "a.pdf"}},
            ]},
            {"role": "assistant", "content": None, "refusal": "no", "reasoning_content": "r", "function_call": {"name": "g", "arguments": "{}"},
             "reasoning_details": [
                 {"type": "reasoning.text", "text": "t", "signature": "s", "format": "anthropic-claude-v1", "id": "1"},
                 {"type": "reasoning.encrypted", "data": "d", "format": "google-gemini-v1", "id": "call_1"},
             ],
             "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                            {"id": "call_2", "type": "custom", "custom": {"name": "c", "input": "i"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "x"}]},
            {"role": "function", "name": "g", "content": "y"},
        ],
    },
    WireFormat.OPENAI_RESPONSES: {
        "model": "lab/m", "instructions": "i", "max_output_tokens": 9, "stream": False, "top_logprobs": 1, "metadata": {"a": "b"},
        "reasoning": {"effort": "low", "summary": "auto"}, "include": ["x"], "parallel_tool_calls": True,
        "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}},
        "tools": [
            {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True},
            {"type": "custom", "name": "c", "format": {"type": "text"}}, {"type": "web_search", "filters": {}},
            {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "s", "parameters": SCHEMA}]},
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        "input": [
            {"type": "message", "role": "developer", "content": "d"},
            {"role": "user", "content": [
                {"type": "input_text", "text": "t"}, {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"},
                {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PNG}"},
            ]},
            {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "e"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "o"}, {"type": "refusal", "refusal": "r"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "namespace": "n"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "c", "input": "i"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "x"}]},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "y"},
            {"type": "additional_tools", "tools": [{"type": "function", "name": "z", "parameters": SCHEMA}]},
        ],
    },
    WireFormat.ANTHROPIC_MESSAGES: {
        "model": "lab/m", "max_tokens": 2000, "stream": True, "temperature": 1, "top_p": 0.5, "top_k": 3, "stop_sequences": ["x"],
        "metadata": {"user_id": "u"}, "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "5m"}}],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}, {"type": "web_search_20250305", "name": "w"}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "t"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                {"type": "document", "title": "d", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "p"}},
                {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "x"}]},
            ]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "h", "signature": "s"}, {"type": "redacted_thinking", "data": "d"},
                {"type": "text", "text": "t", "citations": []}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": [{"type": "text", "text": "x"}]},
            ]},
        ],
    },
    WireFormat.GEMINI: {
        "systemInstruction": {"parts": [{"text": "s"}]},
        "generationConfig": {
            "maxOutputTokens": 9, "temperature": 1, "topK": 3, "stopSequences": ["x"], "candidateCount": 1, "seed": 1,
            "responseMimeType": "application/json", "responseSchema": SCHEMA, "responseLogprobs": True, "logprobs": 1,
            "thinkingConfig": {"thinkingBudget": 5, "includeThoughts": True, "thinkingLevel": "LOW"},
        },
        "tools": [{"functionDeclarations": [{"name": "f", "description": "d", "parameters": SCHEMA}]}, {"googleSearch": {}}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "safetySettings": [{"category": "c", "threshold": "t"}],
        "contents": [
            {"role": "user", "parts": [
                {"text": "t"}, {"inlineData": {"mimeType": "image/png", "data": PNG}}, {"fileData": {"fileUri": "gs://a", "mimeType": "image/png"}},
            ]},
            {"role": "model", "parts": [
                {"text": "h", "thought": True, "thoughtSignature": "s"}, {"functionCall": {"id": "1", "name": "f", "args": {"a": 1}}},
                {"executableCode": {"language": "PYTHON", "code": "1"}},
            ]},
            {"role": "user", "parts": [{"functionResponse": {"id": "1", "name": "f", "response": {"result": "r"}}}]},
        ],
    },
    WireFormat.COHERE: {
        "model": "lab/m", "max_tokens": 9, "temperature": 1, "p": 0.5, "k": 3, "seed": 1, "stop_sequences": ["x"], "logprobs": True,
        "response_format": {"type": "json_object", "json_schema": SCHEMA}, "thinking": {"type": "enabled", "token_budget": 9},
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}],
        "tool_choice": "REQUIRED", "documents": [{"id": "1", "data": {"text": "x"}}], "safety_mode": "OFF",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [
                {"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            ]},
            {"role": "assistant", "tool_plan": "p", "content": [{"type": "thinking", "thinking": "h"}, {"type": "text", "text": "t"}],
             "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": [{"type": "document", "document": {"data": "x"}}]},
        ],
    },
}  # fmt: skip


def spoilt(value: Any) -> Iterator[Any]:
    """Copies of `value`, each with one thing in it replaced by junk or taken away."""
    for path in list(paths(value)):
        for junk in JUNK:
            made = copy.deepcopy(value)
            inner = made
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = junk
            yield made
        made = copy.deepcopy(value)
        inner = made
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]
        yield made


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
    for step, inner in entries:
        yield (*before, step)
        yield from paths(inner, (*before, step))


@pytest.mark.parametrize("wire_format", sorted(BODIES))
def test_a_body_of_wrong_types(wire_format: WireFormat) -> None:
    """The facts first, as the flow reads them; then decoded, and encoded for every provider."""
    tried = 0
    for body in spoilt(BODIES[wire_format]):
        with suppress(Refused):
            read_facts(wire_format, "chat", open_envelope(orjson.dumps(body)), "lab/m", False)
            call = FORMATS[wire_format].decode_call(body, model="lab/m", stream=False)
            for provider in PROVIDERS.values():
                with suppress(Refused):
                    provider.encode_call(call, MODEL, Quirks())
        tried += 1
    assert tried > 1000


READ = read_call(b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}')[1]
READ.include_usage = True
ANSWER = Reply(
    "id", "m", 1,
    [Choice(0, reasoning=["hm", " so"], content=["a", " b"]), Choice(1, tool_calls=[ToolCall("c1", "f", ['{"a"', ":1}"])])],
    usage_object(9, 5, 2, 3),
)  # fmt: skip
ONE = Reply(
    "id", "m", 1,
    [Choice(0, reasoning=["hm"], content=["a"], tool_calls=[ToolCall("c1", "f", ['{"a"', ":1}"])], finish_reason="tool_calls")],
    usage_object(9, 5, 2, 3), seal_thoughts=True,
)  # fmt: skip
ANSWERS = {
    WireFormat.OPENAI_CHAT: (chat, ANSWER), WireFormat.OPENAI_RESPONSES: (responses, ONE),
    WireFormat.ANTHROPIC_MESSAGES: (messages, ONE), WireFormat.GEMINI: (gemini, ANSWER), WireFormat.COHERE: (cohere, ONE),
    WireFormat.BEDROCK: (bedrock_format, ONE),
}  # fmt: skip


@pytest.mark.parametrize("wire_format", sorted(ANSWERS))
def test_an_answer_of_wrong_types(wire_format: WireFormat) -> None:
    module, answer = ANSWERS[wire_format]
    half = PROVIDERS[wire_format]
    for reply in spoilt(orjson.loads(module.FORMAT.encode_reply(answer, Behaviour()))):
        with suppress(MalformedReply):
            half.decode_reply(orjson.dumps(reply))
        half.error_message(orjson.dumps(reply))


@pytest.mark.parametrize("wire_format", sorted(ANSWERS))
def test_a_stream_of_wrong_types(wire_format: WireFormat) -> None:
    module, answer = ANSWERS[wire_format]
    events = [event for _, event in module.FORMAT.encode_events(answer, Behaviour(), READ)]
    for number, event in enumerate(events):
        wrapped = unwrapped(wire_format, event)
        if wrapped is None:
            continue
        data, wrap = wrapped
        for made in spoilt(data):
            decoder = PROVIDERS[wire_format].stream_decoder()
            with suppress(MalformedReply):
                for piece in (*events[:number], wrap(orjson.dumps(made)), *events[number + 1 :]):
                    decoder.feed(piece)
                decoder.close()


def unwrapped(wire_format: WireFormat, event: bytes) -> tuple[Any, Callable[[bytes], bytes]] | None:
    """An event's JSON, and how to put another in its place; None for `[DONE]`."""
    if wire_format is WireFormat.BEDROCK:
        head = 12 + int.from_bytes(event[4:8])
        name = event[12:head].split(b":event-type\x07")[1]
        kind = name[2 : 2 + int.from_bytes(name[:2])].decode()
        headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
        return orjson.loads(event[head:-4]), lambda raw: bedrock_format.frame(headers, raw)
    before, _, data = event.rstrip().rpartition(b"data: ")
    if data == b"[DONE]":
        return None
    return orjson.loads(data), lambda raw: before + b"data: " + raw + b"\n\n"

"""An Anthropic client at a Chat provider: what goes out, and what comes back."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.catalogue import Capability, WireFormat
from shared.domain.refusal import Reason, Refusal, Refused
from shared.wire import anthropic_messages
from tests.wire.translation import Translated, chat_stream, events

PNG = "iVBORw0KGgoAAAANSUhEUg=="
TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}


def translated(**quirks: Any) -> Translated:
    return Translated(WireFormat.ANTHROPIC_MESSAGES, WireFormat.OPENAI_CHAT, **quirks)


def body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "lab/model", "max_tokens": 1000, "messages": list(messages) or [{"role": "user", "content": "hi"}]} | more


def used(*calls: tuple[str, str, Any]) -> dict[str, Any]:
    """An assistant's message that calls tools: id, name, input."""
    blocks = [{"type": "tool_use", "id": tool_id, "name": name, "input": given} for tool_id, name, given in calls]
    return {"role": "assistant", "content": blocks}


def result(tool_id: str, content: Any = "done", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": tool_id, "content": content} | more


ASKED = {"role": "user", "content": "go"}

CASES: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    (
        "system blocks become one system message, without cache marks",
        body(system=[{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]),
        [{"role": "system", "content": "a\n\nb"}, {"role": "user", "content": "hi"}],
    ),
    (
        "Claude Code's billing block stays at home",
        body(system=[{"type": "text", "text": "x-anthropic-billing-header: cc_version=1;"}, {"type": "text", "text": "a"}]),
        [{"role": "system", "content": "a"}, {"role": "user", "content": "hi"}],
    ),
    (
        "a system message in the midst stays in its place",
        body(
            ASKED, {"role": "system", "content": [{"type": "text", "text": "be brief"}]}, {"role": "assistant", "content": "ok"}
        ),
        [{"role": "user", "content": "go"}, {"role": "system", "content": "be brief"}, {"role": "assistant", "content": "ok"}],
    ),
    (
        "tool results come first, in the order of the calls, then the user's text",
        body(
            ASKED,
            used(("t1", "look", {"at": "x"}), ("t2", "look", {})),
            {"role": "user", "content": [result("t2", "two"), result("t1", "one"), {"type": "text", "text": "go on"}]},
        ),
        [
            {"role": "user", "content": "go"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at":"x"}'}},
                    {"id": "t2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "one"},
            {"role": "tool", "tool_call_id": "t2", "content": "two"},
            {"role": "user", "content": "go on"},
        ],
    ),
    (
        "an error says that it is one, an empty result is an empty string",
        body(
            ASKED,
            used(("t1", "look", {}), ("t2", "look", {})),
            {"role": "user", "content": [result("t1", "boom", is_error=True), {"type": "tool_result", "tool_use_id": "t2"}]},
        ),
        [
            {"role": "user", "content": "go"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
                    {"id": "t2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "Error: boom"},
            {"role": "tool", "tool_call_id": "t2", "content": ""},
        ],
    ),
    (
        "an image in a tool result follows in the user's message",
        body(
            ASKED,
            used(("t1", "look", {})),
            {
                "role": "user",
                "content": [
                    result(
                        "t1",
                        [
                            {"type": "text", "text": "see"},
                            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": PNG}},
                        ],
                    )
                ],
            },
        ),
        [
            {"role": "user", "content": "go"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "see"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "[Media of tool result t1]"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                ],
            },
        ],
    ),
    (
        "images by URL and PDFs",
        body(
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                    {
                        "type": "document",
                        "title": "a.pdf",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQ="},
                    },
                ],
            }
        ),
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                    {
                        "type": "file",
                        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjQ="},
                    },
                ],
            }
        ],
    ),
    (
        "a call whose result is missing is told as lost; a result without a call becomes text",
        body({"role": "user", "content": [result("gone", "old news")]}, used(("t1", "look", {})), ASKED),
        [
            {"role": "user", "content": "[Result of an earlier tool call gone]\nold news"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "Error: (The result of this tool call was lost.)"},
            {"role": "user", "content": "go"},
        ],
    ),
]


@pytest.mark.parametrize(("given", "messages"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_messages(given: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    assert translated().sent(given)["messages"] == messages


def test_thinking_goes_back_only_where_it_is_wanted() -> None:
    given = body(
        ASKED,
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "hmm", "signature": "S"}, {"type": "text", "text": "well"}],
        },
        ASKED,
    )
    assert translated().sent(given)["messages"][1] == {"role": "assistant", "content": "well"}
    wanted = translated(replay_reasoning="reasoning_content").sent(given)["messages"][1]
    assert wanted == {"role": "assistant", "content": "well", "reasoning_content": "hmm"}
    details = translated(replay_reasoning="reasoning_details").sent(given)["messages"][1]["reasoning_details"]
    assert details == [{"type": "reasoning.text", "text": "hmm", "format": "anthropic-claude-v1", "signature": "S"}]


@pytest.mark.parametrize(
    ("choice", "sent", "parallel"),
    [
        ({"type": "any"}, "required", None),
        ({"type": "tool", "name": "look"}, {"type": "function", "function": {"name": "look"}}, None),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False),
        ({"type": "none"}, "none", None),
    ],
)
def test_tool_choice(choice: dict[str, Any], sent: Any, parallel: bool | None) -> None:
    made = translated().sent(body(tools=[TOOL], tool_choice=choice))
    assert made["tool_choice"] == sent
    assert made.get("parallel_tool_calls") is parallel


def test_a_provider_that_cannot_be_told_a_tool_gets_only_that_one() -> None:
    other = TOOL | {"name": "other"}
    made = translated(forced_tools=("required",)).sent(body(tools=[TOOL, other], tool_choice={"type": "tool", "name": "other"}))
    assert made["tool_choice"] == "required"
    assert [tool["function"]["name"] for tool in made["tools"]] == ["other"]


def test_server_tools_and_placeholders_are_left_out() -> None:
    tools = [
        {"type": "web_search_20250305", "name": "web_search"},
        {"name": "later", "input_schema": {}, "defer_loading": True},
    ]
    bridge = translated()
    assert "tools" not in bridge.sent(body(tools=tools))
    assert bridge.dropped == ["tools[0]", "tools[1]"]


def test_schemas_pass_but_for_keys_that_the_provider_refuses() -> None:
    schema = {"$schema": "x", "type": "object", "properties": {"$schema": {"type": "integer", "exclusiveMinimum": 0}}}
    tool = {"name": "f", "input_schema": schema}
    assert translated().sent(body(tools=[tool]))["tools"][0]["function"]["parameters"] == schema
    bare = translated(schema_drop=("$schema",)).sent(body(tools=[tool]))["tools"][0]["function"]["parameters"]
    assert bare == {"type": "object", "properties": {"$schema": {"type": "integer", "exclusiveMinimum": 0}}}


@pytest.mark.parametrize(
    ("thinking", "quirk", "expected"),
    [
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, "effort", {"reasoning_effort": "xhigh"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 8000}, "max_tokens": 10000}, "effort", {"reasoning_effort": "high"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 8000}, "max_tokens": 10000}, "thinking",
         {"thinking": {"type": "enabled"}}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 10000}, "enable_thinking",
         {"enable_thinking": True, "thinking_budget": 2000}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 10000}, "object",
         {"reasoning": {"max_tokens": 2000}}),
        ({"thinking": {"type": "disabled"}}, "thinking", {"thinking": {"type": "disabled"}}),
    ],
)  # fmt: skip
def test_reasoning_in_the_providers_words(thinking: dict[str, Any], quirk: str, expected: dict[str, Any]) -> None:
    made = translated(reasoning=quirk).sent(body(**thinking))
    assert {name: made[name] for name in expected} == expected


def test_a_model_that_does_not_reason_is_not_asked_to() -> None:
    bridge = translated(capabilities=frozenset({Capability.TEXT, Capability.TOOLS}))
    assert "reasoning_effort" not in bridge.sent(body(thinking={"type": "adaptive"}))
    assert bridge.dropped == ["thinking"]


def test_what_only_anthropic_knows_is_left_out_and_listed() -> None:
    bridge = translated()
    made = bridge.sent(
        body(context_management={"edits": []}, container="c", metadata={"user_id": "u"}, stop_sequences=list("abcde"), safe=1)
    )
    assert "context_management" not in made
    assert "container" not in made
    assert made["user"] == "u"
    assert made["stop"] == ["a", "b", "c", "d"]
    assert made["safe"] == 1
    assert bridge.dropped == ["stop_sequences[4:]", "context_management", "container"]


def test_a_tool_name_within_the_alphabet_comes_back_as_the_clients_own() -> None:
    bridge = translated()
    name = "functions.exec/" + "x" * 60
    sent = bridge.sent(body(tools=[TOOL | {"name": name}]))["tools"][0]["function"]["name"]
    assert len(sent) <= 64
    assert sent.replace("_", "").replace("-", "").isalnum()
    call = {"id": "c", "type": "function", "function": {"name": sent, "arguments": "{}"}}
    reply = {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    assert bridge.answered(reply)["content"] == [{"type": "tool_use", "id": "c", "name": name, "input": {}}]


def answered(message: dict[str, Any], finish: str = "stop", usage: dict[str, Any] | None = None) -> dict[str, Any]:
    bridge = translated()
    bridge.sent(body())
    return bridge.answered({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})


@pytest.mark.parametrize(
    ("finish", "reason"), [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("eos", "end_turn")]
)
def test_stop_reasons(finish: str, reason: str) -> None:
    assert answered({"content": "x"}, finish)["stop_reason"] == reason


def test_a_whole_answer_with_reasoning_tools_and_usage() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "prompt_tokens_details": {"cached_tokens": 60}}
    made = answered({"content": "so", "reasoning_content": "hmm", "tool_calls": [call]}, "stop", usage)
    assert made["content"] == [
        {"type": "thinking", "thinking": "hmm", "signature": ""},
        {"type": "text", "text": "so"},
        {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "x"}},
    ]
    assert made["stop_reason"] == "tool_use"
    assert made["usage"] == {
        "input_tokens": 40, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 60, "output_tokens": 20,
    }  # fmt: skip


def piece(index: int, arguments: str, tool_id: str | None = None, name: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"tool_calls": [{"index": index, "function": function} | ({"id": tool_id} if tool_id else {})]}


def blocks(stream: bytes) -> list[tuple[str, Any]]:
    """The stream's blocks, checked to be strictly sequential: (type, text or input)."""
    found: list[tuple[str, Any]] = []
    opened: int | None = None
    text = ""
    for event in events(stream):
        match event["type"]:
            case "content_block_start":
                assert opened is None
                assert event["index"] == len(found)
                opened, text = event["index"], ""
                kind = event["content_block"]["type"]
            case "content_block_delta":
                assert event["index"] == opened
                delta = event["delta"]
                text += delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
            case "content_block_stop":
                assert event["index"] == opened
                opened = None
                found.append((kind, text))
    assert opened is None
    return found


def test_interleaved_tool_calls_become_blocks_one_after_the_other() -> None:
    stream = chat_stream(
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": "so"},
        piece(0, "", "c1", "look"),
        piece(0, '{"at"'),
        piece(1, "", "c2", "look"),
        piece(1, '{"at":"y"}'),
        piece(0, ':"x"}'),
        finish="tool_calls",
        usage={"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16},
    )
    bridge = translated()
    bridge.sent(body(stream=True))
    out = bridge.streamed([stream])
    assert blocks(out) == [("thinking", "hm"), ("text", "so"), ("tool_use", '{"at":"x"}'), ("tool_use", '{"at":"y"}')]
    last, end = events(out)[-2:]
    assert last["delta"]["stop_reason"] == "tool_use"
    assert (last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (7, 9)
    assert end == {"type": "message_stop"}
    for size in range(1, 40):
        bridge.sent(body(stream=True))
        assert bridge.streamed(stream[at : at + size] for at in range(0, len(stream), size)) == out


@pytest.mark.parametrize(
    "deltas", [[piece(0, '{"a":1}', "c", "f")], [piece(0, "", "c", "f"), piece(0, '{"a":'), piece(0, "1}")]]
)
def test_a_tool_call_in_one_chunk_or_in_many(deltas: list[dict[str, Any]]) -> None:
    bridge = translated()
    bridge.sent(body(stream=True))
    assert blocks(bridge.streamed([chat_stream(*deltas, finish="")])) == [("tool_use", '{"a":1}')]


def test_a_stream_that_ends_without_done_is_completed_and_one_without_a_finish_is_not() -> None:
    whole = chat_stream({"content": "x"}).removesuffix(b"data: [DONE]\n\n")
    bridge = translated()
    bridge.sent(body(stream=True))
    assert events(bridge.streamed([whole]))[-1] == {"type": "message_stop"}
    bridge.sent(body(stream=True))
    assert events(bridge.streamed([chat_stream({"content": "x"}, finish=None)]))[-1]["type"] == "content_block_delta"


def test_an_error_in_the_stream_is_said_in_the_clients_format() -> None:
    bridge = translated()
    bridge.sent(body(stream=True))
    out = events(
        bridge.streamed([b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\ndata: {"error":{"message":"no"}}\n\n'])
    )
    assert out[-1]["type"] == "error"
    assert out[-1]["error"]["type"] == "api_error"


@pytest.mark.parametrize(
    ("refusal", "status", "kind"),
    [
        (Refusal(reason=Reason.RATE_LIMITED, status=429, message="m", retry_after_s=7), 429, "rate_limit_error"),
        (Refusal(reason=Reason.PROVIDER_ERROR, status=503, message="m"), 529, "overloaded_error"),
        (Refusal(reason=Reason.PROVIDER_ERROR, status=502, message="m"), 502, "api_error"),
        (Refusal(reason=Reason.PROVIDER_CREDENTIAL, status=502, message="m"), 502, "api_error"),
        (Refusal(reason=Reason.INVALID_KEY, status=401, message="m"), 401, "authentication_error"),
        (Refusal(reason=Reason.BUDGET_EXHAUSTED, status=429, message="m", retry=False), 429, "billing_error"),
        (Refusal(reason=Reason.INVALID_FIELD, status=400, message="m"), 400, "invalid_request_error"),
    ],
)
def test_errors(refusal: Refusal, status: int, kind: str) -> None:
    got, headers, raw = anthropic_messages.encode_refusal(refusal, "req")
    assert got == status
    assert b'"type":"%b"' % kind.encode() in raw
    assert headers["request-id"] == "req"
    if refusal.retry_after_s:
        assert headers["Retry-After"] == "7"


def test_a_prompt_too_long_is_said_so_that_claude_code_compacts() -> None:
    said = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
    refusal = Refusal(reason=Reason.CONTEXT_LENGTH, status=400, message=said)
    _, _, raw = anthropic_messages.encode_refusal(refusal, None)
    assert b'"message":"prompt is too long: 9000 tokens > 8192 maximum"' in raw


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].source"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"temperature": "warm"}, "temperature"),
        ({"tool_choice": {"type": "maybe"}, "tools": [TOOL]}, "tool_choice.type"),
    ],
)
def test_refusals_name_the_field(broken: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as caught:
        translated().sent(body(ASKED) | broken)
    assert caught.value.refusal.field == field


@pytest.mark.parametrize(("needed", "replayed"), [(True, " "), (False, None)])
def test_a_tool_call_without_its_thoughts_gets_a_blank_where_one_is_needed(needed: bool, replayed: str | None) -> None:
    """DeepSeek and Kimi refuse a replayed tool call without reasoning_content; Continue drops thoughts."""
    bridge = Translated(
        WireFormat.ANTHROPIC_MESSAGES, WireFormat.OPENAI_CHAT, replay_reasoning="reasoning_content", replay_needed=needed
    )
    made = bridge.sent(
        {
            "model": "lab/model",
            "max_tokens": 50,
            "messages": [
                {"role": "user", "content": "go"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "seen"}]},
                {"role": "assistant", "content": "done"},
                {"role": "user", "content": "more"},
            ],
        }
    )
    assert [message.get("reasoning_content") for message in made["messages"]] == [None, replayed, None, None, None]

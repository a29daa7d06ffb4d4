"""A Responses client (Codex) at a Chat provider, and a Chat client at OpenAI's Responses."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Reason, Refusal, Refused
from shared.wire import openai_responses
from tests.wire.translation import Translated, chat_stream, events, named_stream


def translated(**quirks: Any) -> Translated:
    return Translated(WireFormat.OPENAI_RESPONSES, WireFormat.OPENAI_CHAT, **quirks)


def body(*items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "lab/model", "input": list(items) or "hi"} | more


def message(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def call(call_id: str, name: str = "look", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def output(call_id: str, text: Any = "done") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
CLOCK = {
    "type": "namespace",
    "name": "clock",
    "tools": [{"type": "function", "name": "sleep", "parameters": {"type": "object"}}],
}
SCHEMA = {"name": "a", "schema": {"type": "object"}, "strict": True}
PATCH = {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}}


def names(made: dict[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in made.get("tools", [])]


def test_tools_that_travel_as_an_item_join_the_others_and_the_item_goes() -> None:
    item = {"type": "additional_tools", "role": "developer", "tools": [LOOK, CLOCK]}
    made = translated().sent(body(item, message("developer", "You are Codex."), message("user", "go")))
    assert names(made) == ["look", "clock__sleep"]
    assert made["messages"] == [{"role": "system", "content": "You are Codex."}, {"role": "user", "content": "go"}]


def test_a_namespace_comes_back_with_its_call() -> None:
    bridge = translated()
    bridge.sent(body(tools=[CLOCK]))
    tool_call = {"id": "c", "type": "function", "function": {"name": "clock__sleep", "arguments": "{}"}}
    item = bridge.answered({"choices": [{"message": {"tool_calls": [tool_call]}, "finish_reason": "tool_calls"}]})["output"][0]
    assert (item["type"], item["name"], item["namespace"], item["call_id"]) == ("function_call", "sleep", "clock", "c")


def test_a_custom_tool_travels_as_a_function_and_comes_back_as_itself() -> None:
    bridge = translated()
    made = bridge.sent(
        body(
            message("user", "go"),
            {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** Begin"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"},
            tools=[PATCH],
            stream=True,
        )
    )
    parameters = made["tools"][0]["function"]["parameters"]
    assert parameters == {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    assert made["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"input": "*** Begin"}'
    pieces = [
        {"tool_calls": [{"index": 0, "id": "d", "function": {"name": "apply_patch", "arguments": '{"input":"a'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '\\nb"}'}}]},
    ]
    found = events(bridge.streamed([chat_stream(*pieces, finish="tool_calls")]))
    kinds = [event["type"] for event in found]
    assert "response.custom_tool_call_input.delta" in kinds
    assert "response.function_call_arguments.delta" not in kinds
    done = next(event for event in found if event["type"] == "response.output_item.done")["item"]
    assert (done["type"], done["name"], done["input"], done["call_id"]) == ("custom_tool_call", "apply_patch", "a\nb", "d")


def test_hosted_tools_are_left_out_and_listed() -> None:
    bridge = translated()
    made = bridge.sent(body(tools=[LOOK, {"type": "web_search"}, {"type": "tool_search"}], tool_choice="auto"))
    assert names(made) == ["look"]
    assert bridge.dropped == ["tools[1]", "tools[2]"]
    assert "tool_choice" not in translated().sent(body(tools=[{"type": "web_search"}], tool_choice="auto"))


def test_parallel_calls_are_one_message_and_their_outputs_follow() -> None:
    made = translated().sent(body(message("user", "go"), call("c1"), call("c2"), output("c2", "two"), output("c1", "one")))
    assert [each["role"] for each in made["messages"]] == ["user", "assistant", "tool", "tool"]
    assert [each["id"] for each in made["messages"][1]["tool_calls"]] == ["c1", "c2"]
    assert [each["content"] for each in made["messages"][2:]] == ["one", "two"]


def test_an_orphaned_output_becomes_text() -> None:
    made = translated().sent(body(output("gone", "old"), message("user", "go")))
    assert [each["role"] for each in made["messages"]] == ["user"]
    assert "old" in str(made["messages"][0]["content"])


def test_encrypted_reasoning_goes_back_to_its_own_family_only() -> None:
    ours = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "E1"}
    foreign = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "hm"}],
        "encrypted_content": "wsy1.anthropic.SIG",
    }
    items = (message("user", "go"), ours, foreign, call("c"), output("c"))
    made = translated(replay_reasoning="reasoning_details").sent(body(*items))["messages"][1]["reasoning_details"]
    assert [(each["format"], each.get("signature") or each.get("data")) for each in made] == [
        ("openai-responses-v1", "E1"),
        ("anthropic-claude-v1", "SIG"),
    ]
    claude = Translated(WireFormat.OPENAI_RESPONSES, WireFormat.ANTHROPIC_MESSAGES, model_id="claude-sonnet-4-5")
    blocks = claude.sent(body(*items, reasoning={"effort": "high"}))["messages"][1]["content"]
    assert [block["type"] for block in blocks] == ["thinking", "tool_use"]
    assert blocks[0]["signature"] == "SIG"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_output_tokens": 77}, {"max_tokens": 77}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        (
            {"text": {"format": {"type": "json_schema"} | SCHEMA}},
            {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        ),
        ({"tools": [LOOK], "parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        ({"instructions": "s"}, {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]}),
    ],
)  # fmt: skip
def test_fields(given: dict[str, Any], expected: dict[str, Any]) -> None:
    made = translated().sent(body(**given))
    assert {name: made[name] for name in expected} == expected


def test_a_stream_in_full_order() -> None:
    bridge = translated()
    bridge.sent(body(stream=True, reasoning={"effort": "low"}))
    usage = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
    tool = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "look", "arguments": "{}"}}]}
    found = events(bridge.streamed([chat_stream({"reasoning_content": "hm"}, {"content": "so"}, tool, usage=usage)]))
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created", "in_progress",
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_summary_text.done",
        "reasoning_summary_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
        "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    final = found[-1]["response"]
    assert final["usage"]["total_tokens"] == 16
    done = [event for event in found if event["type"] == "response.output_item.done"]
    assert [event["item"] for event in done] == final["output"]
    assert [event["output_index"] for event in done] == [0, 1, 2]
    named = {event["item_id"] for event in found if "item_id" in event}
    assert named == {item["id"] for item in final["output"]}


def test_an_answer_cut_by_its_cap_is_incomplete() -> None:
    bridge = translated()
    bridge.sent(body(stream=True))
    last = events(bridge.streamed([chat_stream({"content": "so"}, finish="length")]))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_errors_that_codex_understands() -> None:
    limited = Refusal(reason=Reason.PROVIDER_LIMITED, status=429, message="Slow down.", retry_after_s=7)
    event = events(openai_responses.encode_stream_error(limited))[0]
    assert event["type"] == "response.failed"
    assert event["response"]["error"]["code"] == "rate_limit_exceeded"
    assert "try again in 7s" in event["response"]["error"]["message"]
    too_long = Refusal(reason=Reason.CONTEXT_LENGTH, status=400, message="m")
    assert events(openai_responses.encode_stream_error(too_long))[0]["response"]["error"]["code"] == "context_length_exceeded"


def test_stored_context_is_never_silently_fresh() -> None:
    with pytest.raises(Refused) as caught:
        translated().sent(body(conversation="conv_x"))
    assert caught.value.refusal.field == "conversation"


def test_a_chat_client_at_openais_responses() -> None:
    bridge = Translated(WireFormat.OPENAI_CHAT, WireFormat.OPENAI_RESPONSES)
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    tool_call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    made = bridge.sent(
        {
            "model": "lab/model",
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "go"},
                {"role": "assistant", "content": "", "tool_calls": [tool_call]},
                {"role": "tool", "tool_call_id": "c", "content": "seen"},
            ],
            "tools": [tool],
            "max_tokens": 5,
            "seed": 1,
            "stream": True,
        }
    )
    assert made == {
        "model": "model",
        "store": False,
        "instructions": "s",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go"}]},
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "seen"},
        ],
        "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}],
        "max_output_tokens": 5,
        "stream": True,
    }
    assert bridge.dropped == ["seed"]
    item = {"id": "msg", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]}
    usage = {"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 1}}
    stream = named_stream(
        {"type": "response.created", "response": {"model": "m"}},
        {"type": "response.output_item.added", "output_index": 0, "item": item | {"content": []}},
        {"type": "response.output_text.delta", "item_id": "msg", "delta": "Hi."},
        {"type": "response.output_text.done", "item_id": "msg", "text": "Hi."},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {"status": "completed", "output": [item], "usage": usage}},
    )
    out = bridge.streamed([stream])
    found = events(out)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in found[:-1]) == "Hi."
    assert found[-2]["choices"][0]["finish_reason"] == "stop"
    for size in range(1, len(stream), 7):
        assert bridge.streamed(stream[at : at + size] for at in range(0, len(stream), size)) == out

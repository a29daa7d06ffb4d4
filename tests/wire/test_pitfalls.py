"""Concrete cases that bite between two formats, each with its input and what must come of it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Reason, Refusal
from shared.wire import anthropic_messages, openai_responses
from tests.wire.translation import Translated, chat_stream, events

CHAT, MESSAGES, RESPONSES, GEMINI = (
    WireFormat.OPENAI_CHAT,
    WireFormat.ANTHROPIC_MESSAGES,
    WireFormat.OPENAI_RESPONSES,
    WireFormat.GEMINI,
)
HELLO = {"role": "user", "content": "hi"}
LOOK = {"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
PNG = "iVBORw0KGgoAAAANSUhEUg=="


def asked(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "lab/model", "max_tokens": 1000, "messages": list(messages) or [HELLO]} | more


def wanted(*items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "lab/model", "input": list(items) or "hi"} | more


def streaming(client: WireFormat, provider: WireFormat, **more: Any) -> Translated:
    """A bridge whose call, a stream, has gone out."""
    bridge = Translated(client, provider, **more)
    if client is GEMINI:
        bridge.sent({"contents": [{"parts": [{"text": "hi"}]}]}, model="lab/model", stream=True)
    else:
        bridge.sent((wanted if client is RESPONSES else asked)(stream=True))
    return bridge


def piece(arguments: str | None, index: int = 0, **call: str) -> dict[str, Any]:
    """A delta of a tool call; `call`: its id and name, in the first."""
    function = {"arguments": arguments} | ({"name": call["name"]} if call else {})
    return {"tool_calls": [{"index": index, "function": function} | ({"id": call["id"]} if call else {})]}


def google(*parts: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
    """A chunk of Gemini's."""
    usage = {"promptTokenCount": 100, "cachedContentTokenCount": 40, "candidatesTokenCount": 20, "thoughtsTokenCount": 30}
    candidate = {"content": {"role": "model", "parts": list(parts)}} | ({"finishReason": reason} if reason else {})
    return b"data: " + orjson.dumps({"candidates": [candidate], "usageMetadata": usage} | more) + b"\r\n\r\n"


def finish(stream: bytes) -> Any:
    """The reason in a Chat client's stream."""
    return next(f for c in events(stream)[:-1] if c["choices"] and (f := c["choices"][0]["finish_reason"]) is not None)


# -- an Anthropic client at a Chat provider


def test_a_turn_with_thinking_text_and_a_call() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hmm", "signature": "S"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "x"}},
    ]
    history = (HELLO, {"role": "assistant", "content": blocks})
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at":"x"}'}}
    plain = {"role": "assistant", "content": "I look.", "tool_calls": [call]}
    assert Translated(MESSAGES, CHAT).sent(asked(*history))["messages"][1] == plain
    thinks = Translated(MESSAGES, CHAT, replay_reasoning="reasoning_content").sent(asked(*history))["messages"][1]
    assert thinks == plain | {"reasoning_content": "hmm"}


def test_a_server_tool_that_is_left_out_cannot_be_forced() -> None:
    tools = [LOOK, {"type": "web_search_20250305", "name": "web_search"}]
    bridge = Translated(MESSAGES, CHAT)
    made = bridge.sent(asked(tools=tools, tool_choice={"type": "tool", "name": "web_search"}))
    assert [tool["function"]["name"] for tool in made["tools"]] == ["look"]
    assert made["tool_choice"] == "auto"
    assert bridge.dropped == ["tools[1]", "tool_choice"]
    made = bridge.sent(asked(tools=tools[1:], tool_choice={"type": "tool", "name": "web_search"}))
    assert not {"tools", "tool_choice"} & set(made)


def test_housekeeping_of_claude_code_stays_at_home() -> None:
    bridge = Translated(MESSAGES, CHAT)
    user = '{"device_id":"d","session_id":"s"}'
    made = bridge.sent(asked(diagnostics={"a": 1}, speed="fast", context_management={"edits": []}, metadata={"user_id": user}))
    assert made == {"model": "model", "messages": [HELLO], "max_tokens": 1000, "user": user}
    assert bridge.dropped == ["diagnostics", "speed", "context_management"]


@pytest.mark.parametrize(("quirks", "kept"), [({}, 4), ({"most_stops": 1}, 1)])
def test_of_five_stop_sequences_those_that_the_provider_takes(quirks: dict[str, Any], kept: int) -> None:
    bridge = Translated(MESSAGES, CHAT, **quirks)
    made = bridge.sent(asked(stop_sequences=["a", "b", "c", "d", "e"]))
    assert made["stop"] == ["a", "b", "c", "d", "e"][:kept]
    assert bridge.dropped == [f"stop_sequences[{kept}:]"]


@pytest.mark.parametrize(
    ("told", "reason", "sequence"),
    [
        ({}, "end_turn", None),
        ({"stop_reason": "###"}, "stop_sequence", "###"),
        ({"matched_stop": "###"}, "stop_sequence", "###"),
        ({"stop_reason": None, "matched_stop": 151645}, "end_turn", None),
    ],
)
def test_a_stop_sequence_is_named_where_the_server_names_it(told: dict[str, Any], reason: str, sequence: str | None) -> None:
    """vLLM and SGLang do; from others it is an ordinary end."""
    bridge = Translated(MESSAGES, CHAT)
    bridge.sent(asked(stop_sequences=["###"]))
    whole = bridge.answered({"choices": [{"message": {"content": "so"}, "finish_reason": "stop"} | told]})
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"} | told]}
    stream = chat_stream({"content": "so"}, finish=None).removesuffix(b"data: [DONE]\n\n")
    found = events(streaming(MESSAGES, CHAT).streamed([stream + b"data: " + orjson.dumps(last) + b"\n\n"]))
    assert found[-2]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


def test_a_call_without_arguments_has_an_empty_input() -> None:
    """Some stream "" and then null."""
    stream = chat_stream(piece("", id="c", name="f"), piece(None), finish="tool_calls")
    found = events(streaming(MESSAGES, CHAT).streamed([stream]))
    assert [event["content_block"] for event in found if event["type"] == "content_block_start"] == [
        {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    ]
    assert "".join(event["delta"]["partial_json"] for event in found if event["type"] == "content_block_delta") in ("", "{}")
    assert found[-2]["delta"]["stop_reason"] == "tool_use"


def test_usage_after_the_finish_is_in_the_last_event_and_cached_tokens_are_no_input() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 9, "total_tokens": 109, "prompt_tokens_details": {"cached_tokens": 60}}
    found = events(streaming(MESSAGES, CHAT).streamed([chat_stream({"content": "so"}, usage=usage)]))
    assert [event["type"] for event in found[-2:]] == ["message_delta", "message_stop"]
    assert found[-2]["usage"] == {
        "input_tokens": 40, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 60, "output_tokens": 9,
    }  # fmt: skip


def test_a_stream_that_dies_ends_with_an_error_and_no_message_stop() -> None:
    bridge = streaming(MESSAGES, CHAT)
    stream = chat_stream({"content": "a"}, {"content": "b"}, {"content": "c"}, finish=None).removesuffix(b"data: [DONE]\n\n")
    died = Refusal(reason=Reason.PROVIDER_ERROR, status=502, message="It died.")
    found = events(bridge.streamed([stream]) + bridge.bridge.stream_error(died, 0))
    assert [event["type"] for event in found if event["type"] == "message_stop"] == []
    assert found[-1] == {"type": "error", "error": {"type": "api_error", "message": "It died."}}


def test_an_exhausted_budget_is_not_asked_for_again() -> None:
    refusal = Refusal(reason=Reason.BUDGET_EXHAUSTED, status=429, message="No money.", retry=False)
    status, headers, body = anthropic_messages.encode_refusal(refusal, "req")
    assert (status, headers["x-should-retry"], orjson.loads(body)["error"]["type"]) == (429, "false", "billing_error")


# -- a Chat client at Anthropic


@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}]])
def test_there_is_no_empty_text_beside_a_call(content: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    history = (
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "y"},
    )
    made = Translated(CHAT, MESSAGES).sent(asked(HELLO, *history))["messages"][1]
    assert made == {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]}


@pytest.mark.parametrize("provider", [MESSAGES, GEMINI])
def test_a_call_that_has_only_a_system_gets_a_users_turn(provider: WireFormat) -> None:
    made = Translated(CHAT, provider).sent(asked({"role": "system", "content": "s"}))
    turns = made["messages"] if provider is MESSAGES else made["contents"]
    assert [turn["role"] for turn in turns] == ["user"]
    assert "(The conversation continues.)" in str(turns)
    assert "'text': 's'" in str(made["system"] if provider is MESSAGES else made["systemInstruction"])


# -- Gemini as the provider


def test_a_system_message_in_the_midst_is_the_users_at_gemini() -> None:
    made = Translated(MESSAGES, GEMINI).sent(asked(HELLO, {"role": "system", "content": "be brief"}))
    assert made["contents"] == [{"role": "user", "parts": [{"text": "hi"}, {"text": "be brief"}]}]


def test_a_tool_without_parameters_has_no_schema_at_gemini() -> None:
    made = Translated(CHAT, GEMINI).sent(asked(tools=[FUNCTION]))
    assert made["tools"] == [{"functionDeclarations": [{"name": "f"}]}]


def test_two_calls_without_ids_in_one_chunk_are_two() -> None:
    parts = ({"functionCall": {"name": "f", "args": {}}}, {"functionCall": {"name": "f", "args": {"a": 1}}})
    out = streaming(CHAT, GEMINI).streamed([google(*parts, reason="STOP")])
    deltas = [chunk["choices"][0]["delta"] for chunk in events(out)[:-1]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [(call["index"], call["id"]) for call in calls if "id" in call] == [(0, "call_0"), (1, "call_1")]
    assert [call["function"]["arguments"] for call in calls if "id" not in call] == ["{}", '{"a":1}']
    assert finish(out) == "tool_calls"
    found = events(streaming(MESSAGES, GEMINI).streamed([google(*parts, reason="STOP")]))
    assert found[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_blocked_prompt_is_a_refusal_to_an_anthropic_client() -> None:
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}}
    bridge = Translated(MESSAGES, GEMINI)
    bridge.sent(asked())
    whole = bridge.answered(blocked)
    assert (whole["content"], whole["stop_reason"], whole["usage"]["input_tokens"]) == ([], "refusal", 3)
    stream = b"data: " + orjson.dumps(blocked) + b"\r\n\r\n"
    found = events(streaming(MESSAGES, GEMINI).streamed([stream]))
    assert [event["type"] for event in found] == ["message_start", "message_delta", "message_stop"]
    assert found[1]["delta"]["stop_reason"] == "refusal"
    assert finish(streaming(CHAT, GEMINI).streamed([stream])) == "content_filter"


@pytest.mark.parametrize(("reason", "said"), [("SAFETY", "content_filter"), ("MAX_TOKENS", "length")])
def test_geminis_reasons_in_the_midst_of_a_stream(reason: str, said: str) -> None:
    assert finish(streaming(CHAT, GEMINI).streamed([google({"text": "a"}), google(reason=reason)])) == said


def test_geminis_usage_in_anthropics_words() -> None:
    found = events(streaming(MESSAGES, GEMINI).streamed([google({"text": "a"}, reason="STOP")]))
    assert found[-2]["usage"] == {
        "input_tokens": 60, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 40, "output_tokens": 50,
    }  # fmt: skip


# -- a Responses client


def test_an_image_in_a_tools_output_follows_in_the_users_message() -> None:
    content = [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}]
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": content}
    made = Translated(RESPONSES, CHAT).sent(wanted({"role": "user", "content": "go"}, call, output))["messages"]
    assert made[2:] == [
        {"role": "tool", "tool_call_id": "c", "content": "see"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "[Media of tool result c]"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            ],
        },
    ]


def test_a_hosted_tool_that_is_left_out_cannot_be_forced() -> None:
    tools = [{"type": "function", "name": "look"}, {"type": "image_generation"}, {"type": "local_shell"}]
    bridge = Translated(RESPONSES, CHAT)
    made = bridge.sent(wanted(tools=tools, tool_choice={"type": "image_generation"}))
    assert [tool["function"]["name"] for tool in made["tools"]] == ["look"]
    assert made["tool_choice"] == "auto"
    assert bridge.dropped == ["tools[1]", "tools[2]"]


@pytest.mark.parametrize(
    ("quirks", "said"),
    [
        ({}, {"reasoning_effort": "none"}),
        ({"reasoning": "thinking"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning": "enable_thinking"}, {"enable_thinking": False}),
    ],
)
def test_no_effort_turns_thinking_off(quirks: dict[str, Any], said: dict[str, Any]) -> None:
    made = Translated(RESPONSES, CHAT, **quirks).sent(wanted(reasoning={"effort": "none"}))
    assert {name: made[name] for name in said} == said


def test_a_field_that_a_provider_refuses_is_left_out_and_listed() -> None:
    """Cerebras and parallel_tool_calls."""
    bridge = Translated(RESPONSES, CHAT, drop=("parallel_tool_calls",))
    made = bridge.sent(wanted(tools=[{"type": "function", "name": "look"}], parallel_tool_calls=False))
    assert "parallel_tool_calls" not in made
    assert bridge.dropped == ["parallel_tool_calls"]


def test_a_prompt_too_long_has_its_code_before_a_stream_too() -> None:
    refusal = Refusal(reason=Reason.CONTEXT_LENGTH, status=400, message="Too long.")
    status, _, body = openai_responses.encode_refusal(refusal, "req")
    assert (status, orjson.loads(body)["error"]["code"]) == (400, "context_length_exceeded")


# -- a Gemini client


def test_a_schema_with_googles_types_is_a_json_schema() -> None:
    config = {
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "OBJECT", "properties": {"type": {"type": "STRING"}}},
    }
    given = {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": config}
    schema = {"type": "object", "properties": {"type": {"type": "string"}}}
    made = Translated(GEMINI, CHAT).sent(given, model="lab/model", stream=False)
    assert made["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    made = Translated(GEMINI, MESSAGES).sent(given, model="lab/model", stream=False)
    assert made["output_config"]["format"]["schema"] == schema | {"additionalProperties": False}


@pytest.mark.parametrize("include", [True, False])
def test_thoughts_are_for_those_who_ask(include: bool) -> None:
    bridge = Translated(GEMINI, CHAT)
    config = {"thinkingConfig": {"includeThoughts": include}}
    bridge.sent({"contents": [{"parts": [{"text": "x"}]}], "generationConfig": config}, model="lab/model", stream=True)
    found = events(bridge.streamed([chat_stream({"reasoning_content": "hm"}, {"content": "so"})]))
    parts = [part for chunk in found for part in chunk["candidates"][0]["content"]["parts"] if part["text"]]
    assert parts == [{"text": "hm", "thought": True}] * include + [{"text": "so"}]


# -- what OpenAI's imitators do otherwise


def test_mistrals_ids_are_nine_letters_and_the_same_in_call_and_result() -> None:
    call = {"type": "tool_use", "id": "toolu_01ABC", "name": "look", "input": {}}
    history = (
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_01ABC", "content": "x"}]},
    )
    made = [Translated(MESSAGES, CHAT, tool_ids="nine").sent(asked(HELLO, *history))["messages"] for _ in range(2)]
    tool_id = made[0][1]["tool_calls"][0]["id"]
    assert (len(tool_id), tool_id.isalnum()) == (9, True)
    assert made[0][2]["tool_call_id"] == tool_id
    assert made[0] == made[1]


def test_mistrals_thoughts_among_the_content() -> None:
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "so"}]
    bridge = Translated(CHAT, CHAT)
    bridge.sent(asked())
    whole = bridge.answered({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]})["choices"][0]["message"]
    assert (whole["reasoning_content"], whole["content"]) == ("hm", "so")
    deltas = [
        chunk["choices"][0]["delta"]
        for chunk in events(streaming(CHAT, CHAT).streamed([chat_stream({"content": content})]))[:-1]
    ]
    assert [delta for delta in deltas if delta and "role" not in delta] == [{"reasoning_content": "hm"}, {"content": "so"}]


def test_xais_empty_finish_after_a_call_and_thoughts_beside_the_output() -> None:
    usage = {
        "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 22,
        "completion_tokens_details": {"reasoning_tokens": 7},
    }  # fmt: skip
    bridge = Translated(CHAT, CHAT)
    bridge.sent(asked(stream=True, stream_options={"include_usage": True}))
    out = bridge.streamed([chat_stream(piece("{}", id="c", name="f"), finish="", usage=usage)])
    assert finish(out) == "tool_calls"
    told = events(out)[-2]["usage"]
    assert (told["completion_tokens"], told["total_tokens"]) == (12, 22)
    assert told["completion_tokens_details"]["reasoning_tokens"] == 7


def test_moonshots_usage_inside_the_choice() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}]}
    found = events(streaming(MESSAGES, CHAT).streamed([b"data: " + orjson.dumps(last) + b"\n\n"]))
    assert (found[-2]["usage"]["input_tokens"], found[-2]["usage"]["output_tokens"]) == (10, 5)


def test_forcing_that_a_provider_does_not_know_is_left_out_and_listed() -> None:
    """Moonshot and `required`."""
    bridge = Translated(CHAT, CHAT, forced_tools=("named",))
    assert "tool_choice" not in bridge.sent(asked(tools=[FUNCTION], tool_choice="required"))
    assert bridge.dropped == ["tool_choice"]


def test_perplexitys_sources_are_annotations() -> None:
    bridge = Translated(CHAT, CHAT)
    bridge.sent(asked())
    choice = {"message": {"content": "so"}, "finish_reason": "stop"}
    made = bridge.answered({"choices": [choice], "citations": ["https://example.com"]})["choices"][0]["message"]
    place = {"url": "https://example.com", "title": "", "start_index": 0, "end_index": 2}
    assert made["annotations"] == [{"type": "url_citation", "url_citation": place}]


@pytest.mark.parametrize("client", [MESSAGES, RESPONSES, GEMINI])
def test_azures_first_chunk_has_no_choices(client: WireFormat) -> None:
    first = b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n'
    stream = chat_stream({"content": "so"})
    assert streaming(client, CHAT).streamed([first + stream]) == streaming(client, CHAT).streamed([stream])


TAGGED = "<think>hmm</think>\n\nso, <think> is a tag"


def test_thoughts_in_tags_are_told_apart_wherever_they_are_cut() -> None:
    expected = {"reasoning_content": "hmm", "content": "so, <think> is a tag"}
    bridge = Translated(CHAT, CHAT, think_tags=True)
    bridge.sent(asked())
    whole = bridge.answered({"choices": [{"message": {"content": TAGGED}, "finish_reason": "stop"}]})["choices"][0]["message"]
    assert {name: whole[name] for name in expected} == expected
    for size in range(1, len(TAGGED) + 1):
        pieces = [{"content": TAGGED[at : at + size]} for at in range(0, len(TAGGED), size)]
        found = events(streaming(CHAT, CHAT, think_tags=True).streamed([chat_stream(*pieces)]))[:-1]
        deltas = [chunk["choices"][0]["delta"] for chunk in found]
        assert {name: "".join(delta.get(name) or "" for delta in deltas) for name in expected} == expected


@pytest.mark.parametrize("tagged", [True, False])
def test_a_tag_that_opens_nothing_is_text(tagged: bool) -> None:
    """Within the answer, or of a model that has no such tags."""
    text = "`<think>` opens" if tagged else TAGGED
    bridge = streaming(CHAT, CHAT, think_tags=tagged)
    found = events(bridge.streamed([chat_stream({"content": text[:3]}, {"content": text[3:]})]))[:-1]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in found) == text

"""A body that OpenAI would refuse is refused, by the name of what is wrong."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson
import pytest

from services.simulator.call import BadCall, read_call
from tests.upstreams import upstream

USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "look"}}


def refusal(**fields: Any) -> BadCall:
    body = {"model": "chat", "messages": [USER]} | fields
    with pytest.raises(BadCall) as raised:
        read_call(orjson.dumps({name: value for name, value in body.items() if value is not ...}))
    return raised.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 4}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [USER, {"role": "robot", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "ten"}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": 1}, "stop"),
        ({"tools": [{"type": "magic"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
    ],
)
def test_the_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    refused = refusal(**fields)
    assert (refused.status, refused.param) == (400, param)


def test_a_prompt_beyond_the_context_has_its_own_code() -> None:
    refused = refusal(messages=[{"role": "user", "content": "word " * 128_001}])
    assert refused.code == "context_length_exceeded"


def test_null_is_the_same_as_absent() -> None:
    nulls = ("stream", "stream_options", "max_tokens", "n", "stop", "tools", "tool_choice", "response_format", "top_p")
    body = {"model": "chat", "messages": [USER], **dict.fromkeys(nulls)}
    _, call = read_call(orjson.dumps(body))
    assert (call.stream, call.choices, call.max_tokens, call.stop) == (False, 1, 4096, ())


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"model": "chat", "messages": [NaN]}', 400),
        (b'{"model": "\xff"}', 400),
        (b'{"model": "unheard-of", "messages": [{"role": "user", "content": "x"}]}', 404),
    ],
)
async def test_an_error_object_comes_over_the_wire(raw: bytes, status: int) -> None:
    async with upstream(any_model=False) as provider, aiohttp.ClientSession() as session:
        async with session.post(f"{provider.url}/chat/completions", data=raw) as reply:
            assert reply.status == status
            assert set((await reply.json())["error"]) == {"message", "type", "param", "code"}
        assert (provider.last.ended, provider.last.status) == ("refused", status)

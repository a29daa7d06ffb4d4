"""The simulator's formats, seen through the vendors' own SDKs: what these can read is what the vendor sends."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import cohere
import httpx
import openai
import pytest
from google import genai
from google.genai import types

from tests.upstreams import Upstream, upstream

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}


@pytest.fixture
async def provider() -> AsyncIterator[Upstream]:
    async with upstream(any_model=False, api_key="the-key") as running:
        yield running


@pytest.fixture
async def openai_client(provider: Upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=provider.url, api_key="the-key", max_retries=0) as made:
        yield made


@pytest.fixture
async def claude(provider: Upstream) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=provider.origin, api_key="the-key", max_retries=0) as made:
        yield made


@pytest.fixture
async def gemini(provider: Upstream) -> AsyncIterator[genai.Client]:
    client = genai.Client(api_key="the-key", http_options=types.HttpOptions(base_url=provider.origin))
    yield client
    await client.aio.aclose()


@pytest.fixture
async def command(provider: Upstream) -> AsyncIterator[cohere.AsyncClientV2]:
    async with httpx.AsyncClient() as transport:
        yield cohere.AsyncClientV2(api_key="the-key", base_url=provider.origin, httpx_client=transport)


async def test_responses_answers_and_streams(openai_client: openai.AsyncOpenAI) -> None:
    reply = await openai_client.responses.create(model="chat", input="say pong")
    assert (reply.output_text, reply.status) == ("You said: say pong", "completed")
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (6, 4)
    async with openai_client.responses.stream(model="reasoning", input="hm", reasoning={"summary": "auto"}) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert final.output_text == "You said: hm"


async def test_responses_calls_a_function_and_takes_its_output(openai_client: openai.AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "strict": False, **FUNCTION}
    reply = await openai_client.responses.create(model="tools", input="go", tools=[tool])
    call = reply.output[0]
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Paris"}
    items: Any = [
        {"role": "user", "content": "go"},
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "18"},
    ]
    following = await openai_client.responses.create(model="tools", input=items, tools=[tool])
    assert following.output_text == "The tool answered: 18"
    with pytest.raises(openai.BadRequestError, match="No tool output found"):
        await openai_client.responses.create(model="tools", input=items[:2], tools=[tool])


async def test_messages_answers_streams_and_counts(claude: anthropic.AsyncAnthropic) -> None:
    said: Any = [{"role": "user", "content": "say pong"}]
    reply = await claude.messages.create(model="chat", max_tokens=99, messages=said)
    assert reply.content[0].type == "text"
    assert (reply.content[0].text, reply.stop_reason) == ("You said: say pong", "end_turn")
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    async with claude.messages.stream(model="reasoning", max_tokens=2048, messages=said, thinking=thinking) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    replayed: Any = [*said, {"role": "assistant", "content": final.content}, {"role": "user", "content": "again"}]
    again = await claude.messages.create(model="reasoning", max_tokens=2048, messages=replayed, thinking=thinking)
    assert again.content[-1].type == "text"
    count = await claude.messages.count_tokens(model="chat", messages=said)
    assert count.input_tokens == reply.usage.input_tokens


async def test_messages_refuses_what_claude_refuses(claude: anthropic.AsyncAnthropic) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {}}
    forged = {"type": "thinking", "thinking": "hm", "signature": "bm8="}
    calls: list[Any] = [{"role": "user", "content": "go"}, {"role": "assistant", "content": [use]}]
    for messages, problem in (
        ([*calls, {"role": "user", "content": "and?"}], "without `tool_result`"),
        ([{"role": "assistant", "content": "hi"}], "first message must use the user role"),
        ([{"role": "user", "content": " "}], "non-whitespace"),
        ([calls[0], {"role": "assistant", "content": [forged]}, calls[0]], "Invalid signature"),
    ):
        given: Any = messages
        with pytest.raises(anthropic.BadRequestError, match=problem):
            await claude.messages.create(model="chat", max_tokens=9, messages=given)
    with pytest.raises(anthropic.BadRequestError, match="Extra inputs"):
        await claude.messages.create(model="chat", max_tokens=9, messages=calls[:1], extra_body={"n": 2})


async def test_gemini_answers_streams_and_calls(gemini: genai.Client) -> None:
    reply = await gemini.aio.models.generate_content(model="chat", contents="say pong")
    assert reply.text == "You said: say pong"
    pieces = [chunk.text async for chunk in await gemini.aio.models.generate_content_stream(model="chat", contents="hi")]
    assert "".join(piece or "" for piece in pieces) == "You said: hi"
    declared = types.FunctionDeclaration(name="get_weather", parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declared])])
    called = await gemini.aio.models.generate_content(model="tools", contents="go", config=config)
    assert called.function_calls is not None
    assert (called.function_calls[0].name, called.function_calls[0].args) == ("get_weather", {"city": "Paris"})
    counted = await gemini.aio.models.count_tokens(model="chat", contents="say pong")
    assert counted.total_tokens == 6


async def test_gemini_refuses_unknown_names(provider: Upstream) -> None:
    contents = [{"role": "user", "parts": [{"text": "hi"}]}]
    schema = {"type": "object", "additionalProperties": False}
    declared = {"functionDeclarations": [{"name": "a", "parameters": schema}]}
    for fields, problem in (({"messages": []}, "messages"), ({"tools": [declared]}, "additionalProperties")):
        body = {"contents": contents, **fields}
        async with aiohttp.ClientSession() as session:
            url = f"{provider.origin}/v1beta/models/chat:generateContent"
            async with session.post(url, json=body, headers={"x-goog-api-key": "the-key"}) as reply:
                error = (await reply.json())["error"]
        assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
        assert f'Unknown name "{problem}"' in error["message"]


async def test_cohere_answers_streams_and_calls(command: cohere.AsyncClientV2) -> None:
    said: Any = [{"role": "user", "content": "say pong"}]
    reply = await command.chat(model="chat", messages=said)
    assert reply.message.content is not None
    assert reply.message.content[0].text == "You said: say pong"  # type: ignore[union-attr]
    assert reply.finish_reason == "COMPLETE"
    kinds = [event.type async for event in command.chat_stream(model="chat", messages=said)]
    assert kinds == ["message-start", "content-start", *["content-delta"] * 4, "content-end", "message-end"]
    tool: Any = {"type": "function", "function": FUNCTION}
    called = await command.chat(model="tools", messages=said, tools=[tool])
    assert called.message.tool_calls is not None
    assert called.message.tool_calls[0].function is not None
    assert called.message.tool_calls[0].function.arguments == '{"city":"Paris"}'


async def test_bedrock_answers_and_streams_in_frames(provider: Upstream) -> None:
    body = {"messages": [{"role": "user", "content": [{"text": "say pong"}]}]}
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer the-key"}) as session:
        async with session.post(f"{provider.origin}/model/anthropic.chat/converse", json=body) as reply:
            whole = await reply.json()
        async with session.post(f"{provider.origin}/model/anthropic.chat/converse-stream", json=body) as reply:
            assert reply.content_type == "application/vnd.amazon.eventstream"
            raw = await reply.read()
    assert whole["output"]["message"]["content"] == [{"text": "You said: say pong"}]
    kinds, text = [], ""
    while raw:
        size = int.from_bytes(raw[:4])
        frame, raw = raw[:size], raw[size:]
        assert zlib.crc32(frame[:8]) == int.from_bytes(frame[8:12])
        assert zlib.crc32(frame[:-4]) == int.from_bytes(frame[-4:])
        head = frame[12 : 12 + int.from_bytes(frame[4:8])]
        kinds.append(head.split(b":event-type\x07")[1][2:].split(b"\r:content-type")[0].decode())
        payload = json.loads(frame[12 + len(head) : -4])
        text += payload.get("delta", {}).get("text", "")
    assert text == "You said: say pong"
    assert kinds == ["messageStart", *["contentBlockDelta"] * 4, "contentBlockStop", "messageStop", "metadata"]


async def test_bedrock_wants_alternating_turns(provider: Upstream) -> None:
    turn = {"role": "user", "content": [{"text": "hi"}]}
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer the-key"}) as session:
        url = f"{provider.origin}/model/anthropic.chat/converse"
        async with session.post(url, json={"messages": [turn, turn]}) as reply:
            assert (reply.status, reply.headers["x-amzn-ErrorType"]) == (400, "ValidationException")
            assert "alternate" in (await reply.json())["message"]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/responses", {"Authorization": "Bearer wrong"}),
        ("/v1/messages", {"x-goog-api-key": "the-key"}),
        ("/v1beta/models/chat:generateContent", {"x-api-key": "the-key"}),
        ("/v2/chat", {}),
        ("/model/anthropic.chat/converse", {"x-api-key": "the-key"}),
    ],
)
async def test_the_key_is_looked_for_where_the_format_has_it(provider: Upstream, path: str, headers: dict[str, str]) -> None:
    async with aiohttp.ClientSession() as session, session.post(provider.origin + path, json={}, headers=headers) as reply:
        assert reply.status == 401

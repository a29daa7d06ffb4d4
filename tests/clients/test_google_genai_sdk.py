"""The real google-genai SDK at a provider of Chat's format: text, streams, tools, thoughts, JSON, counting, errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from google.genai.models import AsyncModels

from tests.hosts.cluster import Cluster

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")


@asynccontextmanager
async def sdk(cluster: Cluster, version: str | None = None, key: str | None = None) -> AsyncIterator[AsyncModels]:
    options = types.HttpOptions(base_url=cluster.url(), api_version=version)
    client = genai.Client(api_key=key or cluster.key, http_options=options)
    try:
        yield client.aio.models
    finally:
        await client.aio.aclose()


WEATHER = types.FunctionDeclaration(
    name="get_weather",
    description="Weather of a city.",
    parameters=types.Schema(
        type=types.Type.OBJECT, properties={"city": types.Schema(type=types.Type.STRING)}, required=["city"]
    ),
)


@pytest.mark.parametrize("version", [None, "v1beta"])
async def test_it_answers_streams_and_counts(cluster: Cluster, version: str | None) -> None:
    async with sdk(cluster, version) as models:
        config = types.GenerateContentConfig(system_instruction="Be brief.", max_output_tokens=100, temperature=0.5)
        whole = await models.generate_content(model="lab/chat", contents="Hello!", config=config)
        assert whole.text == "You said: Hello!"
        assert whole.candidates is not None
        assert whole.candidates[0].finish_reason == types.FinishReason.STOP
        assert whole.usage_metadata is not None
        assert (whole.usage_metadata.total_token_count or 0) > 0
        sent = cluster.provider.last.body
        assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
        assert (sent["max_tokens"], sent["temperature"]) == (100, 0.5)

        pieces: list[Any] = []
        async for chunk in await models.generate_content_stream(model="lab/chat", contents="Hello!"):
            pieces.append(chunk)
        assert "".join(piece.text or "" for piece in pieces) == "You said: Hello!"
        assert pieces[-1].candidates[0].finish_reason == types.FinishReason.STOP
        counted = await models.count_tokens(model="lab/chat", contents="Hello!")
        assert (counted.total_tokens or 0) > 0
        await cluster.booked(2)


async def test_a_tool_round_trip(cluster: Cluster) -> None:
    async with sdk(cluster) as models:
        config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[WEATHER])])
        asked = types.Content(role="user", parts=[types.Part(text="Weather in Paris?")])
        called = await models.generate_content(model="lab/tools", contents=[asked], config=config)
        assert called.function_calls is not None
        call = called.function_calls[0]
        assert call.name == "get_weather"
        assert called.candidates is not None
        answer = types.Part.from_function_response(name="get_weather", response={"result": "sunny"})
        history: Any = [asked, called.candidates[0].content, types.Content(role="user", parts=[answer])]
        told = await models.generate_content(model="lab/tools", contents=history, config=config)
        assert told.text
        messages = cluster.provider.last.body["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
        assert messages[2]["content"] == "sunny"
        assert messages[2]["tool_call_id"] == messages[1]["tool_calls"][0]["id"]
        schema = cluster.provider.last.body["tools"][0]["function"]["parameters"]
        assert schema["type"] == "object"


async def test_thoughts_only_for_those_who_ask_and_json(cluster: Cluster) -> None:
    async with sdk(cluster) as models:
        thinking = types.ThinkingConfig(include_thoughts=True, thinking_budget=500)
        shown = await models.generate_content(
            model="lab/reasoning", contents="Hello!", config=types.GenerateContentConfig(thinking_config=thinking)
        )
        assert shown.candidates is not None
        assert shown.candidates[0].content is not None
        assert [part.thought for part in shown.candidates[0].content.parts or []] == [True, None]
        plain = await models.generate_content(model="lab/reasoning", contents="Hello!")
        assert plain.candidates is not None
        assert plain.candidates[0].content is not None
        assert [part.thought for part in plain.candidates[0].content.parts or []] == [None]
        schema = {"type": "OBJECT", "properties": {"name": {"type": "STRING"}}, "required": ["name"]}
        config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=schema)
        made = await models.generate_content(model="lab/json", contents="Which city?", config=config)
        assert isinstance(made.parsed, dict)
        assert "name" in made.parsed


async def test_errors(cluster: Cluster) -> None:
    async with sdk(cluster) as models:
        with pytest.raises(errors.ClientError) as missing:
            await models.generate_content(model="nobody/nothing", contents="Hello!")
        assert (missing.value.code, missing.value.status) == (404, "NOT_FOUND")
        with pytest.raises(errors.ClientError) as limited:
            await models.generate_content(model="lab/fail-429-retry-7", contents="Hello!")
        assert (limited.value.code, limited.value.status) == (429, "RESOURCE_EXHAUSTED")
        async with sdk(cluster, key="AIza-unknown") as strangers:
            with pytest.raises(errors.ClientError) as unknown:
                await strangers.generate_content(model="lab/chat", contents="Hello!")
        assert unknown.value.code == 401


async def test_a_429_is_tried_again(cluster: Cluster) -> None:
    cluster.provider.fail("fail-429-retry-0", times=1)
    patience = types.HttpRetryOptions(attempts=3, initial_delay=0.1, max_delay=1)
    options = types.HttpOptions(base_url=cluster.url(), retry_options=patience)
    client = genai.Client(api_key=cluster.key, http_options=options)
    try:
        reply = await client.aio.models.generate_content(model="lab/chat", contents="Hello!")
    finally:
        await client.aio.aclose()
    assert reply.text == "You said: Hello!"
    assert len(cluster.provider.requests) == 2

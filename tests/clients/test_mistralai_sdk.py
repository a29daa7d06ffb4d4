"""Mistral's SDK at the gateway, whose Chat endpoint it takes for Mistral's: a chat, a stream, tools, errors, retries."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mistralai.client import Mistral
from mistralai.client.errors import SDKError
from mistralai.client.utils.retries import BackoffStrategy, RetryConfig

from tests.hosts.cluster import Cluster

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
HELLO: Any = [{"role": "user", "content": "Hello!"}]


def sdk(cluster: Cluster, **more: Any) -> Mistral:
    return Mistral(api_key=cluster.key, server_url=cluster.url(), **more)


async def test_it_answers_and_streams(cluster: Cluster) -> None:
    async with sdk(cluster) as client:
        reply = await client.chat.complete_async(model="lab/chat", messages=HELLO, safe_prompt=True)
        assert reply.choices[0].message is not None
        assert reply.choices[0].message.content == "You said: Hello!"
        assert reply.usage.total_tokens
        assert cluster.provider.last.body["safe_prompt"] is True  # a provider's own parameter passes
        stream = await client.chat.stream_async(model="lab/chat", messages=HELLO)
        pieces = [event.data.choices[0].delta.content async for event in stream if event.data.choices]
        assert "".join(str(piece) for piece in pieces if piece) == "You said: Hello!"


async def test_a_tools_round_trip(cluster: Cluster) -> None:
    async with sdk(cluster) as client:
        asked = await client.chat.complete_async(model="lab/tools", messages=HELLO, tools=[WEATHER])
        message = asked.choices[0].message
        assert message is not None
        assert message.tool_calls
        call = message.tool_calls[0]
        assert json.loads(str(call.function.arguments)) == {"city": "Paris"}
        result = {"role": "tool", "name": call.function.name, "tool_call_id": call.id, "content": "18 degrees"}
        history: Any = [*HELLO, message, result]
        said = await client.chat.complete_async(model="lab/tools", messages=history, tools=[WEATHER])
        assert said.choices[0].message is not None
        assert said.choices[0].message.content == "The tool answered: 18 degrees"


async def test_errors_are_its_own_and_a_429_is_tried_again(cluster: Cluster) -> None:
    async with sdk(cluster) as client:
        with pytest.raises(SDKError) as caught:
            await client.chat.complete_async(model="lab/fail-400", messages=HELLO)
        assert caught.value.status_code == 400
        with pytest.raises(SDKError) as caught:
            await client.chat.complete_async(model="nobody/chat", messages=HELLO)
        assert caught.value.status_code == 404
    cluster.provider.fail("fail-429-retry-1", times=1)
    patient = RetryConfig("backoff", BackoffStrategy(100, 2000, 1.5, 10_000), retry_connection_errors=True)
    async with sdk(cluster, retry_config=patient) as client:
        reply = await client.chat.complete_async(model="lab/chat", messages=HELLO)
    assert reply.choices[0].message is not None
    assert reply.choices[0].message.content == "You said: Hello!"

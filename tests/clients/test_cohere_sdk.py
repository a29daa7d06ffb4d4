"""Cohere's SDK at providers of every format: a chat, a stream, tools, thoughts, JSON, errors, retries, embeddings, rerank."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cohere
import httpx
import pytest
import pytest_asyncio
from cohere.core import RequestOptions

from services.simulator.embed import vector
from tests.hosts.cluster import Cluster, running

HELLO: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]
MODELS = ["demo", "demo-responses", "demo-messages", "demo-gemini", "demo-cohere", "demo-bedrock/anthropic."]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def at(place: str, model: str) -> str:
    return place + model if place.endswith(".") else f"{place}/{model}"


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path, demo=True) as started:
        yield started


@pytest_asyncio.fixture
async def client(cluster: Cluster) -> AsyncIterator[cohere.AsyncClientV2]:
    async with httpx.AsyncClient() as transport:
        yield cohere.AsyncClientV2(api_key=cluster.key, base_url=cluster.url(), httpx_client=transport)


def text(message: Any) -> str:
    return "".join(block.text for block in message.content or () if block.type == "text")


async def test_it_answers_streams_and_calls_tools_everywhere(client: cohere.AsyncClientV2) -> None:
    for place in MODELS:
        whole = await client.chat(model=at(place, "chat"), messages=HELLO, max_tokens=99, p=0.9, k=5)
        assert (text(whole.message), whole.finish_reason) == ("You said: Hello!", "COMPLETE"), place
        assert whole.usage is not None
        assert whole.usage.tokens is not None
        assert whole.usage.tokens.input_tokens
        said, kinds = "", []
        async for event in client.chat_stream(model=at(place, "chat"), messages=HELLO):
            kinds.append(event.type)
            if event.type == "content-delta":
                said += event.delta.message.content.text or ""  # type: ignore[union-attr]
        assert said == "You said: Hello!", place
        assert (kinds[0], kinds[1], kinds[-2], kinds[-1]) == ("message-start", "content-start", "content-end", "message-end")
        asked = await client.chat(model=at(place, "tools"), messages=HELLO, tools=[WEATHER])
        assert asked.finish_reason == "TOOL_CALL", place
        assert asked.message.tool_calls is not None
        call = asked.message.tool_calls[0]
        assert call.function is not None
        assert json.loads(call.function.arguments or "") == {"city": "Paris"}
        result = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}
        history: Any = [*HELLO, asked.message.model_dump(exclude_none=True), result]
        answered = await client.chat(model=at(place, "tools"), messages=history, tools=[WEATHER])
        assert text(answered.message) == "The tool answered: 18 degrees", place


async def test_thoughts_json_and_documents(client: cohere.AsyncClientV2, cluster: Cluster) -> None:
    thinking: Any = {"type": "enabled", "token_budget": 1024}
    for place in ("demo", "demo-messages", "demo-gemini", "demo-cohere"):
        thought = await client.chat(model=at(place, "reasoning"), messages=HELLO, thinking=thinking, max_tokens=2048)
        kinds = [block.type for block in thought.message.content or ()]
        assert kinds == ["thinking", "text"], place
        schema: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        wanted: Any = {"type": "json_object", "json_schema": schema}
        made = await client.chat(model=at(place, "json"), messages=HELLO, response_format=wanted)
        assert json.loads(text(made.message)) == {"city": "Paris"}, place
    documents: Any = [{"id": "1", "data": {"text": "Waystation is a gateway."}}]
    await client.chat(model="demo-messages/chat", messages=HELLO, documents=documents)
    assert "Waystation is a gateway." in str(cluster.provider.last.body["system"])
    await client.chat(model="demo-cohere/chat", messages=HELLO, documents=documents)
    assert cluster.provider.last.body["documents"] == documents


async def test_errors_are_its_own_and_a_429_is_tried_again(client: cohere.AsyncClientV2, cluster: Cluster) -> None:
    once: RequestOptions = {"max_retries": 0}
    with pytest.raises(cohere.NotFoundError):
        await client.chat(model="nobody/x", messages=HELLO, request_options=once)
    with pytest.raises(cohere.BadRequestError) as caught:
        await client.chat(model="demo/chat", messages=HELLO, tool_choice="REQUIRED", max_tokens=-1, request_options=once)
    assert "max_tokens" in str(caught.value.body)
    with pytest.raises(cohere.TooManyRequestsError):
        await client.chat(model="demo/fail-429", messages=HELLO, request_options=once)
    cluster.provider.fail("fail-429-retry-0", times=1)
    patient = await client.chat(model="demo/chat", messages=HELLO, request_options={"max_retries": 2})
    assert text(patient.message) == "You said: Hello!"


async def test_embeddings_and_rerank(client: cohere.AsyncClientV2) -> None:
    for model in ("demo/embed", "demo-gemini/embed", "demo-cohere/embed"):
        made = await client.embed(model=model, texts=["a", "b"], input_type="search_query", embedding_types=["float"])
        assert made.embeddings.float_ == [vector("a"), vector("b")], model
    ranked = await client.rerank(model="demo-cohere/rerank", query="red car", documents=["a blue boat", "a red car"], top_n=1)
    assert [(entry.index, entry.relevance_score) for entry in ranked.results] == [(1, 1.0)]

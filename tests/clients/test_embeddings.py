"""Embeddings and rerank through real SDKs at every provider that has them: a text's vector is the same wherever it is made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio
from google import genai
from google.genai import types

from services.simulator.embed import vector
from tests.hosts.cluster import Cluster, running

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
MODELS = ["demo/embed", "demo-gemini/embed", "demo-cohere/embed"]
TEXTS = ["a first text", "and a second"]


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path, demo=True) as started:
        yield started


async def test_they_are_the_same_everywhere(cluster: Cluster) -> None:
    wanted = [vector(text) for text in TEXTS]
    async with openai.AsyncOpenAI(base_url=f"{cluster.url()}/v1", api_key=cluster.key, max_retries=0) as client:
        for model in MODELS:
            made = await client.embeddings.create(model=model, input=TEXTS)  # the SDK asks for base64
            assert [entry.embedding for entry in made.data] == wanted, model
            short = await client.embeddings.create(model=model, input="a first text", dimensions=3, encoding_format="float")
            assert short.data[0].embedding == vector("a first text", 3), model
            with pytest.raises(openai.BadRequestError, match="input"):
                await client.embeddings.create(model=model, input=[])
    google = genai.Client(api_key=cluster.key, http_options=types.HttpOptions(base_url=cluster.url()))
    contents: Any = TEXTS
    for model in MODELS:
        config = types.EmbedContentConfig(task_type="CLUSTERING", output_dimensionality=4)
        answer = await google.aio.models.embed_content(model=model, contents=contents, config=config)
        assert answer.embeddings is not None
        assert [entry.values for entry in answer.embeddings] == [vector(text, 4) for text in TEXTS], model
    await google.aio.aclose()
    rows = await cluster.booked(9)
    told = {(row["provider"], row["source"]) for row in rows}
    assert told == {("demo", "provider"), ("demo-cohere", "provider"), ("demo-gemini", "counted")}
    assert all(row["output_tokens"] == 0 and row["cost_nano_usd"] > 0 for row in rows)


async def test_rerank_is_booked_by_the_search(cluster: Cluster) -> None:
    body = {
        "model": "demo-cohere/rerank", "query": "red car", "top_n": 2, "return_documents": True,
        "documents": ["a blue boat", {"text": "a red car"}, "a red bike"],
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {cluster.key}"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{cluster.url()}/v1/rerank", json=body, headers=headers) as reply:
            answer = await reply.json()
        async with session.post(
            f"{cluster.url()}/v1/providers/demo-messages/rerank", json=body | {"model": "chat"}, headers=headers
        ) as reply:
            refused = await reply.json()
        async with session.get(f"{cluster.url()}/api/models/catalog", headers=headers) as reply:
            groups = {group["provider"]: group["models"] for group in (await reply.json())["data"]}
    kinds = {model["id"]: model["type"] for model in groups["demo-cohere"] + groups["demo-deepgram"]}
    wanted = {"chat": "chat", "embed": "embedding", "rerank": "rerank"}
    assert {name: kinds[f"demo-cohere/{name}"] for name in wanted} == wanted
    assert kinds["demo-deepgram/listen"] == "transcription"
    assert [(entry["index"], entry["document"]["text"]) for entry in answer["results"]] == [(1, "a red car"), (2, "a red bike")]
    assert refused["error"]["param"] == "model"
    rows = await cluster.booked(1)
    assert [row["cost_nano_usd"] for row in rows if row["operation"] == "rerank" and row["cost_nano_usd"]] == [1_000_000]

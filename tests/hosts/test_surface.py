"""The URLs beside chat: models in every dialect, a provider's own routes, and the operations that pass through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest_asyncio

from tests.hosts.cluster import Cluster, call, running
from tests.upstreams.scripted import Scripted, scripted


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path) as started:
        yield started


async def ask(cluster: Cluster, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    sent = {"Authorization": f"Bearer {cluster.key}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, cluster.url() + path, json=body, headers=sent) as reply,
    ):
        content = await reply.read()
        return reply.status, await reply.json() if reply.content_type == "application/json" else content


@asynccontextmanager
async def answering(cluster: Cluster, content_type: str, body: bytes) -> AsyncIterator[Scripted]:
    """A provider `own/…` that answers everything with this."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (content_type.encode(), len(body))
    async with scripted(head + body) as provider:
        entry = {"provider": "custom", "api_key": "env:LAB_KEY"}
        await cluster.apply(
            connections=[
                entry | {"name": "lab", "prefix": "lab", "base_url": cluster.provider.url},
                entry | {"name": "own", "prefix": "own", "base_url": provider.url},
            ],
            prices={"own/vectors": {"input": "1", "output": "0"}, "lab/chat": {"input": "1", "output": "2"}},
        )
        for _ in range(50):
            status, _ = await ask(cluster, "GET", "/v1/models/own/vectors")
            if status == 200:
                break
            await asyncio.sleep(0.05)
        yield provider


async def test_models_in_four_dialects(cluster: Cluster) -> None:
    await cluster.apply(
        connections=[
            {
                "name": "lab", "provider": "custom", "prefix": "lab", "base_url": cluster.provider.url,
                "api_key": "env:LAB_KEY", "models": [{"id": "chat", "context_tokens": 8192, "max_output_tokens": 4096}],
            }
        ],
        prices={"lab/chat": {"input": "1", "output": "2.5"}},
    )  # fmt: skip
    for _ in range(50):
        _, plain = await ask(cluster, "GET", "/v1/models")
        if any(entry["context_length"] == 8192 for entry in plain["data"]):
            break
        await asyncio.sleep(0.05)
    entry = next(entry for entry in plain["data"] if entry["id"] == "lab/chat")
    assert (entry["object"], entry["type"], entry["owned_by"]) == ("model", "model", "custom")
    assert entry["pricing"] == {"prompt": "0.000001", "completion": "0.0000025"}
    assert (plain["object"], plain["has_more"], plain["links"], plain["total_count"]) == ("list", False, {"next": None}, 1)
    _, google = await ask(cluster, "GET", "/v1beta/models")
    assert google["models"][0]["name"] == "models/lab/chat"
    assert google["models"][0]["inputTokenLimit"] == 8192
    _, keyed = await ask(cluster, "GET", f"/v1/models?key={cluster.key}")
    assert keyed == google
    _, codex = await ask(cluster, "GET", "/v1/models?client_version=0.169.0")
    assert codex["models"][0]["slug"] == "lab/chat"
    assert codex["data"] == plain["data"]
    _, rich = await ask(cluster, "GET", "/api/v1/models/lab/chat/endpoints")
    assert rich["data"]["endpoints"][0]["model_id"] == "lab/chat"
    _, grouped = await ask(cluster, "GET", "/api/models/catalog")
    assert [(group["provider"], [model["type"] for model in group["models"]]) for group in grouped["data"]] == [
        ("custom", ["chat"])
    ]


async def test_a_providers_own_route_adds_its_prefix_and_refuses_others(cluster: Cluster) -> None:
    body = call("chat")
    status, answer = await ask(cluster, "POST", "/v1/providers/lab/chat/completions", body)
    assert (status, answer["object"]) == (200, "chat.completion")
    status, _ = await ask(cluster, "POST", "/v1/providers/lab/chat/completions", call("lab/chat"))
    assert status == 200
    status, answer = await ask(cluster, "POST", "/v1/providers/groq/chat/completions", call("lab/chat"))
    assert (status, answer["error"]["param"]) == (400, "model")
    status, _ = await ask(cluster, "POST", "/v1/providers/lab/nothing", body)
    assert status == 404


async def test_embeddings_pass_and_are_booked(cluster: Cluster) -> None:
    vector = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5]}],'
    reply = vector + b'"usage":{"prompt_tokens":3,"total_tokens":3}}'
    async with answering(cluster, "application/json", reply) as provider:
        status, answer = await ask(cluster, "POST", "/v1/embeddings", {"model": "own/vectors", "input": ["a", "b"], "x": 1})
        assert (status, answer["data"][0]["embedding"]) == (200, [0.5])
        head, _, sent = provider.requests[-1].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/embeddings ")
        assert sent == b'{"model":"vectors","input":["a", "b"],"x":1}'
        rows = await cluster.booked(1)
        assert [(row["operation"], row["input_tokens"], row["cost_nano_usd"]) for row in rows] == [("embeddings", 3, 3_000)]
        status, answer = await ask(cluster, "POST", "/v1/embeddings", {"model": "own/vectors"})
        assert (status, answer["error"]["param"]) == (400, "input")


async def test_speech_passes_as_the_audio_that_it_is(cluster: Cluster) -> None:
    async with answering(cluster, "audio/mpeg", b"ID3\x00\xff") as provider:
        status, answer = await ask(cluster, "POST", "/v1/audio/speech", {"model": "own/voice", "input": "Hi", "voice": "a"})
        assert (status, answer) == (200, b"ID3\x00\xff")
        assert provider.requests[-1].startswith(b"POST /v1/audio/speech ")

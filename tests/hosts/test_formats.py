"""A Chat client at providers of other formats, over real sockets: the URL, the headers, the bytes, and what is booked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.hosts.cluster import CREDENTIAL, Cluster, call, running
from tests.upstreams.scripted import CLOSE, Scripted, scripted
from tests.wire.translation import named_stream


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path) as started:
        yield started


def whole(body: dict[str, Any], status: str = "200 OK") -> bytes:
    raw = json.dumps(body).encode()
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(raw), raw)


def stream(events: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + events


MESSAGE = {
    "id": "m", "type": "message", "role": "assistant", "model": "claude", "content": [{"type": "text", "text": "Hi."}],
    "stop_reason": "end_turn", "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 3},
}  # fmt: skip
MESSAGE_STREAM = named_stream(
    {"type": "message_start", "message": MESSAGE | {"content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
)
CANDIDATES = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "Hi."}]}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 15, "cachedContentTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 18},
}
CASES: dict[str, tuple[bytes, bytes, str, str, str]] = {
    "anthropic": (whole(MESSAGE), stream(MESSAGE_STREAM), "/messages", "/messages", f"x-api-key: {CREDENTIAL}"),
    "gemini": (
        whole(CANDIDATES),
        stream(b"data: " + json.dumps(CANDIDATES).encode() + b"\r\n\r\n"),
        "/models/some-model:generateContent",
        "/models/some-model:streamGenerateContent?alt=sse",
        f"x-goog-api-key: {CREDENTIAL}",
    ),
}


@asynccontextmanager
async def connected(cluster: Cluster, provider: str, *steps: Any) -> AsyncIterator[Scripted]:
    """`own/…` at a provider of the catalogue, whose server plays `steps`."""
    async with scripted(*steps) as server:
        entry = {"name": "own", "provider": provider, "prefix": "own", "base_url": server.origin, "api_key": "env:LAB_KEY"}
        await cluster.apply(connections=[entry], prices={"own/some-model": {"input": "1", "output": "2", "cache_read": "0.1"}})
        yield server


async def post(cluster: Cluster, body: dict[str, Any], path: str = "/v1/chat/completions", **headers: str) -> tuple[int, bytes]:
    sent = {"Authorization": f"Bearer {cluster.key}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession() as session, session.post(cluster.url() + path, json=body, headers=sent) as reply:
        return reply.status, await reply.read()


@pytest.mark.parametrize("provider", sorted(CASES))
async def test_a_chat_client_reaches_it(cluster: Cluster, provider: str) -> None:
    answer, events, path, stream_path, credential = CASES[provider]
    async with connected(cluster, provider, answer) as server:
        status, raw = await post(cluster, call("own/some-model", max_tokens=50))
        assert status == 200, raw
        body = json.loads(raw)
        assert body["choices"][0]["message"]["content"] == "Hi."
        assert body["model"] == "own/some-model"
        assert body["usage"]["prompt_tokens"] == 15
        head = server.requests[-1].partition(b"\r\n\r\n")[0].decode()
        assert head.startswith(f"POST {path} HTTP/1.1")
        assert credential in head
        assert cluster.key not in head
        assert ("anthropic-version: 2023-06-01" in head) is (provider == "anthropic")
    async with connected(cluster, provider, events, CLOSE) as server:
        status, raw = await post(cluster, call("own/some-model", max_tokens=50, stream=True))
        assert status == 200
        assert b'"content":"Hi."' in raw
        assert raw.endswith(b"data: [DONE]\n\n")
        assert server.requests[-1].startswith(f"POST {stream_path} HTTP/1.1".encode())
    rows = await cluster.booked(2)
    cost = 10 * 1_000 + 5 * 100 + 3 * 2_000
    assert [(row["input_tokens"], row["output_tokens"], row["cost_nano_usd"]) for row in rows] == [(15, 3, cost)] * 2


async def test_an_anthropic_client_passes_through_to_anthropic(cluster: Cluster) -> None:
    body = {"model": "own/some-model", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "brand_new": {"a": [1]}}
    async with connected(cluster, "anthropic", stream(MESSAGE_STREAM), CLOSE) as server:
        status, raw = await post(
            cluster, body | {"stream": True}, "/v1/messages", anthropic_version="2026-10-21", anthropic_beta="some-beta-1"
        )
        assert (status, raw) == (200, MESSAGE_STREAM)
        head, _, sent = server.requests[-1].partition(b"\r\n\r\n")
        assert json.loads(sent) == body | {"model": "some-model", "stream": True}
        assert b"anthropic-version: 2026-10-21" in head
        assert b"2023-06-01" not in head
        assert b"anthropic-beta: some-beta-1" in head
    rows = await cluster.booked(1)
    assert (rows[0]["input_tokens"], rows[0]["output_tokens"], rows[0]["outcome"]) == (15, 3, "ok")


@pytest.mark.parametrize(
    ("path", "ping"),
    [("/v1/chat/completions", b": waystation\n\n"), ("/v1/messages", b"event: ping\n"), ("/v1/responses", b": waystation")],
)
async def test_a_silent_stream_is_kept_alive(cluster: Cluster, path: str, ping: bytes) -> None:
    node = cluster.start_node(WAYSTATION_KEEPALIVE_S="0.01")
    await cluster.ready(node)
    body = call("lab/long-4+pace-900", stream=True, max_tokens=50) | {"input": "x"}
    sent = {"Authorization": f"Bearer {cluster.key}"}
    async with aiohttp.ClientSession() as session, session.post(cluster.url(node) + path, json=body, headers=sent) as reply:
        raw = await reply.read()
    assert ping in raw
    last = {"/v1/messages": b"message_stop", "/v1/responses": b"response.completed"}.get(path, b"[DONE]")
    assert last in raw


@pytest.mark.parametrize(
    ("provider", "error", "status", "code"),
    [
        ("anthropic", {"type": "error", "error": {"type": "invalid_request_error", "message": "No."}}, 400, "provider_refused"),
        ("anthropic", {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}},
         400, "context_length_exceeded"),
        ("gemini", {"error": {"code": 400, "message": "No.", "status": "INVALID_ARGUMENT"}}, 400, "provider_refused"),
    ],
)  # fmt: skip
async def test_a_providers_no_is_said_in_the_clients_format(
    cluster: Cluster, provider: str, error: dict[str, Any], status: int, code: str
) -> None:
    async with connected(cluster, provider, whole(error, "400 Bad Request")):
        got, raw = await post(cluster, call("own/some-model", max_tokens=50))
    said = json.loads(raw)["error"]
    assert (got, said["code"], said["message"]) == (status, code, error["error"]["message"])


async def test_googles_retry_delay_is_the_clients_retry_after(cluster: Cluster) -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "38s"}
    error = {"error": {"code": 429, "message": "Slow down.", "status": "RESOURCE_EXHAUSTED", "details": [detail]}}
    async with connected(cluster, "gemini", whole(error, "429 Too Many Requests")):
        sent = {"Authorization": f"Bearer {cluster.key}"}
        url = cluster.url() + "/v1/chat/completions"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=call("own/some-model", max_tokens=5), headers=sent) as reply,
        ):
            assert (reply.status, reply.headers["Retry-After"]) == (429, "38")


async def test_an_operators_params_are_the_last_word_on_a_body(cluster: Cluster) -> None:
    entry = {
        "name": "own", "provider": "gemini", "prefix": "own", "api_key": "env:LAB_KEY",
        "drop_params": ["generationConfig.topK"], "set_params": {"safetySettings": [], "generationConfig": {"seed": 7}},
        "models": [{"id": "some-model", "set_params": {"generationConfig.seed": 8}}],
    }  # fmt: skip
    async with scripted(whole(CANDIDATES)) as server:
        await cluster.apply(connections=[entry | {"base_url": server.origin}])
        url, sent = cluster.url() + "/v1/chat/completions", {"Authorization": f"Bearer {cluster.key}"}
        asked = call("own/some-model", max_tokens=50, top_k=5, seed=1)
        async with aiohttp.ClientSession() as session, session.post(url, json=asked, headers=sent) as reply:
            assert reply.status == 200
            assert reply.headers["x-waystation-dropped"] == "generationConfig.topK"
        body = json.loads(server.requests[-1].partition(b"\r\n\r\n")[2])
    assert body["generationConfig"] == {"maxOutputTokens": 50, "seed": 8}
    assert body["safetySettings"] == []


async def test_an_alias_leads_to_its_model_in_every_format(cluster: Cluster) -> None:
    await cluster.apply(aliases={"claude-*": "lab/chat", "exact": "lab/chat"})
    for path, body in (
        ("/v1/chat/completions", call("exact")),
        ("/v1/messages", {"model": "claude-opus-4-8", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}),
        ("/v1beta/models/claude-x:generateContent", {"contents": [{"parts": [{"text": "hi"}]}]}),
    ):
        status, raw = await post(cluster, body, path)
        assert status == 200, raw
        assert cluster.provider.last.body["model"] == "chat"
    status, raw = await post(cluster, call("unknown"))
    assert status == 404
    assert {row["model"] for row in await cluster.booked(3)} == {"lab/chat"}

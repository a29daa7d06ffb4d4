"""Vendors as they are in the catalogue, with a server of the test's own in their place: the URL, the body and the credential
that arrive there, and what comes of their answers.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio

from shared.providers import registry
from tests.hosts.cluster import Cluster, call, client, running
from tests.upstreams.scripted import scripted

CATALOGUE = registry.load()


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path, workers=0) as started:
        yield started


def answer(body: Any, content_type: str = "application/json") -> bytes:
    raw = body if type(body) is bytes else json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (content_type.encode(), len(raw), raw)


HI = answer({"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]})


def at(origin: str, provider: str, path: str | None = None, **more: Any) -> dict[str, Any]:
    """A connection to a provider of the catalogue that is really ours; the path is its own."""
    own = urlsplit(CATALOGUE[provider].base_url or "").path if path is None else path
    entry = {"name": "own", "provider": provider, "prefix": "own", "base_url": origin + own, "api_key": "env:LAB_KEY"}
    return entry | more


def line_and_body(request: bytes) -> tuple[str, dict[str, str], Any]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), json.loads(body)


@pytest.mark.parametrize(
    ("provider", "path", "more", "url"),
    [
        ("glm", None, {}, "/api/paas/v4/chat/completions"),
        ("deepseek", None, {}, "/chat/completions"),
        ("groq", None, {}, "/openai/v1/chat/completions"),
        ("fireworks", None, {}, "/inference/v1/chat/completions"),
        ("azure", "/openai/v1", {}, "/openai/v1/chat/completions"),
        (
            "azure-deployments", "/openai", {},
            "/openai/deployments/my%20gpt-4o/chat/completions?api-version=2024-10-21",
        ),
        (
            "azure-deployments", "/openai", {"api_version": "2025-04-01-preview"},
            "/openai/deployments/my%20gpt-4o/chat/completions?api-version=2025-04-01-preview",
        ),
    ],
)  # fmt: skip
async def test_the_url_is_the_vendors_own(
    cluster: Cluster, provider: str, path: str | None, more: dict[str, Any], url: str
) -> None:
    async with scripted(HI) as vendor:
        await cluster.apply(connections=[at(vendor.origin, provider, path, **more)])
        async with client(cluster) as one:
            status, _, body = await one.chat(call("own/my gpt-4o"))
    assert (status, body["choices"][0]["message"]["content"]) == (200, "hi")
    first, headers, sent = line_and_body(vendor.requests[0])
    assert first == f"POST {url} HTTP/1.1"
    credential = "api-key" if provider.startswith("azure") else "authorization"
    assert {"api-key", "authorization"} & set(headers) == {credential}
    assert sent["model"] == "my gpt-4o"


async def test_what_groq_refuses_is_left_out_and_listed(cluster: Cluster) -> None:
    async with scripted(HI) as vendor:
        await cluster.apply(connections=[at(vendor.origin, "groq")])
        async with client(cluster) as one:
            hello = {"role": "user", "name": "ann", "content": "hi"}
            asked = call("own/llama", messages=[hello], n=1, logprobs=False, stop=None)
            status, headers, _ = await one.chat(asked)
            assert (await one.chat(asked | {"n": 2}))[0] == 400
    assert status == 200
    (request,) = vendor.requests
    assert line_and_body(request)[2] == {"model": "llama", "messages": [{"role": "user", "content": "hi"}]}
    assert sorted(headers["x-waystation-dropped"].split(", ")) == ["logprobs", "messages[].name", "n"]


async def test_a_schema_at_a_groq_model_without_schemas_is_a_forced_tool_also_in_chats_own_format(cluster: Cluster) -> None:
    tool = {"id": "c1", "type": "function", "function": {"name": "city", "arguments": '{"name":"Rome"}'}}
    said = {"choices": [{"index": 0, "message": {"role": "assistant", "tool_calls": [tool]}, "finish_reason": "tool_calls"}]}
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    async with scripted(answer(said)) as vendor:
        await cluster.apply(connections=[at(vendor.origin, "groq")], fallbacks={"own/qwen/qwen3.6-27b": ["lab/chat"]})
        async with client(cluster) as one:
            status, headers, body = await one.chat(call("own/qwen/qwen3.6-27b", response_format=wanted))
    assert (status, headers["x-waystation-attempts"]) == (200, "own/qwen/qwen3.6-27b")
    (choice,) = body["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ('{"name":"Rome"}', "stop")
    assert not choice["message"].get("tool_calls")
    (request,) = vendor.requests
    sent = line_and_body(request)[2]
    assert "response_format" not in sent
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "city"}}
    assert [each["function"]["parameters"] for each in sent["tools"]] == [schema]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1beta/models/own/x"])
async def test_another_is_asked_when_gemini_breaks_its_call_off(cluster: Cluster, path: str, stream: bool) -> None:
    """MALFORMED_FUNCTION_CALL before any text: the client gets the other's answer, translated or passed through."""
    broken = {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL", "index": 0}], "usageMetadata": {"promptTokenCount": 3}}
    said = answer(b"data: " + json.dumps(broken).encode() + b"\r\n\r\n", "text/event-stream") if stream else answer(broken)
    async with scripted(said) as vendor:
        await cluster.apply(connections=[at(vendor.origin, "gemini")], fallbacks={"own/x": ["lab/chat"]})
        google = path.startswith("/v1beta")
        body = {"contents": [{"parts": [{"text": "Hello!"}]}]} if google else call("own/x", stream=stream)
        path += (":streamGenerateContent?alt=sse" if stream else ":generateContent") if google else ""
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {cluster.key}"}) as session,
            session.post(cluster.url() + path, json=body) as reply,
        ):
            told = await reply.read()
    assert reply.status == 200
    assert reply.headers["x-waystation-attempts"] == "own/x malformed 200, lab/chat ok"
    assert b"MALFORMED" not in told
    assert (len(vendor.requests), len(cluster.provider.requests)) == (1, 1)


async def test_with_nobody_else_to_ask_the_client_hears_why(cluster: Cluster) -> None:
    async with scripted(answer({"candidates": [{"finishReason": "UNEXPECTED_TOOL_CALL", "index": 0}]})) as vendor:
        await cluster.apply(connections=[at(vendor.origin, "gemini")])
        async with client(cluster) as one:
            status, _, body = await one.chat(call("own/x"))
    assert (status, body["error"]["code"]) == (502, "provider_invalid_response")
    assert "UNEXPECTED_TOOL_CALL" in body["error"]["message"]


async def test_perplexity_is_asked_through_its_agent_api_and_its_sources_reach_openais_clients(cluster: Cluster) -> None:
    found = {"type": "search_results", "results": [{"id": 1, "url": "https://a.example", "title": "A"}]}
    text = {"type": "output_text", "text": "so [1]", "annotations": []}
    said = {"type": "message", "role": "assistant", "content": [text]}
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    told = {"object": "response", "status": "completed", "output": [found, said], "usage": usage}
    async with scripted(answer(told)) as vendor:
        await cluster.apply(connections=[at(vendor.origin, "perplexity")])
        async with client(cluster) as one:
            status, headers, body = await one.chat(call("own/sonar", search_mode="web"))
    first, given, sent = line_and_body(vendor.requests[0])
    assert (status, first) == (200, "POST /v1/responses HTTP/1.1")
    assert {"api-key", "authorization"} & set(given) == {"authorization"}
    assert (sent["model"], sent["tools"], sent["tool_choice"]) == (
        "perplexity/sonar",
        [{"type": "web_search"}],
        {"type": "web_search"},
    )
    assert headers["x-waystation-dropped"] == "search_mode"
    place = {"url": "https://a.example", "title": "A", "start_index": 3, "end_index": 6}
    assert body["choices"][0]["message"]["content"] == "so [1]"
    assert body["choices"][0]["message"]["annotations"] == [{"type": "url_citation", "url_citation": place}]

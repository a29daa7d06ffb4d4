"""Images by URL at providers that take only bytes: fetched where that is allowed, refused by name where it is not."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from services.matrix.conversation import PNG, PNG_BYTES
from tests.hosts.cluster import Cluster, running

PICTURE = b64decode(PNG)
MODELS = ["demo-gemini/chat", "demo-bedrock/anthropic.chat"]


async def site(request: web.Request) -> web.StreamResponse:
    match request.path:
        case "/picture":
            return web.Response(body=PICTURE, content_type=request.query.get("type", "image/jpeg"))
        case "/moved":
            raise web.HTTPFound("/picture?a=1")
        case "/round":
            raise web.HTTPFound("/round")
        case "/page":
            return web.Response(text="<html>", content_type="text/html")
        case "/large":
            return web.Response(body=bytes(21 * 1024 * 1024), content_type="image/png")
    raise web.HTTPNotFound


@pytest_asyncio.fixture
async def origin() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path:.*}", site)
    runner = web.AppRunner(app)
    await runner.setup()
    tcp = web.TCPSite(runner, "127.0.0.1", 0)
    await tcp.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Node 0 may fetch from anywhere, node 1 only from the public Internet."""
    async with running(database_url, redis_url, tmp_path, nodes=0) as started:
        url = started.provider.url
        open_, guarded = (
            started.start_node(WAYSTATION_SIMULATOR_URL=url, WAYSTATION_FETCH_PRIVATE_ADDRESSES="true"),
            started.start_node(WAYSTATION_SIMULATOR_URL=url),
        )
        await asyncio.gather(started.ready(open_), started.ready(guarded))
        yield started


async def look(cluster: Cluster, model: str, *urls: str, node: int = 0) -> tuple[int, str]:
    """Status, and what was answered."""
    parts: list[Any] = [{"type": "text", "text": "look"}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    body = {"model": model, "messages": [{"role": "user", "content": parts}]}
    headers = {"Authorization": f"Bearer {cluster.key}"}
    async with aiohttp.ClientSession() as session:
        url = f"{cluster.url(node)}/v1/chat/completions"
        async with session.post(url, json=body, headers=headers) as reply:
            told = await reply.json()
    return reply.status, told["choices"][0]["message"]["content"] if reply.status == 200 else told["error"]["message"]


@pytest.mark.parametrize("model", MODELS)
async def test_a_picture_is_fetched_and_its_bytes_say_what_it_is(cluster: Cluster, origin: str, model: str) -> None:
    seen = f"[image/png, {PNG_BYTES} bytes]"
    status, said = await look(cluster, model, f"{origin}/picture", f"{origin}/moved#there", f"{origin}/picture")
    assert (status, said) == (200, f"You said: look {seen} {seen} {seen}")
    assert "http://" not in str(cluster.provider.last.body)


async def test_what_cannot_be_fetched_is_refused_with_the_reason(cluster: Cluster, origin: str) -> None:
    for path, reason in (
        ("/nothing", "it answers 404"),
        ("/round", "redirects more than 3 times"),
        ("/page", "it is text/html, no image"),
        ("/large", "larger than 20971520 bytes"),
    ):
        status, said = await look(cluster, MODELS[0], origin + path)
        assert (status, reason in said, "'messages'" in said) == (400, True, True), said
    status, said = await look(cluster, MODELS[0], *(f"{origin}/picture?{at}" for at in range(21)))
    assert (status, "20 are the most" in said) == (400, True)
    assert cluster.provider.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png", "https://127.0.0.1/a.png", "https://169.254.169.254/latest/meta-data", "https://[::1]/a.png",
        "https://localhost/a.png", "https://2130706433/a.png", "https://example.com:22/a.png", "https://user@example.com/a.png",
    ],
)  # fmt: skip
async def test_a_guarded_node_fetches_nothing_private(cluster: Cluster, origin: str, url: str) -> None:
    for given in (url, f"{origin}/picture"):
        status, said = await look(cluster, MODELS[0], given, node=1)
        assert (status, "cannot be fetched" in said) == (400, True), said
    assert cluster.provider.requests == []


async def test_providers_that_fetch_for_themselves_get_the_url(cluster: Cluster, origin: str) -> None:
    for model in ("demo/chat", "demo-messages/chat", "demo-cohere/chat", "demo-responses/chat"):
        assert await look(cluster, model, f"{origin}/nothing", node=1) == (200, f"You said: look [{origin}/nothing]")

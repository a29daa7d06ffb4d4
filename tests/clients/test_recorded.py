"""Requests of clients that cannot run here, as their sources write them: servers with a database, and extensions of VS Code.

Open WebUI 0.12, LibreChat (custom endpoints), Roo Code and Cline in VS Code (their OpenRouter provider), Cursor (its servers
call the OpenAI API). Only what they send and what they read of the answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.hosts.cluster import Cluster

HELLO = {"role": "user", "content": "Hello!"}
TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Reads a file.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}},
            "required": ["path"],
            "additionalProperties": False,
        },
    },
}
REQUESTS: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "open-webui": (
        "/v1/chat/completions",
        {"X-OpenWebUI-User-Name": "Ada"},
        {"model": "lab/chat", "stream": True, "stream_options": {"include_usage": True}, "messages": [HELLO]},
    ),
    "open-webui title": (
        "/v1/chat/completions",
        {},
        {"model": "lab/chat", "stream": False, "max_completion_tokens": 1000, "messages": [HELLO]},
    ),
    "librechat": (
        "/v1/chat/completions",
        {"User-Agent": "LangChain"},
        {
            "model": "lab/chat", "stream": True, "user": "66f0c0ffee", "temperature": 1, "top_p": 1, "presence_penalty": 0,
            "frequency_penalty": 0, "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello!"}]}],
        },
    ),
    "roo code": (
        "/api/v1/chat/completions",
        {"HTTP-Referer": "https://github.com/RooVetGit/Roo-Cline", "X-Title": "Roo Code"},
        {
            "model": "lab/chat", "stream": True, "stream_options": {"include_usage": True}, "usage": {"include": True},
            "temperature": 0, "max_tokens": 8192, "parallel_tool_calls": False, "tool_choice": "auto", "tools": [TOOL],
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]},
                {"role": "user", "content": [{"type": "text", "text": "Hello!", "cache_control": {"type": "ephemeral"}}]},
            ],
        },
    ),
    "cline in vs code": (
        "/api/v1/chat/completions",
        {"HTTP-Referer": "https://cline.bot", "X-Title": "Cline"},
        {
            "model": "lab/chat", "stream": True, "stream_options": {"include_usage": True}, "transforms": ["middle-out"],
            "include_reasoning": True, "messages": [{"role": "system", "content": "s"}, HELLO],
        },
    ),
    "cursor": (
        "/v1/chat/completions",
        {},
        {
            "model": "lab/chat", "stream": True, "temperature": 0, "user": "google-oauth2|1", "n": 1, "tools": [TOOL],
            "tool_choice": "auto", "messages": [{"role": "system", "content": "s"}, HELLO],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("client", sorted(REQUESTS))
async def test_a_chat_of(cluster: Cluster, client: str) -> None:
    path, headers, body = REQUESTS[client]
    sent = {"Authorization": f"Bearer {cluster.key}"} | headers
    async with (
        aiohttp.ClientSession() as session,
        session.post(cluster.url() + path, json=body, headers=sent) as reply,
    ):
        raw = (await reply.read()).decode()
    assert reply.status == 200, raw
    if not body["stream"]:
        assert "You said: Hello!" in raw
        return
    assert reply.content_type == "text/event-stream"
    assert raw.endswith("data: [DONE]\n\n")
    assert ('"usage":{' in raw) == ("stream_options" in body)


@pytest.mark.parametrize("path", ["/v1/models", "/api/v1/models"])
async def test_their_list_of_models(cluster: Cluster, path: str) -> None:
    """LibreChat reads `data[].id`; Roo and Cline check OpenRouter's fields."""
    entry = {"name": "lab", "provider": "custom", "prefix": "lab", "base_url": cluster.provider.url, "api_key": "env:LAB_KEY"}
    await cluster.apply(connections=[entry | {"models": [{"id": "listed", "context_tokens": 8192, "max_output_tokens": 4096}]}])
    headers = {"Authorization": f"Bearer {cluster.key}"}
    async with aiohttp.ClientSession() as session:
        for _ in range(30):
            async with session.get(cluster.url() + path, headers=headers) as reply:
                data = (await reply.json())["data"]
            found = next((model for model in data if model["id"] == "lab/listed"), None)
            if found is not None:
                break
            await asyncio.sleep(0.1)
    assert found is not None
    assert (found["context_length"], found["top_provider"]["max_completion_tokens"]) == (8192, 4096)
    assert {"prompt", "completion"} <= set(found["pricing"])
    assert "text" in found["architecture"]["input_modalities"]

"""A call at /api/v1 as OpenRouter's clients see it, against the books; and its list of models, which is public."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from tests.hosts.cluster import Cluster, call, running


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path, nodes=0) as started:
        await started.ready(started.start_node(WAYSTATION_SIMULATOR_URL=started.provider.url))
        yield started


async def post(cluster: Cluster, path: str, body: Any, **headers: str) -> tuple[int, Any, aiohttp.ClientResponse]:
    sent = {"Authorization": f"Bearer {cluster.key}"} | headers
    async with aiohttp.ClientSession() as session, session.post(cluster.url() + path, json=body, headers=sent) as reply:
        return reply.status, await reply.read(), reply


def events(stream: bytes) -> list[Any]:
    lines = [line[6:] for line in stream.split(b"\n") if line.startswith(b"data: ") and line != b"data: [DONE]"]
    return [orjson.loads(line) for line in lines]


MODELS = [
    "demo/chat",
    "demo-messages/chat",
    "demo-gemini/chat",
    "demo-responses/chat",
    "demo-cohere/chat",
    "demo-bedrock/anthropic.chat",
]


async def test_costs_and_native_reasons_are_those_of_the_books(cluster: Cluster) -> None:
    ids: list[str] = []
    for model in MODELS:
        status, body, reply = await post(cluster, "/api/v1/chat/completions", call(model=model, max_tokens=50))
        whole = orjson.loads(body)
        assert (status, whole["choices"][0]["finish_reason"]) == (200, "stop"), model
        assert whole["choices"][0]["native_finish_reason"], model
        assert whole["usage"]["cost"] == float(reply.headers["x-waystation-cost-usd"]) > 0, model
        status, body, reply = await post(cluster, "/api/v1/chat/completions", call(model=model, max_tokens=50, stream=True))
        made = events(body)
        assert body.endswith(b"data: [DONE]\n\n")
        (used,) = [event for event in made if "usage" in event]
        assert used is made[-1]
        assert used["choices"] == []
        assert {event["id"] for event in made} == {reply.headers["x-generation-id"]}
        finishes = [choice for event in made for choice in event["choices"] if choice["finish_reason"]]
        assert [(each["finish_reason"], bool(each["native_finish_reason"])) for each in finishes] == [("stop", True)]
        ids += [whole["id"], used["id"]]
        assert {event["provider"] for event in made} == {whole["provider"]}
        assert used["usage"]["cost"] > 0
    rows = {str(row["event_id"]).replace("-", ""): row for row in await cluster.booked(2 * len(MODELS))}
    assert {number.removeprefix("gen-") for number in ids} == set(rows)
    headers = {"Authorization": f"Bearer {cluster.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for number in ids:
            async with session.get(f"{cluster.url()}/api/v1/generation?id={number}") as reply:
                assert (await reply.json())["data"]["total_cost"] == rows[number.removeprefix("gen-")]["cost_nano_usd"] / 1e9


async def test_a_streams_cost_is_what_is_booked(cluster: Cluster) -> None:
    for model in MODELS:
        _, body, _ = await post(cluster, "/api/v1/chat/completions", call(model=model, max_tokens=50, stream=True))
        cost = events(body)[-1]["usage"]["cost"]
        rows = await cluster.booked(MODELS.index(model) + 1)
        assert cost == pytest.approx(max(rows, key=lambda row: str(row["event_id"]))["cost_nano_usd"] / 1e9, rel=1e-12), model


async def test_responses_and_messages_tell_their_cost(cluster: Cluster) -> None:
    _, body, reply = await post(cluster, "/api/v1/responses", {"model": "demo/chat", "input": "hi", "max_output_tokens": 50})
    assert orjson.loads(body)["usage"]["cost"] == float(reply.headers["x-waystation-cost-usd"])
    asked = {"model": "demo-messages/chat", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    _, body, reply = await post(cluster, "/api/v1/messages", asked)
    assert orjson.loads(body)["usage"]["cost"] == float(reply.headers["x-waystation-cost-usd"])
    _, body, _ = await post(cluster, "/api/v1/messages", asked | {"stream": True})
    (delta,) = [event for event in events(body) if event["type"] == "message_delta"]
    assert delta["usage"]["cost"] > 0


async def test_reasoning_in_openrouters_words_is_said_in_the_providers(cluster: Cluster) -> None:
    asked = call(model="demo/reasoning", max_tokens=50, reasoning={"effort": "high"}, usage={"include": True}, transforms=[])
    status, body, reply = await post(cluster, "/api/v1/chat/completions", asked)
    assert (status, reply.headers["x-waystation-dropped"]) == (200, "transforms")
    assert orjson.loads(body)["choices"][0]["message"]["reasoning"]
    sent = cluster.provider.last.body
    assert sent["reasoning_effort"] == "high"
    assert not {"reasoning", "usage", "transforms"} & set(sent)


async def test_elsewhere_nothing_is_added(cluster: Cluster) -> None:
    for stream in (False, True):
        _, body, reply = await post(cluster, "/v1/chat/completions", call(model="demo/chat", max_tokens=50, stream=stream))
        assert b"native_finish_reason" not in body
        assert b'"cost"' not in body
        assert "x-generation-id" not in reply.headers


async def test_errors_have_openrouters_shape(cluster: Cluster) -> None:
    status, body, _ = await post(cluster, "/api/v1/chat/completions", call(model="nobody/nothing"))
    error = orjson.loads(body)["error"]
    assert (status, error["code"], error["metadata"]) == (404, 404, {"error_type": "not_found", "field": "model"})
    status, body, _ = await post(cluster, "/api/v1/nothing", {})
    assert (status, orjson.loads(body)["error"]["code"]) == (404, 404)
    status, body, _ = await post(cluster, "/api/v1/chat/completions", {}, Authorization="Bearer wrong")
    assert (status, orjson.loads(body)["error"]["metadata"]["error_type"]) == (401, "authentication")
    status, body, _ = await post(cluster, "/api/v1/chat/completions", call(model="demo/fail-400"))
    assert orjson.loads(body)["error"]["code"] == status


async def test_the_list_of_models_is_public_as_far_as_everybody_may_use_them(cluster: Cluster) -> None:
    entry = {"provider": "custom", "base_url": cluster.provider.url, "api_key": "env:LAB_KEY", "models": ["chat"]}
    await cluster.apply(
        organisations=[{"name": "acme", "teams": ["a"]}],
        connections=[
            entry | {"name": "ours", "prefix": "ours", "organisation": "default"},
            entry | {"name": "shared", "prefix": "shared"},
        ],
    )
    await cluster.taken_in()
    await cluster.ready(public := cluster.start_node(WAYSTATION_PUBLIC_MODELS="true"))
    url = f"{cluster.url(public)}/api/v1/models"
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as reply:
            assert reply.status == 200
            everybody = {model["id"] for model in (await reply.json())["data"]}
        async with session.get(url, headers={"Authorization": f"Bearer {cluster.key}"}) as reply:
            own = {model["id"] for model in (await reply.json())["data"]}
        assert own - everybody == {"ours/chat"}
        assert "shared/chat" in everybody
        for path, status in (
            ("shared/chat/endpoints", 200),
            ("shared/chat", 200),
            ("ours/chat/endpoints", 404),
            ("ours/chat", 404),
        ):
            async with session.get(f"{url}/{path}") as reply:
                assert reply.status == status, path
        async with session.get(url, headers={"Authorization": "Bearer wrong"}) as reply:
            assert reply.status == 401
        for path in ("/v1/models", "/v1beta/models", "/api/models/catalog"):
            async with session.get(cluster.url(public) + path) as reply:
                assert reply.status == 401, path
        async with session.get(f"{cluster.url()}/api/v1/models") as reply:  # as it is unless somebody says otherwise
            assert reply.status == 401

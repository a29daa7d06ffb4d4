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
    asked = call(
        model="demo/reasoning", max_tokens=50, reasoning={"effort": "high"}, usage={"include": True}, transforms=[], top_a=1
    )
    status, body, reply = await post(cluster, "/api/v1/chat/completions", asked)
    assert (status, reply.headers["x-waystation-dropped"]) == (200, "top_a")
    assert orjson.loads(body)["choices"][0]["message"]["reasoning"]
    sent = cluster.provider.last.body
    assert sent["reasoning_effort"] == "high"
    assert not {"reasoning", "usage", "transforms", "top_a"} & set(sent)


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
                if path == "shared/chat/endpoints":  # accounts are not for everybody
                    assert [each["tag"] for each in (await reply.json())["data"]["endpoints"]] == ["custom"]
        async with session.get(url, headers={"Authorization": "Bearer wrong"}) as reply:
            assert reply.status == 401
        for path in ("/v1/models", "/v1beta/models", "/api/models/catalog"):
            async with session.get(cluster.url(public) + path) as reply:
                assert reply.status == 401, path
        async with session.get(f"{cluster.url()}/api/v1/models") as reply:  # as it is unless somebody says otherwise
            assert reply.status == 401


def turns(many: int, each: int = 800) -> list[dict[str, Any]]:
    """A system's message, then user and assistant in turn; the last is the user's. `each`: tokens."""
    made = [{"role": "assistant" if at % 2 else "user", "content": f"{at} " + "word" * each} for at in range(many)]
    return [{"role": "system", "content": "Be short."}, *made]


SHORT = {
    "name": "short", "provider": "custom", "prefix": "short", "api_key": "env:LAB_KEY",
    "models": [{"id": "chat", "context_tokens": 8192, "max_output_tokens": 1000}],
}  # fmt: skip


async def test_a_prompt_beyond_a_short_context_loses_its_middle(cluster: Cluster) -> None:
    """Wire.md 115: 20,000 tokens for a model with 8,192; a tool's call in the midst goes with its result."""
    prices = {"short/chat": {"input": "1", "output": "2"}}
    await cluster.apply(connections=[SHORT | {"base_url": cluster.provider.url}], prices=prices)
    said = turns(25)
    called = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    said[12:14] = [
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
    ]
    asked = {"model": "short/chat", "max_tokens": 500, "messages": said}
    for path, stream in (("chat/completions", False), ("chat/completions", True), ("messages", False)):
        body = asked | {"stream": stream}
        if path == "messages":
            body |= {"system": "Be short.", "messages": turns(25)[1:], "session_id": "s"}
        status, _, reply = await post(cluster, f"/api/v1/{path}", body)
        assert status == 200
        sent = cluster.provider.last.body["messages"]
        assert (sent[0]["role"], sent[-1]["content"][:3]) == ("system", "24 ")
        assert [each["content"][:2].strip() for each in sent[1:]] == ["0", "1", "2", "3", "20", "21", "22", "23", "24"]
        whole = 25 if path == "messages" else 26  # Anthropic's system is none of them
        assert reply.headers["x-waystation-dropped"].split(", ")[0] == f"messages (16 of {whole})"
    rows = await cluster.booked(3)
    assert all(0 < row["input_tokens"] < 8_192 for row in rows)
    headers = {"Authorization": f"Bearer {cluster.key}"}
    url = f"{cluster.url()}/api/explain?openrouter=true"
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=asked) as reply:
        (told,) = (await reply.json())["candidates"]
    assert (told["shortened"]["messages"], told["shortened"]["sent"]) == (26, 10)
    assert 6_000 < told["shortened"]["tokens"] <= 8_192 - 500
    assert float(told["at_most_usd"]) * 1e9 >= max(row["cost_nano_usd"] for row in rows) > 0


@pytest.mark.parametrize(
    "fields",
    [{"transforms": []}, {"plugins": [{"id": "context-compression", "enabled": False}]}],
)
async def test_who_wants_no_middle_out_is_told_that_it_is_too_long(cluster: Cluster, fields: dict[str, Any]) -> None:
    """Wire.md 115, the other half; and elsewhere than at /api/v1 nothing is left out unasked."""
    await cluster.apply(connections=[SHORT | {"base_url": cluster.provider.url}])
    cluster.provider.fail("too-long")
    body = {"model": "short/chat", "max_tokens": 500, "messages": turns(25)}
    status, raw, _ = await post(cluster, "/api/v1/chat/completions", body | fields)
    error = orjson.loads(raw)["error"]
    assert (status, error["code"], error["metadata"]["error_type"]) == (400, 400, "context_length_exceeded")
    assert '"transforms": ["middle-out"]' in error["message"]
    whole = len(orjson.dumps(body["messages"]))
    sent = cluster.provider.last
    assert int(sent.headers["content-length"]) > whole
    assert "transforms" not in str(sent.body)
    assert "plugins" not in str(sent.body)
    await post(cluster, "/v1/chat/completions", body)
    assert int(cluster.provider.last.headers["content-length"]) > whole


async def test_a_session_stays_where_it_is_and_leaves_who_fails_it(cluster: Cluster) -> None:
    """Wire.md 119."""
    lab = {"provider": "custom", "base_url": cluster.provider.url, "api_key": "env:LAB_KEY"}
    four = [lab | {"name": f"s{at}", "prefix": f"s{at}"} for at in range(4)]
    await cluster.apply(
        connections=four, routes={"four": {"targets": [f"s{at}/chat" for at in range(4)], "strategy": "random"}}
    )
    await cluster.ready(other := cluster.start_node())

    async def served(node: int | None = None, session: str = "one", *, header: bool = False, **more: Any) -> str:
        path = cluster.url() if node is None else cluster.url(node)
        headers = {"Authorization": f"Bearer {cluster.key}"} | ({"x-session-id": session} if header else {})
        body = call("four", max_tokens=20) | ({} if header else {"session_id": session}) | more
        async with (
            aiohttp.ClientSession() as one,
            one.post(f"{path}/api/v1/chat/completions", json=body, headers=headers) as reply,
        ):
            assert reply.status == 200
            await reply.read()
            return reply.headers["x-waystation-model"]

    first = await served()
    assert {await served(header=at % 2 == 0) for at in range(10)} == {first}
    assert {await served(other) for _ in range(5)} == {first}
    assert len({await served(session=f"s{at}") for at in range(20)}) == 4
    assert "session_id" not in cluster.provider.last.body
    cluster.provider.fail("fail-503", times=1)
    second = await served()
    assert second != first
    assert {await served() for _ in range(10)} == {second}
    cluster.provider.fail("cut-after-2", times=1)
    await served(stream=True)  # breaks after its first tokens: nobody else is asked for this one
    third = await served()
    assert third != second
    assert {await served() for _ in range(5)} == {third}


async def test_who_excludes_everything_is_told_by_what(cluster: Cluster) -> None:
    """Wire.md 110, 111."""
    await cluster.apply(prices={"lab/chat": {"input": "2", "output": "2"}})
    for provider, code, by in (
        ({"only": ["x"]}, "no_endpoints", "allowed_providers"),
        ({"max_price": {"prompt": 1}}, "constraint_filtered", "max_price"),
    ):
        status, raw, _ = await post(cluster, "/api/v1/chat/completions", call(provider=provider))
        error = orjson.loads(raw)["error"]
        assert (status, error["code"]) == (404, 404)
        assert error["availability"] == {"code": code, "retryable": False, "excluded_by": [by]}
        assert "lab/chat: " in error["message"]
    assert (await post(cluster, "/api/v1/chat/completions", call(provider={"max_price": {"prompt": 2}})))[0] == 200


async def test_models_are_gone_through_and_the_one_that_answers_is_paid(cluster: Cluster) -> None:
    """Wire.md 113: the first is limited. One answer, of the second, at its price, with its name."""
    await cluster.apply(prices={"lab/chat": {"input": "100", "output": "100"}, "lab/other": {"input": "1", "output": "2"}})
    cluster.provider.fail("fail-429", model="chat")
    for stream in (False, True):
        asked = call("lab/chat", models=["lab/other"], max_tokens=20, stream=stream)
        status, raw, reply = await post(cluster, "/api/v1/chat/completions", asked)
        told = events(raw) if stream else [orjson.loads(raw)]
        assert (status, reply.headers["x-waystation-model"]) == (200, "lab/other")
        assert not any("error" in each for each in told)
        assert {each["model"] for each in told} == {"other"}
        used = told[-1]["usage"]
        assert used["cost"] == pytest.approx((used["prompt_tokens"] + 2 * used["completion_tokens"]) / 1e6)
    rows = await cluster.booked(2)
    assert {row["model"] for row in rows} == {"lab/other"}
    assert max(row["attempts"] for row in rows) == 2


async def test_an_answer_has_what_openrouters_sdks_need(cluster: Cluster) -> None:
    """Wire.md 117."""
    _, raw, reply = await post(cluster, "/api/v1/chat/completions", call(max_tokens=20))
    told = orjson.loads(raw)
    assert {"id", "object", "created", "model", "system_fingerprint", "choices", "usage", "provider"} <= set(told)
    assert told["id"] == reply.headers["x-generation-id"]
    assert told["id"].startswith("gen-")
    assert told["choices"][0]["native_finish_reason"] == "stop"
    assert told["usage"]["cost"] > 0


async def test_every_endpoint_of_a_model_or_route_is_listed_with_a_slug_that_calls_take(cluster: Cluster) -> None:
    lab = {"provider": "custom", "base_url": cluster.provider.url, "api_key": "env:LAB_KEY", "prefix": "two"}
    await cluster.apply(
        connections=[lab | {"name": "eu"}, lab | {"name": "us"}],
        routes={"fast": {"targets": ["two/chat", "lab/chat"]}},
    )
    headers = {"Authorization": f"Bearer {cluster.key}"}
    tags = {}
    async with aiohttp.ClientSession(headers=headers) as session:
        for name in ("two/chat", "fast"):
            async with session.get(f"{cluster.url()}/api/v1/models/{name}/endpoints") as reply:
                tags[name] = [each["tag"] for each in (await reply.json())["data"]["endpoints"]]
    assert tags == {"two/chat": ["custom/eu", "custom/us"], "fast": ["custom/eu", "custom/us", "custom/lab"]}
    asked = call("fast", max_tokens=20, provider={"only": ["custom/us"]})
    assert (await post(cluster, "/api/v1/chat/completions", asked))[0] == 200
    assert [row["connection"] for row in await cluster.booked(1)] == ["us"]


async def test_a_page_that_is_none_is_refused_by_name(cluster: Cluster) -> None:
    headers = {"Authorization": f"Bearer {cluster.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for query, field in (("offset=-1", "offset"), ("limit=0", "limit"), ("limit=x", "limit")):
            async with session.get(f"{cluster.url()}/api/v1/models?{query}") as reply:
                assert (reply.status, (await reply.json())["error"]["metadata"]["field"]) == (400, field)

"""Routes, key policies and OpenRouter's preferences on real processes; and what they explain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest_asyncio

from shared.domain.policy import KeyPolicy
from shared.store import routes, tenants
from tests.hosts.cluster import Cluster, call, client, running
from tests.upstreams import Upstream

ROUTE = {"targets": ["lab/chat", "spare/chat"], "strategy": "round_robin", "sticky": 1}
PRICES = {
    "lab/chat": {"input": "1", "output": "2"}, "spare/chat": {"input": "3", "output": "4"},
    "openrouter/chat": {"input": "5", "output": "5"},
}  # fmt: skip


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path, spare: Upstream) -> AsyncIterator[Cluster]:
    """Routes over `lab` and `spare`; `openrouter` is at `spare` as well."""
    async with running(database_url, redis_url, tmp_path) as started:
        spares = [
            {"name": "spare", "provider": "custom", "prefix": "spare", "base_url": spare.url, "api_key": "env:LAB_KEY",
             "data_policy": {"trains": False, "retention_days": 0, "region": "eu-west-1"}},
            {"name": "openrouter", "provider": "openrouter", "base_url": spare.url, "api_key": "env:LAB_KEY"},
        ]  # fmt: skip
        await started.apply(connections=spares, prices=PRICES, routes={"fast": ROUTE}, aliases={"gpt-*": "fast"})
        yield started


async def asked(cluster: Cluster, key: str | None = None, **fields: Any) -> tuple[int, str | None, Any]:
    """Status, the model that answered, body."""
    async with client(cluster, key=key) as one:
        wanted: dict[str, Any] = {"model": "fast", "max_tokens": 5} | fields
        status, headers, body = await one.chat(call(**wanted))
    return status, headers.get("x-waystation-model"), body


async def post(cluster: Cluster, path: str, key: str, body: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as session, session.post(cluster.url() + path, json=body, headers=headers) as reply:
        return reply.status, await reply.json()


async def test_a_route_is_called_as_a_model_and_goes_on_when_a_target_fails(cluster: Cluster, spare: Upstream) -> None:
    served = [(await asked(cluster, model=name))[1] for name in ("fast", "fast", "gpt-4o", "fast")]
    assert sorted(map(str, served)) == ["lab/chat", "lab/chat", "spare/chat", "spare/chat"]
    assert served[0] != served[1]
    assert spare.last.body["model"] == "chat"
    cluster.provider.fail("fail-503")
    assert [(await asked(cluster))[:2] for _ in range(2)] == [(200, "spare/chat")] * 2
    rows = await cluster.booked(6)
    assert sorted(row["attempts"] for row in rows) == [1, 1, 1, 1, 1, 2]
    assert {row["model"] for row in rows} == {"lab/chat", "spare/chat"}
    headers = {"Authorization": f"Bearer {cluster.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(f"{cluster.url()}/v1/models") as reply:
            entries = {entry["id"]: entry for entry in (await reply.json())["data"]}
        async with session.get(f"{cluster.url()}/v1/models/fast") as reply:
            assert (await reply.json()) == entries["fast"]
        async with session.get(f"{cluster.url()}/api/models/catalog") as reply:
            groups = {group["provider"]: group["models"] for group in (await reply.json())["data"]}
    assert (entries["fast"]["owned_by"], entries["fast"]["pricing"]["prompt"]) == ("waystation", "0.000003")
    assert [entry["id"] for entry in groups["waystation"]] == ["fast"]
    await cluster.apply(routes={"fast": None}, aliases={"gpt-*": None})
    assert (await asked(cluster))[0] == 404


async def test_what_a_route_asks_for_is_done(cluster: Cluster, spare: Upstream) -> None:
    """Affinity: conversations that begin alike stay together. A deadline: the route's, unless the call has its own."""
    targets = ["lab/chat", "spare/chat"]
    wanted = {"affine": {"targets": targets, "strategy": "round_robin", "sticky": 1, "affinity": True}}
    await cluster.apply(routes=wanted | {"hasty": {"targets": ["lab/chat"], "deadline_s": 0.4}})
    homes = set()
    for topic in range(12):
        begun = [{"role": "system", "content": f"You know all about {topic}."}, {"role": "user", "content": "Hello!"}]
        more = [*begun, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Go on."}]
        served = {(await asked(cluster, model="affine", messages=messages))[1] for messages in (begun, more, begun)}
        assert len(served) == 1
        homes |= served
    assert homes == set(targets)
    cluster.provider.fail("slow-head-900")
    status, _, body = await asked(cluster, model="hasty")
    assert (status, body["error"]["code"]) == (504, "provider_timeout")
    async with client(cluster) as one:
        assert (await one.chat(call("hasty", max_tokens=5), x_waystation_deadline_s="5"))[0] == 200


async def test_what_a_key_may_use_is_in_force_at_once(cluster: Cluster, spare: Upstream) -> None:
    made = await tenants.create_key(cluster.pool, cluster.vault, team="default", policy=KeyPolicy(no_training=True))
    await cluster.taken_in()
    assert {(await asked(cluster, made.key))[1] for _ in range(3)} == {"spare/chat"}
    status, _, body = await asked(cluster, made.key, model="lab/chat")
    assert (status, body["error"]["code"], body["error"]["param"]) == (403, "forbidden", "model")
    assert "may train on prompts" in body["error"]["message"]
    status, told = await post(cluster, "/v1/messages", made.key, call("lab/chat", max_tokens=5))
    assert (status, told["error"]["type"]) == (403, "permission_error")
    await routes.put_policy(cluster.pool, made.id, KeyPolicy(models=("lab/*",)))
    await cluster.taken_in()
    assert {(await asked(cluster, made.key))[1] for _ in range(3)} == {"lab/chat"}
    assert (await asked(cluster, made.key, model="spare/chat"))[0] == 403
    await routes.put_policy(cluster.pool, made.id, KeyPolicy(max_input_nano_per_mtok=2_000_000_000))
    await cluster.taken_in()
    assert {(await asked(cluster, made.key))[1] for _ in range(3)} == {"lab/chat"}
    await cluster.apply(keys=[{"key": made.id}])
    assert (await asked(cluster, made.key, model="spare/chat"))[0] == 200
    assert len(spare.requests) == 4


async def test_openrouters_preferences_are_followed_and_go_no_further(cluster: Cluster, spare: Upstream) -> None:
    own = {"provider", "models", "route"}
    for provider, model in (
        ({"only": ["spare"]}, "spare/chat"), ({"ignore": ["Spare"]}, "lab/chat"), ({"order": ["spare"]}, "spare/chat"),
        ({"sort": "price"}, "lab/chat"), ({"zdr": True}, "spare/chat"), ({"data_collection": "deny"}, "spare/chat"),
        ({"max_price": {"prompt": 2}}, "lab/chat"),
    ):  # fmt: skip
        for stream in (False, True):
            assert (await asked(cluster, provider=provider, stream=stream))[:2] == (200, model), provider
    for path in ("/v1/responses", "/api/v1/chat/completions", "/v1/messages"):
        body = call("fast", max_tokens=5, input="Hello!", provider={"only": ["lab"]}, route="fallback")
        status, told = await post(cluster, path, cluster.key, body)
        assert status == 200, told
    assert (await asked(cluster, model="fast:floor"))[1] == "lab/chat"
    sent = [record.body for record in (*cluster.provider.requests, *spare.requests)]
    assert len(sent) == 18
    assert not any(own & set(body) for body in sent)
    status, _, told = await asked(cluster, provider={"only": ["nobody"]})
    assert (status, told["error"]["code"], told["error"]["param"]) == (404, "no_endpoints", "provider")
    assert "lab/chat: the call wants only nobody" in told["error"]["message"]
    status, _, told = await asked(cluster, provider={"zdr": 1})
    assert (status, told["error"]["param"]) == (400, "provider.zdr")
    cluster.provider.fail("fail-503")
    assert (await asked(cluster, provider={"order": ["lab"], "allow_fallbacks": False}))[0] == 503
    assert (await asked(cluster, model="lab/chat", models=["nobody/x", "spare/chat"]))[:2] == (200, "spare/chat")


async def test_openrouter_itself_gets_the_preferences_but_not_the_models(cluster: Cluster, spare: Upstream) -> None:
    wanted = {"only": ["anthropic"], "zdr": True, "sort": "price"}
    fields: dict[str, Any] = {"model": "openrouter/chat:nitro", "models": ["lab/chat"], "provider": wanted}
    assert (await asked(cluster, **fields))[:2] == (200, "openrouter/chat:nitro")
    assert (spare.last.body["model"], spare.last.body["provider"]) == ("chat:nitro", wanted)
    assert "models" not in spare.last.body
    body = {"model": "openrouter/chat", "messages": call()["messages"], "max_tokens": 5, "provider": wanted}
    assert (await post(cluster, "/v1/messages", cluster.key, body))[0] == 200
    assert spare.last.body["provider"] == wanted


async def test_a_call_is_explained_to_its_key_and_any_to_an_administrator(cluster: Cluster) -> None:
    strict = await tenants.create_key(cluster.pool, cluster.vault, team="default", policy=KeyPolicy(providers=("spare",)))
    admin = await tenants.create_key(cluster.pool, cluster.vault, team="default", admin=True)
    await cluster.taken_in()
    body = call("fast", max_tokens=5)
    status, own = await post(cluster, "/api/explain", strict.key, body)
    assert status == 200
    assert [each["model"] for each in own["candidates"]] == ["spare/chat"]
    assert [(each["model"], each["rule"]) for each in own["removed"]] == [("lab/chat", "key.providers")]
    assert own["candidates"][0]["price"]["input"] == "3"
    assert (await asked(cluster, strict.key))[1] == "spare/chat"
    status, same = await post(cluster, f"/api/explain?key_id={strict.id}", admin.key, body)
    assert (status, same["removed"], same["key"]["id"]) == (200, own["removed"], strict.id)
    assert (await post(cluster, f"/api/explain?key_id={admin.id}", strict.key, body))[0] == 403
    assert (await post(cluster, "/api/explain?key_id=nobody", admin.key, body))[0] == 404
    assert (await post(cluster, "/api/explain?format=morse", admin.key, body))[1]["error"]["param"] == "format"
    assert (await post(cluster, "/api/explain", "sk-ws-nobody", body))[0] == 401
    assert (await post(cluster, "/api/explain", admin.key, {"model": "nobody/x"}))[0] == 404
    team = (await post(cluster, "/api/explain", admin.key, body))[1]["key"]["team"]
    assert (await post(cluster, f"/api/explain?team={team}", admin.key, {"model": "fast"}))[1]["removed"] == []
    order = (await post(cluster, "/api/explain", admin.key, body))[1]["candidates"]
    assert (await asked(cluster))[1] == order[0]["model"]
    assert (await asked(cluster))[1] == order[1]["model"]
    told = json.loads(explained(cluster, "--key", strict.id, "--model", "fast", "--json"))
    assert (told["removed"], told["candidates"][0]["model"]) == (own["removed"], "spare/chat")
    path = cluster.directory / "body.json"
    path.write_text(json.dumps(body))
    text = explained(cluster, "--at", cluster.url(), "-f", str(path), WAYSTATION_KEY=strict.key)
    assert "fast: route fast, round_robin" in text
    assert "1. spare/chat (spare)  3/4 USD" in text
    assert "x  lab/chat (lab)  key.providers: the key may use the providers spare" in text
    assert "lab/chat" in explained(cluster, "--model", "lab/chat")
    assert "there is no key" in explained(cluster, "--key", "nobody", "--model", "fast")
    assert "There is no model" in explained(cluster, "--model", "nobody/x")


def explained(cluster: Cluster, *arguments: str, **environment: str) -> str:
    """What `waystation explain …` says."""
    known = {
        "DATABASE_URL": cluster.database_url, "REDIS_URL": cluster.redis_url, "WAYSTATION_SECRET_KEY": cluster.secret,
        "WAYSTATION_DATA_DIR": str(cluster.directory),
    }  # fmt: skip
    command = [sys.executable, "-m", "services.cli", "explain", *arguments]
    done = subprocess.run(
        command, env=os.environ | known | environment, capture_output=True, text=True, timeout=90, check=False
    )
    return done.stdout + done.stderr

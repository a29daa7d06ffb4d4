"""Models at run time: added by an administrator, served at once everywhere, and those that a connection offers anew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from services.simulator.behaviour import MODELS
from services.worker.pull import Pulling
from shared.store import provider_models, tenants
from shared.upstream.credentials import Credentials
from shared.upstream.proxies import Proxies
from shared.upstream.session import Session
from shared.wire.model_list import read_model_ids
from shared.wire.reply import MalformedReply
from tests.hosts.cluster import Cluster, call, client, running

URL = "/api/provider-models"


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path, nodes=2) as started:
        yield started


async def ask(cluster: Cluster, method: str, path: str, key: str, body: Any = None, node: int = 0) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    url = cluster.url(node) + path
    async with aiohttp.ClientSession() as session, session.request(method, url, json=body, headers=headers) as reply:
        return reply.status, await reply.json()


async def test_an_administrator_adds_a_model_and_everybody_can_name_it(cluster: Cluster) -> None:
    admin = await tenants.create_key(cluster.pool, cluster.vault, team="default", admin=True)
    entry = {"name": "lab", "provider": "custom", "prefix": "lab", "base_url": cluster.provider.url, "api_key": "env:LAB_KEY"}
    await cluster.apply(connections=[entry | {"models": ["chat"]}])
    async with client(cluster) as other:
        assert (await other.chat(call("lab/json")))[0] == 404
    added = {"provider": "custom", "modelId": "json", "modelName": "JSON", "max_output_tokens": 99,
             "price": {"input": "3", "output": "4"}}  # fmt: skip
    status, told = await ask(cluster, "POST", URL, admin.key, added)
    assert (status, told["model"]) == (200, {"provider": "custom", "id": "json", "name": "JSON", "source": "manual"})
    again = await ask(cluster, "POST", URL, admin.key, added | {"modelName": "Other"})
    assert again == (200, told)
    async with client(cluster) as here:
        assert (await here.chat(call("lab/json")))[0] == 200
    await cluster.taken_in()
    status, listed = await ask(cluster, "GET", "/v1/models/lab/json", cluster.key, node=1)
    assert (status, listed["max_output_tokens"], listed["pricing"]["prompt"]) == (200, 99, "0.000003")
    assert await ask(cluster, "GET", f"{URL}?provider=custom", cluster.key) == (
        200, {"models": [{"id": "json", "name": "JSON", "source": "manual", "new": False}]}
    )  # fmt: skip
    assert await ask(cluster, "DELETE", f"{URL}?provider=custom&model=json", admin.key) == (200, {"removed": True})
    assert await ask(cluster, "DELETE", f"{URL}?provider=custom&model=json", admin.key) == (200, {"removed": False})
    async with client(cluster) as here:
        assert (await here.chat(call("lab/json")))[0] == 404


async def test_nobody_else_may_and_what_is_wrong_is_named(cluster: Cluster) -> None:
    admin = await tenants.create_key(cluster.pool, cluster.vault, team="default", admin=True)
    await cluster.taken_in()
    good = {"provider": "groq", "modelId": "new"}
    for method, path in (("POST", URL), ("DELETE", f"{URL}?provider=groq&model=new")):
        assert (await ask(cluster, method, path, cluster.key, good))[0] == 403
        assert (await ask(cluster, method, path, "sk-ws-nobody", good))[0] == 401
    for body, field in (
        (good | {"provider": "nobody"}, "provider"),
        ({"provider": "groq"}, "modelId"),
        (good | {"modelId": ""}, "modelId"),
        (good | {"capabilities": ["magic"]}, "capabilities"),
        (good | {"price": {"input": "1"}}, "price.output"),
        (good | {"max_output_tokens": -1}, "max_output_tokens"),
        (good | {"odd": 1}, "odd"),
        ([], "body"),
    ):
        status, told = await ask(cluster, "POST", URL, admin.key, body)
        assert (status, str(told["error"]["param"]).split(".")[0]) == (400, field.split(".")[0]), told
    assert (await ask(cluster, "DELETE", URL, admin.key))[1]["error"]["param"] == "provider"


async def test_what_a_connection_offers_is_pulled_and_what_is_new_is_shown(cluster: Cluster) -> None:
    broken = {"name": "broken", "provider": "custom", "prefix": "broken", "base_url": "http://127.0.0.1:9/v1"}
    await cluster.apply(connections=[broken])
    session = Session()
    pulling = Pulling(cluster.pool, session, Credentials(cluster.vault), Proxies(cluster.vault))
    assert await pulling.everything() == 1
    assert await pulling.everything() == 1
    await session.close()
    rows = await provider_models.offered(cluster.pool)
    assert {(row["connection"], row["id"]) for row in rows} == {("lab", name) for name in MODELS}
    assert all(row["last_seen_at"] > row["first_seen_at"] for row in rows)
    _, told = await ask(cluster, "GET", URL, cluster.key)
    assert {entry["id"] for entry in told["custom"]} == set(MODELS)
    assert all(entry["new"] for entry in told["custom"])


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (b'{"data": [{"id": "a"}, {"id": "b"}, {"id": "a"}]}', ["a", "b"]),
        (b'{"models": [{"name": "models/gemini-x", "displayName": "X"}]}', ["gemini-x"]),
        (b'[{"id": "together"}]', ["together"]),
        (b'{"data": [{"id": 1}, {"id": ""}, {"id": "a\\nb"}, "x", {}]}', []),
        (b'{"data": []}', []),
    ],
)
def test_lists_as_vendors_write_them(body: bytes, ids: list[str]) -> None:
    assert read_model_ids(body) == ids


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"data": {}}', b"1", b"null"])
def test_what_is_no_list(body: bytes) -> None:
    with pytest.raises(MalformedReply):
        read_model_ids(body)

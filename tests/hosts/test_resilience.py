"""What is open or locked, seen and undone over HTTP and from the command line, on real nodes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from click.testing import CliRunner, Result
from sqlalchemy import text

from services.cli.__main__ import main
from shared.store import tenants
from tests.health.nodes import LIMITED, REFUSED, Node, deployment, nodes, until
from tests.hosts.cluster import Cluster, call, client, running

URL = "/api/resilience"
SECRET_OF_THE_PROVIDERS = b"sk-secret-1234"


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path, nodes=2, workers=0) as started:
        yield started


@pytest_asyncio.fixture
async def node(cluster: Cluster) -> AsyncIterator[Node]:
    """One more node's health, with things wrong: a connection locked, another cooling, a breaker open."""
    async with nodes(cluster.redis_url) as (made,):
        made.fail(deployment(connection="conn_lab"), 1, REFUSED)
        made.fail(deployment(connection="conn_b"), 1, type(LIMITED)(failure_class=LIMITED.failure_class, message="answered 429",
                                                                    status=429, retry_after_s=600.0))  # fmt: skip
        made.fail(deployment("x", connection="conn_c"), 3)
        await until(lambda: len(made.health.marks) == 3)
        yield made


async def ask(cluster: Cluster, method: str, path: str, key: str, body: Any = None, at: int = 0) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    url = cluster.url(at) + path
    async with aiohttp.ClientSession() as session, session.request(method, url, json=body, headers=headers) as reply:
        return reply.status, await reply.json()


async def metric(cluster: Cluster, at: int, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"{cluster.url(at)}/metrics") as reply:
        return next(float(line.split()[1]) for line in (await reply.text()).splitlines() if line.startswith(f"{name} "))


async def audited(cluster: Cluster) -> list[tuple[str, str, str]]:
    async with cluster.pool.connect() as connection:
        query = "SELECT action, subject, detail FROM audit_log WHERE action IN ('unlock', 'reset') ORDER BY subject"
        return [(row.action, row.subject, row.detail["by"]) for row in await connection.execute(text(query))]


async def command(cluster: Cluster, *arguments: str) -> Result:
    environment = {
        "DATABASE_URL": cluster.database_url, "REDIS_URL": cluster.redis_url, "WAYSTATION_SECRET_KEY": cluster.secret,
        "WAYSTATION_DATA_DIR": str(cluster.directory),
    }  # fmt: skip
    runner = CliRunner(env=os.environ | environment)
    return await asyncio.to_thread(runner.invoke, main, list(arguments))


async def test_an_administrator_sees_and_undoes_everything_on_every_node(cluster: Cluster, node: Node) -> None:
    admin = await tenants.create_key(cluster.pool, cluster.vault, team="default", admin=True)
    await cluster.taken_in()
    status, told = await ask(cluster, "GET", URL, admin.key)
    marks = {mark["name"]: mark for mark in told["marks"]}
    assert status == 200
    assert {name: mark["state"] for name, mark in marks.items()} == {"lab": "locked", "b": "cooling", "lab/x": "open"}
    assert marks["lab"]["reason"] == "the credential was refused (credential, the provider answered 401)"
    assert SECRET_OF_THE_PROVIDERS not in json.dumps(told).encode()
    for at in (0, 1):
        assert await metric(cluster, at, "waystation_connections_locked") == 1
        assert await metric(cluster, at, "waystation_connections_cooling") == 1
        assert await metric(cluster, at, "waystation_breakers_open") == 1
    assert await ask(cluster, "POST", f"{URL}/unlock", admin.key, {"name": "nobody"}) == (200, {"unlocked": []})
    assert await ask(cluster, "POST", f"{URL}/unlock", admin.key, {"name": "lab/x"}) == (200, {"unlocked": []})
    assert await ask(cluster, "POST", f"{URL}/unlock", admin.key, {"name": "lab"}, at=1) == (200, {"unlocked": ["lab"]})
    assert await until(lambda: len(node.health.marks) == 2) < 1
    others = [mark["name"] for mark in told["marks"] if mark["name"] != "lab"]
    assert await ask(cluster, "POST", f"{URL}/reset", admin.key, {"all": True}) == (200, {"reset": others})
    assert await until(lambda: not node.health.marks) < 1
    assert await ask(cluster, "GET", URL, admin.key, at=1) == (200, {"marks": []})
    assert await metric(cluster, 1, "waystation_breakers_open") == 0
    assert await audited(cluster) == [
        ("reset", "connection b", admin.id), ("unlock", "connection lab", admin.id), ("reset", "deployment lab/x", admin.id)
    ]  # fmt: skip


@pytest.mark.parametrize("limits", [{}, {"limits": {"rpm": 6000}}])
@pytest.mark.parametrize(("fault", "status", "attempts"), [
    ("fail-429-retry-600", 429, "lab/chat rate_limited 429"),
    ("fail-503-retry-600", 503, "lab/chat overloaded 503"),  # a pause alone: the breaker stays closed, nothing cools down
])  # fmt: skip
async def test_unlocking_ends_the_pause_that_a_provider_asked_for_on_every_node(
    cluster: Cluster, limits: dict[str, Any], fault: str, status: int, attempts: str
) -> None:
    entry = {"name": "lab", "provider": "custom", "prefix": "lab", "base_url": cluster.provider.url, "api_key": "env:LAB_KEY"}
    await cluster.apply(connections=[entry | limits])
    cluster.provider.fail(fault, times=1)
    async with client(cluster) as one, client(cluster, 1) as other:
        refused, headers, _ = await one.chat(call())
        assert (refused, headers["x-waystation-attempts"]) == (status, attempts)
        await asyncio.sleep(0.3)
        began_s = time.monotonic()
        assert [(await each.chat(call(), x_waystation_deadline_s="1"))[0] for each in (one, other)] == [429, 429]
        waiting = asyncio.ensure_future(other.chat(call(), x_waystation_deadline_s="900"))
        await asyncio.sleep(0.1)
        assert (await command(cluster, "unlock", "lab")).stdout == "unlocked lab\n"
        assert (await command(cluster, "unlock", "lab")).exit_code == 1
        await asyncio.sleep(0.3)
        assert [(await each.chat(call()))[0] for each in (one, other)] == [200, 200]
        assert (await waiting)[0] in (200, 429)  # 429: it would have had to wait too long
        assert time.monotonic() - began_s < 20
    assert len(cluster.provider.requests) in (3, 4)


async def test_nobody_else_may_and_what_is_wrong_is_named(cluster: Cluster, node: Node) -> None:
    admin = await tenants.create_key(cluster.pool, cluster.vault, team="default", admin=True)
    await cluster.taken_in()
    for method, path in (("GET", URL), ("POST", f"{URL}/unlock"), ("POST", f"{URL}/reset")):
        assert (await ask(cluster, method, path, cluster.key, {"all": True}))[0] == 403
        assert (await ask(cluster, method, path, "sk-ws-nobody", {"all": True}))[0] == 401
    wrong: list[Any] = [{}, {"name": "lab", "all": True}, {"name": ""}, {"name": 1}, {"odd": 1}, []]
    for body in wrong:
        assert (await ask(cluster, "POST", f"{URL}/reset", admin.key, body))[0] == 400
    assert len(node.health.marks) == 3
    assert await audited(cluster) == []


async def test_the_command_line_does_the_same(cluster: Cluster, node: Node) -> None:
    shown = await command(cluster, "health")
    assert shown.exit_code == 0, shown.output
    assert "lab/x  c           open" in shown.output
    assert {mark["state"] for mark in json.loads((await command(cluster, "health", "--json")).stdout)} == {
        "open", "cooling", "locked"
    }  # fmt: skip
    refused = await command(cluster, "unlock", "c")
    assert (refused.exit_code, refused.stderr) == (
        1, "waystation: nothing is locked or cooling down at 'c'; `waystation health` shows what is\n"
    )  # fmt: skip
    assert (await command(cluster, "unlock")).exit_code == 2
    assert (await command(cluster, "reset", "c", "--all")).exit_code == 2
    began_s = time.monotonic()
    assert (await command(cluster, "reset", "c")).stdout == "reset lab/x\n"
    await until(lambda: len(node.health.marks) == 2)
    assert time.monotonic() - began_s < 5
    told = json.loads((await command(cluster, "unlock", "--all", "--json")).stdout)
    assert sorted(told["unlocked"]) == ["b", "lab"]
    await until(lambda: not node.health.marks)
    assert (await command(cluster, "reset", "--all")).stdout == "nothing to reset\n"
    assert (await command(cluster, "health")).stdout == "all is well\n"
    assert [entry[0] for entry in await audited(cluster)] == ["unlock", "unlock", "reset"]


@pytest.mark.parametrize("arguments", [["health"], ["unlock", "--all"]])
def test_a_redis_that_is_away_is_named(arguments: list[str], tmp_path: Path) -> None:
    environment = {
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "DATABASE_URL": "postgresql://a@127.0.0.1:1/x",
        "WAYSTATION_SECRET_KEY": "q8Zr2kT0vXw9yLmN4pB7cD1eF3gH5jK6",
        "WAYSTATION_DATA_DIR": str(tmp_path),
    }
    result = CliRunner(env=os.environ | environment).invoke(main, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("waystation: Redis: ")

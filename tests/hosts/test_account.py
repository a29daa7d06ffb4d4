"""What OpenRouter's clients ask about a key and its calls, against the books."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from shared.store import records, tenants
from tests.hosts.cluster import Cluster, call, running


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path) as started:
        yield started


async def ask(cluster: Cluster, path: str, key: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as session, session.get(cluster.url() + path, headers=headers) as reply:
        return reply.status, await reply.json()


async def called(cluster: Cluster, key: str) -> tuple[str, str]:
    """Ids of a call: the answer's own, and the request's."""
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{cluster.url()}/api/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=call(max_tokens=50), headers=headers) as reply:
        assert reply.status == 200
        return (await reply.json())["id"], reply.headers["x-request-id"]


async def test_a_keys_spending_and_what_is_left(cluster: Cluster) -> None:
    bounded = await cluster.new_key(budget_nano=5_000_000_000, rpm=7)
    _, request_id = await called(cluster, bounded.key)
    (row,) = await cluster.booked(1)
    cost = row["cost_nano_usd"] / 1e9
    assert cost > 0
    for path in ("/api/v1/key", "/api/v1/auth/key"):
        status, told = await ask(cluster, path, bounded.key)
        data = told["data"]
        assert (status, data["usage"], data["usage_daily"], data["usage_monthly"]) == (200, cost, cost, cost)
        assert (data["limit"], data["limit_reset"]) == (5.0, "monthly")
        assert data["limit_remaining"] == pytest.approx(5.0 - cost)
        assert data["rate_limit"]["requests"] == 7
        (layer,) = data["budgets"]
        assert data["effective_budget"] == layer
        assert (layer["scope"], layer["limit_usd"], layer["spend_usd"]) == ("key_limit", 5.0, cost)
        assert (layer["reset_interval"], layer["resets_at"][-6:]) == ("monthly", "+00:00")
    _, told = await ask(cluster, "/api/v1/credits", bounded.key)
    assert told["data"]["total_usage"] == cost
    assert told["data"]["total_credits"] == pytest.approx(5.0)
    _, free = await ask(cluster, "/api/v1/credits", cluster.key)
    assert free["data"] == {"total_credits": 9_000_000, "total_usage": 0}
    _, free = await ask(cluster, "/api/v1/key", cluster.key)
    assert (free["data"]["limit"], free["data"]["limit_remaining"], free["data"]["usage"]) == (None, None, 0)
    status, told = await ask(cluster, f"/api/v1/generation?id={request_id}", bounded.key)
    data = told["data"]
    assert (status, data["id"], data["model"], data["total_cost"]) == (200, str(row["event_id"]), "lab/chat", cost)
    assert (data["tokens_prompt"], data["tokens_completion"]) == (row["input_tokens"], row["output_tokens"])
    assert (await ask(cluster, f"/api/v1/generation?id=gen-{request_id.replace('-', '')}", bounded.key))[0] == 200
    for unknown in ("", "gen-1", "018f4e6a-7b1c-7d2e-9f3a-4b5c6d7e8f90", "ffffffff-ffff-7fff-ffff-ffffffffffff"):
        assert (await ask(cluster, f"/api/v1/generation?id={unknown}", bounded.key))[0] == 404
    await cluster.apply(organisations=[{"name": "default", "teams": ["rivals"]}])
    rival = await tenants.create_key(cluster.pool, cluster.vault, team="rivals")
    await cluster.taken_in()
    status, told = await ask(cluster, f"/api/v1/generation?id={request_id}", rival.key)
    assert (status, "no generation" in told["error"]["message"]) == (404, True)
    assert (await ask(cluster, "/api/v1/key", "sk-ws-nobody"))[0] == 401
    record = f"/api/requests/{request_id}"
    admin = await tenants.create_key(cluster.pool, cluster.vault, team="rivals", admin=True)
    await cluster.taken_in()
    assert [(await ask(cluster, record, key))[0] for key in (bounded.key, rival.key, admin.key)] == [200, 404, 200]
    _, told = await ask(cluster, record, cluster.key)
    assert (told["event"]["cost_nano_usd"], told["beside"]) == (row["cost_nano_usd"], [])
    (left,) = told["decision"]["limits"]
    assert (told["decision"]["asked"], left["unit"], left["limit"], left["remaining"]) == ("lab/chat", "requests", 7, 6)
    for unknown in ("x", "018f4e6a-7b1c-7d2e-9f3a-4b5c6d7e8f90"):
        assert (await ask(cluster, f"/api/requests/{unknown}", admin.key))[0] == 404
    await records.forget_decisions(cluster.pool, datetime.now(UTC) - timedelta(days=1))
    assert (await ask(cluster, record, admin.key))[1]["decision"] is not None
    assert await records.forget_decisions(cluster.pool, datetime.now(UTC) + timedelta(days=1)) == 1
    _, told = await ask(cluster, record, admin.key)
    assert (told["decision"], told["event"]["cost_nano_usd"]) == (None, row["cost_nano_usd"])

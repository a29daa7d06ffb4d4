"""Slow starts and broken streams on four real nodes: what hedging and continuation do for clients, and what they cost."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any, cast

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Reason, Refusal
from tests.chaos.crowd import percentile
from tests.flow.inside import Answer
from tests.flow.test_bad_days import BREAKS, one
from tests.hosts.cluster import Cluster, running
from tests.upstreams import Upstream, upstream

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

LONG = float(os.environ.get("CHAOS_TIMES", "1"))
NODES = 4
BODY_MS = 60
WARM = 400
KINDS = ("demo", "demo-messages", "mistral")
STARTED = 'waystation_hedges_total{result="started"}'
NEVER = {"failures": 1000, "least_calls": 100_000}
MODELS = [f"lab{number}/chat" for number in range(len(KINDS))]
ROUTES = {
    "plain": {"targets": MODELS[:2]},
    "quick": {"targets": MODELS[:2], "hedge": True},
    "onward": {"targets": MODELS, "continuation": True},
}


class Clients:
    """Calls of one key, at the nodes in turn."""

    def __init__(self, cluster: Cluster, providers: list[Upstream], session: aiohttp.ClientSession) -> None:
        self.cluster, self.providers, self._session = cluster, providers, session
        self._turns = itertools.cycle(range(NODES))

    async def chat(self, content: str, *, model: str = "onward", stream: bool = True, **fields: Any) -> Answer:
        """As tests/flow's own node answers: a refusal has no body here."""
        answer = Answer(WireFormat.OPENAI_CHAT)
        body = {"model": model, "messages": [{"role": "user", "content": content}], "stream": stream} | fields
        url = f"{self.cluster.url(next(self._turns))}/v1/chat/completions"
        async with self._session.post(url, json=body) as reply:
            if reply.status != 200:
                answer.refusal = Refusal(reason=Reason.PROVIDER_ERROR, status=reply.status, message=await reply.text())
                return answer
            async for piece in reply.content.iter_any():
                answer.first_s = answer.first_s or time.monotonic()
                answer.body += piece
        return answer

    async def first_tokens_s(self, model: str, calls: int, *, at_once: int = 12) -> list[float]:
        """Times to the first token, as clients see them."""
        times: list[float] = []
        left = iter(range(calls))

        async def client() -> None:
            for _ in left:
                begun_s = time.monotonic()
                answer = await self.chat("Hello!", model=model, max_tokens=30)
                assert answer.ended_well, answer.refusal
                assert answer.first_s is not None
                times.append(answer.first_s - begun_s)

        await asyncio.gather(*(client() for _ in range(at_once)))
        return times

    def asked(self) -> int:
        """How many requests providers have had."""
        return sum(provider.state.counts["requests"] for provider in self.providers)

    async def hedges(self) -> int:
        """How many all nodes have started."""
        started = 0.0
        for node in range(NODES):
            async with self._session.get(f"{self.cluster.url(node)}/metrics") as reply:
                lines = (await reply.text()).splitlines()
            started += sum(
                float(line.split()[1]) for line in lines if line.startswith('waystation_hedges_total{result="started"}')
            )
        return int(started)

    def tail(self, percent: int) -> None:
        for provider in self.providers:
            provider.reset()
            provider.state.keep = 10
            provider.fail(f"heavy-tail-{BODY_MS}-{percent}")


@pytest_asyncio.fixture
async def clients(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(running(database_url, redis_url, tmp_path, nodes=NODES))
        providers = [await stack.enter_async_context(upstream()) for _ in KINDS]
        entries = [
            {
                "name": f"lab{number}", "prefix": f"lab{number}", "provider": kind, "base_url": provider.url, "profile": NEVER,
                "api_key": "env:LAB_KEY", "first_byte_timeout_s": 10, "idle_timeout_s": 2,
            }
            for number, (kind, provider) in enumerate(zip(KINDS, providers, strict=True))
        ]  # fmt: skip
        prices = {model: {"input": "1", "output": "2"} for model in MODELS}
        await cluster.apply(connections=entries, prices=prices, routes=ROUTES)
        made = await cluster.new_key(budget_nano=10**14)
        headers = {"Authorization": f"Bearer {made.key}"}
        session = aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0))
        yield Clients(cluster, providers, await stack.enter_async_context(session))


async def test_hedging_cuts_the_tail_to_a_third_for_a_twentieth_more_calls(clients: Clients) -> None:
    calls = int(1_500 * LONG)
    clients.tail(3)
    plain_s = await clients.first_tokens_s("plain", calls)
    before = clients.asked()
    await clients.first_tokens_s("quick", WARM)  # each node learns the times, and earns its first hedges
    hedged_s = await clients.first_tokens_s("quick", calls)
    extra = await clients.hedges() / (WARM + calls)
    all_extra = (clients.asked() - before) / (WARM + calls) - 1
    p99_s = percentile(plain_s, 0.99), percentile(hedged_s, 0.99)
    print(
        f"p50 {percentile(plain_s, 0.5):.3f} → {percentile(hedged_s, 0.5):.3f} s, p99 {p99_s[0]:.3f} → {p99_s[1]:.3f} s, "
        f"ratio {p99_s[1] / p99_s[0]:.3f}, hedges {extra:.4f}, all that is extra {all_extra:.4f}"
    )
    assert p99_s[1] <= 0.35 * p99_s[0]
    assert extra <= 0.05


async def test_in_a_brown_out_hedging_adds_a_tenth_at_most(clients: Clients) -> None:
    clients.tail(3)
    await clients.first_tokens_s("quick", 800)
    clients.tail(80)
    calls = int(1_200 * LONG)
    before, hedges = clients.asked(), await clients.hedges()
    await clients.first_tokens_s("quick", calls, at_once=60)
    extra = (clients.asked() - before - calls) / calls
    print(f"in a brown-out {extra:.4f} more calls, {(await clients.hedges() - hedges) / calls:.4f} of them hedges")
    assert extra <= 0.1


async def test_on_a_bad_day_every_call_ends_well_or_with_an_honest_error(clients: Clients) -> None:
    calls = int(2_000 * LONG)
    for provider in clients.providers:
        provider.state.keep = 10
        provider.fail("fail-503", share=0.006)
        for fault in BREAKS:
            provider.fail(fault, share=0.02 / len(BREAKS))
    ends: Counter[str] = Counter()
    chance, left = Random(8), iter(range(calls))

    async def client() -> None:
        for _ in left:
            try:
                ends[await one(cast(Any, clients), chance.random())] += 1
            except (aiohttp.ClientError, json.JSONDecodeError):
                ends["lied"] += 1

    await asyncio.gather(*(client() for _ in range(10)))
    print(dict(ends), f"{clients.asked()} requests for {calls} calls")
    assert ends.total() == calls
    assert ends["lied"] == 0  # so 100 % end well or with an honest error
    assert ends["well"] / calls >= 0.99
    assert clients.asked() / calls <= 1.11
    await check_money(clients, calls)


async def check_money(clients: Clients, calls: int) -> None:
    """What the budget spent is what the ledger says, and nothing stays set aside."""
    deadline_s = time.monotonic() + 30
    rows = await clients.cluster.booked(calls)
    async with Redis.from_url(clients.cluster.redis_url) as redis:
        while True:
            cells = [name async for name in redis.scan_iter(match="ws:*:b:*") if not name.endswith(b":u")]
            (held,) = [await redis.hgetall(name) for name in cells]
            rows = await clients.cluster.booked(calls)
            if (int(held[b"spent"]), int(held[b"reserved"])) == (sum(row["cost_nano_usd"] for row in rows), 0):
                return
            assert time.monotonic() < deadline_s, (held, sum(row["cost_nano_usd"] for row in rows))
            await asyncio.sleep(0.5)

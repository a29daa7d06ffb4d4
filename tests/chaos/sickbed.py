"""Sickbed: many deployments that are down at once, clients that keep calling them on four nodes, and what the provider sees.

The provider decides how each call that reaches it ends, and makes it so: it answers, lets the call's client leave, or kills the
node that sent it. What it saw is laid beside what Redis told the nodes (leases.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from redis.asyncio import Redis

from shared.store import keys
from shared.store.redis import database_of
from tests.hosts.cluster import Cluster

ENDS = {"bad": 74, "429": 10, "left": 10, "well": 6}
HANG_S = 30.0
ERROR = {"error": {"message": "down", "type": "server_error", "param": None, "code": None}}
ANSWER = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}  # fmt: skip
STREAM = [
    {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    for choice in (
        {"index": 0, "delta": {"role": "assistant", "content": "Hello."}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    )
]


@dataclass(slots=True)
class Arrival:
    """A call that reached the provider. `at_ms`: Unix time, by the clock that Redis has too."""

    at_ms: float
    model: str
    node: int
    end: str


@dataclass(slots=True)
class Told:
    """A change of a breaker, as Redis told it. `mark` None: closed."""

    at_ms: int
    mark: dict[str, Any] | None


@dataclass(slots=True)
class Sickbed:
    cluster: Cluster
    models: tuple[str, ...]
    kills_wanted: int
    chance: random.Random
    seats: list[int] = field(default_factory=list)
    """The nodes that live, by number."""
    arrivals: list[Arrival] = field(default_factory=list)
    killed_ms: dict[int, float] = field(default_factory=dict)
    """When a node was killed, by its number."""
    told: dict[str, list[Told]] = field(default_factory=dict)
    """By model name."""
    statuses: Counter[int] = field(default_factory=Counter)
    _names: dict[str, str] = field(default_factory=dict)
    _shut: set[str] = field(default_factory=set)
    _calls: dict[int, asyncio.Task[Any]] = field(default_factory=dict)
    _number: int = 0
    _replacing: asyncio.Task[None] | None = None

    # -- the provider

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        model = body["model"]
        node, number = (int(word) for word in body["messages"][0]["content"].split())
        end = self._end_for(model)
        self.arrivals.append(Arrival(time.time() * 1000, model, node, end))
        if end in ("left", "killed"):
            if end == "killed":
                self._kill(node)
            else:
                await asyncio.sleep(0.05)
                self._calls[number].cancel()
            await asyncio.sleep(HANG_S)
        if end == "429":
            return web.json_response(ERROR, status=429)
        if end == "bad":
            return web.json_response(ERROR, status=500)
        self._shut.discard(model)
        if not body.get("stream"):
            return web.json_response(ANSWER)
        events = [f"data: {json.dumps(event)}\n\n" for event in STREAM] + ["data: [DONE]\n\n"]
        return web.Response(text="".join(events), content_type="text/event-stream")

    def _end_for(self, model: str) -> str:
        if model not in self._shut:
            return "bad"  # whoever comes while the breaker is closed opens it
        due = len(self.killed_ms) < self.kills_wanted and self._replacing is None
        if due and self.chance.random() < 0.05:
            return "killed"
        return self.chance.choices(list(ENDS), list(ENDS.values()))[0]

    # -- nodes

    def _kill(self, node: int) -> None:
        self.cluster.nodes[node].kill()
        self.killed_ms[node] = time.time() * 1000
        self._replacing = asyncio.ensure_future(self._replace(node))

    async def _replace(self, node: int) -> None:
        new = self.cluster.start_node()
        await self.cluster.ready(new)
        self.seats[self.seats.index(node)] = new
        self._replacing = None

    # -- clients

    async def call_for_ever(self, seat: int) -> None:
        """One client after the other at one node, each for any of the models."""
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.cluster.key}"}) as session:
            while True:
                await asyncio.sleep(self.chance.uniform(0.0, 0.22))
                self._number += 1
                number = self._number
                call = self._calls[number] = asyncio.ensure_future(self._call(session, self.seats[seat], number))
                try:
                    await asyncio.wait({call})
                except asyncio.CancelledError:
                    call.cancel()
                    raise
                finally:
                    del self._calls[number]
                if not call.cancelled() and call.exception() is not None:
                    await asyncio.sleep(0.2)  # its node was killed

    async def _call(self, session: aiohttp.ClientSession, node: int, number: int) -> None:
        name = self.chance.choice(self.models)
        body = {
            "model": name, "messages": [{"role": "user", "content": f"{node} {number}"}], "max_tokens": 5,
            "stream": number % 2 == 0,
        }  # fmt: skip
        async with session.post(f"{self.cluster.url(node)}/v1/chat/completions", json=body) as reply:
            await reply.read()
            self.statuses[reply.status] += 1

    # -- Redis

    async def listen(self, redis_url: str) -> None:
        """Every change of every breaker, as it is told."""
        async with Redis.from_url(redis_url) as redis, redis.pubsub() as channel:
            await channel.subscribe(keys.health_channel(database_of(redis)))
            async for message in channel.listen():
                if message["type"] != "message":
                    continue
                notice = json.loads(message["data"])
                mark = notice.get("m")
                if mark and mark.get("model"):
                    self._names[notice["s"]] = mark["model"]
                if "v" not in notice or (name := self._names.get(notice["s"])) is None:
                    continue
                self.told.setdefault(name, []).append(Told(int(notice["v"]), mark))
                shut = self._shut.add if mark else self._shut.discard
                shut(name.split("/")[1])


@asynccontextmanager
async def provider(bed: Sickbed) -> AsyncIterator[str]:
    """Its base URL."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", bed.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = site._server
    assert isinstance(server, asyncio.Server)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        await runner.cleanup()


async def stopped(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)

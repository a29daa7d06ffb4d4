"""A cluster for tests: real ingress and worker processes on real engines, with a scripted provider behind them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cli.engines import free_port
from shared.domain.limits import Period
from shared.providers import registry
from shared.store import configuration, postgres, tenants
from shared.store.apply import apply_document
from shared.store.document import Document
from shared.store.secrets import Vault, new_secret
from tests.hosts.nursery import Process, nursery
from tests.upstreams import Upstream, upstream

CREDENTIAL = "sk-the-real-credential-of-the-provider"
PRICES = {"input": "1", "output": "2"}
MODELS = ("chat", "slow", "other")


class Cluster:
    """What a test holds: processes by number, the provider, and ways to look at the books."""

    def __init__(self, database_url: str, redis_url: str, directory: Path, provider: Upstream) -> None:
        self.database_url = database_url
        self.redis_url = redis_url
        self.directory = directory
        self.provider = provider
        self.secret = new_secret()
        self.vault = Vault.from_secret(self.secret)
        self.pool: AsyncEngine = postgres.engine(database_url)
        self.nodes: list[Process] = []
        self.workers: list[Process] = []
        self.ports: list[int] = []
        self.key = ""
        self.key_id = ""

    async def configure(self, **document: Any) -> None:
        """Tenants, a priced connection `lab/…` to the provider, and a first key."""
        with patch.object(tenants, "hash_password", lambda password: "nobody logs in here"):  # a tenth of a second
            first = await tenants.bootstrap(self.pool, self.vault)
        assert first is not None
        self.key, self.key_id = first.key, first.key_id
        await self.apply(
            connections=[
                {
                    "name": "lab", "provider": "custom", "prefix": "lab", "base_url": self.provider.url,
                    "api_key": "env:LAB_KEY", "connect_timeout_s": 1, "first_byte_timeout_s": 2, "idle_timeout_s": 1,
                }
            ],
            prices={f"lab/{model}": PRICES for model in MODELS},
            **document,
        )  # fmt: skip

    async def apply(self, **document: Any) -> None:
        made = Document.model_validate(document)
        await apply_document(self.pool, self.vault, made, registry.load(), secret=lambda _: CREDENTIAL)
        await self.taken_in()

    async def new_key(self, *, budget_nano: int | None = None, **limits: Any) -> tenants.CreatedKey:
        budget = None if budget_nano is None else (budget_nano, Period.MONTH)
        made = await tenants.create_key(self.pool, self.vault, team="default", budget=budget, **limits)
        await self.taken_in()
        return made

    async def taken_in(self, within_s: float = 30) -> None:
        """Every node serves what is configured now."""
        epoch = await configuration.epoch(self.pool)
        for node, process in enumerate(self.nodes):
            if process.poll() is None:
                await self._told(node, lambda state: bool(state["configuration_epoch"] >= epoch), within_s)

    def start_node(self, **environment: str) -> int:
        """A new ingress process; its number."""
        port = free_port()
        self.ports.append(port)
        self.nodes.append(self._run("services.ingress", {"WAYSTATION_PORT": str(port)} | environment))
        return len(self.nodes) - 1

    def start_worker(self) -> int:
        self.workers.append(self._run("services.worker", {}))
        return len(self.workers) - 1

    def url(self, node: int = 0) -> str:
        return f"http://127.0.0.1:{self.ports[node]}"

    async def ready(self, node: int, within_s: float = 45) -> None:
        await self._told(node, lambda state: state["status"] == "ready", within_s)

    async def _told(self, node: int, wanted: Callable[[dict[str, Any]], bool], within_s: float) -> None:
        """What /readyz of a node says is what is wanted."""
        deadline_s = time.monotonic() + within_s
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while time.monotonic() < deadline_s:
                try:
                    async with session.get(f"{self.url(node)}/readyz") as reply:
                        if wanted(await reply.json()):
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass
                assert self.nodes[node].poll() is None, self.log()[-3000:]
                await asyncio.sleep(0.02)
        raise AssertionError(f"node {node} is not ready: {self.log()[-3000:]}")

    async def booked(self, count: int, within_s: float = 30) -> list[dict[str, Any]]:
        """Every ledger entry, once there are at least `count`."""
        deadline_s = time.monotonic() + within_s
        while True:
            async with self.pool.connect() as connection:
                rows = [dict(row._mapping) for row in await connection.execute(text("SELECT * FROM usage_events"))]
            if len(rows) >= count:
                return rows
            assert time.monotonic() < deadline_s, f"{len(rows)} of {count} entries after {within_s} s\n{self.log()[-3000:]}"
            await asyncio.sleep(0.1)

    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log")))

    async def stop(self) -> None:
        for process in [*self.nodes, *self.workers]:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        await self.pool.dispose()

    def _run(self, module: str, extra: dict[str, str]) -> Process:
        environment = os.environ | {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "WAYSTATION_SECRET_KEY": self.secret,
            "WAYSTATION_DATA_DIR": str(self.directory),
            "WAYSTATION_GRACE_S": "10",
        }
        number = len(self.nodes) + len(self.workers)
        return nursery().start(module, environment | extra, self.directory / f"{module}-{number}.log")


@asynccontextmanager
async def running(
    database_url: str,
    redis_url: str,
    directory: Path,
    *,
    nodes: int = 1,
    workers: int = 1,
    demo: bool = False,
    **document: Any,
) -> AsyncIterator[Cluster]:
    """With `demo` the scripted provider stands behind the `demo/` models too."""
    async with upstream() as provider:
        cluster = Cluster(database_url, redis_url, directory, provider)
        try:
            await cluster.configure(**document)
            simulator = {"WAYSTATION_SIMULATOR_URL": provider.url} if demo else {}
            for _ in range(nodes):
                cluster.start_node(**simulator)
            for _ in range(workers):
                cluster.start_worker()
            for node in range(nodes):
                await cluster.ready(node)
            yield cluster
        finally:
            await cluster.stop()


def call(model: str = "lab/chat", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}]} | fields


class Client:
    """A plain HTTP client with a key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}

    async def chat(
        self, body: dict[str, Any] | None = None, *, raw: bytes | None = None, **headers: str
    ) -> tuple[int, Mapping[str, str], Any]:
        """Status, headers, and the body: JSON if it is, else bytes."""
        data = raw if raw is not None else json.dumps(body or call()).encode()
        sent = {"Content-Type": "application/json"} | self._headers | {k.replace("_", "-"): v for k, v in headers.items()}
        async with self._session.post(f"{self._url}/v1/chat/completions", data=data, headers=sent) as reply:
            content = await reply.read()
            is_json = reply.content_type == "application/json"
            return reply.status, reply.headers, json.loads(content) if is_json else content


@asynccontextmanager
async def client(cluster: Cluster, node: int = 0, key: str | None = None) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield Client(session, cluster.url(node), key or cluster.key)

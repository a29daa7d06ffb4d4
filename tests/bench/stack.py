"""The bench's stack: the gateway and the pass-through on one core, everything else on the other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from services.cli.engines import EmbeddedPostgres, EmbeddedRedis, free_port
from shared.domain.limits import Period
from shared.providers import registry
from shared.store import postgres, tenants
from shared.store.apply import apply_document
from shared.store.document import Document
from shared.store.secrets import Vault, new_secret

GATEWAY_CORE, OTHER_CORE = "0", "1"


@dataclass
class Stack:
    gateway: subprocess.Popen[bytes]
    passthrough: subprocess.Popen[bytes]
    gateway_port: int
    passthrough_port: int
    upstream_port: int
    key: str

    @staticmethod
    @asynccontextmanager
    async def started() -> AsyncIterator[Stack]:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="waystation-bench-")))
            directory.chmod(0o711)
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, {int(OTHER_CORE)})  # engines and load inherit it
            database, redis = EmbeddedPostgres(directory / "postgres"), EmbeddedRedis(directory / "redis")
            database.start()
            stack.callback(database.stop)
            redis.start()
            stack.callback(redis.stop)
            ports = [free_port() for _ in range(3)]
            upstream_port, passthrough_port, gateway_port = ports
            secret = new_secret()
            key = await configured(database.url, secret, upstream_port)
            environment = os.environ | {
                "DATABASE_URL": database.url,
                "REDIS_URL": redis.url,
                "WAYSTATION_SECRET_KEY": secret,
                "WAYSTATION_DATA_DIR": str(directory / "node"),
                "WAYSTATION_PORT": str(gateway_port),
            }
            log = stack.enter_context((directory / "log").open("wb"))

            def run(core: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
                process = subprocess.Popen(
                    ["taskset", "-c", core, sys.executable, "-m", module, *arguments],
                    env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                )  # fmt: skip
                stack.callback(process.wait)
                stack.callback(process.send_signal, signal.SIGTERM)
                return process

            run(OTHER_CORE, "tests.bench.upstream", str(upstream_port))
            run(OTHER_CORE, "services.worker")
            passthrough = run(GATEWAY_CORE, "tests.bench.passthrough", str(passthrough_port), str(upstream_port))
            gateway = run(GATEWAY_CORE, "services.ingress")
            await ready(gateway_port)
            await asyncio.sleep(1)
            yield Stack(gateway, passthrough, gateway_port, passthrough_port, upstream_port, key)


async def configured(database_url: str, secret: str, upstream_port: int) -> str:
    """A key with limits on three levels and a hard budget, and a priced connection to the bench's provider."""
    await postgres.migrate(database_url)
    pool, vault = postgres.engine(database_url), Vault.from_secret(secret)
    await tenants.bootstrap(pool, vault)
    document = Document.model_validate(
        {
            "connections": [
                {
                    "name": "bench",
                    "provider": "custom",
                    "prefix": "bench",
                    "base_url": f"http://127.0.0.1:{upstream_port}/v1",
                    "api_key": "env:BENCH_KEY",
                    "models": [{"id": "bench", "max_output_tokens": 4096}, {"id": "idle", "max_output_tokens": 4096}],
                }
            ],
            "limits": [
                {"organisation": "default", "rpm": 10**9, "tpm": 10**11, "concurrent": 100_000},
                {"team": "default", "rpm": 10**9, "tpm": 10**11, "concurrent": 100_000},
            ],
            "budgets": [{"organisation": "default", "usd": "1000000/month"}],
            "prices": {"bench/bench": {"input": "0.1", "output": "0.4"}, "bench/idle": {"input": "0.1", "output": "0.4"}},
        }
    )
    await apply_document(pool, vault, document, registry.load(), secret=lambda _: "sk-bench-credential")
    made = await tenants.create_key(
        pool, vault, team="default", rpm=10**9, tpm=10**11, concurrent=100_000, budget=(10**14, Period.MONTH)
    )
    await pool.dispose()
    return made.key


async def ready(port: int) -> None:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        try:
            await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).read())
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return
    raise RuntimeError("the gateway did not become ready")

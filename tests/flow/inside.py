"""A node inside the test's own process: real engines and providers on real sockets, no HTTP in front."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.ingress.node import Node, started
from shared.domain.catalogue import Deployment, WireFormat
from shared.domain.limits import Period
from shared.domain.refusal import Refusal, Refused
from shared.domain.routing import Route, Target
from shared.domain.usage import UsageEvent, decode_event
from shared.flow import admit
from shared.flow import choose as choosing
from shared.flow.exchange import Arrival, Exchange, begin, run
from shared.providers import registry
from shared.settings import Settings
from shared.store import keys, postgres, tenants
from shared.store.apply import apply_document
from shared.store.document import Document
from shared.store.secrets import Vault, new_secret
from shared.upstream.load import Load
from shared.wire.codec import FORMATS
from tests.upstreams import Upstream, upstream

PRICES = {"input": "1", "output": "2"}
MODELS = ("chat", "embed")


class Answer:
    """What a client was given: a Sink."""

    def __init__(self, wire_format: WireFormat) -> None:
        self._format = wire_format
        self.headers: dict[str, str] = {}
        self.body = b""
        self.refusal: Refusal | None = None
        self.started = False
        self.first_s: float | None = None
        """Monotonic: when its first bytes came."""
        self.ended_s = 0.0
        self.first = asyncio.Event()

    def reply(self, headers: dict[str, str], body: bytes) -> None:
        self.headers, self.body, self.first_s = headers, body, time.monotonic()

    async def start(self, headers: dict[str, str]) -> None:
        assert not self.started
        self.headers, self.started = headers, True

    async def write(self, chunk: bytes) -> None:
        assert self.started
        if self.first_s is None:
            self.first_s = time.monotonic()
            self.first.set()
        self.body += chunk

    @property
    def events(self) -> list[Any]:
        """The data of a stream's events."""
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    @property
    def text(self) -> str:
        """Of a chat stream's first choice."""
        return "".join(choice["delta"].get("content") or "" for event in self.events for choice in event.get("choices", ()))

    @property
    def ended_well(self) -> bool:
        return self.body.endswith(b"data: [DONE]\n\n") and not any("error" in event for event in self.events)

    @property
    def attempts(self) -> list[str]:
        return self.headers["x-waystation-attempts"].split(", ")


NEVER = {"failures": 1000, "least_calls": 100_000}
"""A breaker that does not open: what fails here fails on purpose, again and again."""


class Pace(Load):
    """A deployment's times: the last ones, exactly."""

    def __init__(self, *, known_s: float | None = None, least: int = 20) -> None:
        super().__init__()
        self.times: dict[str, list[float]] = {}
        self.known_s = known_s
        self._least = least

    def first_token(self, key: str, ttft_s: float) -> None:
        self.times.setdefault(key, []).append(ttft_s)

    def quantile(self, key: str, part: float) -> float | None:
        if self.known_s is not None:
            return self.known_s
        times = sorted(self.times.get(key, ())[-400:])
        return times[int(part * len(times))] if len(times) >= self._least else None


class Inside:
    def __init__(self, node: Node, providers: list[Upstream], key: str, redis_url: str) -> None:
        self.node = node
        self.gateway = node.gateway
        self.providers = providers
        self.key = key
        self._redis_url = redis_url

    async def call(self, operation: str = "chat", wire_format: WireFormat = WireFormat.OPENAI_CHAT, **body: Any) -> Answer:
        answer = Answer(wire_format)
        await self.answered(answer, operation, wire_format, body)
        return answer

    async def answered(self, answer: Answer, operation: str, wire_format: WireFormat, body: dict[str, Any]) -> Exchange:
        raw = json.dumps({"model": "lab0/chat"} | body).encode()

        async def read_body() -> bytes:
            return raw

        arrival = Arrival(operation, wire_format, self.key, "application/json", None, read_body)
        x = begin(self.gateway, arrival, answer)
        try:
            await run(x)
        except Refused as refused:
            answer.refusal = refused.refusal
            if answer.started:
                await answer.write(FORMATS[wire_format].encode_stream_error(refused.refusal, 0))
        finally:
            answer.ended_s = time.monotonic()
        return x

    async def chat(self, content: str = "Hello!", **fields: Any) -> Answer:
        return await self.call(messages=[{"role": "user", "content": content}], **({"stream": True, "max_tokens": 60} | fields))

    async def events(self) -> list[UsageEvent]:
        """All that is booked, oldest first, each once: with no worker to book them, the usage log sends them again."""
        await self.gateway.gate.drained()
        async with Redis.from_url(self._redis_url) as redis:
            await asyncio.sleep(0.05)
            sent = [decode_event(raw) for _, fields in await redis.xrange(keys.USAGE_STREAM) for raw in fields.values()]
        events = {event.event_id: event for event in sent}
        assert all(events[event.event_id] == event for event in sent)
        return list(events.values())

    async def held(self) -> dict[str, int]:
        """The budget's cell: spent and reserved."""
        await self.gateway.gate.drained()
        async with Redis.from_url(self._redis_url) as redis:
            cells = [name async for name in redis.scan_iter(match="ws:*:b:*") if not name.endswith(b":u")]
            (values,) = [await redis.hgetall(name) for name in cells]
        return {name: int(values[name.encode()]) for name in ("spent", "reserved")}

    def counted(self, counter: str, result: str) -> int:
        return int(getattr(self.gateway.metrics, counter).labels(result)._value.get())


def routed(monkeypatch: pytest.MonkeyPatch, route: Route, plan: Callable[[tuple[Deployment, ...]], Any] | None = None) -> None:
    """Every call is one of `route`."""
    choose = choosing.choose

    def found(x: Exchange) -> tuple[Deployment, ...]:
        made = choose(x)
        x.route = route
        return made if plan is None else tuple(plan(made))

    monkeypatch.setattr(admit, "choose", found)


def route(**flags: bool) -> Route:
    return Route(name="lab0/chat", targets=(Target(model="lab0/chat"),), **flags)  # type: ignore[arg-type]


@asynccontextmanager
async def inside(
    database_url: str,
    redis_url: str,
    directory: Path,
    *,
    providers: int = 2,
    kinds: tuple[str, ...] = (),
    budget_nano: int = 10**12,
    prices: Mapping[str, Any] = PRICES,
    **connection: Any,
) -> AsyncIterator[Inside]:
    """`lab0/chat`, and after it the same model at `lab1`, `lab2`… `kinds`: their providers in the catalogue, `custom` else."""
    secret = new_secret()
    vault = Vault.from_secret(secret)
    pool = postgres.engine(database_url)
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(upstream()) for _ in range(max(providers, len(kinds)))]
        await tenants.bootstrap(pool, vault)
        entries = [
            {
                "name": f"lab{number}", "prefix": f"lab{number}", "base_url": each.url, "api_key": "env:KEY",
                "provider": kinds[number] if number < len(kinds) else "custom", "first_byte_timeout_s": 10, "idle_timeout_s": 1,
                "profile": NEVER,
            }
            | connection
            for number, each in enumerate(running)
        ]  # fmt: skip
        names = range(len(running))
        document = Document.model_validate(
            {
                "connections": entries,
                "prices": {f"lab{number}/{model}": prices for number in names for model in MODELS},
                "fallbacks": {f"lab0/{model}": [f"lab{number}/{model}" for number in names[1:]] for model in MODELS},
            }
        )
        await apply_document(pool, vault, document, registry.load(), secret=lambda _: "sk-credential")
        made = await tenants.create_key(pool, vault, team="default", budget=(budget_nano, Period.MONTH))
        await pool.dispose()
        settings = Settings(
            data_dir=directory, database_url=database_url, redis_url=redis_url, secret_key=secret, log_level="warning"
        )
        node = await stack.enter_async_context(started(settings))
        yield Inside(node, running, made.key, redis_url)

"""Nodes for tests: the health of several ingress processes, each with connections to Redis of its own, and deployments."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from shared.clock import SystemClock
from shared.domain.catalogue import Connection, Deployment, Model
from shared.domain.failure import Failure, FailureClass
from shared.domain.health import Profile
from shared.providers import registry
from shared.store.redis import Lane, client
from shared.telemetry.metrics import Metrics
from shared.upstream.health import Health, Pace, Probe

QUICK = Profile(failures=3, open_s=0.02, longest_open_s=0.02, cooldown_s=1.0, longest_cooldown_s=2.0)
"""Breakers that open for about 20 ms."""
LASTING = Profile(failures=3, open_s=60.0)
PACE = Pace(lease_s=1.0, renew_s=0.3, tick_s=0.05)
BROKEN = Failure(failure_class=FailureClass.PROVIDER_FAULT, message="answered 500", status=500)
LIMITED = Failure(failure_class=FailureClass.RATE_LIMITED, message="answered 429", status=429)
REFUSED = Failure(failure_class=FailureClass.CREDENTIAL, message="answered 401", status=401, body=b"bad key sk-secret-1234")
CUSTOM = registry.load()["custom"]


def deployment(
    model: str = "chat", *, connection: str = "conn_lab", version: int = 1, profile: Profile = LASTING
) -> Deployment:
    made = Connection(
        connection_id=connection, name=connection.removeprefix("conn_"), provider="custom", prefix="lab",
        base_url="http://lab.example/v1", credential_version=version, profile=profile,
    )  # fmt: skip
    return Deployment(provider=CUSTOM, connection=made, model=Model(model_id=model))


def with_credential(made: Deployment, version: int) -> Deployment:
    connection = msgspec.structs.replace(made.connection, credential_version=version)
    return msgspec.structs.replace(made, connection=connection)


class SkewedClock(SystemClock):
    """A node's clock that is wrong."""

    def __init__(self, ahead_s: float) -> None:
        self.now_s = lambda: time.time() + ahead_s


class Node:
    def __init__(self, url: str, pace: Pace, chance: Callable[[], float], live: int, ahead_s: float = 0.0) -> None:
        self.clock = SkewedClock(ahead_s)
        self.lane = Lane(url, deadline_s=0.5)
        self.redis = client(url)
        self.metrics = Metrics()
        self.health = Health(self.lane, self.redis, self.clock, self.metrics, lambda: live, pace=pace, chance=chance)
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.lane.open()
        self._running = asyncio.ensure_future(self.health.run())

    async def die(self) -> None:
        """As a process does: no goodbye."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self.lane.close()
        await self.redis.aclose()

    def standing(self, made: Deployment) -> str | None:
        standing = self.health.standing(made, self.clock.now_s())
        return None if standing is None else standing.state

    async def claimed(self, made: Deployment) -> Probe:
        """The probe, once it is due by Redis' clock too."""
        began_s = time.monotonic()
        while (probe := await self.health.claim(made)) is None:
            assert time.monotonic() - began_s < 5, "nothing could be claimed"
            await asyncio.sleep(0.002)
        return probe

    def fail(self, made: Deployment, times: int = 1, failure: Failure = BROKEN) -> None:
        for _ in range(times):
            self.health.report(made, failure)


@asynccontextmanager
async def nodes(
    url: str,
    count: int = 1,
    *,
    pace: Pace = PACE,
    chance: Callable[[], float] = lambda: 0.5,
    live: int | None = None,
    ahead_s: float = 0.0,
) -> AsyncIterator[list[Node]]:
    made = [Node(url, pace, chance, live or count, ahead_s) for _ in range(count)]
    try:
        for node in made:
            await node.start()
        for node in made:
            await until(lambda node=node: bool(node.health._mirror.life), 10)  # type: ignore[misc]
        yield made
    finally:
        for node in made:
            await node.die()


async def until(holds: Callable[[], bool], within_s: float = 5.0) -> float:
    """How long it took, in s."""
    began_s = time.monotonic()
    while not holds():
        assert time.monotonic() - began_s < within_s, "it did not come to hold"
        await asyncio.sleep(0.001)
    return time.monotonic() - began_s

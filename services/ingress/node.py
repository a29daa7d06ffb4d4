"""Node: what one ingress process holds for as long as it lives, wired here and nowhere else."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.ingress.live import LiveStreams
from shared.admission.degraded import DegradedGate
from shared.admission.gate import Gate
from shared.admission.presence import Presence
from shared.admission.reap import Reaper
from shared.admission.restore import Restore
from shared.admission.seeding import Seeder
from shared.clock import SystemClock
from shared.domain.catalogue import Connection, Provider
from shared.domain.health import MarkState
from shared.domain.limits import Budget
from shared.domain.usage import UsageEvent, encode_event
from shared.flow.exchange import Gateway
from shared.providers import registry
from shared.routing.breaker import profile
from shared.routing.proxies import read_environment
from shared.settings import Settings
from shared.snapshot.watch import Watch
from shared.store import keys, ledger, postgres
from shared.store.redis import Lane, RedisUnavailable, client
from shared.store.responses import Responses
from shared.store.secrets import Vault
from shared.store.wal import Ended, Reap, Resend, Wal
from shared.telemetry.log import Log
from shared.telemetry.metrics import Metrics
from shared.telemetry.trace import tracer
from shared.upstream.credentials import Credentials
from shared.upstream.guard import check_address
from shared.upstream.health import Health
from shared.upstream.proxies import Proxies
from shared.upstream.session import Session
from shared.upstream.slots.slots import Slots

log = logging.getLogger(__name__)

SIMULATED = {
    "demo": "/v1", "demo-responses": "/v1", "demo-messages": "/v1", "demo-gemini": "/v1beta", "demo-cohere": "/v2",
    "demo-bedrock": "", "demo-deepgram": "/v1", "demo-assemblyai": "/v2",
}  # fmt: skip
"""The simulator's providers, one for each wire format, and where each has its API."""


@dataclass(slots=True)
class Node:
    """The long-lived parts that hosts' handlers see."""

    gateway: Gateway
    watch: Watch
    lane: Lane
    streams: LiveStreams
    pool: AsyncEngine
    """For what is no call: lists, accounts."""
    redis: Redis
    providers: Mapping[str, Provider]
    """The catalogue."""


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Node]:
    """A node that is ready to serve. Raises when Postgres cannot be read; Redis may be away."""
    node_id = f"node-{secrets.token_hex(6)}"
    vault = Vault.from_secret(settings.secret())
    pool, redis = postgres.engine(settings.database_url), client(settings.redis_url)
    wal = Wal.open(settings.data_dir / "usage-log", node_id)
    lane = Lane(settings.redis_url, deadline_s=settings.redis_deadline_s)
    providers = registry.load()
    watch = Watch(pool, redis, providers, built_in(settings))
    tasks: list[asyncio.Task[Any]] = []
    gateway: Gateway | None = None
    try:
        await watch.start()
        presence = Presence(redis, node_id)
        metrics = Metrics()
        degraded = DegradedGate(SystemClock(), lambda: presence.live_nodes, metrics.degraded.inc)
        seeder = Seeder(redis, presence, ledger.PostgresSpent(pool))
        gate = Gate(lane, presence, degraded, seeder, SystemClock())
        health = Health(lane, redis, SystemClock(), metrics, lambda: presence.live_nodes)
        slots = Slots(lane, redis, node_id, lambda: presence.live_nodes, providers, SystemClock(), metrics.slots)
        presence.on_new_boot(slots.enter)
        presence.on_renewal(slots.renew)
        gateway = gateway_of(node_id, settings, vault, lane, watch, metrics, gate, wal, health, slots)
        node = Node(gateway, watch, lane, LiveStreams(ping_after_s=settings.keepalive_s), pool, redis, providers)
        measure(metrics, node, wal)
        await join(redis, pool, presence, gate, wal, watch)
        await lane.open()
        with suppress(RedisError, OSError, TimeoutError):  # or the first calls would go to what is known to be down
            await health.look()
        tasks += [
            asyncio.ensure_future(work)
            for work in (
                watch.run(),
                presence.run(),
                health.run(),
                slots.run(),
                node.streams.sweep_forever(),
                wal.run(partial(ledger.missing, pool), *senders(redis, presence, watch)),
            )
        ]
        yield node
        await gate.drained()
        with suppress(RedisError, OSError):
            await presence.leave()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if gateway is not None:
            gateway.log.flush()
            gateway.tracer.close()
            await gateway.transport.close()
            await gateway.media.close()
        await lane.close()
        wal.close()
        await redis.aclose()
        await pool.dispose()


def gateway_of(
    node_id: str, settings: Settings, vault: Vault, lane: Lane, watch: Watch, metrics: Metrics, gate: Gate, wal: Wal,
    health: Health, slots: Slots,
) -> Gateway:  # fmt: skip
    """What every call needs, from the parts that the node looks after."""
    return Gateway(
        node=node_id,
        settings=settings,
        snapshot=lambda: watch.snapshot,
        vault=vault,
        gate=gate,
        wal=wal,
        transport=Session(),
        media=Session(guard=None if settings.fetch_private_addresses else check_address, connections_per_origin=20),
        credentials=Credentials(vault),
        health=health,
        slots=slots,
        quota_left=lambda deployment: slots.spare(deployment.connection),
        proxies=Proxies(vault, read_environment(os.environ)),
        responses=Responses(lane, vault, kept_s=settings.responses_kept_s),
        metrics=metrics,
        tracer=tracer(settings.otlp_endpoint, node_id),
        log=Log(enabled=settings.log_level in ("info", "debug")),
        clock=SystemClock(),
    )


async def join(redis: Redis, pool: AsyncEngine, presence: Presence, gate: Gate, wal: Wal, watch: Watch) -> None:
    """Take over what dead processes left, then enter the cluster. Redis may be away: the heartbeat enters later."""
    orphans = wal.adopt()
    presence.on_new_boot(gate.enter)
    presence.on_new_boot(Restore(redis, wal.unconfirmed, partial(budgets_of, watch)))
    presence.on_renewal(gate.renew)
    presence.on_beat(gate.retry)
    try:
        await presence.refresh()
        resend, reap, ended = senders(redis, presence, watch)
        await wal.send_orphans(orphans, resend, reap)
        await wal.tell_ends(ended)
    except (RedisError, OSError, TimeoutError) as error:
        log.warning("Redis cannot be reached yet: %s", type(error).__name__)


def budgets_of(watch: Watch, event: UsageEvent) -> Sequence[Budget]:
    return watch.snapshot.budgets_for(event.organisation_id, event.team_id, event.key_id)


def senders(redis: Redis, presence: Presence, watch: Watch) -> tuple[Resend, Reap, Ended]:
    """How the usage log sends an event again, books a dead process's reservation, and tells how its calls ended."""
    reaper = Reaper(redis)

    async def resend(event: UsageEvent) -> None:
        await redis.xadd(keys.USAGE_STREAM, {"e": encode_event(event)})

    async def reap(event: UsageEvent) -> None:
        await reaper.reap(event.organisation_id, event.event_id)

    async def ended(events: Sequence[UsageEvent]) -> None:
        if presence.boot is None:
            raise RedisUnavailable("Redis has not been seen yet")
        if settled := await reaper.ended(events, presence.boot, partial(budgets_of, watch)):
            log.info("settled %d calls of which a dead process had not told Redis", settled)

    return resend, reap, ended


def built_in(settings: Settings) -> tuple[Connection, ...]:
    """The `demo/` connections, wherever the simulator listens."""
    if not settings.simulator_url:
        return ()
    root = settings.simulator_url.removesuffix("/v1")
    return tuple(
        Connection(
            connection_id=f"conn_{name}",
            name=name,
            provider=name,
            prefix=name,
            base_url=f"{root}{path}",
            profile=profile(root, {}),
        )
        for name, path in SIMULATED.items()
    )


def measure(metrics: Metrics, node: Node, wal: Wal) -> None:
    """Values that are read when Prometheus asks."""
    metrics.gauge("waystation_in_flight", "Calls in flight on this node.", lambda: node.gateway.in_flight)
    metrics.gauge("waystation_live_streams", "Streams being relayed.", lambda: len(node.streams))
    metrics.gauge("waystation_redis_up", "1 while admissions go through Redis.", lambda: 1.0 if node.lane.up else 0.0)
    metrics.gauge("waystation_usage_unconfirmed_events", "Events of this node not known to be in Postgres.", wal.backlog)
    metrics.gauge("waystation_configuration_epoch", "Epoch of the snapshot.", lambda: node.watch.snapshot.epoch)

    def marked(*states: MarkState) -> Callable[[], float]:
        return lambda: sum(mark.state in states for mark in node.gateway.health.marks.values())

    breakers = marked(MarkState.OPEN, MarkState.HALF_OPEN)
    metrics.gauge("waystation_breakers_open", "Deployments that are open or half-open, as this node knows.", breakers)
    cooling, locked = marked(MarkState.COOLING), marked(MarkState.LOCKED)
    metrics.gauge("waystation_connections_cooling", "Connections that cool down after a 429.", cooling)
    metrics.gauge("waystation_connections_locked", "Connections whose credential or account was refused.", locked)

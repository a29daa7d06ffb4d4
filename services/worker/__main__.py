"""Worker: arq's clock for the recurring work, and one long-running consumer of the usage stream.

`python -m services.worker`. Any number may run: the group shares the stream, cron jobs run once per tick. The consumer runs
beside arq, not inside: arq's worker ends with its connection, the consumer must outlive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from datetime import UTC
from typing import Any, cast

import uvloop
from arq import cron
from arq.cron import CronJob
from arq.worker import Worker
from prometheus_client import CollectorRegistry, Gauge, start_http_server
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.worker.pull import Pulling, pull_models
from services.worker.reaper import Reaping, reap
from services.worker.rollup import forget_decisions, partitions, reconcile, roll_up_days
from services.worker.usage import UsageConsumer, refuses_data
from shared.routing.proxies import read_environment
from shared.settings import Settings, SettingsError
from shared.store import keys, postgres, queue
from shared.store.redis import client
from shared.store.secrets import SecretError, Vault
from shared.telemetry import log as logs
from shared.telemetry.start import cannot_start, spare_collector, told, wants_json
from shared.upstream.credentials import Credentials
from shared.upstream.proxies import Proxies
from shared.upstream.session import Session

log = logging.getLogger(__name__)

LAST_BATCH_S = 30.0
RETRY_S = 1.0
EVERY_5_S = set(range(0, 60, 5))
EVERY_10_MIN = set(range(0, 60, 10))
EVERY_6_H = {0, 6, 12, 18}


class Broken(Exception):
    """A part that runs for ever has ended: the process must not go on looking well."""


async def run(settings: Settings, *, as_json: bool = False) -> None:
    """Until SIGTERM or SIGINT; the batch in hand is finished. Raises Broken when a part ended by itself."""
    pool, redis = postgres.engine(settings.database_url), client(settings.redis_url)
    name = f"worker-{os.getpid()}-{secrets.token_hex(4)}"
    consumer = UsageConsumer(redis, pool, name)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    session = Session()
    vault = Vault.from_secret(settings.secret())
    pulling = Pulling(pool, session, Credentials(vault), Proxies(vault, read_environment(os.environ)))
    context = {
        "pool": pool, "reaping": Reaping(redis, pool), "pulling": pulling, "decisions_kept_days": settings.decisions_kept_days,
    }  # fmt: skip
    consuming = asyncio.ensure_future(consume(pool, consumer, stopping))
    recurring = asyncio.ensure_future(supervise(settings, context))
    measuring = asyncio.ensure_future(measure(settings, redis, consumer))
    stopped = asyncio.ensure_future(stopping.wait())
    spare_collector()
    told(as_json, worker=name)
    try:
        await asyncio.wait([stopped, consuming, recurring], return_when=asyncio.FIRST_COMPLETED)
        consumer.stop()
        await asyncio.wait([consuming], timeout=LAST_BATCH_S)
        if not stopping.is_set():
            raise Broken("a part of the worker ended") from next(filter(None, map(failure_of, (consuming, recurring))), None)
    finally:
        for task in (stopped, recurring, measuring, consuming):
            task.cancel()
        await asyncio.gather(stopped, recurring, measuring, consuming, return_exceptions=True)
        await session.close()
        await redis.aclose()
        await pool.dispose()


def failure_of(task: asyncio.Future[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


async def consume(pool: AsyncEngine, consumer: UsageConsumer, stopping: asyncio.Event) -> None:
    """Partitions first: a day that has events in the default partition can get none of its own any more."""
    while not stopping.is_set():
        try:
            await postgres.ensure_partitions(pool)
            break
        except Exception as error:
            if isinstance(error, DBAPIError) and refuses_data(error):
                log.error("a day's partition cannot be made: the default partition has events of it")
                break
            log.warning("usage waits for Postgres: %s", type(error).__name__)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), RETRY_S)
    await consumer.run()


def timetable() -> list[CronJob]:
    """Recurring work, in UTC. Each may be missed, repeated, or run twice at once without harm."""
    every: dict[str, Any] = {"timeout": 60, "unique": True, "max_tries": 1, "keep_result": 60}
    return [
        cron(cast(Any, reap), second=EVERY_5_S, run_at_startup=True, **every),
        cron(cast(Any, roll_up_days), minute=EVERY_10_MIN, second=30, **every),
        cron(cast(Any, reconcile), hour={3}, minute={15}, **(every | {"timeout": 600})),
        cron(cast(Any, partitions), hour=EVERY_6_H, minute=1, **every),
        cron(cast(Any, forget_decisions), hour={4}, minute={45}, **(every | {"timeout": 600})),
        cron(cast(Any, pull_models), minute={7}, **(every | {"timeout": 600})),
    ]


async def supervise(settings: Settings, context: dict[str, Any]) -> None:
    """Keep arq's worker running: it ends when Redis goes away (arq issue 435), and is begun again."""
    while True:
        worker = recurring_work(settings, timetable(), context)
        try:
            await worker.async_run()
        except asyncio.CancelledError:
            await close(worker)
            raise
        except Exception as error:
            log.warning("recurring work pauses: %s", type(error).__name__)
        await close(worker)
        await asyncio.sleep(RETRY_S)


def recurring_work(settings: Settings, jobs: Sequence[CronJob], context: dict[str, Any]) -> Worker:
    return Worker(
        functions=[],
        cron_jobs=jobs,
        redis_settings=queue.settings(settings.redis_url),
        queue_name=queue.QUEUE,
        ctx=dict(context),
        job_serializer=queue.serialize,
        job_deserializer=queue.deserialize,
        handle_signals=False,
        health_check_interval=10,
        keep_result=0,
        poll_delay=0.5,
        timezone=UTC,
    )


async def close(worker: Worker) -> None:
    try:
        await worker.close()
    except (RedisError, OSError, AttributeError):
        return  # there was no connection to close


async def measure(settings: Settings, redis: Any, consumer: UsageConsumer) -> None:
    """The worker's own /metrics, if it has a port: events booked, and the stream's length."""
    if not settings.metrics_port:
        return
    registry = CollectorRegistry()
    booked = Gauge("waystation_usage_booked_events", "Events that this worker booked.", registry=registry)
    length = Gauge("waystation_usage_stream_length", "Entries of the usage stream waiting in Redis.", registry=registry)
    start_http_server(settings.metrics_port, addr=settings.host, registry=registry)
    while True:
        booked.set(consumer.booked)
        try:
            length.set(await redis.xlen(keys.USAGE_STREAM))
        except (RedisError, OSError):
            log.debug("the stream's length is unknown")
        await asyncio.sleep(5)


def main() -> None:
    as_json = False
    try:
        as_json = wants_json(sys.argv[1:])
        settings = Settings.from_environment()
        if not settings.database_url or not settings.redis_url:
            raise SettingsError("DATABASE_URL and REDIS_URL must be set")
        Vault.from_secret(settings.secret())  # nothing starts without one that is usable
        read_environment(os.environ)
        logs.configure(settings.log_level)
    except (SettingsError, SecretError, ValueError) as error:
        cannot_start("worker", str(error), as_json)
    uvloop.run(run(settings, as_json=as_json))


if __name__ == "__main__":
    main()

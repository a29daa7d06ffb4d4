"""Worker: arq's clock for the recurring work, and one long-running consumer of the usage stream.

`python -m services.worker`. Any number may run: the group shares the stream, cron jobs run once per tick.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
from typing import Any, cast

import uvloop
from arq import cron
from arq.worker import Worker
from prometheus_client import CollectorRegistry, Gauge, start_http_server
from redis.exceptions import RedisError

from services.worker.reaper import reap
from services.worker.rollup import partitions, roll_up_days
from services.worker.usage import UsageConsumer
from shared.admission.reap import Reaper
from shared.settings import Settings, SettingsError
from shared.store import keys, postgres, queue
from shared.store.redis import client
from shared.telemetry import log as logs

log = logging.getLogger(__name__)

EVERY_5_S = set(range(0, 60, 5))


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT; the batch in hand is finished."""
    pool, redis = postgres.engine(settings.database_url), client(settings.redis_url)
    consumer = UsageConsumer(redis, pool, f"worker-{os.getpid()}-{secrets.token_hex(4)}")
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    context = {"pool": pool, "reaper": Reaper(redis)}
    consuming = asyncio.ensure_future(consumer.run())
    recurring = asyncio.ensure_future(supervise(settings, context))
    measuring = asyncio.ensure_future(measure(settings, redis, consumer))
    try:
        await stopping.wait()
        consumer.stop()
        await asyncio.wait([consuming], timeout=30)
    finally:
        for task in (recurring, measuring, consuming):
            task.cancel()
        await asyncio.gather(recurring, measuring, consuming, return_exceptions=True)
        await redis.aclose()
        await pool.dispose()


async def supervise(settings: Settings, context: dict[str, Any]) -> None:
    """Keep arq's worker running: it ends when Redis goes away (arq issue 435), and is begun again."""
    while True:
        worker = Worker(
            functions=[],
            cron_jobs=[
                cron(cast(Any, reap), second=EVERY_5_S, timeout=60, unique=True, max_tries=1, run_at_startup=True),
                cron(cast(Any, roll_up_days), minute=set(range(0, 60, 10)), second=30, timeout=60, unique=True, max_tries=1),
                cron(
                    cast(Any, partitions),
                    hour={0, 6, 12, 18},
                    minute=1,
                    timeout=60,
                    unique=True,
                    max_tries=1,
                    run_at_startup=True,
                ),
            ],
            redis_settings=queue.settings(settings.redis_url),
            queue_name=queue.QUEUE,
            ctx=dict(context),
            job_serializer=queue.serialize,
            job_deserializer=queue.deserialize,
            handle_signals=False,
            health_check_interval=10,
            keep_result=0,
            poll_delay=0.5,
        )
        try:
            await worker.async_run()
        except asyncio.CancelledError:
            await close(worker)
            raise
        except Exception as error:
            log.warning("recurring work pauses: %s", type(error).__name__)
        await close(worker)
        await asyncio.sleep(1.0)


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
    length = Gauge("waystation_usage_stream_length", "Usage events waiting in Redis.", registry=registry)
    start_http_server(settings.metrics_port, addr=settings.host, registry=registry)
    while True:
        booked.set(consumer.booked)
        try:
            length.set(await redis.xlen(keys.USAGE_STREAM))
        except (RedisError, OSError):
            log.debug("the stream's length is unknown")
        await asyncio.sleep(5)


def main() -> None:
    try:
        settings = Settings.from_environment()
        if not settings.database_url or not settings.redis_url:
            raise SettingsError("DATABASE_URL and REDIS_URL must be set")
    except SettingsError as error:
        sys.exit(f"worker: {error}")
    logs.configure(settings.log_level)
    uvloop.run(run(settings))


if __name__ == "__main__":
    main()

"""Ingress: settings → node → listen → drain on SIGTERM. `python -m services.ingress`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import uvloop
from sqlalchemy.exc import SQLAlchemyError

from services.ingress import open_files
from services.ingress.app import dispatcher, plain_calls
from services.ingress.connection import Listener
from services.ingress.node import Node, started
from shared.domain.refusal import Reason, Refusal
from shared.settings import Settings, SettingsError
from shared.store.secrets import SecretError
from shared.telemetry import log as logs
from shared.telemetry.start import cannot_start, spare_collector, told, wants_json

log = logging.getLogger(__name__)

BACKLOG = 4096
FAREWELL_S = 2.0
FAREWELL = Refusal(
    reason=Reason.OVERLOADED, status=503, message="This gateway node stops, and its grace period is over. Retry.", retry=True
)


async def run(settings: Settings, *, as_json: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises OSError when the port is taken."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with started(settings) as node:
        spare_collector()
        listener = Listener(dispatcher(node), header_timeout_s=settings.header_timeout_s, plain_calls=plain_calls(node))
        server = await loop.create_server(listener, settings.host, settings.port, backlog=BACKLOG)
        log.info("listening on %s port %d", settings.host, settings.port)
        told(as_json, url=settings.url, node=node.gateway.node)
        await stopping.wait()
        await drain(node, listener, server)


async def drain(node: Node, listener: Listener, server: asyncio.Server) -> None:
    """Readiness turns first, then the door closes, then live calls have their grace."""
    gateway = node.gateway
    gateway.draining = node.streams.draining = True
    log.info("draining: %d calls in flight", gateway.in_flight)
    await asyncio.sleep(gateway.settings.drain_delay_s)
    server.close()
    listener.pre_shutdown()
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + max(0.0, gateway.settings.grace_s - FAREWELL_S)
    while gateway.in_flight and loop.time() < deadline_s:  # noqa: ASYNC110 - calls end by the thousand, not one event
        await asyncio.sleep(0.02)
    if gateway.in_flight:
        log.warning("grace is over with %d calls in flight", gateway.in_flight)
        await node.streams.end_all(FAREWELL)
    await listener.shutdown(FAREWELL_S)


def main() -> None:
    as_json = False
    try:
        as_json = wants_json(sys.argv[1:])
        settings = Settings.from_environment()
        if not settings.database_url or not settings.redis_url:
            raise SettingsError("DATABASE_URL and REDIS_URL must be set")
        logs.configure(settings.log_level)
        open_files.allow(settings.max_in_flight)
        uvloop.run(run(settings, as_json=as_json))
    except (SettingsError, SecretError, ValueError) as error:
        cannot_start("ingress", str(error), as_json)
    except SQLAlchemyError as error:
        said = str(error.__cause__ or error).splitlines()[0]
        cannot_start("ingress", f"Postgres: {said} (is the schema there? `waystation migrate` brings it)", as_json)
    except OSError as error:
        cannot_start("ingress", error.strerror or str(error), as_json)


if __name__ == "__main__":
    main()

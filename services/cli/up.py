"""`waystation up`: the embedded engines, then one ingress, one worker and the simulator as children, until Ctrl-C."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from services.cli.children import STOP_S, Child, Program, Server
from services.cli.engines import EmbeddedPostgres, EmbeddedRedis, EngineError, free_port, keep_port, kept_port, unusable
from services.cli.locate import engines_file, secret_file, write
from services.cli.say import credentials, guarded, json_option
from shared.settings import DEFAULT_PORT, Settings, SettingsError
from shared.store.secrets import new_secret

if TYPE_CHECKING:
    from shared.store.tenants import Bootstrapped

READY_S = 30.0


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. Of this class, because an event loop swallows all others that are raised in its callbacks."""


@click.command()
@click.option("--host", help="Address of the ingress (default 127.0.0.1).")
@click.option("--port", type=click.IntRange(1, 65535), help=f"Port of the ingress (default {DEFAULT_PORT}).")
@click.option("--embedded/--no-embedded", default=True, help="Start Postgres and Redis, or use DATABASE_URL and REDIS_URL.")
@json_option
@guarded
def up(host: str | None, port: int | None, embedded: bool, as_json: bool) -> None:
    """Start everything on this machine; Ctrl-C stops it."""
    settings = Settings.from_environment()
    settings = replace(settings, host=host or settings.host, port=port or settings.port, data_dir=settings.data_dir.absolute())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        with ExitStack() as stack:
            stack.enter_context(locked(settings.data_dir))
            require_free(settings.host, settings.port)
            settings = with_secret(settings)
            servers: list[Child] = []
            if embedded:
                settings, servers = stack.enter_context(engines(settings))
            else:
                require_addresses(settings)
            first = asyncio.run(_prepare()(settings))
            try:
                programs = stack.enter_context(running(settings))
                wait_ready(settings, programs)
            except BaseException:
                if first is not None:  # they exist by now, and there is no second time
                    click.echo(json.dumps(first.shown) if as_json else "\n".join(credentials(first)), err=True)
                raise
            tell(settings, first, as_json=as_json)
            while True:
                time.sleep(0.2)
                for child in (*servers, *programs):
                    line = child.tend(time.monotonic())
                    if line is not None:
                        click.echo(json.dumps({"message": line}) if as_json else line, err=True)
    except Stopped:
        if not as_json:
            click.echo("\nstopped")


def _stop(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # one is enough: what follows is an orderly end
    raise Stopped


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """One `up` a data directory. A lock that a dead one left is no lock: the kernel let go of it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SettingsError(
            f"`waystation up` already runs on {data_dir}: stop it, or choose another WAYSTATION_DATA_DIR"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def require_free(host: str, port: int) -> None:
    why = unusable(host, port)
    if why is not None:
        raise SettingsError(f"port {port} on {host} cannot be used ({why}): choose another with --port")


def with_secret(settings: Settings) -> Settings:
    """The installation's secret; made on the first start, readable by its owner only. Raises SettingsError when it was
    lost: with a new one every key would be unknown and every credential unreadable."""
    if settings.secret_key or settings.secret_key_file:
        settings.secret()
        return settings
    path = secret_file(settings.data_dir)
    if not path.exists():
        if (settings.data_dir / "postgres" / "data" / "PG_VERSION").exists():
            raise SettingsError(f"{path} is gone, but there is data made with it: put it back, or set WAYSTATION_SECRET_KEY")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(new_secret() + "\n")
    return replace(settings, secret_key_file=str(path))


@contextmanager
def engines(settings: Settings) -> Iterator[tuple[Settings, list[Child]]]:
    """Postgres and Redis of this data directory, stopped in the end after everything else."""
    database = EmbeddedPostgres(settings.data_dir / "postgres")
    cache = EmbeddedRedis(settings.data_dir / "redis")
    try:
        for engine in (database, cache):
            engine.begin()
        _prepare()
        for engine in (database, cache):
            engine.start()
        yield replace(settings, database_url=database.url, redis_url=cache.url), [Server(database), Server(cache)]
    finally:
        cache.stop()
        database.stop()


def _prepare() -> Callable[[Settings], Coroutine[None, None, Bootstrapped | None]]:
    """Its libraries take half a second to import: the engines start meanwhile."""
    from services.cli.prepare import prepare

    return prepare


def require_addresses(settings: Settings) -> None:
    if not settings.database_url or not settings.redis_url:
        raise SettingsError("--no-embedded needs DATABASE_URL and REDIS_URL")


@contextmanager
def running(settings: Settings) -> Iterator[list[Program]]:
    """Simulator, ingress and worker, told where everything is; so are other commands, while this runs."""
    kept = settings.data_dir / "simulator-port"
    simulator_port = kept_port(kept)
    if unusable("127.0.0.1", simulator_port):
        simulator_port = free_port()
    keep_port(kept, simulator_port)
    settings = replace(settings, simulator_url=f"http://127.0.0.1:{simulator_port}/v1")
    write(
        settings.data_dir,
        {
            "database_url": settings.database_url,
            "redis_url": settings.redis_url,
            "simulator_url": settings.simulator_url,
            "url": settings.url,
        },
    )
    environment = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "WAYSTATION_DATA_DIR": str(settings.data_dir),
        "WAYSTATION_SIMULATOR_URL": settings.simulator_url,
        "WAYSTATION_HOST": settings.host,
        "WAYSTATION_PORT": str(settings.port),
        "WAYSTATION_GRACE_S": str(min(settings.grace_s, STOP_S - 5)),
    }
    if settings.secret_key_file:
        environment["WAYSTATION_SECRET_KEY_FILE"] = settings.secret_key_file
    logs = settings.data_dir / "logs"
    logs.mkdir(exist_ok=True, mode=0o700)
    children = [
        Program("services.ingress", environment, logs / "ingress.log", answers_at=f"{settings.url}/readyz"),
        Program(
            "services.simulator", environment, logs / "simulator.log", "--port", str(simulator_port),
            answers_at=f"{settings.simulator_url}/models",
        ),
        Program("services.worker", environment, logs / "worker.log"),
    ]  # fmt: skip
    try:
        for child in children:
            child.start()
        yield children
    finally:
        for child in children:  # the ingress first: its last calls need the simulator, and the worker books them
            child.stop()
        engines_file(settings.data_dir).unlink(missing_ok=True)


def wait_ready(settings: Settings, children: list[Program]) -> None:
    """Until each that can be asked answers. Raises EngineError when a child ends or time is over."""
    deadline_s = time.monotonic() + READY_S
    waiting = [child for child in children if child.answers_at]
    while time.monotonic() < deadline_s:
        for child in children:
            if child.end() is not None:
                raise EngineError(f"{child.module} did not start: {child.last_line()}")
        waiting = [child for child in waiting if not answers(child.answers_at)]
        if not waiting:
            return
        time.sleep(0.05)
    slow = " and ".join(child.module for child in waiting)
    raise EngineError(f"{slow} did not answer within {READY_S:.0f} s; the logs are in {settings.data_dir / 'logs'}")


def answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # http_proxy is for providers, not for ourselves
    try:
        with direct.open(url, timeout=1):
            return True
    except OSError:
        return False


def tell(settings: Settings, first: Bootstrapped | None, *, as_json: bool) -> None:
    """URL, and on the first start the key and the admin's password: they are shown this once."""
    url = settings.url
    if as_json:
        said = {"url": url, "data_dir": str(settings.data_dir), "pid": os.getpid()}
        click.echo(json.dumps(said | ({} if first is None else first.shown)))
        return
    lines = ["", f"  Waystation is up at {url}/v1", f"  data     {settings.data_dir}"]
    if first is not None:
        lines += credentials(first)
    shown = first.key if first is not None else "$WAYSTATION_KEY"
    body = '{"model": "demo/chat", "messages": [{"role": "user", "content": "Hello!"}]}'
    lines += [
        "",
        "  Try it:" if first is not None else "  Try it with your key (`waystation key create` makes another):",
        "",
        f"curl {url}/v1/chat/completions -H 'Authorization: Bearer {shown}' -H 'Content-Type: application/json' -d '{body}'",
        "",
        "  Ctrl-C stops everything.",
    ]
    if first is None:
        lines[-3] = lines[-3].replace("'Authorization: Bearer $WAYSTATION_KEY'", '"Authorization: Bearer $WAYSTATION_KEY"')
    click.echo("\n".join(lines))

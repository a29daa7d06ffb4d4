"""Real engines for every test: DATABASE_URL / REDIS_URL if set, containers with --containers, else the embedded ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio
from redis import Redis

from services.cli.engines import EmbeddedPostgres, EmbeddedRedis
from shared.store.postgres import migrate
from tests.upstreams import Upstream, upstream

TEMPLATE = "waystation_template"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--containers", action="store_true", help="Postgres and Redis from containers")


@pytest.fixture(scope="session")
def engine_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="waystation-test-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        yield directory


@pytest.fixture(scope="session")
def _redis(engine_directory: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(engine_directory / "redis", durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(_redis: EmbeddedRedis) -> EmbeddedRedis:
    """A Redis of this test process alone, that a test may stop, pause, empty and start; empty and running before each."""
    if not _redis.running:
        _redis.start()
    _redis.resume()
    _redis.flush()
    return _redis


@pytest.fixture(scope="session")
def _redis_container(request: pytest.FixtureRequest) -> Iterator[str]:
    from testcontainers.community.redis import RedisContainer

    with RedisContainer("redis:8-bookworm") as container:
        yield f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """An empty Redis database."""
    if request.config.getoption("--containers"):
        url: str = request.getfixturevalue("_redis_container")
    elif "REDIS_URL" in os.environ:
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
        parts = urlsplit(os.environ["REDIS_URL"])
        url = urlunsplit(parts._replace(path=f"/{10 + worker % 6}"))
    else:
        server: EmbeddedRedis = request.getfixturevalue("redis_server")
        return server.url
    with Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="session")
def _postgres(engine_directory: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(engine_directory / "postgres", durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def postgres_server(_postgres: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A Postgres of this test process alone, that a test may stop and start; running before and after each."""
    yield _postgres
    if not _postgres.running:
        _postgres.start()


@pytest.fixture(scope="session")
def _postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.config.getoption("--containers"):
        from testcontainers.community.postgres import PostgresContainer

        with PostgresContainer("postgres:18-bookworm", driver=None) as container:
            yield container.get_connection_url()
    elif "DATABASE_URL" in os.environ:
        yield os.environ["DATABASE_URL"]
    else:
        server: EmbeddedPostgres = request.getfixturevalue("_postgres")
        yield server.url


@pytest.fixture(scope="session")
def _templates() -> Iterator[dict[str, str]]:
    """By server: the name of a migrated database there."""
    names: dict[str, str] = {}
    yield names
    for url, name in names.items():
        with contextlib.suppress(OSError):  # ours has ended, and its data with it
            asyncio.run(_execute(url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


@pytest.fixture
def database_url(request: pytest.FixtureRequest, _templates: dict[str, str]) -> Iterator[str]:
    """A fresh, migrated database; in a test that stops Postgres, on the server that it can stop."""
    if "postgres_server" in request.fixturenames:
        server: EmbeddedPostgres = request.getfixturevalue("_postgres")
        url = server.url
    else:
        url = request.getfixturevalue("_postgres_url")
    if url not in _templates:
        _templates[url] = f"{TEMPLATE}_{secrets.token_hex(4)}"
        asyncio.run(_execute(url, f"CREATE DATABASE {_templates[url]}"))
        asyncio.run(migrate(database(url, _templates[url])))
    name = f"waystation_{secrets.token_hex(6)}"
    asyncio.run(_execute(url, f"CREATE DATABASE {name} TEMPLATE {_templates[url]}"))
    yield database(url, name)
    asyncio.run(_execute(url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


def database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def spare() -> AsyncIterator[Upstream]:
    """A provider beside a cluster's own."""
    async with upstream() as provider:
        yield provider

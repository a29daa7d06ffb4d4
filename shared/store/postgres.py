"""Postgres: engines, migrations, partitions. Never on the hot path."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

MIGRATIONS = Path(__file__).parents[2] / "migrations"
NEWEST = max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
"""The migration that this version needs: files are named by their numbers."""
MIGRATION_LOCK = 0x5761_7973  # "Ways"
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def address(url: str) -> URL:
    """A libpq-style URL as SQLAlchemy's asyncpg dialect wants it. Raises ValueError when it is no Postgres URL."""
    try:
        parsed = make_url(url)
    except Exception as error:
        raise ValueError("DATABASE_URL is not a URL like postgresql://user:password@host:5432/database") from error
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError("DATABASE_URL must begin with postgresql://")
    query = dict(parsed.query)
    if (mode := query.pop("sslmode", None)) is not None:
        if mode not in SSL_MODES:
            raise ValueError(f"DATABASE_URL: sslmode must be one of {', '.join(SSL_MODES)}")
        query["ssl"] = mode
    return parsed.set(drivername="postgresql+asyncpg", query=query)


def engine(url: str, *, pool_size: int = 5) -> AsyncEngine:
    """A pool of asyncpg connections; a connection that died is noticed before it is used."""
    return create_async_engine(
        address(url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        connect_args={"timeout": 5, "command_timeout": 60, "server_settings": {"application_name": "waystation"}},
    )


async def migrate(url: str) -> None:
    """Bring the schema to this version. Any number of processes may call it at once: an advisory lock lets one work."""
    pool = engine(url, pool_size=1)
    try:
        async with pool.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            if await _version(connection) != NEWEST:
                await connection.run_sync(_upgrade)
        await ensure_partitions(pool)
    finally:
        await pool.dispose()


async def _version(connection: AsyncConnection) -> str | None:
    """What the schema's last migration was; None before the first."""
    if await connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    version: str | None = await connection.scalar(text("SELECT version_num FROM alembic_version"))
    return version


def _upgrade(connection: Connection) -> None:
    from alembic import command  # a fifth of a second, for nothing when there is nothing to do
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def ensure_partitions(pool: AsyncEngine, days_ahead: int = 7) -> None:
    """Daily partitions of usage_events from yesterday to `days_ahead`. What fits none lands in the default partition."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    async with pool.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        for offset in range(-1, days_ahead + 1):
            day = today + timedelta(days=offset)
            name = f"usage_events_{day:%Y%m%d}"
            exists = await connection.scalar(text("SELECT to_regclass(:name)"), {"name": name})
            if exists is None:
                await connection.execute(
                    text(
                        f"CREATE TABLE {name} PARTITION OF usage_events "
                        f"FOR VALUES FROM ('{day.isoformat()}') TO ('{(day + timedelta(days=1)).isoformat()}')"
                    )
                )


async def answers(pool: AsyncEngine, timeout_s: float = 2.0) -> bool:
    """Whether Postgres can be reached now."""
    try:
        async with asyncio.timeout(timeout_s), pool.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except Exception:  # every driver error means the same here
        return False
    return True

"""Migrations and partitions on a real Postgres."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from shared.store.postgres import MIGRATIONS, NEWEST, address, migrate


async def test_any_number_of_processes_may_migrate_at_once(database_url: str) -> None:
    await asyncio.gather(*(migrate(database_url) for _ in range(4)))
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT version_num FROM alembic_version") == NEWEST
    assert await connection.fetchval("SELECT count(*) FROM pg_inherits WHERE inhparent = 'usage_events'::regclass") == 10
    await connection.close()


def test_the_newest_migration_is_alembics_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [NEWEST]


@pytest.mark.parametrize("url", ["", "mysql://x/y", "not a url", "redis://127.0.0.1"])
def test_a_url_that_is_not_postgres_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match="DATABASE_URL"):
        address(url)


def test_sslmode_is_understood_as_libpq_does() -> None:
    assert address("postgresql://u:p@h/d?sslmode=require").query == {"ssl": "require"}

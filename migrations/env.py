"""Alembic's entry. The connection is handed in by shared/store/postgres.py; the command line uses DATABASE_URL."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection

from shared.settings import Settings
from shared.store.postgres import engine


def run(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=False)
    with context.begin_transaction():
        context.run_migrations()


async def from_environment() -> None:
    pool = engine(Settings.from_environment().database_url)
    async with pool.begin() as connection:
        await connection.run_sync(run)
    await pool.dispose()


handed_in = context.config.attributes.get("connection")
if handed_in is not None:
    run(handed_in)
else:
    asyncio.run(from_environment())

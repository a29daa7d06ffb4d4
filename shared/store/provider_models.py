"""Models beside the catalogue: those that somebody added at run time, and those that a connection was seen to offer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.domain.catalogue import Model
from shared.store import tenants


async def add(pool: AsyncEngine, provider: str, model: Model, *, name: str, source: str, actor: str) -> dict[str, Any]:
    """The model as it is stored. Whoever adds it again gets what is there: nothing changes."""
    async with pool.begin() as connection:
        made = await connection.execute(
            text(
                "INSERT INTO provider_models (provider, model_id, name, source, model) "
                "VALUES (:provider, :model_id, :name, :source, :model) ON CONFLICT DO NOTHING"
            ),
            {
                "provider": provider,
                "model_id": model.model_id,
                "name": name,
                "source": source,
                "model": json.dumps(msgspec.to_builtins(model)),
            },
        )
        if made.rowcount:
            await tenants.bump(connection)
            await tenants.audit(connection, "add", f"model {provider}/{model.model_id}", by=actor)
        row = await connection.execute(
            text("SELECT provider, model_id AS id, name, source FROM provider_models WHERE provider = :p AND model_id = :m"),
            {"p": provider, "m": model.model_id},
        )
        return dict(row.one()._mapping)


async def remove(pool: AsyncEngine, provider: str, model_id: str, *, actor: str) -> bool:
    """False: it was not there."""
    async with pool.begin() as connection:
        gone = await connection.execute(
            text("DELETE FROM provider_models WHERE provider = :provider AND model_id = :model_id"),
            {"provider": provider, "model_id": model_id},
        )
        if gone.rowcount:
            await tenants.bump(connection)
            await tenants.audit(connection, "remove", f"model {provider}/{model_id}", by=actor)
        return bool(gone.rowcount)


async def added(pool: AsyncEngine) -> list[dict[str, Any]]:
    """provider, id, name, source; oldest first."""
    query = "SELECT provider, model_id AS id, name, source FROM provider_models ORDER BY provider, created_at, model_id"
    async with pool.connect() as connection:
        return [dict(row._mapping) for row in await connection.execute(text(query))]


async def saw(pool: AsyncEngine, connection_id: str, model_ids: Iterable[str]) -> None:
    """A connection's own list, as it is now. What it no longer offers keeps the day on which it was last seen."""
    async with pool.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO offered_models (connection_id, model_id) SELECT :id, unnest(CAST(:models AS text[])) "
                "ON CONFLICT (connection_id, model_id) DO UPDATE SET last_seen_at = now()"
            ),
            {"id": connection_id, "models": list(model_ids)},
        )


async def offered(pool: AsyncEngine) -> list[dict[str, Any]]:
    """connection, provider, organisation_id, id, first_seen_at, last_seen_at; newest first."""
    query = (
        "SELECT c.name AS connection, c.provider, c.organisation_id, o.model_id AS id, o.first_seen_at, o.last_seen_at "
        "FROM offered_models o JOIN connections c ON c.id = o.connection_id ORDER BY o.first_seen_at DESC, c.name, o.model_id"
    )
    async with pool.connect() as connection:
        return [dict(row._mapping) for row in await connection.execute(text(query))]

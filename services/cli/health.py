"""`waystation health`, `unlock`, `reset`: what keeps calls away from deployments and connections, and undoing it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import click
from redis.asyncio import Redis

from services.cli.say import answer, fail, guarded, json_option, settings_here, table, wait_for
from shared.settings import Settings
from shared.store import postgres
from shared.store.redis import client
from shared.upstream.health.operator import Undo, listed, undo

COLUMNS = ["name", "connection", "state", "since", "until", "reason"]


@click.command()
@json_option
@guarded
def health(as_json: bool) -> None:
    """Show what is open, cooling down or locked: since when, why, until when."""
    settings = settings_here()

    async def work() -> list[dict[str, Any]]:
        async with redis_of(settings) as redis:
            return await listed(redis)

    rows = wait_for(work())
    shown = [entry | {"state": f"{entry['state']}, due"} if entry["due"] else entry for entry in rows]
    answer(rows, table(shown, COLUMNS) if rows else "all is well", as_json=as_json)


name_argument = click.argument("name", required=False)
all_option = click.option("--all", "everything", is_flag=True, help="Everything there is.")


@click.command()
@name_argument
@all_option
@json_option
@guarded
def unlock(name: str | None, everything: bool, as_json: bool) -> None:
    """Unlock a connection, or end its cooldown or pause, on every node at once. NAME is the connection's."""
    _undo(Undo.UNLOCK, name, everything, as_json=as_json)


@click.command()
@name_argument
@all_option
@json_option
@guarded
def reset(name: str | None, everything: bool, as_json: bool) -> None:
    """Close breakers as well, on every node at once. NAME is a connection's or a deployment's (prefix/model)."""
    _undo(Undo.RESET, name, everything, as_json=as_json)


def _undo(what: Undo, name: str | None, everything: bool, *, as_json: bool) -> None:
    if (name is None) is not everything:
        raise click.UsageError("say either NAME or --all")
    settings = settings_here()

    async def work() -> list[str]:
        pool = postgres.engine(settings.database_url, pool_size=1)
        try:
            async with redis_of(settings) as redis:
                return await undo(redis, pool, what, name, by="cli")
        finally:
            await pool.dispose()

    freed = wait_for(work())
    if not freed and name is not None:
        fail(f"nothing is {PAST[what]} at {name!r}; `waystation health` shows what is")
    told = "\n".join(f"{DONE[what]} {each}" for each in freed) or f"nothing to {what}"
    answer({DONE[what]: freed}, told, as_json=as_json)


DONE = {Undo.UNLOCK: "unlocked", Undo.RESET: "reset"}
PAST = {Undo.UNLOCK: "locked or cooling down", Undo.RESET: "open, locked or cooling down"}


@asynccontextmanager
async def redis_of(settings: Settings) -> AsyncIterator[Redis]:
    redis = client(settings.redis_url)
    try:
        yield redis
    finally:
        await redis.aclose()

"""`waystation limits`: what is used and left of the limits of connections."""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec

from services.cli.manage import database
from services.cli.say import answer, guarded, json_option, settings_here, table, wait_for
from shared.domain.money import nano_to_usd
from shared.store import configuration
from shared.store.redis import client
from shared.upstream.slots.standing import QuotaStanding, Standing, standings


@click.command()
@json_option
@guarded
def limits(as_json: bool) -> None:
    """What is used and left of connections' limits, on all nodes together."""
    settings = settings_here()

    async def work() -> list[Standing]:
        async with database(settings) as pool:
            connections = (await configuration.load(pool)).connections
        redis = client(settings.redis_url)
        try:
            return await standings(redis, connections, time.time())
        finally:
            await redis.aclose()

    found: list[Standing] = wait_for(work())
    rows = [row(each) for each in found]
    columns = ["connection", "in_flight", "requests_left", "tokens_left", "waiting", "paused_s", "quotas"]
    answer(msgspec.to_builtins(found), table(rows, columns), as_json=as_json)


def row(standing: Standing) -> dict[str, Any]:
    flight = None if standing.concurrent is None else f"{standing.in_flight} of {standing.concurrent}"
    made = {name: getattr(standing, name) for name in ("connection", "requests_left", "tokens_left", "waiting", "paused_s")}
    return made | {"in_flight": flight, "quotas": ", ".join(map(quota, standing.quotas)) or None}


def quota(standing: QuotaStanding) -> str:
    used, limit = standing.used, standing.limit
    if standing.unit == "usd":
        return f"{nano_to_usd(used):f} of {nano_to_usd(limit):f} USD per {standing.window}"
    return f"{used} of {limit} {standing.unit} per {standing.window}"

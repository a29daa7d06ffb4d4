"""Half-open, on real nodes: one probe for the whole cluster in each open period, counted where it arrives."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from tests.chaos.crowd import percentile
from tests.chaos.leases import Books, check, spans
from tests.chaos.sickbed import Sickbed, provider, stopped
from tests.hosts.cluster import running

LONG = float(os.environ.get("CHAOS_TIMES", "1"))
PERIODS = int(550 * LONG)
KILLS = int(4 * LONG)
SICK = 10
CLIENTS = 6
"""At each node."""
OPEN_S = 0.8
PROFILE = {
    "failures": 2, "open_s": OPEN_S, "longest_open_s": OPEN_S, "cooldown_s": 0.5, "longest_cooldown_s": 0.5,
}  # fmt: skip
LEASE_MS = 10_000.0


@pytest.mark.chaos
@pytest.mark.timeout(1800)
async def test_each_open_period_has_exactly_one_probe_whatever_becomes_of_it(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Probes fail, succeed, meet a 429, lose their client, or die with their node."""
    async with running(database_url, redis_url, tmp_path, nodes=4, workers=1) as cluster:
        names = tuple(f"sick{number}/m{number}" for number in range(SICK))
        bed = Sickbed(cluster, names, KILLS, random.Random(3), seats=[0, 1, 2, 3])
        async with provider(bed) as url:
            timeouts = {"connect_timeout_s": 2, "first_byte_timeout_s": 40, "idle_timeout_s": 40}
            entry = {"provider": "custom", "base_url": url, "api_key": "env:LAB_KEY", "profile": PROFILE} | timeouts
            sick = [entry | {"name": name.split("/")[0], "prefix": name.split("/")[0]} for name in names]
            spare = {"name": "spare", "prefix": "spare", "provider": "custom", "base_url": cluster.provider.url}
            await cluster.apply(
                connections=[*sick, spare | {"api_key": "env:LAB_KEY"}], fallbacks={name: ["spare/chat"] for name in names}
            )
            listening = asyncio.ensure_future(bed.listen(redis_url))
            await asyncio.sleep(0.2)
            began_s = time.monotonic()
            clients = [asyncio.ensure_future(bed.call_for_ever(seat)) for seat in range(4) for _ in range(CLIENTS)]
            while (books := counted(bed)).periods < PERIODS or len(books.after_death_ms) < KILLS:
                assert time.monotonic() - began_s < 300 * LONG, (books.periods, books.ends, cluster.log()[-3000:])
                assert not books.wrong, books.wrong
                await asyncio.sleep(2)
            took_s = time.monotonic() - began_s
            await stopped(*clients, listening)
        books = counted(bed)
    print(
        f"{books.periods} open periods, {books.leases} leases ({books.unused} unused) of {SICK} breakers in {took_s:.0f} s, "
        f"{sum(bed.statuses.values())} calls {dict(bed.statuses)}\n"
        f"probes ended: {dict(books.ends)}; due to arrival p50 {percentile(books.late_ms, 0.5):.0f}, "
        f"least {min(books.late_ms):.0f} ms; after a holder's death {[round(ms) for ms in books.after_death_ms]} ms; "
        f"sent before an opening: {len(books.stragglers_ms)}, at most {max(books.stragglers_ms, default=0):.0f} ms after it"
    )
    assert books.wrong == []
    assert min(books.ends[end] for end in ("bad", "well", "429", "left", "killed")) > 0
    assert books.unused <= 2 * books.ends["429"], "claimed and given back again and again"
    assert min(books.after_death_ms) >= LEASE_MS - 3_500
    assert max(books.after_death_ms) <= LEASE_MS + 5_000
    assert bed.statuses[200] >= 0.99 * sum(bed.statuses.values())


def counted(bed: Sickbed) -> Books:
    books = Books()
    for name in bed.models:
        model = name.split("/")[1]
        row = spans(bed.told.get(name, ()), (arrival for arrival in bed.arrivals if arrival.model == model))
        check(books, name, row, bed.killed_ms, PROFILE["cooldown_s"] * 1000)
    return books

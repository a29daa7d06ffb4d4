"""What is used and left, as `waystation limits` says it."""

from __future__ import annotations

import time

from redis.asyncio import Redis

from services.cli.limits import row
from shared.domain.upstream_limits import Quota, QuotaUnit, Window
from shared.store.redis import client
from shared.upstream.slots.slots import Slots
from shared.upstream.slots.standing import standings
from tests.upstream.slots.conftest import connection, limits


async def test_it_says_what_is_used_and_left(slots: Slots, redis_url: str) -> None:
    setting = limits(
        requests_per_minute=100,
        tokens_per_minute=10_000,
        concurrent_requests=4,
        quotas=(
            Quota(unit=QuotaUnit.USD, limit=5_000_000_000, window=Window.DAY),
            Quota(unit=QuotaUnit.TOKENS, limit=900, window=Window.FIVE_HOURS),
        ),
    )
    held = await slots.take(connection(setting), "org_1", 100, 1.0, "a", 1_000_000_000)
    (await slots.take(connection(setting), "org_1", 100, 1.0, "b")).done(60, 529, {"retry-after": "2"})
    plain = connection(None, "plain")
    slots.learn(plain, 429, {"retry-after": "30"}, time.time())
    waiting = slots.take(plain, "org_1", 1, 60.0, "c")
    waits = slots.take(connection(setting), "org_1", 1, 60.0, "d")
    redis: Redis = client(redis_url)
    assert await redis.ping()
    main, other = await standings(redis, [connection(setting), plain, connection(None, "idle")], time.time())
    await redis.aclose()
    assert (main.connection, main.in_flight, main.concurrent, main.waiting) == ("main", 1, 2, 1)
    assert main.requests_left is not None
    assert 3 <= main.requests_left <= 5
    assert 1.5 < main.paused_s <= 2.0
    assert row(main)["quotas"] == "1 of 5 USD per day, 160 of 900 tokens per 5h"
    assert (other.connection, other.in_flight, 29 < other.paused_s <= 30) == ("plain", None, True)
    for each in (waiting, waits):
        each.cancel()
    held.done(100, 200, {})

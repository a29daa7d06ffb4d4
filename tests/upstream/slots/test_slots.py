"""Slots through their own API, on a real Redis: what is granted, what waits, what is refused, and what never leaks."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable

import pytest
from redis import Redis

from services.cli.engines import EmbeddedRedis
from shared.domain.failure import FailureClass
from shared.domain.upstream_limits import Quota, QuotaUnit, UpstreamLimits, Window
from shared.store import keys
from shared.upstream.slots.slots import NoSlot, Slot, Slots
from tests.upstream.slots.conftest import connection, limits, node, nodes

DEADLINE_S = 5.0
NUMBERS = itertools.count()


def take(
    slots: Slots, setting: UpstreamLimits | None, who: str = "org_1", *, tokens: int = 10, wait_s: float = DEADLINE_S
) -> asyncio.Future[Slot]:
    return slots.take(connection(setting), who, tokens, wait_s, f"call-{next(NUMBERS)}")


async def why(taken: Awaitable[Slot]) -> NoSlot:
    with pytest.raises(NoSlot) as caught:
        await taken
    return caught.value


async def soon(what: object) -> None:
    """Until `what()` holds."""
    deadline_s = time.monotonic() + 5
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


async def test_without_limits_nothing_is_asked(slots: Slots) -> None:
    assert not slots.limited(connection(None))
    assert slots.limited(connection(limits(requests_per_minute=1)))


async def test_a_slot_costs_one_command_that_leaves_with_its_turn(slots: Slots, redis_url: str) -> None:
    setting = limits(requests_per_minute=6000, tokens_per_minute=10**6, concurrent_requests=5)
    with Redis.from_url(redis_url) as redis:
        (await take(slots, setting)).done(10, 200, {})
        await asyncio.sleep(0.05)
        before = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
        (await take(slots, setting)).done(10, 200, {})
        await asyncio.sleep(0.05)
        assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 2  # one in, one out


async def test_it_asks_before_it_is_awaited_in_the_same_write_as_its_neighbours(slots: Slots) -> None:
    wire = slots._lane._wire
    assert wire is not None
    ping, taken = slots._lane.call(b"PING"), take(slots, limits(requests_per_minute=600))
    assert len(wire._out) == 2  # nothing has left yet, both will together
    assert await ping == b"PONG"
    await asyncio.sleep(0)
    assert (await taken).tokens == 10


async def test_what_happens_is_counted(slots: Slots) -> None:
    setting = limits(requests_per_minute=1200, burst_requests=1)
    await take(slots, setting)
    await take(slots, setting)
    await why(take(slots, setting, wait_s=0))
    (await take(slots, setting)).done(0, 429, {"retry-after": "1"})
    series = {
        each.name: each.value for family in slots._meters.collect() for each in family.samples if each.name[-6:] != "bucket"
    }
    assert series["waystation_upstream_wait_seconds_count"] == 2
    assert 0.05 < series["waystation_upstream_wait_seconds_sum"] < 1.0
    assert series["waystation_upstream_refused_total"] == series["waystation_upstream_pauses_total"] == 1
    assert series["waystation_upstream_waiting"] == 0


async def test_concurrency_is_one_over_all_nodes_and_grants_reach_the_right_one(redis_url: str) -> None:
    setting = limits(concurrent_requests=2, adaptive=False)
    async with nodes(redis_url, 3) as made:
        first, second = await take(made[0], setting), await take(made[1], setting)
        third, fourth = take(made[2], setting), take(made[0], setting)
        await asyncio.sleep(0.1)
        assert not third.done()
        assert not fourth.done()
        started_s = time.monotonic()
        first.done(10, 200, {})
        granted = await third
        assert time.monotonic() - started_s < 0.2
        assert not fourth.done()
        second.done(10, 200, {})
        granted.done(10, 200, {})
        (await fourth).done(10, 200, {})


async def test_rates_pace_calls_and_no_more_than_the_limit_goes(slots: Slots) -> None:
    setting = limits(requests_per_minute=600, burst_requests=2)
    started_s = time.monotonic()
    await asyncio.gather(*[take(slots, setting) for _ in range(7)])
    assert 0.48 <= time.monotonic() - started_s < 1.5  # two at once, five more at 100 ms each


async def test_a_gap_is_kept(slots: Slots) -> None:
    setting, at = limits(min_gap_ms=60), []
    for waiting in [take(slots, setting) for _ in range(4)]:
        await waiting
        at.append(time.monotonic())
    assert all(later - earlier > 0.05 for earlier, later in itertools.pairwise(at))


async def test_who_would_wait_too_long_is_told_at_once_and_exactly(slots: Slots) -> None:
    setting = limits(requests_per_minute=60, burst_requests=1)
    await take(slots, setting)
    no = await why(take(slots, setting, wait_s=0))
    assert no.why == "rate"
    assert 0.9 < no.retry_after_s <= 1.0
    waiting = take(slots, setting)
    started_s = time.monotonic()
    no = await why(take(slots, setting, wait_s=0.5))
    assert time.monotonic() - started_s < 0.3
    assert 1.2 < no.retry_after_s <= 1.5  # its turn is in 2 s, of which it would wait 0.5
    waiting.cancel()


async def test_tokens_are_put_right_when_the_call_is_over(slots: Slots) -> None:
    setting = limits(tokens_per_minute=60_000, burst_tokens=1_000)
    slot = await take(slots, setting, tokens=1_000)
    assert (await why(take(slots, setting, tokens=1_000, wait_s=0))).why == "tokens"
    slot.done(0, 200, {})
    (await take(slots, setting, tokens=1_000, wait_s=0.1)).done(3_000, 200, {})
    no = await why(take(slots, setting, tokens=1_000, wait_s=0))
    assert 2.5 < no.retry_after_s <= 3.0


async def test_what_is_dropped_is_given_back(slots: Slots) -> None:
    setting = limits(requests_per_minute=60, burst_requests=1, concurrent_requests=1)
    for _ in range(3):
        taken = take(slots, setting)
        slots.drop(taken)  # before the answer
        await asyncio.sleep(0.03)
    for _ in range(3):
        taken = take(slots, setting)
        await asyncio.sleep(0.03)
        assert taken.done()
        slots.drop(taken)  # after it
        await asyncio.sleep(0.03)
    slot = await take(slots, setting, wait_s=0)
    waiting = take(slots, setting)
    await asyncio.sleep(0.03)
    slots.drop(waiting)  # out of the queue
    await asyncio.sleep(0.03)
    slot.give_back()
    slot.give_back()
    await asyncio.sleep(0.03)
    await take(slots, setting, wait_s=0)


async def test_a_failure_to_connect_costs_nothing(slots: Slots) -> None:
    setting = limits(requests_per_minute=60, burst_requests=1)
    (await take(slots, setting)).done(0, None, None, FailureClass.CONNECT)
    await asyncio.sleep(0.03)
    await take(slots, setting, wait_s=0)


async def test_a_full_queue_keeps_those_who_go_first(slots: Slots) -> None:
    setting = limits(requests_per_minute=120, burst_requests=1, most=3)
    (await take(slots, setting, "light")).give_back()
    await take(slots, setting, "heavy")
    heavy = [take(slots, setting, "heavy") for _ in range(4)]
    await soon(lambda: heavy[3].done())
    assert (await why(heavy[3])).why == "full"
    light = take(slots, setting, "light")
    await soon(lambda: heavy[2].done())
    no = await why(heavy[2])
    assert (no.why, no.retry_after_s > 0) == ("full", True)
    await light
    assert not heavy[1].done()
    for waiting in heavy:
        waiting.cancel()


async def test_who_waited_in_vain_is_told_when_its_time_is_over(slots: Slots) -> None:
    setting = limits(concurrent_requests=1, wait_s=0.2)
    await take(slots, setting)
    started_s = time.monotonic()
    no = await why(take(slots, setting))
    assert no.why == "late"
    assert 0.15 < time.monotonic() - started_s < 1.0


async def test_quotas_end_with_their_window(slots: Slots, redis_url: str) -> None:
    day = Quota(unit=QuotaUnit.REQUESTS, limit=2, window=Window.DAY, at_hour=10)
    setting = limits(quotas=(day, Quota(unit=QuotaUnit.USD, limit=5_000, window=Window.FIVE_HOURS)))
    slot = await slots.take(connection(setting), "org_1", 10, 1.0, f"call-{next(NUMBERS)}", 4_000)
    assert (await why(slots.take(connection(setting), "org_1", 10, 1.0, f"call-{next(NUMBERS)}", 4_000))).why == "quota"
    slot.done(10, 200, {}, None, 1_000)
    await slots.take(connection(setting), "org_1", 10, 1.0, f"call-{next(NUMBERS)}", 4_000)
    no = await why(slots.take(connection(setting), "org_1", 10, 1.0, f"call-{next(NUMBERS)}", 0))
    assert no.why == "quota"
    ends_s = 86_400 - (time.time() - 10 * 3600) % 86_400
    assert abs(no.retry_after_s + 1.0 - ends_s) < 5  # it would have waited 1 s


async def test_a_new_limit_counts_at_once(slots: Slots) -> None:
    await take(slots, limits(concurrent_requests=1))
    assert (await why(take(slots, limits(concurrent_requests=1), wait_s=0))).why == "concurrency"
    await take(slots, limits(concurrent_requests=2), wait_s=0)


async def test_the_slot_of_a_dead_node_is_freed_and_that_of_a_live_one_kept(redis_url: str) -> None:
    setting = limits(concurrent_requests=2, adaptive=False)
    async with node(redis_url, "lives") as lives:
        async with node(redis_url, "dies") as dies:
            await take(dies, setting)
        await take(lives, setting)
        waiting = take(lives, setting)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        leases = keys.slots("conn_main")[1]
        with Redis.from_url(redis_url) as redis:
            now_ms = int(time.time() * 1000)
            for member in redis.zrange(leases, 0, -1):
                redis.zadd(leases, {member: now_ms - 1})  # 30 s later
            lives.renew(now_ms + 30_000)
        await waiting
        assert (await why(take(lives, setting, wait_s=0))).why == "concurrency"


async def test_a_dead_nodes_place_in_the_queue_is_passed_over(redis_url: str) -> None:
    setting = limits(requests_per_minute=600, burst_requests=1)
    async with node(redis_url, "lives") as lives:
        async with node(redis_url, "dies") as dies:
            await take(lives, setting)
            dead = [take(dies, setting) for _ in range(3)]
            await asyncio.sleep(0.02)
            dies._lane._wire.fail("killed")  # type: ignore[union-attr]
        started_s = time.monotonic()
        await take(lives, setting)
        assert time.monotonic() - started_s < 0.6
        for waiting in dead:
            waiting.cancel()


async def test_concurrency_falls_when_pushed_back_and_rises_again(slots: Slots, redis_url: str) -> None:
    setting = limits(concurrent_requests=10)
    held = [await take(slots, setting) for _ in range(10)]
    for slot in held[:5]:
        slot.done(0, 529, {}, FailureClass.OVERLOADED)
    for slot in held[5:]:
        slot.done(10, 200, {})
    await asyncio.sleep(0.05)
    state = keys.slots("conn_main")[0]
    with Redis.from_url(redis_url) as redis:
        assert float(redis.hget(state, "cap")) == 7.0
        # five pushed back at once: once
        for _ in range(7):
            (await take(slots, setting)).done(10, 200, {})
        await asyncio.sleep(0.05)
        assert float(redis.hget(state, "cap")) == 8.0


async def test_a_pause_is_learned_by_all_nodes_and_ends(redis_url: str) -> None:
    plain = connection(None)
    async with nodes(redis_url, 2) as (one, two):
        one.learn(plain, 200, {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m"}, time.time())
        assert not one.limited(plain)
        one.learn(plain, 429, {"retry-after": "1"}, time.time())
        assert one.limited(plain)
        await soon(lambda: two.limited(plain))
        no = await why(two.take(plain, "org_1", 10, 0, f"call-{next(NUMBERS)}"))
        assert (no.why, 0.7 < no.retry_after_s <= 1.0) == ("pause", True)
        async with node(redis_url, "late") as late:
            await soon(lambda: late.limited(plain))
        started_s = time.monotonic()
        (await two.take(plain, "org_1", 10, 5.0, f"call-{next(NUMBERS)}")).done(10, 200, {})
        assert 0.5 < time.monotonic() - started_s < 2.0
        await soon(lambda: not one.limited(plain) and not two.limited(plain))


async def test_what_the_provider_says_is_spent_pauses_the_connection(slots: Slots) -> None:
    setting = limits(requests_per_minute=60_000)
    said = {"x-ratelimit-limit-requests": "10", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"}
    (await take(slots, setting)).done(10, 200, said)
    await asyncio.sleep(0.03)
    no = await why(take(slots, setting, wait_s=0))
    assert (no.why, 1.5 < no.retry_after_s <= 2.0) == ("pause", True)  # full in 20 s: one of ten in 2 s
    assert slots.spare(connection(setting)) == 0.0


async def test_a_server_that_forgot_the_script_is_taught(slots: Slots, redis_url: str) -> None:
    setting = limits(requests_per_minute=600)
    with Redis.from_url(redis_url) as redis:
        redis.script_flush()
        slot = await take(slots, setting)
        redis.script_flush()
        slot.done(10, 200, {})
        await asyncio.sleep(0.05)
        await take(slots, setting)


async def test_an_emptied_redis_hears_again_of_who_holds_and_who_waits(slots: Slots, redis_url: str) -> None:
    setting = limits(concurrent_requests=1)
    held = await take(slots, setting)
    waiting = take(slots, setting)
    await asyncio.sleep(0.05)
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    await slots.enter("2-boot")
    await asyncio.sleep(0.4)
    assert not waiting.done()
    held.done(10, 200, {})
    await asyncio.wait_for(waiting, 2)


async def test_without_redis_each_node_has_its_share_and_the_queue_goes_on(redis_server: EmbeddedRedis) -> None:
    setting = limits(concurrent_requests=10, adaptive=False)
    async with nodes(redis_server.url, 2) as (one, _):
        before = [await take(one, setting) for _ in range(10)]
        queued = take(one, setting, "org_2")
        await asyncio.sleep(0.05)
        redis_server.stop()
        for slot in before[:7]:  # above this node's share as they are
            slot.done(10, 200, {})
        (await asyncio.wait_for(queued, 5)).done(10, 200, {})
        for slot in before[7:]:
            slot.done(10, 200, {})
        held = [await take(one, setting) for _ in range(4)]  # 10 ÷ 2 × 0.8
        assert all(slot.local for slot in held)
        assert (await why(take(one, setting, wait_s=0))).why == "concurrency"
        waiting = take(one, setting)
        held[0].done(10, 200, {})
        await asyncio.wait_for(waiting, 2)
        last = [take(one, setting, wait_s=8) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert not any(each.done() for each in last)
        redis_server.start()
        granted = await asyncio.wait_for(asyncio.gather(*last), 8)
        assert not any(slot.local for slot in granted)

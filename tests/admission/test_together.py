"""Calls that leave in one write: those of one organisation are one run of a script, and each is still its own call."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from redis.asyncio import Redis

from services.cli.engines import EmbeddedRedis
from shared.admission.gate import Admitted, Denied, Unready
from shared.admission.packing import MOST_TOGETHER
from shared.domain.limits import Limit, Scope
from shared.store import keys
from tests.admission.nodes import HARD, ORGANISATION, SLOTS, SOFT, budget_cell, node

RECORDS = keys.reservation_records(ORGANISATION)


def slots(most: int) -> Limit:
    return msgspec.structs.replace(SLOTS, concurrent_requests=most)


async def runs(redis: Redis) -> int:
    """Scripts run since the last `config resetstat`."""
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_calls_of_one_turn_are_one_run_and_their_ends_another(redis_url: str) -> None:
    async with node(redis_url, limits=(slots(7),)) as one:
        await one.presence.refresh()
        one.settle(await one.admitted(1), 1)  # the budget is seeded
        await one.gate.drained()
        await one.redis.config_resetstat()
        verdicts = await asyncio.gather(*(one.admit(100) for _ in range(10)))
        assert await runs(one.redis) == 1
        admitted = [verdict.reservation for verdict in verdicts if isinstance(verdict, Admitted)]
        assert [type(verdict) for verdict in verdicts] == [Admitted] * 7 + [Denied] * 3  # as if one after another
        assert (await budget_cell(one.redis))["reserved"] == "700"
        for number, reservation in enumerate(admitted):
            one.settle(reservation, number)
        await one.gate.drained()
        assert await runs(one.redis) == 2
        assert await budget_cell(one.redis) == {"boot": one.presence.boot, "spent": "22", "reserved": "0"}
        assert await one.redis.hlen(RECORDS) == 0  # type: ignore[misc, arg-type]


async def test_a_budget_is_shared_out_within_one_run(redis_url: str) -> None:
    """A billion nano-USD: three calls of 300 million fit, and none is cut to fit, for none says what it may cost less."""
    async with node(redis_url) as one:
        await one.presence.refresh()
        await one.seeder.seed(one.cells)
        verdicts = await asyncio.gather(*(one.admit(300_000_000) for _ in range(5)))
        assert [type(verdict) for verdict in verdicts] == [Admitted] * 3 + [Denied] * 2
        denied = verdicts[3]
        assert isinstance(denied, Denied)
        assert (denied.kind, denied.remaining) == ("budget", HARD.limit_nano_usd - 900_000_000)


async def test_more_than_a_run_takes_are_several(redis_url: str) -> None:
    async with node(redis_url, budgets=(SOFT,)) as one:
        await one.presence.refresh()
        await one.seeder.seed(one.cells)
        await one.redis.config_resetstat()
        reservations = await asyncio.gather(*(one.admitted(1) for _ in range(MOST_TOGETHER + 1)))
        for reservation in reservations:
            one.settle(reservation, 1)
        await one.gate.drained()
        assert await runs(one.redis) == 4
        assert (await budget_cell(one.redis, SOFT))["spent"] == str(MOST_TOGETHER + 1)


async def test_what_an_end_frees_is_there_for_the_next_call_of_the_same_turn(redis_url: str) -> None:
    async with node(redis_url, limits=(slots(1),)) as one:
        await one.presence.refresh()
        held = await one.admitted(10)
        for _ in range(5):
            one.settle(held, 10)
            held = await one.admitted(10)
        one.settle(held, 10)


async def test_calls_of_different_keys_do_not_mix(redis_url: str) -> None:
    limits = Limit(scope=Scope.KEY, scope_id="other", requests_per_minute=1)
    async with node(redis_url) as one, node(redis_url, limits=(limits,)) as other:
        await one.presence.refresh()
        await one.seeder.seed(one.cells)
        await one.redis.config_resetstat()
        asks = [ask for _ in range(3) for ask in (one.ask(1), other.ask(1))]  # all by one gate
        verdicts = await asyncio.gather(*(one.gate.admit(ask) for ask in asks))
        assert [type(verdict) for verdict in verdicts[::2]] == [Admitted] * 3
        assert [type(verdict) for verdict in verdicts[1::2]] == [Admitted, Denied, Denied]
        first = verdicts[1]
        assert isinstance(first, Admitted)
        assert first.reservation.standing["requests"].limit == 1
        assert await runs(one.redis) == 1


@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_a_client_that_leaves_leaves_nothing(redis_url: str, turns: int) -> None:
    """Before its call leaves, while it is under way, and beside another that stays."""
    async with node(redis_url) as one:
        await one.presence.refresh()
        await one.seeder.seed(one.cells)
        leaves, stays = asyncio.ensure_future(one.admit(500)), asyncio.ensure_future(one.admit(7))
        for _ in range(turns):
            await asyncio.sleep(0)
        leaves.cancel()
        assert isinstance(await stays, Admitted)
        await asyncio.gather(leaves, return_exceptions=True)
        await one.gate.drained()
        assert (await budget_cell(one.redis))["reserved"] == "7"
        assert await one.redis.hlen(RECORDS) == 1  # type: ignore[misc, arg-type]


async def test_calls_that_wait_when_redis_is_lost_hear_of_it(redis_server: EmbeddedRedis) -> None:
    async with node(redis_server.url) as one:
        await one.presence.refresh()
        held = await one.admitted(10)
        redis_server.pause()
        waiting = [asyncio.ensure_future(one.admit(10)) for _ in range(3)]
        await asyncio.sleep(0.01)
        one.settle(held, 10)
        late = [asyncio.ensure_future(one.admit(10)) for _ in range(3)]
        verdicts = await asyncio.wait_for(asyncio.gather(*waiting, *late), 5)
        assert verdicts == [Unready("redis", 1000)] * 6
        redis_server.resume()
        while not one.lane.up:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        one.gate.retry()
        await one.gate.drained()
        assert (await budget_cell(one.redis))["reserved"] == "0"

"""Health when Redis is away, empty or forgetful: a node goes on by itself, and what was known comes back."""

from __future__ import annotations

import asyncio
import time

from redis.asyncio import Redis

from services.cli.engines import EmbeddedRedis
from shared.domain.health import Profile
from shared.store import keys
from tests.health.nodes import BROKEN, REFUSED, deployment, nodes, until

QUICK = Profile(failures=3, open_s=0.1, longest_open_s=0.2)


async def test_without_redis_a_node_has_breakers_of_its_own(redis_server: EmbeddedRedis) -> None:
    lab, other = deployment(profile=QUICK), deployment("other", connection="conn_b")
    draws = [0.9, 0.9, 0.2]
    async with nodes(redis_server.url, 2, live=2) as (one, two):
        one.fail(other, 1, REFUSED)
        await until(lambda: two.standing(other) == "locked")
        redis_server.stop()
        await until(lambda: not one.lane.up and not two.lane.up)
        one.fail(lab, 2)
        one.health.report(lab, None)
        one.fail(lab, 2)
        assert one.standing(lab) is None  # a success lay in between
        one.fail(lab)
        assert (one.standing(lab), two.standing(lab)) == ("open", None)
        assert (one.standing(other), two.standing(other)) == ("locked", "locked")
        one.health._chance = lambda: draws.pop(0) if draws else 0.5
        for drawn in range(3):  # of two nodes each probes every other time
            await until(lambda: one.standing(lab) == "half_open_due")
            while one.standing(lab) == "half_open_due" and (probe := await one.health.claim(lab)) is None:
                pass
            assert (probe is None) == (drawn == 0)
            if probe is not None:
                break
        assert probe is not None
        assert await one.health.claim(lab) is None
        one.health.report(lab, BROKEN, probe=probe)
        assert one.standing(lab) == "open"
        redis_server.start()
        await until(lambda: two.lane.up and one.lane.up and not one.health._cluster.alone, 10)
        assert two.standing(other) == "locked"
        two.fail(lab, 3)
        await until(lambda: lab.key in one.health.marks and lab.key in two.health.marks)


async def test_a_redis_that_hangs_holds_nobody_up(redis_server: EmbeddedRedis) -> None:
    lab = deployment()
    async with nodes(redis_server.url) as (node,):
        redis_server.pause()
        began_s = time.monotonic()
        node.fail(lab, 3)
        assert time.monotonic() - began_s < 0.1
        await until(lambda: node.standing(lab) == "open")  # the lane's deadline is over: counted here
        assert await node.health.claim(lab) is None
        redis_server.resume()
        await until(lambda: not node.health._cluster.alone, 10)


async def test_an_emptied_redis_is_told_what_the_nodes_know(redis_server: EmbeddedRedis) -> None:
    lab, other = deployment(), deployment("other", connection="conn_b")
    async with nodes(redis_server.url, 3) as cluster:
        cluster[0].fail(lab, 3)
        cluster[0].fail(other, 1, REFUSED)
        await until(lambda: all(len(node.health.marks) == 2 for node in cluster))
        known = dict(cluster[0].health.marks)
        for lose in ((redis_server.flush,), (redis_server.stop, redis_server.start)):
            for step in lose:
                step()
            async with Redis.from_url(redis_server.url) as redis:
                began_s = time.monotonic()
                while await redis.hlen(keys.HEALTH_MARKS.decode()) < 2:
                    assert time.monotonic() - began_s < 10
                    await asyncio.sleep(0.02)
            await asyncio.sleep(2.5)
            assert all(dict(node.health.marks) == known for node in cluster)
        async with nodes(redis_server.url) as (late,):
            assert dict(late.health.marks) == known


async def test_a_message_that_was_missed_is_made_up_for(redis_server: EmbeddedRedis) -> None:
    lab = deployment()
    async with nodes(redis_server.url, 2) as (one, two):
        async with Redis.from_url(redis_server.url) as redis:
            await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            one.fail(lab, 3)
            await until(lambda: one.standing(lab) == "open" and two.standing(lab) == "open")
        assert not two.health._cluster.alone


async def test_a_forgotten_script_is_taught_again(redis_server: EmbeddedRedis) -> None:
    lab = deployment(profile=QUICK)
    async with nodes(redis_server.url) as (node,):
        async with Redis.from_url(redis_server.url) as redis:
            await redis.script_flush()
            node.fail(lab, 3)
            await until(lambda: node.standing(lab) == "half_open_due")
            await redis.script_flush()
            assert await node.claimed(lab)
        assert not node.health._cluster.alone

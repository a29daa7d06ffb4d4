"""Presence on a real Redis: which life of it this is, and who lives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.cli.engines import EmbeddedRedis
from shared.admission import presence as module
from shared.admission.presence import ALIVE_MS, LEASE_MS, Presence, born_s
from shared.store import keys
from shared.store.redis import client
from tests.admission.nodes import beating


@asynccontextmanager
async def nodes(url: str, count: int) -> AsyncIterator[list[Presence]]:
    async with AsyncExitStack() as stack:
        yield [Presence(await stack.enter_async_context(client(url)), f"node-{number}") for number in range(count)]


async def members(redis: Redis, boot: str) -> set[str]:
    return {name.decode() for name in await redis.smembers(keys.registered(boot))}  # type: ignore[misc, arg-type]


async def test_a_boot_says_when_it_began_and_on_which_server(redis_url: str) -> None:
    async with client(redis_url) as redis, nodes(redis_url, 1) as (node,):
        await node.refresh()
        assert node.boot is not None
        assert node.boot.partition("-")[2] == (await redis.info("server"))["run_id"]
        assert abs(born_s(node.boot) - time.time()) < 5
        assert await members(redis, node.boot) == {"node-0"}


async def test_nodes_that_see_an_empty_redis_at_once_agree_on_one_boot(redis_server: EmbeddedRedis) -> None:
    async with nodes(redis_server.url, 8) as all_nodes:
        seen: set[str | None] = set()
        for _ in range(5):
            await asyncio.gather(*(node.refresh() for node in all_nodes))
            assert len({node.boot for node in all_nodes}) == 1
            seen.add(all_nodes[0].boot)
            redis_server.flush()
        assert len(seen) == 5


async def test_a_boot_lasts_until_redis_is_emptied_or_is_another_process(redis_server: EmbeddedRedis) -> None:
    async with client(redis_server.url) as redis, nodes(redis_server.url, 1) as (node,):
        await node.refresh()
        first = node.boot
        await node.refresh()
        assert node.boot == first
        redis_server.flush()
        await node.refresh()
        second = node.boot
        assert second != first
        redis_server.stop()
        with pytest.raises((RedisError, OSError)):
            await node.refresh()
        assert node.boot == second
        redis_server.start()
        await redis.set(keys.BOOT, second or "")  # as a server that keeps its data across restarts would
        await node.refresh()
        assert node.boot not in (first, second)


async def test_a_node_restores_before_it_registers(redis_url: str) -> None:
    async with client(redis_url) as redis, nodes(redis_url, 1) as (node,):
        told: list[tuple[str, set[str]]] = []

        async def restore(boot: str) -> None:
            told.append((boot, await members(redis, boot)))

        node.on_new_boot(restore)
        await node.refresh()
        await node.refresh()
        assert told == [(node.boot, set())]
        assert await members(redis, node.boot or "") == {"node-0"}


async def test_a_restoration_that_fails_keeps_the_node_unregistered_and_is_repeated(redis_url: str) -> None:
    async with client(redis_url) as redis, nodes(redis_url, 1) as (node,):
        attempts: list[str] = []

        async def restore(boot: str) -> None:
            attempts.append(boot)
            if len(attempts) < 3:
                raise ConnectionError("the lane is not up yet")

        node.on_new_boot(restore)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await node.refresh()
            assert await members(redis, node.boot or "") == set()
        await node.refresh()
        assert attempts == [node.boot] * 3
        assert await members(redis, node.boot or "") == {"node-0"}


async def test_the_first_restoration_begins_in_the_turn_in_which_the_boot_changes(redis_server: EmbeddedRedis) -> None:
    async with nodes(redis_server.url, 1) as (node,):
        await node.refresh()
        old, seen = node.boot, []
        in_between: list[str | None] = []

        async def restore(boot: str) -> None:
            seen.append((boot, node.boot))

        async def watch() -> None:
            while not seen:
                in_between.append(node.boot)
                await asyncio.sleep(0)

        node.on_new_boot(restore)
        redis_server.flush()
        await asyncio.gather(node.refresh(), watch())
        assert seen == [(node.boot, node.boot)]
        assert set(in_between) == {old}


async def test_those_who_beat_lately_live_and_whoever_leaves_does_not(redis_url: str) -> None:
    async with client(redis_url) as redis, nodes(redis_url, 4) as (first, second, silent, leaving):
        for node in (second, silent, leaving, first):
            await node.refresh()
        assert first.live_nodes == 4
        beat_ms = await redis.zscore(keys.NODES, "node-2")
        await redis.zadd(keys.NODES, {"node-2": (beat_ms or 0) - ALIVE_MS})
        await leaving.leave()
        await leaving.refresh()
        await first.refresh()
        assert first.peers == {"node-0", "node-1"}
        assert first.live_nodes == 2


async def test_while_redis_is_away_the_nodes_last_seen_are_taken_for_alive(redis_server: EmbeddedRedis) -> None:
    async with nodes(redis_server.url, 3) as all_nodes:
        for node in (*all_nodes, all_nodes[0]):
            await node.refresh()
        redis_server.stop()
        with pytest.raises((RedisError, OSError)):
            await all_nodes[0].refresh()
        assert all_nodes[0].live_nodes == 3


async def test_a_watcher_sees_boots_and_nodes_and_is_none(redis_url: str) -> None:
    async with client(redis_url) as redis, nodes(redis_url, 1) as (node,):
        await node.refresh()
        watcher = Presence(redis, None)
        await watcher.refresh()
        assert watcher.boot == node.boot
        assert watcher.peers == {"node-0"}
        assert await members(redis, node.boot or "") == {"node-0"}


async def test_who_was_known_before_redis_was_emptied_is_waited_for(redis_server: EmbeddedRedis) -> None:
    async with nodes(redis_server.url, 2) as (first, second):
        for node in (second, first):
            await node.refresh()
        for _ in range(3):  # also when it is emptied again before the other was heard of
            redis_server.flush()
            await first.refresh()
            state = await first.missing(first.boot or "")
            assert state is not None
            assert state[0] == {"node-1"}
        await second.refresh()
        state = await first.missing(first.boot or "")
        assert state is not None
        assert state[0] == frozenset()
        assert await first.missing("1-over") is None


async def test_leases_are_renewed_in_redis_time(redis_url: str) -> None:
    async with nodes(redis_url, 1) as (node,):
        expiries: list[int] = []
        node.on_renewal(expiries.append)
        async with beating(node):
            await asyncio.sleep(0.2)
        assert len(expiries) == 1
        assert abs(expiries[0] - time.time() * 1000 - LEASE_MS) < 1_000


async def test_the_heart_beats_on_whatever_happens(redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    async with nodes(redis_server.url, 1) as (node,):
        beats: list[str | None] = []

        def act() -> None:
            beats.append(node.boot)
            raise ZeroDivisionError

        node.on_beat(act)
        async with beating(node):
            await asyncio.sleep(0.2)
            redis_server.stop()
            await asyncio.sleep(0.1)
            before = len(beats)
            assert before > 2
            redis_server.start()
            await asyncio.sleep(0.3)
        assert len(beats) > before
        assert beats[-1] != beats[0]

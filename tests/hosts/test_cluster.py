"""Several nodes on one Redis and one Postgres: they behave as one, and nothing that dies takes money with it."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from services.cli.engines import EmbeddedPostgres, EmbeddedRedis
from shared.store import keys
from tests.hosts.cluster import CREDENTIAL, Cluster, call, client, running
from tests.hosts.proxy import CountingProxy


async def many(cluster: Cluster, key: str, count: int, body: dict[str, Any] | None = None) -> list[int]:
    """`count` calls at once, spread over the nodes; their statuses."""

    async def one(number: int) -> int:
        async with client(cluster, number % len(cluster.nodes), key) as mine:
            return (await mine.chat(body))[0]

    return list(await asyncio.gather(*(one(number) for number in range(count))))


async def test_four_nodes_keep_one_limit(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with running(database_url, redis_url, tmp_path, nodes=4, workers=2) as cluster:
        made = await cluster.new_key(rpm=20)
        statuses = await many(cluster, made.key, 60)
        assert statuses.count(200) == 20
        assert statuses.count(429) == 40
        assert len(await cluster.booked(20)) == 20


async def test_four_nodes_never_overshoot_a_budget(database_url: str, redis_url: str, tmp_path: Path) -> None:
    limit = 20_000_000
    async with running(database_url, redis_url, tmp_path, nodes=4, workers=2) as cluster:
        made = await cluster.new_key(budget_nano=limit)
        statuses = await many(cluster, made.key, 64, call(max_tokens=50))
        assert set(statuses) <= {200, 429}
        assert statuses.count(429) > 0
        await asyncio.sleep(1)
        rest = await many(cluster, made.key, 40, call(max_tokens=50))
        rows = await cluster.booked(statuses.count(200) + rest.count(200))
        mine = [row for row in rows if row["key_id"] == made.id]
        assert sum(row["cost_nano_usd"] for row in mine) <= limit
        assert len(mine) == statuses.count(200) + rest.count(200)
        async with Redis.from_url(redis_url) as redis:
            cells = [name async for name in redis.scan_iter(match="ws:*:b:*") if not name.endswith(b":u")]
            held = await redis.hgetall(cells[0])
            assert int(held[b"reserved"]) == 0
            assert int(held[b"spent"]) == sum(row["cost_nano_usd"] for row in mine)


async def test_a_node_killed_mid_stream_leaves_an_estimated_event(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with running(database_url, redis_url, tmp_path) as cluster:
        made = await cluster.new_key(budget_nano=10**9, concurrent=1)
        cluster.provider.fail("long-2000-20", times=1)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {made.key}"}) as session:
            url = f"{cluster.url()}/v1/chat/completions"
            with pytest.raises(aiohttp.ClientError):
                async with session.post(url, json=call(stream=True, max_tokens=100)) as reply:
                    await reply.content.readuntil(b"\n\n")
                    cluster.nodes[0].kill()
                    await reply.content.read()
        await cluster.ready(cluster.start_node())
        rows = await cluster.booked(1)
        assert [(row["kind"], row["source"]) for row in rows] == [("estimated", "reserved")]
        assert rows[0]["cost_nano_usd"] > 0
        async with client(cluster, 1, made.key) as mine:  # its slot is free and its budget knows
            assert (await mine.chat(call(max_tokens=10)))[0] == 200
        await cluster.booked(2)  # nobody waits for a settlement, but it reaches Redis before its event does
        async with Redis.from_url(redis_url) as redis:
            left = [name async for name in redis.scan_iter(match="ws:*:rsv*")]
            assert left == []


async def test_a_redis_that_comes_back_empty_loses_no_event_and_no_money(
    database_url: str, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    limit = 10**9
    async with running(database_url, redis_server.url, tmp_path, nodes=2) as cluster:
        made = await cluster.new_key(budget_nano=limit)
        answered = 0
        for round_number in range(4):
            answered += (await many(cluster, made.key, 10, call(max_tokens=20))).count(200)
            cluster.provider.fail("long-30-20", times=4)
            streams = asyncio.ensure_future(many(cluster, made.key, 4, call(stream=True, max_tokens=40)))
            await asyncio.sleep(0.3)
            redis_server.flush()
            answered += (await streams).count(200)
            del round_number
        await asyncio.sleep(1)
        async with client(cluster, 0, made.key) as mine:
            for _ in range(100):
                status, _, body = await mine.chat(call(max_tokens=20))
                if status == 200:
                    break
                assert (status, body["error"]["code"]) == (503, "gateway_not_ready")
                await asyncio.sleep(0.2)
            answered += 1
        rows = await cluster.booked(answered, within_s=40)
        assert len(rows) == answered == len({row["event_id"] for row in rows})
        spent = sum(row["cost_nano_usd"] for row in rows)
        async with Redis.from_url(redis_server.url) as redis:
            cells = [name async for name in redis.scan_iter(match="ws:*:b:*") if not name.endswith(b":u")]
            held = await redis.hgetall(cells[0])
            assert (int(held[b"spent"]), int(held[b"reserved"])) == (spent, 0)


async def test_without_redis_limits_are_shared_out_and_hard_budgets_refuse(
    database_url: str, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    async with running(database_url, redis_server.url, tmp_path) as cluster:
        plain = await cluster.new_key(rpm=10)
        rich = await cluster.new_key(budget_nano=10**12)
        redis_server.pause()
        began_s = time.monotonic()
        statuses = await many(cluster, plain.key, 20)
        assert time.monotonic() - began_s < 2
        assert statuses.count(200) == 8  # ten a minute, one live node, four fifths
        assert statuses.count(429) == 12
        async with client(cluster, key=rich.key) as mine:
            status, headers, body = await mine.chat(call(max_tokens=20))
            assert (status, body["error"]["code"], headers["Retry-After"]) == (503, "gateway_not_ready", "1")
        redis_server.resume()
        await asyncio.sleep(1.5)
        async with client(cluster, key=rich.key) as mine:
            assert (await mine.chat(call(max_tokens=20)))[0] == 200
        assert len(await cluster.booked(9, within_s=30)) == 9


async def test_without_postgres_the_data_plane_goes_on(
    database_url: str, redis_url: str, tmp_path: Path, postgres_server: EmbeddedPostgres
) -> None:
    async with running(database_url, redis_url, tmp_path) as cluster:
        made = await cluster.new_key(budget_nano=10**12, rpm=1000)
        assert await many(cluster, made.key, 3, call(max_tokens=20)) == [200] * 3
        postgres_server.stop()
        assert await many(cluster, made.key, 20, call(max_tokens=20)) == [200] * 20
        postgres_server.start()
        await cluster.pool.dispose()
        assert len(await cluster.booked(23, within_s=30)) == 23


async def test_workers_killed_at_any_moment_lose_and_double_nothing(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with running(database_url, redis_url, tmp_path, workers=2) as cluster:
        total = 0
        for round_number in range(4):
            total += (await many(cluster, cluster.key, 30)).count(200)
            cluster.workers[-2 + round_number % 2].kill()
            cluster.start_worker()
        rows = await cluster.booked(total, within_s=40)
        assert len(rows) == total == 120
        async with cluster.pool.connect() as connection:
            summed = await connection.scalar(text("SELECT sum(requests) FROM usage_hourly"))
        assert summed == total


async def test_sigterm_flips_readiness_finishes_streams_and_exits(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with running(database_url, redis_url, tmp_path) as cluster:
        node = cluster.start_node(WAYSTATION_DRAIN_DELAY_S="0.5")
        await cluster.ready(node)
        cluster.provider.fail("long-40-40")
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {cluster.key}"}) as session:
            async with session.post(f"{cluster.url(node)}/v1/chat/completions", json=call(stream=True)) as reply:
                await reply.content.readuntil(b"\n\n")
                cluster.nodes[node].send_signal(signal.SIGTERM)
                await asyncio.sleep(0.1)
                async with session.get(f"{cluster.url(node)}/readyz") as ready:
                    assert ready.status == 503
                rest = await reply.content.read()
            assert rest.endswith(b"data: [DONE]\n\n")
        assert await asyncio.to_thread(cluster.nodes[node].wait, 5) == 0
        assert (await cluster.booked(1))[0]["outcome"] == "ok"


async def test_one_redis_round_trip_before_the_upstream_call(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with CountingProxy(redis_url) as proxy, running(database_url, proxy.url, tmp_path, workers=0) as cluster:
        made = await cluster.new_key(rpm=1000, tpm=100_000, concurrent=5, budget_nano=10**12)
        async with client(cluster, key=made.key) as mine:
            await mine.chat(call(max_tokens=20))  # seeds the budget
            await asyncio.sleep(0.2)
            proxy.lane_commands.clear()
            before = proxy.lane_writes
            assert (await mine.chat(call(max_tokens=20)))[0] == 200
            await asyncio.sleep(0.2)
        assert [name for name in proxy.lane_commands if name == b"EVALSHA"] == [b"EVALSHA"] * 2
        assert proxy.lane_commands == [b"EVALSHA", b"EVALSHA", b"XADD"]
        assert proxy.lane_writes - before == 2  # one in, one out: settlement and event share it


async def test_no_secret_is_in_logs_redis_metrics_or_the_usage_log(database_url: str, redis_url: str, tmp_path: Path) -> None:
    canary = "canary-prompt-7f3a"
    async with running(database_url, redis_url, tmp_path) as cluster:
        made = await cluster.new_key(budget_nano=10**12, rpm=100)
        body = call(messages=[{"role": "user", "content": canary}], max_tokens=20)
        async with client(cluster, key=made.key) as mine:
            assert (await mine.chat(body))[0] == 200
            cluster.provider.fail("bad-key", times=1)
            await mine.chat(body)
            await mine.chat(raw=b'{"model": "' + made.key.encode())
        async with aiohttp.ClientSession() as session, session.get(f"{cluster.url()}/metrics") as reply:
            seen = await reply.read()
        await cluster.booked(2)
        await asyncio.sleep(0.5)  # the calls' log is written a few times a second
        async with Redis.from_url(redis_url) as redis:
            async for name in redis.scan_iter():
                seen += name + (await redis.dump(name) or b"")
        seen += cluster.log().encode()
        for path in (tmp_path / "usage-log").glob("*.wal"):
            seen += path.read_bytes()
        secret_part = made.key.split("_")[2].encode()
        for secret in (canary.encode(), CREDENTIAL.encode(), secret_part, cluster.secret.encode(), CREDENTIAL[3:15].encode()):
            assert secret not in seen
        assert re.search(rb'"request_id":"[0-9a-f-]{36}"', seen)


def test_every_redis_key_of_a_tenant_has_the_organisations_hash_tag() -> None:
    organisation = "org_x"
    made = [keys.reservations(organisation), keys.reservation_records(organisation), keys.estimate(organisation, "e"),
            keys.done(organisation, "e"), keys.budget(organisation, "b", "total")]  # fmt: skip
    assert all(b"{org_x}" in name for name in made)

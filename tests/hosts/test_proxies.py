"""Real nodes behind real proxies: calls leave as configured, and a proxy's password stays where it belongs."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest_asyncio
from redis.asyncio import Redis
from sqlalchemy import text

from services.cli.engines import free_port
from services.matrix.conversation import PNG
from services.worker.pull import Pulling
from shared.providers import registry
from shared.store.apply import apply_document
from shared.store.document import Document
from shared.upstream.credentials import Credentials
from shared.upstream.proxies import Proxies
from shared.upstream.session import Session
from tests.hosts.cluster import CREDENTIAL, Cluster, call, client, running
from tests.upstreams import HOLD, scripted
from tests.upstreams.proxies import Faults, Proxying, proxying

PASSWORD = "p@ss/canary-4711"
USER = "user-canary-0815"
SHAPES = (PASSWORD, quote(PASSWORD, safe=""), USER, b64encode(f"{USER}:{PASSWORD}".encode()).decode())


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[Proxying]:
    async with proxying("http", user=USER, password=PASSWORD) as made:
        yield made


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path, nodes=0) as started:
        node = started.start_node(
            WAYSTATION_LOG_LEVEL="debug",
            WAYSTATION_SIMULATOR_URL=started.provider.url,
            WAYSTATION_FETCH_PRIVATE_ADDRESSES="true",
        )
        await started.ready(node)
        yield started


async def put(cluster: Cluster, secret: str = "direct", **proxies: Any) -> None:
    made = Document.model_validate({"proxies": proxies})
    await apply_document(cluster.pool, cluster.vault, made, registry.load(), secret=lambda _: secret)
    await cluster.taken_in()


async def ask(cluster: Cluster, key: str | None = None, model: str = "lab/chat", **fields: Any) -> tuple[int, Any]:
    async with client(cluster, key=key) as one:
        status, _, body = await one.chat(call(model, max_tokens=20, **fields))
    return status, body


async def test_calls_and_streams_leave_by_the_connections_proxy(cluster: Cluster, proxy: Proxying) -> None:
    await put(cluster, proxy.url, connections={"lab": "env:P"})
    for stream in (False, True, False):
        status, body = await ask(cluster, stream=stream)
        assert status == 200, body
    assert (proxy.connections, len(cluster.provider.requests)) == (1, 3)
    assert proxy.targets == [f"127.0.0.1:{cluster.provider.port}"]
    assert cluster.provider.last.headers["authorization"] == f"Bearer {CREDENTIAL}"
    assert "proxy-authorization" not in cluster.provider.last.headers


async def test_a_keys_own_proxy_comes_first_and_direct_is_one(cluster: Cluster, proxy: Proxying) -> None:
    second = await cluster.new_key()
    async with proxying("socks5") as socks:
        await put(
            cluster, proxy.url,
            providers={"custom": "env:P"}, keys={cluster.key_id: "direct", second.id: socks.url}, **{"global": "http://127.0.0.1:9"},
        )  # fmt: skip
        assert (await ask(cluster))[0] == 200
        assert (proxy.connections, socks.connections) == (0, 0)
        assert (await ask(cluster, second.key))[0] == 200
        assert (proxy.connections, socks.connections) == (0, 1)
        await put(cluster, keys={cluster.key_id: None, second.id: None})
        assert (await ask(cluster))[0] == (await ask(cluster, second.key))[0] == 200
        assert (proxy.connections, socks.connections) == (1, 1)
        await put(cluster, providers={"custom": None})
        assert (await ask(cluster))[0] == 200
        assert (proxy.connections, len(cluster.provider.requests)) == (1, 5)


async def test_pictures_by_url_leave_by_the_keys_proxy_and_not_by_the_connections(cluster: Cluster, proxy: Proxying) -> None:
    picture = b64decode(PNG)
    reply = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n%b" % (len(picture), picture)
    async with scripted(reply) as site:
        content = [{"type": "image_url", "image_url": {"url": f"{site.origin}/a.png"}}]
        look: dict[str, Any] = {"model": "demo-gemini/chat", "messages": [{"role": "user", "content": content}]}
        await put(cluster, proxy.url, providers={"demo-gemini": "env:P"})
        assert (await ask(cluster, **look))[0] == 200
        assert proxy.targets == [f"127.0.0.1:{cluster.provider.port}"]
        await put(cluster, proxy.url, keys={cluster.key_id: "env:P"})
        assert (await ask(cluster, **look))[0] == 200
        assert proxy.targets[1:] == [f"127.0.0.1:{site.port}"]
        await put(cluster, f"http://127.0.0.1:{free_port()}", keys={cluster.key_id: "env:P"})
        status, said = await ask(cluster, **look)
        assert (status, "cannot be fetched: it cannot be reached from here." in said["error"]["message"]) == (400, True)


async def test_lists_of_models_are_pulled_through_the_proxy(cluster: Cluster, proxy: Proxying) -> None:
    await put(cluster, proxy.url, connections={"lab": "env:P"})
    session = Session()
    pulling = Pulling(cluster.pool, session, Credentials(cluster.vault), Proxies(cluster.vault))
    assert await pulling.everything() == 1
    assert proxy.targets == [f"127.0.0.1:{cluster.provider.port}"]
    await session.close()


async def test_the_environments_proxy_is_the_last_and_not_for_loopback(
    database_url: str, redis_url: str, tmp_path: Path, proxy: Proxying
) -> None:
    async with running(database_url, redis_url, tmp_path, nodes=0) as started, scripted(HOLD) as nobody:
        await started.ready(started.start_node(HTTP_PROXY=proxy.url, NO_PROXY="bypassed.invalid"))
        entry = {"provider": "custom", "connect_timeout_s": 5}
        await started.apply(
            connections=[
                entry | {"name": "out", "prefix": "out", "base_url": f"http://somewhere.invalid:{nobody.port}"},
                entry | {"name": "by", "prefix": "by", "base_url": f"http://bypassed.invalid:{nobody.port}"},
            ]
        )
        assert (await ask(started))[0] == 200
        assert proxy.connections == 0
        assert (await ask(started, model="out/chat"))[0] == 502
        assert proxy.targets == [f"somewhere.invalid:{nobody.port}"]
        assert (await ask(started, model="by/chat"))[0] == 502
        assert proxy.connections == 1


async def test_a_node_with_an_unusable_proxy_in_its_environment_says_so_and_does_not_start(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with running(database_url, redis_url, tmp_path, nodes=0) as started:
        node = started.start_node(HTTPS_PROXY=f"socks4://{USER}:{PASSWORD}@127.0.0.1:9")
        assert started.nodes[node].wait(30) != 0
        assert "HTTPS_PROXY: the URL must" in started.log()
        assert "canary" not in started.log()


async def test_a_proxys_password_is_in_no_log_reply_store_or_list(cluster: Cluster, proxy: Proxying) -> None:
    """With a proxy that works, that refuses, that is away, that talks nonsense and that dies."""
    said: list[str] = []
    await put(cluster, proxy.url, connections={"lab": "env:P"})
    for fault in (Faults(), Faults(answer=b"HTTP/1.1 403 No\r\n\r\n"), Faults(answer=b"?"), Faults(dies_after=0)):
        proxy.faults = fault
        for stream in (False, True):
            proxy.hang_up()
            said.append(str(await ask(cluster, stream=stream)))
    proxy.faults, proxy.password = Faults(), "another"
    proxy.hang_up()
    wrong = f"http://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1"
    for url in (f"{wrong}:{proxy.port}", f"{wrong}:{free_port()}", wrong.replace("http:", "https:") + f":{proxy.port}"):
        await put(cluster, url, connections={"lab": "env:P"})
        said.append(str(await ask(cluster)))
    assert [text[:5] for text in said[:2]] == ["(200,"] * 2
    assert [text[:5] for text in said[2:]] == ["(502,"] * 9
    await cluster.booked(11)
    async with aiohttp.ClientSession() as session, session.get(f"{cluster.url()}/metrics") as reply:
        said.append(await reply.text())
    assert f"proxy 127.0.0.1:{proxy.port}" in cluster.log()  # errors name the proxy, and are looked at
    places = {"replies and metrics": "\n".join(said), "logs": cluster.log()}
    places |= {"Redis": await everything_in_redis(cluster.redis_url), "Postgres": await everything_in_postgres(cluster)}
    log_files = [path.read_bytes().decode("latin-1") for path in cluster.directory.rglob("*") if path.is_file()]
    places["files"] = "\n".join(log_files)
    for place, content in places.items():
        assert len(content) > 100, place
        for shape in SHAPES:
            assert shape not in content, place


async def everything_in_redis(url: str) -> str:
    redis = Redis.from_url(url)
    found = []
    try:
        async for key in redis.scan_iter(count=1000):
            match await redis.type(key):
                case b"string":
                    value: Any = await redis.get(key)
                case b"hash":
                    value = await redis.hgetall(key)
                case b"stream":
                    value = await redis.xrange(key)
                case b"zset":
                    value = await redis.zrange(key, 0, -1)
                case b"set":
                    value = await redis.smembers(key)
                case _:
                    value = await redis.lrange(key, 0, -1)
            found.append(f"{key!r}: {value!r}")
    finally:
        await redis.aclose()
    return "\n".join(found)


async def everything_in_postgres(cluster: Cluster) -> str:
    async with cluster.pool.connect() as connection:
        tables = (await connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))).scalars().all()
        rows = [(await connection.execute(text(f'SELECT t::text FROM "{name}" t'))).scalars().all() for name in tables]
    return json.dumps(rows)

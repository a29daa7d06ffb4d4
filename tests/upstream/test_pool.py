"""Connections: kept, used again, given up, never leaked."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared.upstream import channel, pool
from shared.upstream.reply import Reply
from shared.upstream.session import Session
from shared.upstream.transport import NothingSent, ReplyCut, SentNoReply, UpstreamResponse
from tests.upstream.conftest import NO_TLS
from tests.upstream.sending import LIMIT, OK, everything, post
from tests.upstreams import CLOSE, HOLD, RESET, scripted

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
Turn = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


@asynccontextmanager
async def serving(turn: Turn) -> AsyncIterator[str]:
    """A server whose every connection is one call of `turn`, which is told the connection's number, from 0."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        number = len(tasks)
        tasks.add(task)
        try:
            await turn(reader, writer, number)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=2048)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def a_request(reader: asyncio.StreamReader) -> None:
    """Read one request of `post`: its body is two bytes."""
    await reader.readuntil(b"\r\n\r\n{}")


async def read(session: Session, url: str) -> bytes:
    response = await session.send(post(url))
    return await response.read(LIMIT)


async def test_calls_in_turn_share_one_connection(session: Session) -> None:
    async with scripted(OK) as provider:
        for _ in range(5):
            assert await read(session, provider.url) == b"ok"
        assert (provider.connections, session.sockets) == (1, 1)


async def test_calls_at_once_have_a_connection_each(session: Session) -> None:
    async with scripted(0.05, OK) as provider:
        assert await asyncio.gather(*(read(session, provider.url) for _ in range(5))) == [b"ok"] * 5
        assert provider.connections == 5


async def test_a_reply_that_came_whole_frees_its_connection_before_it_is_read(session: Session) -> None:
    async with scripted(OK) as provider:
        first = await session.send(post(provider.url))
        assert await read(session, provider.url) == b"ok"
        assert await first.read(LIMIT) == b"ok"
        assert provider.connections == 1


async def test_origins_do_not_share_connections(session: Session) -> None:
    async with scripted(OK) as one, scripted(OK) as other:
        await asyncio.gather(read(session, one.url), read(session, other.url))
        assert (one.connections, other.connections) == (1, 1)


async def test_connection_close_is_obeyed(session: Session) -> None:
    async with scripted(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok") as provider:
        assert [await read(session, provider.url) for _ in range(2)] == [b"ok"] * 2
        assert provider.connections == 2


@pytest.mark.parametrize("stray", [OK, b"HTTP/1.1 200 OK\r\nconten", b"xyz"])
@pytest.mark.parametrize("pause_s", [None, 0.02])
async def test_bytes_that_nobody_asked_for_are_never_the_next_reply(
    stray: bytes, pause_s: float | None, session: Session
) -> None:
    steps = (OK + stray,) if pause_s is None else (OK, pause_s, stray)
    async with scripted(*steps) as provider:
        assert await read(session, provider.url) == b"ok"
        await asyncio.sleep(0.05)
        assert session.sockets == 0
        assert await read(session, provider.url) == b"ok"
        assert provider.connections == 2


# -- stale connections


async def test_a_connection_closed_while_idle_is_not_picked(session: Session) -> None:
    async with scripted(OK, 0.01, CLOSE) as provider:
        for _ in range(3):
            assert await read(session, provider.url) == b"ok"
            await asyncio.sleep(0.03)
            assert session.sockets == 0
        assert len(provider.requests) == 3


@pytest.mark.parametrize("reset", [False, True])
async def test_a_kept_connection_that_dies_under_a_request_is_replaced_once(reset: bool, session: Session) -> None:
    """The provider closes just as the request arrives: the race that no client can avoid."""
    seen: list[int] = []

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        while True:
            await a_request(reader)
            seen.append(number)
            if seen == [0, 0]:
                if reset:
                    writer.transport.abort()
                return
            writer.write(OK)

    async with serving(turn) as url:
        assert [await read(session, url) for _ in range(3)] == [b"ok"] * 3
    assert seen == [0, 0, 1, 1]


async def test_the_second_try_is_the_last(session: Session) -> None:
    seen: list[int] = []

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await a_request(reader)
        seen.append(number)
        if number == 0:
            writer.write(OK)
            await a_request(reader)
            seen.append(number)

    async with serving(turn) as url:
        await read(session, url)
        with pytest.raises(SentNoReply):
            await session.send(post(url))
    assert seen == [0, 0, 1]


async def test_a_new_connection_that_dies_is_not_tried_again(session: Session) -> None:
    async with scripted(CLOSE) as provider:
        with pytest.raises(SentNoReply):
            await session.send(post(provider.url))
        assert len(provider.requests) == 1


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_reply_that_began_is_not_asked_for_again(begun: bytes, session: Session) -> None:
    seen = 0

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        nonlocal seen
        await a_request(reader)
        seen += 1
        writer.write(OK)
        await a_request(reader)
        seen += 1
        writer.write(begun)
        await asyncio.sleep(0.02)

    async with serving(turn) as url:
        await read(session, url)
        with pytest.raises(SentNoReply):
            await session.send(post(url))
    assert seen == 2


async def test_a_provider_that_took_its_time_and_died_may_have_worked_and_is_not_asked_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "STALE_WITHIN_S", 0.05)
    seen = 0

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        nonlocal seen
        for pause_s, answer in ((0.0, OK), (0.1, b"")):
            await a_request(reader)
            seen += 1
            await asyncio.sleep(pause_s)
            writer.write(answer)

    async with serving(turn) as url:
        await read(session, url)
        with pytest.raises(SentNoReply):
            await session.send(post(url))
    assert seen == 2


# -- limits of time and number


async def test_an_idle_connection_is_closed_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SLOW_SWEEP_S", 0.1)
    session = Session(keepalive_s=0.2, tls=NO_TLS)
    async with scripted(OK) as provider:
        await read(session, provider.url)
        await asyncio.sleep(0.1)
        assert session.sockets == 1
        await asyncio.sleep(0.25)
        assert session.sockets == 0
    await session.close()


async def test_a_connection_past_its_time_is_not_picked() -> None:
    session = Session(keepalive_s=0.05, tls=NO_TLS)
    async with scripted(OK) as provider:
        await read(session, provider.url)
        await asyncio.sleep(0.1)
        await read(session, provider.url)
        assert provider.connections == 2
    await session.close()


@pytest.mark.parametrize(("hint", "connections"), [("timeout=1", 2), ("max=9, timeout=60", 1), ("timeout=x", 1)])
async def test_a_provider_may_say_how_long_it_keeps_a_connection(hint: str, connections: int, session: Session) -> None:
    async with scripted(OK.replace(b"\r\n\r\n", f"\r\nKeep-Alive: {hint}\r\n\r\n".encode())) as provider:
        for _ in range(2):
            await read(session, provider.url)
        assert provider.connections == connections


async def test_a_cap_makes_calls_wait_their_turn() -> None:
    session = Session(connections_per_origin=2, tls=NO_TLS)
    async with scripted(0.02, OK) as provider:
        started = time.monotonic()
        assert await asyncio.gather(*(read(session, provider.url) for _ in range(8))) == [b"ok"] * 8
        assert provider.connections == 2
        assert time.monotonic() - started > 0.07
    await session.close()


async def test_a_call_whose_turn_never_comes_has_sent_nothing() -> None:
    session = Session(connections_per_origin=1, tls=NO_TLS)
    async with scripted(CHUNKED + b"1\r\nx\r\n", HOLD) as provider:
        held = await session.send(post(provider.url))
        with pytest.raises(NothingSent, match="all 1 connections"):
            await session.send(post(provider.url, connect_timeout_s=0.1))
        waiting = asyncio.create_task(session.send(post(provider.url)))
        await asyncio.sleep(0.02)
        held.close()  # frees the place, and the one who waits gets it
        (await waiting).close()
        assert provider.connections == 2
    await session.close()


async def test_who_stops_waiting_takes_nobodys_turn() -> None:
    session = Session(connections_per_origin=1, tls=NO_TLS)
    async with scripted(0.05, OK) as provider:
        first = asyncio.create_task(read(session, provider.url))
        await asyncio.sleep(0.01)
        gone, patient = (asyncio.create_task(read(session, provider.url)) for _ in range(2))
        await asyncio.sleep(0.01)
        gone.cancel()
        assert await asyncio.wait_for(first, 1) == await asyncio.wait_for(patient, 1) == b"ok"
    await session.close()


async def test_a_cap_frees_the_place_of_a_connection_that_could_not_be_made() -> None:
    session = Session(connections_per_origin=1, tls=NO_TLS)
    async with scripted(OK) as provider:
        pass
    for _ in range(3):
        with pytest.raises(NothingSent):
            await session.send(post(provider.url, connect_timeout_s=0.5))
    await session.close()


# -- leaving


@pytest.mark.parametrize("how", ["close", "cancel the send", "cancel the read"])
async def test_a_call_given_up_closes_its_socket_at_once(how: str, session: Session) -> None:
    gone = asyncio.Event()

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await a_request(reader)
        if how != "cancel the send":
            writer.write(CHUNKED + b"5\r\nhello\r\n")
        assert await reader.read() == b""
        gone.set()

    async with serving(turn) as url:
        if how == "cancel the send":
            task: asyncio.Task[object] = asyncio.create_task(session.send(post(url)))
        else:
            response = await session.send(post(url))
            task = asyncio.create_task(everything(response))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if how != "cancel the send":
            response.close()
            response.close()
        await asyncio.wait_for(gone.wait(), 1)
        assert time.monotonic() - started < 0.25
    assert session.sockets == 0


async def test_who_gives_up_in_the_turn_that_its_reply_came_harms_not_the_next_on_that_connection(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted(0.02, OK) as provider:
        release = pool.Pool.release
        heads: list[asyncio.Future[Reply]] = []

        def release_and_take_again(self: pool.Pool, channel: channel.Channel, headers: Mapping[str, str]) -> None:
            release(self, channel, headers)
            if not heads:
                first.cancel()
                taken = self._take()
                assert taken is channel
                heads.append(taken.begin(post(provider.url)))

        monkeypatch.setattr(pool.Pool, "release", release_and_take_again)
        first = asyncio.create_task(session.send(post(provider.url)))
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await (await heads[0]).read(LIMIT) == b"ok"
        assert provider.connections == 1


async def test_a_send_cancelled_while_it_connects_leaves_no_socket(session: Session) -> None:
    async with scripted(HOLD) as provider:
        for turns in range(6):
            task = asyncio.create_task(session.send(post(provider.url)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert session.sockets == 0


async def test_closing_the_session_ends_every_call(session: Session) -> None:
    async with scripted(CHUNKED + b"1\r\nx\r\n", HOLD) as provider, scripted(HOLD) as silent:
        response = await session.send(post(provider.url))
        waiting = asyncio.create_task(session.send(post(silent.url)))
        await asyncio.sleep(0.02)
        await session.close()
        assert session.sockets == 0
        assert await anext(aiter(response)) == b"x"
        with pytest.raises(ReplyCut):
            await anext(aiter(response))
        with pytest.raises(SentNoReply):
            await waiting
        with pytest.raises(NothingSent):
            await session.send(post(provider.url))


# -- many


def descriptors() -> int:
    folder = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")
    return len(os.listdir(folder))


async def test_a_thousand_streams_run_at_once_and_leave_nothing(session: Session) -> None:
    began = asyncio.Event()
    open_now = most = 0

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        nonlocal open_now, most
        await a_request(reader)
        open_now += 1
        most = max(most, open_now)
        writer.write(CHUNKED + b"5\r\nhello\r\n")
        await began.wait()
        writer.write(b"6\r\n world\r\n0\r\n\r\n")
        open_now -= 1
        await reader.read()

    before = descriptors()
    async with serving(turn) as url:

        async def first(_: int) -> UpstreamResponse:
            response = await session.send(post(url))
            assert await anext(aiter(response)) == b"hello"
            return response

        responses = await asyncio.gather(*map(first, range(1000)))
        assert most == 1000
        began.set()
        assert await asyncio.gather(*map(everything, responses)) == [b" world"] * 1000
        assert session.sockets == 1000
        await session.close()
    await asyncio.sleep(0.05)
    assert descriptors() <= before + 2


@pytest.mark.parametrize("ending", [CLOSE, RESET, HOLD])
async def test_however_calls_end_no_socket_stays(ending: object, session: Session) -> None:
    async with scripted(CHUNKED + b"1\r\nx\r\n", ending) as provider:  # type: ignore[arg-type]
        responses = await asyncio.gather(*(session.send(post(provider.url)) for _ in range(20)))
        for response in responses:
            response.close()
        await asyncio.sleep(0.05)
        assert session.sockets == 0

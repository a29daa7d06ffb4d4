"""From a name's addresses to one open connection."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shared.upstream import dial
from shared.upstream.session import Session
from shared.upstream.transport import NothingSent
from tests.upstream.sending import LIMIT, OK, post, resolving
from tests.upstreams import RESET, scripted


def refusing() -> tuple[Any, ...]:
    """An address where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return tuple(unused.getsockname())


@contextmanager
def silent() -> Iterator[tuple[Any, ...]]:
    """An address that answers no connection: its backlog is full, and the kernel drops what comes."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        time.sleep(0.02)
        yield tuple(deaf.getsockname())
        for filler in fillers:
            filler.close()


async def test_an_address_that_refuses_is_followed_by_the_next_at_once(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted(OK) as provider:
        resolving(monkeypatch, refusing(), refusing(), ("127.0.0.1", provider.port))
        started = time.monotonic()
        assert await (await session.send(post(provider.url))).read(LIMIT) == b"ok"
        assert time.monotonic() - started < 0.2


async def test_an_address_that_is_silent_does_not_hold_up_the_next_and_goes_last_from_then_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "NEXT_ADDRESS_AFTER_S", 0.1)
    async with scripted(OK) as provider:
        with silent() as address:
            resolving(monkeypatch, address, ("127.0.0.1", provider.port))
            took = []
            for _ in range(2):
                started = time.monotonic()
                await session.send(post(provider.url))
                took.append(time.monotonic() - started)
                next(iter(session._pools.values()))._idle[0].abort()
        assert took[0] > 0.09
        assert took[1] < 0.09
        await asyncio.sleep(0.02)
        assert session.sockets == 0


async def test_when_all_addresses_fail_a_failure_is_told(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, refusing(), refusing())
    with pytest.raises(NothingSent, match="connection refused"):
        await session.send(post("http://name.example/"))


async def test_a_name_without_addresses_is_told(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch)
    with pytest.raises(NothingSent, match="no address"):
        await session.send(post("http://name.example/"))


async def test_a_burst_asks_for_the_addresses_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(0.01, OK) as provider:
        look_ups = resolving(monkeypatch, ("127.0.0.1", provider.port))
        await asyncio.gather(*(session.send(post(provider.url)) for _ in range(10)))
        assert (look_ups, provider.connections) == (["asked"], 10)


async def test_who_gives_up_does_not_end_the_look_up_for_others(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(OK) as provider:
        look_ups = resolving(monkeypatch, ("127.0.0.1", provider.port))
        gone, patient = (asyncio.create_task(session.send(post(provider.url))) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await patient).status == 200
        assert (gone.cancelled(), look_ups) == (True, ["asked"])


async def test_addresses_are_asked_for_again_when_none_of_them_answered(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_ups = resolving(monkeypatch, refusing())
    for _ in range(2):
        with pytest.raises(NothingSent):
            await session.send(post("http://name.example/"))
    assert len(look_ups) == 2


@pytest.mark.parametrize("first", [b"220 smtp.example ESMTP\r\n", b"", None])
async def test_a_server_that_speaks_or_leaves_before_it_is_asked_harms_nobody(first: bytes | None, session: Session) -> None:
    """With b"" it closes at once, with None it resets."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if first is None:
            linger = b"\1\0\0\0\0\0\0\0"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif first:
            writer.write(first)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server, scripted(OK) as provider:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        outcomes = await asyncio.gather(
            *(session.send(post(url)) for _ in range(50)),
            *(session.send(post(provider.url)) for _ in range(50)),
            return_exceptions=True,
        )
        assert all(isinstance(outcome, Exception) for outcome in outcomes[:50])
        assert not any(isinstance(outcome, BaseException) for outcome in outcomes[50:])


async def test_a_connection_reset_in_its_first_moment_is_replaced_by_nothing(session: Session) -> None:
    async with scripted(RESET) as provider:
        results = await asyncio.gather(*(session.send(post(provider.url)) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(result, Exception) for result in results)
        assert len(provider.requests) == 5

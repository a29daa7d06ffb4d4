"""A client's connection: answers byte for byte, one request after another, and clients that go or do not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from services.ingress.answer import StreamAnswer, WholeAnswer
from services.ingress.connection import Handler, Listener

Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def served(handler: Handler, **options: Any) -> AsyncIterator[Callable[[], Awaitable[Link]]]:
    """Options are the Listener's."""
    listener = Listener(handler, **{"header_timeout_s": 5, **options})
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield lambda: asyncio.open_connection("127.0.0.1", port)
    finally:
        server.close()
        await listener.shutdown(1)


def get(path: str, version: str = "1.1", *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: a", *lines, "", ""]).encode()


async def told(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next answer: its head without the date, and its body as it travels."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Date: ")]
    if b"Transfer-Encoding: chunked" in lines:
        return b"\n".join(lines), await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
    sizes = [int(line.split()[1]) for line in lines if line.startswith(b"Content-Length")]
    return b"\n".join(lines), await asyncio.wait_for(reader.readexactly(sizes[0]) if sizes else reader.read(), 10)


async def both(request: web.BaseRequest) -> web.StreamResponse:
    """A whole answer, or at /stream one in two pieces."""
    if request.path != "/stream":
        return WholeAnswer(request, {"X-Path": request.path}, b"whole")  # type: ignore[return-value]
    answer = StreamAnswer(request, {"Content-Type": "text/plain"}, close=False)
    await answer.write(b"one")
    await answer.write(b"second")
    return answer  # type: ignore[return-value]


async def test_answers_are_framed_for_the_clients_version_and_the_connection_is_kept() -> None:
    async with served(both) as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(get("/stream"))
            head, body = await told(reader)
            assert head == b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Type: text/plain\n\n"
            assert body == b"3\r\none\r\n6\r\nsecond\r\n0\r\n\r\n"
            writer.write(get("/a"))
            assert await told(reader) == (b"HTTP/1.1 200 OK\nContent-Length: 5\nX-Path: /a\n\n", b"whole")
        writer.write(get("/b", "1.1", "Connection: close"))
        assert b"Connection: close" in (await told(reader))[0]
        assert await reader.read() == b""
        writer.close()

        reader, writer = await connect()
        writer.write(get("/c", "1.0", "Connection: keep-alive"))
        assert b"Connection: keep-alive" in (await told(reader))[0]
        writer.write(get("/stream", "1.0", "Connection: keep-alive"))
        head, body = await told(reader)
        assert head == b"HTTP/1.0 200 OK\nContent-Type: text/plain\nConnection: close\n\n"
        assert body == b"onesecond"
        writer.close()


async def test_requests_that_came_together_are_answered_in_their_order() -> None:
    async with served(both) as connect:
        reader, writer = await connect()
        writer.write(get("/1") + get("/stream") + get("/3"))
        assert b"X-Path: /1" in (await told(reader))[0]
        assert (await told(reader))[1].endswith(b"second\r\n0\r\n\r\n")
        assert b"X-Path: /3" in (await told(reader))[0]
        writer.close()


async def test_a_body_that_nobody_wanted_is_read_away_so_that_the_next_request_is_understood() -> None:
    async with served(both) as connect:
        reader, writer = await connect()
        writer.write(b"POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        assert b"X-Path: /first" in (await told(reader))[0]
        writer.write(b"67890" + get("/second"))
        assert b"X-Path: /second" in (await told(reader))[0]
        writer.close()


async def test_a_stream_waits_for_a_client_that_does_not_read_and_ends_with_one_that_goes() -> None:
    written: list[int] = []
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        answer = StreamAnswer(request, {}, close=False)
        try:
            while True:
                await answer.write(b"x" * 65536)
                written.append(65536)
        except BaseException as error:
            ended.set_result(error)
            raise

    async with served(endless) as connect:
        reader, writer = await connect()
        writer.write(get("/"))
        await reader.readexactly(1000)
        seen = -1
        while seen != len(written):  # until it waits
            seen = len(written)
            await asyncio.sleep(0.5)
        assert sum(written) < 64 * 1024 * 1024
        await reader.readexactly(sum(written))
        await asyncio.sleep(0.2)
        assert len(written) > seen
        writer.transport.abort()
        assert isinstance(await asyncio.wait_for(ended, 10), asyncio.CancelledError | ConnectionError)

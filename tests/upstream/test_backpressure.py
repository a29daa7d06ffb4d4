from __future__ import annotations

import asyncio

import pytest

from shared.upstream.reply import BUFFER_BYTES
from shared.upstream.session import Session
from tests.upstream.sending import LIMIT, everything, post
from tests.upstream.test_pool import a_request, serving

MANY = 16 * 1024 * 1024


async def a_flood(writer: asyncio.StreamWriter, sent: list[int]) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % MANY)
    for _ in range(MANY // 65536):
        writer.write(b"x" * 65536)
        await writer.drain()
        sent[0] += 65536


async def test_a_slow_reader_slows_the_provider_and_holds_little(session: Session) -> None:
    sent = [0]

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await a_request(reader)
        await a_flood(writer, sent)

    async with serving(turn) as url:
        response = await session.send(post(url, idle_timeout_s=0.15))
        await asyncio.sleep(0.4)  # longer than the deadline of silence: it is we who do not read
        assert sent[0] < MANY
        first = await anext(aiter(response))
        assert len(first) <= 3 * BUFFER_BYTES
        assert len(first) + len(await everything(response)) == MANY
        assert sent[0] == MANY


async def test_a_whole_reply_flows_through_the_same_small_buffer(session: Session) -> None:
    sent = [0]

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await a_request(reader)
        await a_flood(writer, sent)
        await a_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with serving(turn) as url:
        response = await session.send(post(url))
        await asyncio.sleep(0.1)
        assert len(await response.read(LIMIT)) == MANY
        assert await (await session.send(post(url))).read(LIMIT) == b"ok"
        assert session.sockets == 1


async def test_a_reply_has_one_reader(session: Session) -> None:
    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await a_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
        await reader.read()

    async with serving(turn) as url:
        response = await session.send(post(url))
        reading = asyncio.create_task(response.read(LIMIT))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await response.read(LIMIT)
        response.close()
        await asyncio.gather(reading, return_exceptions=True)

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.upstreams import CLOSE, HOLD, RESET, scripted

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def test_the_bytes_are_played_for_every_request_of_a_kept_connection() -> None:
    async with scripted(OK) as provider, aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(provider.url, data=b"hello") as reply:
                assert await reply.read() == b"ok"
    assert provider.connections == 1
    assert [request.endswith(b"\r\n\r\nhello") for request in provider.requests] == [True, True]


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_an_ending_breaks_the_reply_where_it_stands(end: object) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"
    async with scripted(head, 0.01, end) as provider, aiohttp.ClientSession() as session:  # type: ignore[arg-type]
        reply = await session.post(provider.url, data=b"")
        with pytest.raises((aiohttp.ClientPayloadError, ConnectionError)):
            await reply.read()


async def test_a_held_request_is_noticed_when_its_client_goes() -> None:
    async with scripted(HOLD) as provider, aiohttp.ClientSession() as session:
        with pytest.raises(asyncio.TimeoutError):
            await session.post(provider.url, data=b"", timeout=aiohttp.ClientTimeout(total=0.05))
        await asyncio.sleep(0.05)
        assert provider.clients_gone == 1

"""Replies that come compressed although nobody asked."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib

import pytest

from shared.upstream.session import Session
from shared.upstream.transport import MalformedResponse, ReplyCut, ReplyTooLarge
from tests.upstream.sending import LIMIT, everything, post, request
from tests.upstreams import CLOSE, scripted

TEXT = random.Random(7).randbytes(300_000).hex().encode()  # compresses to about a half


def reply(coding: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        pytest.param("gzip", gzip.compress(TEXT), id="gzip"),
        pytest.param("X-Gzip", gzip.compress(TEXT), id="x-gzip"),
        pytest.param("deflate", zlib.compress(TEXT), id="deflate"),
        pytest.param("identity", TEXT, id="identity"),
    ],
)
async def test_a_compressed_reply_is_opened(coding: str, body: bytes, session: Session) -> None:
    async with scripted(reply(coding, body)) as provider:
        assert await (await session.send(post(provider.url))).read(LIMIT) == TEXT
        response = await session.send(post(provider.url))
        assert await everything(response) == TEXT
        assert (response.status, response.headers["content-encoding"]) == (200, coding)
        assert provider.connections == 1


async def test_a_compressed_stream_is_opened_as_it_comes(session: Session) -> None:
    packer = zlib.compressobj(wbits=31)
    pieces = [packer.compress(b"data: %d\n\n" % number) + packer.flush(zlib.Z_SYNC_FLUSH) for number in range(3)]
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n"
    async with scripted(head, *[step for piece in pieces for step in (piece, 0.02)], packer.flush(), CLOSE) as provider:
        response = await session.send(post(provider.url))
        assert [piece async for piece in response] == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]


async def test_a_bomb_swells_no_more_than_its_reader_lets_it(session: Session) -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024), 9)
    async with scripted(reply("gzip", bomb)) as provider:
        response = await session.send(post(provider.url))
        tracemalloc.start()
        try:
            with pytest.raises(ReplyTooLarge):
                await response.read(1024 * 1024)
            assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress", "x" * 500])
async def test_a_coding_that_nobody_asked_for_and_we_lack_is_malformed(coding: str, session: Session) -> None:
    async with scripted(reply(coding, b"???")) as provider:
        with pytest.raises(MalformedResponse, match="not asked for"):
            await session.send(post(provider.url))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"not gzip at all", id="no gzip"),
        pytest.param(gzip.compress(TEXT)[:20] + b"x" * 20, id="damaged"),
        pytest.param(gzip.compress(b"a") + b"more", id="goes on"),
        pytest.param(gzip.compress(b"a")[:-1], id="cut"),
    ],
)
async def test_a_reply_that_cannot_be_opened_is_an_error(body: bytes, session: Session) -> None:
    async with scripted(reply("gzip", body)) as provider:
        response = await session.send(post(provider.url))
        with pytest.raises((MalformedResponse, ReplyCut)):
            await response.read(LIMIT)


async def test_a_reply_without_body_needs_no_opening(session: Session) -> None:
    async with scripted(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 99\r\n\r\n") as provider:
        assert await (await session.send(request("HEAD", provider.url))).read(LIMIT) == b""

"""What can go wrong, and which error says so."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from shared.upstream.session import Session
from shared.upstream.transport import (
    FirstByteTimeout,
    IdleTimeout,
    MalformedResponse,
    NothingSent,
    ReplyCut,
    ReplyTooLarge,
    SentNoReply,
    TransportError,
)
from tests.upstream.sending import LIMIT, OK, everything, post
from tests.upstreams import CLOSE, HOLD, RESET, scripted

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


async def failure(session: Session, url: str, **timeouts: Any) -> TransportError:
    """How a call that must fail does, wherever it does."""
    try:
        response = await session.send(post(url, **timeouts))
        await response.read(LIMIT)
    except TransportError as error:
        return error
    pytest.fail("the call did not fail")


async def test_nobody_listening_means_nothing_was_sent(session: Session) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = await failure(session, f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
    assert isinstance(error, NothingSent)
    assert "connection refused" in str(error)


async def test_a_name_without_address_means_nothing_was_sent(session: Session) -> None:
    error = await failure(session, "http://nowhere.invalid/v1", connect_timeout_s=5.0)
    assert isinstance(error, NothingSent)


async def test_a_connect_that_hangs_ends_at_its_deadline(session: Session) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:  # the kernel drops what does not fit into the backlog
                filler.setblocking(False)
                filler.connect_ex(deaf.getsockname())
            await asyncio.sleep(0.05)
            started = time.monotonic()
            error = await failure(session, f"http://127.0.0.1:{deaf.getsockname()[1]}/", connect_timeout_s=0.2)
        finally:
            for filler in fillers:
                filler.close()
    assert isinstance(error, NothingSent)
    assert time.monotonic() - started == pytest.approx(0.2, abs=0.15)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param((HOLD,), FirstByteTimeout, id="no answer"),
        pytest.param((b"HTTP/1.1 20", HOLD), FirstByteTimeout, id="half a status line"),
        pytest.param((b"HTTP/1.1 100 Continue\r\n\r\n", HOLD), FirstByteTimeout, id="only 1xx"),
        pytest.param((CHUNKED, HOLD), FirstByteTimeout, id="a head and no body"),
        pytest.param((CHUNKED + b"5\r\nhello\r\n", HOLD), IdleTimeout, id="a stall"),
    ],
)
async def test_silence_ends_at_its_deadline(steps: tuple[bytes], expected: type[TransportError], session: Session) -> None:
    async with scripted(*steps) as provider:
        started = time.monotonic()
        error = await failure(session, provider.url, first_byte_timeout_s=0.15, idle_timeout_s=0.15)
        assert type(error) is expected
        assert 0.14 < time.monotonic() - started < 0.45
        await asyncio.sleep(0.02)
        assert provider.clients_gone == 1


async def test_a_head_that_drips_does_not_move_its_deadline(session: Session) -> None:
    drip = [step for byte in HEAD * 100 for step in (bytes([byte]), 0.02)]
    async with scripted(*drip) as provider:
        assert isinstance(await failure(session, provider.url, first_byte_timeout_s=0.15), FirstByteTimeout)


async def test_a_reply_slower_than_the_deadline_of_silence_is_no_silence(session: Session) -> None:
    drip = [step for _ in range(8) for step in (0.06, b"1\r\nx\r\n")]
    async with scripted(CHUNKED, *drip, b"0\r\n\r\n") as provider:
        response = await session.send(post(provider.url, first_byte_timeout_s=0.2, idle_timeout_s=0.2))
        assert await everything(response) == b"x" * 8


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (b"", SentNoReply),
        (b"HTTP/1.1 200 OK\r\ncontent-", SentNoReply),
        (HEAD + b"content-length: 100\r\n\r\nonly this", ReplyCut),
        (CHUNKED + b"5\r\nhello\r\n", ReplyCut),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", ReplyCut),
    ],
)
async def test_an_early_end_says_how_far_the_reply_was(
    before: bytes, expected: type[TransportError], end: object, session: Session
) -> None:
    async with scripted(before, 0.02, end) as provider:  # type: ignore[arg-type]
        assert type(await failure(session, provider.url)) is expected
        assert len(provider.requests) == 1


async def test_a_reset_cuts_a_reply_that_ends_with_its_connection(session: Session) -> None:
    async with scripted(HEAD + b"\r\nhello", 0.02, RESET) as provider:
        assert isinstance(await failure(session, provider.url), ReplyCut)


async def test_what_came_before_a_cut_can_be_read(session: Session) -> None:
    async with scripted(CHUNKED + b"5\r\nhello\r\n", 0.02, CLOSE) as provider:
        response = await session.send(post(provider.url))
        await asyncio.sleep(0.1)
        assert await anext(aiter(response)) == b"hello"
        with pytest.raises(ReplyCut):
            await anext(aiter(response))


MALFORMED = {
    "html": b"<html><body>Bad gateway</body></html>",
    "length and chunked": HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "chunked and length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "two lengths": HEAD + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "negative length": HEAD + b"content-length: -3\r\n\r\nabc",
    "signed length": HEAD + b"content-length: +3\r\n\r\nabc",
    "length of words": HEAD + b"content-length: three\r\n\r\nabc",
    "endless length": HEAD + b"content-length: 99999999999999999999999\r\n\r\nabc",
    "bad chunk size": CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n",
    "endless chunk size": CHUNKED + b"fffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "chunk too long": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "chunk with bare lf": CHUNKED + b"3\nabc\n0\n\n",
    "other coding": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "identity coding": HEAD + b"transfer-encoding: identity\r\n\r\nabc",
    "two codings": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded header": HEAD + b"x: a\r\n b\r\ncontent-length: 1\r\n\r\na",
    "bare lf": b"HTTP/1.1 200 OK\ncontent-length: 1\n\na",
    "header name with blank": HEAD + b"bad name: x\r\ncontent-length: 1\r\n\r\na",
    "nul in header": HEAD + b"x: a\0b\r\ncontent-length: 1\r\n\r\na",
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
    "101 alone": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "100 with length": b"HTTP/1.1 100 Continue\r\ncontent-length: 3\r\n\r\nabc" + OK,
    "status 0": b"HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 OK\r\ncontent-length: 0\r\n\r\n",
    "http/3": b"HTTP/3.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "one header bomb": HEAD + b"x: " + b"a" * 200_000 + b"\r\n\r\n",
    "many headers bomb": HEAD + b"".join(b"x-%d: y\r\n" % number for number in range(20_000)) + b"\r\n",
    "1xx bomb": b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
    "trailer bomb": CHUNKED + b"1\r\na\r\n0\r\nx: " + b"a" * 1_000_000,
    "chunk extension bomb": CHUNKED + b"1;x=" + b"a" * 1_000_000,
    "blank lines bomb": b"\r\n" * 200_000,
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_reply_is_an_error_and_its_connection_is_closed(name: str, session: Session) -> None:
    async with scripted(MALFORMED[name], HOLD) as provider:
        assert type(await failure(session, provider.url, first_byte_timeout_s=5.0)) is MalformedResponse
        await asyncio.sleep(0.02)
        assert (session.sockets, len(provider.requests)) == (0, 1)


@pytest.mark.parametrize("name", ["html", "bad chunk size", "two lengths", "other coding", "trailer bomb"])
async def test_a_malformed_reply_is_one_wherever_it_is_split(name: str, session: Session) -> None:
    raw = MALFORMED[name]
    for cut in range(1, min(len(raw), 80)):
        async with scripted(raw[:cut], 0.0, raw[cut:], HOLD) as provider:
            assert type(await failure(session, provider.url, first_byte_timeout_s=5.0)) is MalformedResponse


@pytest.mark.parametrize(
    "raw",
    [
        HEAD + b"content-length: 5000\r\n\r\n" + b"x" * 5000,
        CHUNKED + b"1388\r\n" + b"x" * 5000 + b"\r\n0\r\n\r\n",
    ],
)
async def test_a_reply_larger_than_allowed_is_not_held(raw: bytes, session: Session) -> None:
    async with scripted(raw) as provider:
        response = await session.send(post(provider.url))
        with pytest.raises(ReplyTooLarge):
            await response.read(4999)
        response = await session.send(post(provider.url))
        assert len(await response.read(5000)) == 5000


async def test_an_announced_giant_is_refused_before_it_comes(session: Session) -> None:
    async with scripted(HEAD + b"content-length: 999999999999\r\n\r\n", HOLD) as provider:
        response = await session.send(post(provider.url))
        with pytest.raises(ReplyTooLarge):
            await response.read(LIMIT)
        await asyncio.sleep(0.05)
        assert provider.clients_gone == 1

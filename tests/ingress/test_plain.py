"""Plain calls: read as they came however the network cut them, and everything else left to aiohttp from its first byte on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingress import plain
from services.ingress.answer import Answer, StreamAnswer, WholeAnswer
from tests.ingress.test_connection import Link, get, told
from tests.ingress.test_connection import served as elsewhere

TARGET = b"/v1/chat/completions"
Connect = Callable[[], Awaitable[Link]]


async def plainly(call: plain.PlainCall) -> Answer:
    """Says what the call's body was; one that begins with `stream` is answered by a stream."""
    body = b""
    while not call.content.is_eof() or call.content._pieces:
        body += await call.content.readany()
    if body.startswith(b"stream"):
        answer = StreamAnswer(call, {"X-Lane": "plain"}, close=False)
        await answer.write(body)
        return answer
    return WholeAnswer(call, {"X-Lane": "plain"}, body)


async def otherwise(request: web.BaseRequest) -> Answer:
    return WholeAnswer(request, {"X-Lane": "aiohttp"}, await request.read())


def served(handler: plain.Handler = plainly, header_timeout_s: float = 5) -> AbstractAsyncContextManager[Connect]:
    return elsewhere(otherwise, header_timeout_s=header_timeout_s, plain_calls={TARGET: handler})


def post(body: bytes, *lines: str, target: bytes = TARGET, version: str = "1.1") -> bytes:
    head = [f"POST {target.decode()} HTTP/{version}", "Host: a", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def lane(head: bytes) -> str:
    return next((line.split(b": ")[1].decode() for line in head.split(b"\n") if line.startswith(b"X-Lane")), "")


async def test_a_call_is_the_same_in_one_piece_and_cut_at_every_byte() -> None:
    message = post(b'{"model":"lab/chat"}', "Authorization: Bearer key", "X-Odd:  \t spaced  ")
    async with served() as connect:
        reader, writer = await connect()
        for at in range(len(message) + 1):
            writer.write(message[:at])
            await writer.drain()
            await asyncio.sleep(0.001)
            writer.write(message[at:])
            head, body = await told(reader)
            assert (lane(head), body) == ("plain", b'{"model":"lab/chat"}')
        writer.close()


MESSAGES = st.one_of(
    st.binary(max_size=300).map(lambda body: (post(body.replace(b"stream", b"")), "plain", body.replace(b"stream", b""))),
    st.binary(max_size=50).map(lambda body: (post(b"stream" + body), "plain", b"stream" + body)),
)
OTHERS = st.one_of(
    st.just((get("/v1/models"), "aiohttp", b"")),
    st.binary(max_size=100).map(lambda body: (post(body, target=b"/v1/audio/speech"), "aiohttp", body)),
    st.binary(min_size=1, max_size=100).map(
        lambda body: (
            b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
            % (TARGET, len(body), body),
            "aiohttp",
            body,
        )
    ),
)
Message = tuple[bytes, str, bytes]


@given(
    calls=st.lists(MESSAGES, max_size=5),
    others=st.lists(st.one_of(OTHERS, MESSAGES), max_size=3),
    cuts=st.lists(st.integers(0, 2000), max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_however_calls_and_other_messages_follow_each_other_each_gets_its_own_answer(
    calls: list[Message], others: list[Message], cuts: list[int]
) -> None:
    """All of them sent ahead, cut anywhere. After the first that is no plain call the connection is aiohttp's."""

    async def run() -> None:
        sent = b"".join(message for message, _, _ in calls + others)
        places = sorted({min(cut, len(sent)) for cut in cuts})
        passed = False
        async with served() as connect:
            reader, writer = await connect()
            for start, end in zip([0, *places], [*places, len(sent)], strict=True):
                writer.write(sent[start:end])
                await asyncio.sleep(0)
            for _, expected, body in calls + others:
                passed = passed or expected == "aiohttp"
                head, said = await told(reader)
                assert lane(head) == ("aiohttp" if passed else "plain")
                if b"chunked" in head:
                    said = said.partition(b"\r\n")[2].removesuffix(b"\r\n0\r\n\r\n")
                assert said == body
            writer.close()

    asyncio.run(run())


NOT_PLAIN = {
    "another target": post(b"x", target=b"/v1/other"),
    "a query": post(b"x", target=TARGET + b"?a=b"),
    "HTTP/1.0": post(b"x", version="1.0"),
    "expects": post(b"x", "Expect: nothing"),
    "encoded": post(b"x", "Content-Encoding: identity"),
    "a header twice": post(b"x", "X-A: 1", "x-a: 2"),
    "not ASCII": post(b"x", "X-A: \xe9"),
    "many headers": post(b"x", *[f"X-{number}: 1" for number in range(120)], "A: " + "b" * 100),
}


@pytest.mark.parametrize("what", NOT_PLAIN)
async def test_what_is_not_plain_is_aiohttps(what: str) -> None:
    async with served() as connect:
        reader, writer = await connect()
        writer.write(NOT_PLAIN[what])
        head, body = await told(reader)
        assert (lane(head), body) == ("plain" if what == "many headers" else "aiohttp", b"x")
        writer.close()


CRAFTED = {
    "two lengths": b"Content-Length: 1\r\nContent-Length: 40",
    "a signed length": b"Content-Length: +1",
    "a hexadecimal length": b"Content-Length: 0x1",
    "length and chunked": b"Content-Length: 1\r\nTransfer-Encoding: chunked",
    "a space before the colon": b"Content-Length : 1",
    "a folded line": b"Content-Length:\r\n 1",
    "a bare LF": b"Content-Length: 1\nX-A: b",
    "a NUL": b"Content-Length: 1\r\nX-A: b\0c",
}


@pytest.mark.parametrize("what", CRAFTED)
async def test_a_head_that_two_parsers_could_read_differently_is_never_a_plain_call(what: str) -> None:
    """Nothing behind it is taken for a call of its own."""
    smuggled = post(b"smuggled")
    async with served() as connect:
        reader, writer = await connect()
        writer.write(b"POST %b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % (TARGET, CRAFTED[what]) + smuggled)
        answered = await asyncio.wait_for(reader.read(200), 10)
        assert b"X-Lane: plain" not in answered
        assert answered[8:12] in (b" 400", b" 200")
        writer.close()


async def test_a_body_that_nobody_wants_is_read_away() -> None:
    async def unread(call: plain.PlainCall) -> Answer:
        return WholeAnswer(call, {"X-Lane": "plain"}, b"no", 401)

    async with served(unread) as connect:
        reader, writer = await connect()
        for _ in range(2):
            message = post(b"0123456789" * 50_000)
            writer.write(message[:1000])
            head, body = await told(reader)
            assert (head.split(b"\n")[0], body) == (b"HTTP/1.1 401 Unauthorized", b"no")
            writer.write(message[1000:])
        writer.close()


async def test_a_failure_is_a_500_without_words_and_ends_the_connection() -> None:
    async def failing(call: plain.PlainCall) -> Answer:
        raise RuntimeError("a secret of the gateway")

    async def half(call: plain.PlainCall) -> Answer:
        answer = StreamAnswer(call, {}, close=False)
        await answer.write(b"one")
        raise RuntimeError("a secret of the gateway")

    async with served(failing) as connect:
        reader, writer = await connect()
        writer.write(post(b"x"))
        answered = await asyncio.wait_for(reader.read(), 10)
        assert answered.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert b"secret" not in answered
        writer.close()
    async with served(half) as connect:
        reader, writer = await connect()
        writer.write(post(b"x"))
        answered = await asyncio.wait_for(reader.read(), 10)
        assert answered.endswith(b"3\r\none\r\n")  # cut: no last chunk, so the client knows
        writer.close()


async def test_a_head_must_come_in_time_the_first_one_and_the_next() -> None:
    async with served(header_timeout_s=0.3) as connect:
        for before in (b"", post(b"x")):
            reader, writer = await connect()
            if before:
                writer.write(before)
                assert lane((await told(reader))[0]) == "plain"
                await asyncio.sleep(0.5)  # a kept connection may be silent
            writer.write(post(b"x")[:30])
            assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            writer.close()


async def test_a_client_that_leaves_cancels_its_call_before_and_after_its_body_came() -> None:
    ended: asyncio.Queue[BaseException] = asyncio.Queue()

    async def waiting(call: plain.PlainCall) -> Answer:
        try:
            await call.content.readany()
            await asyncio.Event().wait()
        except BaseException as error:
            ended.put_nowait(error)
            raise
        raise AssertionError

    async with served(waiting) as connect:
        for message in (post(b"x"), post(b"x")[:-1]):
            _, writer = await connect()
            writer.write(message)
            await asyncio.sleep(0.1)
            writer.transport.abort()
            assert isinstance(await asyncio.wait_for(ended.get(), 10), asyncio.CancelledError)


async def test_calls_sent_far_ahead_wait_in_the_network_not_here() -> None:
    release = asyncio.Event()

    async def slow(call: plain.PlainCall) -> Answer:
        await release.wait()
        return await plainly(call)

    async with served(slow) as connect:
        reader, writer = await connect()
        message = post(b"y" * 50_000)
        for _ in range(400):
            writer.write(message)
        await asyncio.sleep(0.3)
        assert writer.transport.get_write_buffer_size() > 0
        release.set()
        for _ in range(400):
            head, body = await told(reader)
            assert (lane(head), len(body)) == ("plain", 50_000)
        writer.close()

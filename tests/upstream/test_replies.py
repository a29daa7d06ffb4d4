"""What is a reply, and where it ends."""

from __future__ import annotations

import pytest

from shared.upstream.session import Session
from tests.upstream.sending import LIMIT, OK, everything, post, request
from tests.upstreams import CLOSE, scripted

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nX-Kind: a\r\nx-kind: b \r\n\r\n"
EVENT = "data: é€  \n\n".encode()
REPLIES = {
    "content-length": (b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world", b"hello world"),
    "chunked": (CHUNKED + b"6\r\nhello \r\n5;x=y\r\nworld\r\n0\r\nX-Trailer: t\r\n\r\n", b"hello world"),
    "after 1xx": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + OK, b"ok"),
    "empty": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\n\r\n", b""),
    "event stream": (
        CHUNKED + b"9\r\ndata: {}\n\r\n1\r\n\n\r\nf\r\n" + EVENT + b"\r\n0\r\n\r\n",
        b"data: {}\n\n" + EVENT,
    ),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_a_reply_is_the_same_wherever_its_bytes_are_split(name: str, session: Session) -> None:
    raw, expected = REPLIES[name]
    for cut in range(1, len(raw)):
        async with scripted(raw[:cut], 0.0, raw[cut:], CLOSE) as provider:
            response = await session.send(post(provider.url))
            assert await response.read(LIMIT) == expected


async def test_a_reply_is_the_same_byte_by_byte(session: Session) -> None:
    for raw, expected in REPLIES.values():
        steps = [step for byte in raw for step in (bytes([byte]), 0.0)]
        async with scripted(*steps) as provider:
            response = await session.send(post(provider.url))
            assert await everything(response) == expected


async def test_status_and_headers_are_told_with_lower_case_names(session: Session) -> None:
    async with scripted(CHUNKED.replace(b"200 OK", b"418 I'm a teapot") + b"0\r\nx-kind: c\r\n\r\n") as provider:
        response = await session.send(post(provider.url))
        assert await response.read(LIMIT) == b""
    assert (response.status, dict(response.headers)) == (418, {"transfer-encoding": "chunked", "x-kind": "a, b"})


async def test_a_reply_without_length_ends_with_the_connection(session: Session) -> None:
    async with scripted(b"HTTP/1.1 200 OK\r\n\r\nhello", 0.02, b" world", CLOSE) as provider:
        for _ in range(2):
            response = await session.send(post(provider.url))
            assert await response.read(LIMIT) == b"hello world"
        assert provider.connections == 2


async def test_an_http_1_0_reply_is_understood_and_its_connection_not_kept(session: Session) -> None:
    async with scripted(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok") as provider:
        for _ in range(2):
            assert await (await session.send(post(provider.url))).read(LIMIT) == b"ok"
        assert provider.connections == 2


async def test_a_reply_to_head_has_no_body_whatever_its_length_says(session: Session) -> None:
    async with scripted(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n") as provider:
        response = await session.send(request("HEAD", provider.url))
        assert (await response.read(LIMIT), response.headers["content-length"]) == (b"", "100")


async def test_a_body_where_none_can_be_is_never_the_next_reply(session: Session) -> None:
    async with scripted(b"HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\nstray") as provider:
        for _ in range(2):
            response = await session.send(post(provider.url))
            assert (response.status, await response.read(LIMIT)) == (204, b"")
        assert provider.connections == 2


async def test_a_redirect_is_an_answer_and_a_cookie_is_not_kept(session: Session) -> None:
    moved = b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"
    async with scripted(moved) as provider:
        for _ in range(2):
            response = await session.send(post(provider.url))
            assert (response.status, response.headers["location"]) == (302, "/elsewhere")
        assert len(provider.requests) == 2
        assert b"cookie" not in provider.requests[1].lower()


async def test_the_request_arrives_byte_for_byte(session: Session) -> None:
    body = bytes(range(256)) * 8192  # 2 MiB: more than one write
    async with scripted(OK) as provider:
        for size in (0, 1, 64 * 1024, 64 * 1024 + 1, len(body)):
            response = await session.send(post(provider.url, body[:size]))
            assert await response.read(LIMIT) == b"ok"
            head, _, sent = provider.requests[-1].partition(b"\r\n\r\n")
            assert sent == body[:size]
            assert (
                head
                == (
                    f"POST /v1 HTTP/1.1\r\nhost: 127.0.0.1:{provider.port}\r\naccept-encoding: identity\r\n"
                    f"content-length: {size}"
                ).encode()
            )


async def test_no_proxy_of_the_environment_is_asked(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with scripted(OK) as provider:
        assert await (await session.send(post(provider.url))).read(LIMIT) == b"ok"

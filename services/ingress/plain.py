"""Plain calls: the requests that nearly all clients send, read without what a general server must be ready for.

A plain call is a POST to one of a few exact targets, HTTP/1.1, with a Content-Length and nothing that bends its framing. llhttp
(through httptools) reads its head, its body is counted off, and that is all: aiohttp's parser, request and stream objects cost
a call several times as much. Whatever is not plain is not judged here: `read_call` says no, and aiohttp gets the bytes from
the first of that message on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, cast

import httptools
from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.http_writer import StreamWriter

if TYPE_CHECKING:
    from services.ingress.answer import Answer
    from services.ingress.connection import Connection

HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
END = b"\r\n\r\n"
BEGINNING = b"POST /"
MOST_HEAD_BYTES = 16 * 1024
MOST_HEADERS = 128
BENDING = frozenset(
    {"transfer-encoding", "content-encoding", "expect", "upgrade", "te", "trailer", "content_length", "transfer_encoding"}
)
"""Headers with which a message is not plain: they change its framing, its body or who speaks next, or look as if they did."""

MOST_KNOWN = 1_000
_NAMES: dict[bytes, str] = {}
_HOSTS: set[str] = set()


class PlainBody:
    """A body of known length, as much of aiohttp's StreamReader as its readers here use."""

    __slots__ = ("_arrived", "_dropping", "_left", "_loop", "_pieces")

    def __init__(self, loop: asyncio.AbstractEventLoop, length: int) -> None:
        self._loop = loop
        self._left = length
        self._pieces: list[bytes] = []
        self._arrived: asyncio.Future[None] | None = None
        self._dropping = False

    def feed(self, data: bytes) -> bytes:
        """Take what is the body's; the rest belongs to the next message."""
        mine, rest = data[: self._left], data[self._left :]
        self._left -= len(mine)
        if mine and not self._dropping:
            self._pieces.append(mine)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
        return rest

    def drop(self) -> None:
        """Nobody wants it any more: what still comes is only counted."""
        self._dropping = True
        self._pieces.clear()

    def is_eof(self) -> bool:
        """Whether nothing more will come."""
        return not self._left

    def exception(self) -> BaseException | None:
        return None

    def read_nowait(self, n: int = -1) -> bytes:
        """All that is here; `n` is always -1."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def readany(self) -> bytes:
        """What has come since; b"" at the end."""
        while not self._pieces and self._left:
            self._arrived = self._loop.create_future()
            await self._arrived
        return self.read_nowait()


class PlainCall:
    """A plain call's request: what endpoint.py and answer.py use of aiohttp's. Header names are in lower case."""

    __slots__ = ("_connection", "_loop", "_writer", "content", "content_length", "handler", "headers", "keep_alive", "target")

    query: Mapping[str, str] = {}
    version = HttpVersion11

    def __init__(
        self, connection: Connection, loop: asyncio.AbstractEventLoop, target: str, headers: dict[str, str], length: int,
        keep_alive: bool, handler: Handler,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._loop = loop
        self._writer: StreamWriter | None = None
        self.target = target
        self.headers = headers
        self.content_length = length
        self.content = PlainBody(loop, length)
        self.keep_alive = keep_alive
        self.handler = handler

    @property
    def transport(self) -> asyncio.Transport | None:
        return self._connection.transport

    @property
    def protocol(self) -> Connection:
        return self._connection

    @property
    def writer(self) -> StreamWriter:
        """Made when it is asked for: a whole answer needs none. Its `output_size` says whether an answer has begun."""
        if self._writer is None:
            self._writer = StreamWriter(self._connection, self._loop)
        return self._writer

    @property
    def answered(self) -> bool:
        """Whether an answer has begun."""
        return self._writer is not None and self._writer.output_size > 0


Handler = Callable[[PlainCall], Awaitable["Answer"]]
Request = web.BaseRequest | PlainCall
"""What an endpoint gets."""


def target_of(request: Request) -> str:
    """The raw target. Asking aiohttp for a request's path builds a URL object."""
    return request.target if type(request) is PlainCall else cast(web.BaseRequest, request)._message.path


class _Head:
    """What the parser tells of a head."""

    __slots__ = ("headers", "plain", "url")

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.plain = True
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        known = _NAMES.get(name) or name_of(name)
        if known in self.headers or not value.isascii():
            self.plain = False
        else:
            self.headers[known] = value.decode("ascii").strip(" \t")


def name_of(name: bytes) -> str:
    """In lower case; the names that clients send are remembered."""
    lower = name.decode("ascii").lower()
    if len(_NAMES) < MOST_KNOWN:
        _NAMES[name] = lower
    return lower


def read_call(
    head: bytes, connection: Connection, loop: asyncio.AbstractEventLoop, handlers: Mapping[bytes, Handler]
) -> PlainCall | None:
    """The call whose head this is, its empty line included; None when it is not plain."""
    seen = _Head()
    parser = httptools.HttpRequestParser(seen)
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    handler = handlers.get(seen.url)
    headers = seen.headers
    length = headers.get("content-length", "")
    if (
        handler is None
        or not seen.plain
        or parser.get_method() != b"POST"
        or parser.get_http_version() != "1.1"
        or not 1 <= len(length) <= 15
        or not length.isdecimal()
        or len(headers) > MOST_HEADERS
        or not BENDING.isdisjoint(headers)
        or not is_host(headers.get("host"))
    ):
        return None
    return PlainCall(connection, loop, seen.url.decode("ascii"), headers, int(length), parser.should_keep_alive(), handler)


def is_host(host: str | None) -> bool:
    """Whether a Host header can be one; the good ones are remembered."""
    if host is None or host in _HOSTS:
        return host is not None
    if HOST.fullmatch(host) is None:
        return False
    if len(_HOSTS) < MOST_KNOWN:
        _HOSTS.add(host)
    return True

"""Whole answers, written as bytes.

aiohttp's Response builds a header dictionary, a payload writer and a `Server` line; for the answers that this gateway gives
thousands of times a second that is a fifth of a call's CPU. This one is the head and the body in one write, with the few
things that aiohttp's connection asks of a response.
"""

from __future__ import annotations

import time

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

DRAIN_ABOVE_BYTES = 64 * 1024


class Clockface:
    """The `Date` header, made once a second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def now(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second))
        return self._text


_CLOCK = Clockface()


class WholeAnswer:
    """An HTTP/1.1 answer of status 200 with a known body (duck-typed: what RequestHandler.finish_response calls)."""

    __slots__ = ("_body", "_headers", "_request", "keep_alive", "prepared")

    def __init__(self, request: web.BaseRequest, headers: dict[str, str], body: bytes) -> None:
        self._request = request
        self._headers = headers
        self._body = body
        self.keep_alive: bool = request.keep_alive
        self.prepared = False

    def force_close(self) -> None:
        self.keep_alive = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self) -> None:
        """Raises ConnectionError when the client is gone."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        body = self._body
        version = self._request.version
        lines = "".join([f"{name}: {value}\r\n" for name, value in self._headers.items()])
        if not self.keep_alive:
            lines += "Connection: close\r\n"
        elif version.minor == 0:
            lines += "Connection: keep-alive\r\n"
        head = f"HTTP/1.{version.minor} 200 OK\r\nContent-Length: {len(body)}\r\nDate: {_CLOCK.now()}\r\n{lines}\r\n"
        transport.write(head.encode("ascii", "replace") + body)
        if len(body) > DRAIN_ABOVE_BYTES:
            await self._request.writer.drain()

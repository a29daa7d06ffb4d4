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
    """An HTTP/1.1 answer of status 200 with a known body. A Connection writes it; `prepare` and `write_eof` are for any other
    of aiohttp's servers."""

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
        if self.write():
            await self._request.writer.drain()

    def write(self) -> bool:
        """Hand it to the transport; whether it is so large that the caller should drain. Raises ConnectionError when the client
        is gone."""
        request, body = self._request, self._body
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        minor = request.version.minor
        lines = "\r\n".join(map(": ".join, self._headers.items()))
        if not self.keep_alive:
            lines += "\r\nConnection: close"
        elif minor == 0:
            lines += "\r\nConnection: keep-alive"
        head = f"HTTP/1.{minor} 200 OK\r\nContent-Length: {len(body)}\r\nDate: {_CLOCK.now()}\r\n{lines}\r\n\r\n"
        transport.write(head.encode("ascii", "replace") + body)
        return len(body) > DRAIN_ABOVE_BYTES

"""Answers of calls, whole or streamed, written as bytes.

aiohttp's responses build a header dictionary, a payload writer and a `Server` line, and pass each piece of a stream through
five functions; for the answers that this gateway gives thousands of times a second that is a fifth of a call's CPU. These
write to the transport themselves, with the few things that aiohttp's connection asks of a response.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from http import HTTPStatus

from services.ingress.plain import Request

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


PHRASES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


def status_line(status: int) -> str:
    """`404 Not Found`; without a phrase for one that RFC 9110 does not know."""
    return PHRASES.get(status) or f"{status} "


class Answer:
    """An HTTP/1.1 answer to one of aiohttp's requests or a plain call: a Connection finishes it."""

    __slots__ = ("_request", "keep_alive", "prepared")

    def __init__(self, request: Request) -> None:
        self._request = request
        self.keep_alive: bool = request.keep_alive
        self.prepared = False

    def force_close(self) -> None:
        self.keep_alive = False

    @abstractmethod
    async def finish(self) -> None:
        """Send what is left of it. Raises ConnectionError when the client is gone."""

    def _head(self, headers: Mapping[str, str], framing: str, status: str = "200 OK") -> bytes:
        minor = self._request.version.minor
        lines = "\r\n".join(map(": ".join, headers.items()))
        if not self.keep_alive:
            lines += "\r\nConnection: close"
        elif minor == 0:
            lines += "\r\nConnection: keep-alive"
        head = f"HTTP/1.{minor} {status}\r\n{framing}Date: {_CLOCK.now()}\r\n{lines}\r\n\r\n"
        return head.encode("ascii", "replace")

    def _send(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(data)


class WholeAnswer(Answer):
    """One with a known body: head and body in one write."""

    __slots__ = ("_body", "_headers", "status")

    def __init__(self, request: Request, headers: Mapping[str, str], body: bytes, status: int = 200) -> None:
        super().__init__(request)
        self._headers = headers
        self._body = body
        self.status = status

    async def finish(self) -> None:
        body = self._body
        self._send(self._head(self._headers, f"Content-Length: {len(body)}\r\n", status_line(self.status)) + body)
        if len(body) > DRAIN_ABOVE_BYTES:
            await self._request.writer.drain()


class StreamAnswer(Answer):
    """One whose body comes piece by piece: chunked, or up to the end of the connection for HTTP/1.0. The head leaves with the
    first piece."""

    __slots__ = ("_chunked", "_unsaid")

    def __init__(self, request: Request, headers: dict[str, str], *, close: bool) -> None:
        super().__init__(request)
        self._chunked = request.version.minor > 0
        self.keep_alive = self.keep_alive and self._chunked and not close
        self._unsaid = self._head(headers, "Transfer-Encoding: chunked\r\n" if self._chunked else "")
        self.prepared = True
        request.writer.output_size = len(self._unsaid)  # from here on no failure can become another answer

    async def write(self, piece: bytes) -> None:
        """Raises ConnectionError when the client is gone; waits while it does not read."""
        if self._chunked:
            piece = b"%b%x\r\n%b\r\n" % (self._unsaid, len(piece), piece)
        elif self._unsaid:
            piece = self._unsaid + piece
        self._unsaid = b""
        self._send(piece)
        if self._request.protocol.writing_paused:
            await self._request.writer.drain()

    async def finish(self) -> None:
        if self._unsaid or self._chunked:
            self._send(self._unsaid + (b"0\r\n\r\n" if self._chunked else b""))
            self._unsaid = b""

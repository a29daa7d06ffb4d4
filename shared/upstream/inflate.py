"""Inflate: a reply that came compressed although we asked for `identity`, opened a bounded piece at a time.

Providers behind caches do that. Output is made only as fast as it is read, so a bomb swells no more than its reader
lets it. One member per reply: what follows it is malformed.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping

from shared.upstream.reply import Reply
from shared.upstream.transport import MalformedResponse, ReplyCut, ReplyTooLarge, UpstreamResponse

PIECE_BYTES = 64 * 1024
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
"""zlib's own switch: find out from the first bytes. HTTP's `deflate` is zlib's format (RFC 9110 §8.4.1.2)."""


def decoded(reply: Reply) -> UpstreamResponse:
    """The reply as the caller wants it. Raises MalformedResponse for a coding that nobody asked for and we lack."""
    coding = reply.headers.get("content-encoding")
    if coding is None or coding.lower() in ("", "identity"):
        return reply
    if coding.lower() not in ("gzip", "x-gzip", "deflate"):
        reply.close()
        raise MalformedResponse(f"the reply is encoded as {coding[:40]!r}, which was not asked for")
    return Inflated(reply)


class Inflated:
    """An UpstreamResponse over one whose body is gzip or zlib."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._zlib = zlib.decompressobj(GZIP_OR_ZLIB)
        self._begun = False
        self._more_inside = False

    @property
    def status(self) -> int:
        return self._reply.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._reply.headers

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if self._more_inside:
                data = self._zlib.unconsumed_tail
            else:
                try:
                    data = await self._reply.__anext__()
                except StopAsyncIteration:
                    if self._begun and not self._zlib.eof:
                        raise ReplyCut("the compressed reply ends before its data does") from None
                    raise
            if piece := self._decompress(data):
                return piece

    async def read(self, limit: int) -> bytes:
        pieces: list[bytes] = []
        total = 0
        async for piece in self:
            total += len(piece)
            pieces.append(piece)
            if total > limit:
                self.close()
                raise ReplyTooLarge(f"the reply is larger than {limit} bytes")
        return b"".join(pieces)

    def close(self) -> None:
        self._reply.close()

    def _decompress(self, data: bytes) -> bytes:
        self._begun = True
        over = self._zlib.eof
        try:
            piece = b"" if over else self._zlib.decompress(data, PIECE_BYTES)
        except zlib.error:
            self.close()
            raise MalformedResponse("the reply says that it is compressed, but it cannot be opened") from None
        if over or self._zlib.unused_data:
            self.close()
            raise MalformedResponse("the compressed reply goes on after its end")
        # A full piece may leave output inside zlib even when all input is used up.
        self._more_inside = len(piece) == PIECE_BYTES and not self._zlib.eof
        return piece

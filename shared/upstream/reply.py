"""Reply: a response's body between the socket that fills it and the one reader that empties it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from shared.upstream.transport import ReplyCut, ReplyTooLarge, TransportError

BUFFER_BYTES = 256 * 1024
"""Above this much unread the socket is not read any more, and so the provider is slowed down."""


class Source(Protocol):
    """What fills a reply: the channel."""

    paused: bool

    def resume(self) -> None: ...

    def abandon(self) -> None:
        """The reply will not be read to its end: close the socket."""
        ...


class Reply:
    """An UpstreamResponse. The channel calls `wake`, `finish` and `fail`, and appends to `chunks` itself: a method call
    per chunk would be a tenth of a chunk's cost."""

    __slots__ = ("_error", "_loop", "_source", "_waiter", "begun", "chunks", "headers", "size", "status", "whole")

    def __init__(self, status: int, headers: dict[str, str], source: Source, loop: asyncio.AbstractEventLoop) -> None:
        self.status = status
        self.headers = headers
        self.chunks: list[bytes] = []
        self.size = 0
        self.begun = False
        self.whole = False
        self._loop = loop
        self._source: Source | None = source
        self._error: TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None

    # -- the channel's side

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def finish(self) -> None:
        """All has come: the channel is not ours any more."""
        self.whole = True
        self._source = None
        self.wake()

    def fail(self, error: TransportError) -> None:
        """It ended badly. What came before can still be read."""
        self._error = error
        self._source = None
        self.wake()

    # -- the reader's side

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self.size:
            if self.whole:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            await self._more()
        return self._take()

    async def read(self, limit: int) -> bytes:
        declared = self.headers.get("content-length")
        if declared is not None and len(declared) <= 19 and int(declared) > limit:
            raise self.too_large(limit)
        taken: list[bytes] = []
        total = 0
        while True:
            if self.size:
                total += self.size
                taken.append(self._take())
                if total > limit:
                    raise self.too_large(limit)
            if self.whole:
                return taken[0] if len(taken) == 1 else b"".join(taken)
            if self._error is not None:
                raise self._error
            await self._more()

    def close(self) -> None:
        if self._source is not None:
            self._source.abandon()
            self.fail(ReplyCut("the reply was closed before it was whole"))
        self.chunks.clear()
        self.size = 0

    def too_large(self, limit: int) -> ReplyTooLarge:
        self.close()
        return ReplyTooLarge(f"the reply is larger than {limit} bytes")

    def _take(self) -> bytes:
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.size = 0
        source = self._source
        if source is not None and source.paused:
            source.resume()
        return data

    async def _more(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("a reply has one reader")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

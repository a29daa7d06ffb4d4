"""Channel: one TCP or TLS connection to an origin, carrying one exchange at a time. Its parser is llhttp, in C.

(It is not called connection: in this house that is an account at a provider.)

What makes a reply malformed here goes beyond llhttp's strict mode, because a reply whose end two parsers could see
differently would hand one tenant's bytes to another: a transfer coding other than `chunked`, bytes that nobody asked
for, an upgrade. Such a channel is never used again.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import httptools

from shared.upstream.reply import BUFFER_BYTES, Reply
from shared.upstream.transport import (
    FirstByteTimeout,
    IdleTimeout,
    MalformedResponse,
    ReplyCut,
    SentNoReply,
    TransportError,
    UpstreamRequest,
)

if TYPE_CHECKING:
    from shared.upstream.pool import Pool

MAX_HEAD_BYTES = 64 * 1024
"""Of a head, and of anything else that comes without a byte of body: trailers, chunk extensions."""
STALE_WITHIN_S = 1.0
COPY_BYTES = 64 * 1024
"""Up to here head and body are one write; above it copying costs more than a second buffer."""


class WentStale(SentNoReply):
    """A kept connection that ended before any byte of a reply: see docs/transport.md on why once more is sound."""


class Channel(asyncio.Protocol):
    __slots__ = (
        "_counted", "_dry_bytes", "_ended", "_eof", "_first_byte_by_s", "_forgotten", "_head", "_head_bytes", "_headers",
        "_heard", "_loop", "_parser", "_pool", "_quiet_since_s", "_reply", "_request", "_reusable", "_sent_s",
        "_transport", "_until_close", "_used", "idle_until_s", "open", "paused",
    )  # fmt: skip

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._loop = loop
        self._parser: Any = None
        self.open = False
        self._counted = False
        self._forgotten = False
        self.idle_until_s = 0.0
        self._used = False
        self.paused = False
        self._eof = False
        self._request: UpstreamRequest | None = None
        self._head: asyncio.Future[Reply] | None = None
        self._reply: Reply | None = None
        self._headers: dict[str, str] = {}

    # -- what the pool asks of it

    def begin(self, request: UpstreamRequest) -> asyncio.Future[Reply]:
        """Send the request; the future is the reply's head."""
        self._request = request
        self._head = head = self._loop.create_future()
        self._headers = {}
        self._head_bytes = self._dry_bytes = 0
        self._heard = self._ended = self._until_close = False
        self._reusable = True
        self._sent_s = self._loop.time()
        self._first_byte_by_s = self._sent_s + request.first_byte_timeout_s
        body = request.body
        lines = request.head.wire(len(body))
        if len(body) <= COPY_BYTES:
            self._transport.write(lines + body)
        else:
            self._transport.writelines((lines, body))
        return head

    def check(self, now_s: float) -> None:
        """The sweep: is it late? Silence that we asked for, by not reading, is not the provider's."""
        request, reply = self._request, self._reply
        if request is None:
            return
        if reply is None or not reply.begun:
            if now_s >= self._first_byte_by_s:
                what = "no reply" if reply is None else "no byte of a reply's body"
                self._fail(FirstByteTimeout(f"{what} within {request.first_byte_timeout_s:g} s"))
        elif self._heard or self.paused:
            self._heard = False
            self._quiet_since_s = now_s
        elif now_s - self._quiet_since_s >= request.idle_timeout_s:
            self._fail(IdleTimeout(f"silent for {request.idle_timeout_s:g} s in the middle of the reply"))

    def give_up(self, head: asyncio.Future[Reply]) -> None:
        """Whoever waited for this head does no more. Its exchange may be over, and the channel another's, by now."""
        if self._head is head:
            self.abandon()

    def hang_up(self) -> None:
        """End whatever it is doing: this node shuts down."""
        if self._reply is not None:
            self._fail(ReplyCut("this node is shutting down"))
        else:
            self._fail(SentNoReply("this node is shutting down"))

    def forget(self) -> None:
        """The dial was given up. It counts no more, whatever the loop still says: uvloop (0.23), cancelled in the turn
        that it made the connection, closes it without a connection_lost."""
        self.abort()
        self._forgotten = True
        self._leave()

    def abort(self) -> None:
        """Close the socket now; what is unsent or unread is lost."""
        if self.open:
            self.open = False
            self._pool.lost(self)
            self._transport.abort()

    # -- what a reply and its reader ask of it

    def abandon(self) -> None:
        """Nobody will read the rest."""
        self._reply = self._head = self._request = None
        self.abort()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if self.open:
                self._transport.resume_reading()

    # -- what the event loop tells it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._forgotten:
            self._transport.abort()
            return
        self._parser = httptools.HttpResponseParser(self)
        with suppress(OSError):  # a reply may be silent for minutes: keep what is between us from forgetting it
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.open = self._counted = True
        self._pool.made(self)

    def data_received(self, data: bytes) -> None:
        if self._request is None:
            self.abort()  # nobody asked: whatever this is, it must not become the next request's reply
            return
        self._heard = True
        self._dry_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reusable = False
            if not self._ended:
                self._fail(MalformedResponse(_why(error)))
                return
        if self._ended:
            self._finish()
            return
        if (reply := self._reply) is not None and reply.size:
            reply.wake()
            if reply.size > BUFFER_BYTES and not self.paused:
                self.paused = True
                self._transport.pause_reading()
        if self._dry_bytes > MAX_HEAD_BYTES:
            self._fail(MalformedResponse(f"more than {MAX_HEAD_BYTES} bytes of head, trailers or chunk extensions"))

    def eof_received(self) -> None:
        self._eof = True
        if self._request is None:
            self.abort()  # kept, and closed by the other side: it must not be picked before the loop notices

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.open:
            self.open = False
            self._pool.lost(self)
        self._leave()
        if self._request is not None:
            if self._until_close and self._eof and exc is None and self._reply is not None:
                self._reusable = False
                self._finish()
            else:
                self._fail(self._ending(exc))
        self._parser = None  # it holds our methods: a cycle

    # -- what the parser tells it

    def on_message_begin(self) -> None:
        if self._ended:
            raise _Unsound("a second reply to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _Unsound(f"a head of more than {MAX_HEAD_BYTES} bytes")
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").rstrip()
        headers = self._headers
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, {}  # trailers go nowhere
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101 or "content-length" in headers or "transfer-encoding" in headers:
                raise _Unsound(f"status {status} where none can be")
            return
        if status > 599:
            raise _Unsound(f"status {status} does not exist")
        assert self._request is not None
        coding = headers.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            raise _Unsound(f"transfer coding {coding[:40]!r}")
        self._reply = reply = Reply(status, headers, self, self._loop)
        bodiless = status in (204, 304) or self._request.head.method == "HEAD"
        sized = coding is not None or "content-length" in headers
        if bodiless and (sized or status not in (204, 304)):
            # Some servers send the body all the same, and llhttp waits for a HEAD's.
            self._reusable = False
            self._ended = True
        self._until_close = not sized and not bodiless
        assert self._head is not None
        if not self._head.done():
            self._head.set_result(reply)

    def on_body(self, data: bytes) -> None:
        if self._ended:
            return
        reply = self._reply
        assert reply is not None
        reply.chunks.append(data)
        reply.size += len(data)
        reply.begun = True
        self._dry_bytes = 0

    def on_message_complete(self) -> None:
        if self._reply is None:  # 1xx
            return
        if not self._ended:
            self._ended = True
            self._reusable = self._reusable and self._parser.should_keep_alive()

    # -- endings

    def _finish(self) -> None:
        """The reply is whole: back to the pool, or away."""
        reply, request = self._reply, self._request
        assert reply is not None
        assert request is not None
        self._reply = self._head = self._request = None
        self.resume()
        reply.finish()
        if not self.open:
            return
        unsent = len(request.body) > COPY_BYTES and self._transport.get_write_buffer_size() > 0
        if self._reusable and not unsent:
            self._used = True
            self._pool.release(self, reply.headers)
        else:
            self.abort()

    def _fail(self, error: TransportError) -> None:
        reply, head = self._reply, self._head
        self._reply = self._head = self._request = None
        if reply is not None:
            reply.fail(error)
        elif head is not None and not head.done():
            head.set_exception(error)
        self.abort()

    def _leave(self) -> None:
        if self._counted:
            self._counted = False
            self._pool.gone(self)

    def _ending(self, exc: BaseException | None) -> TransportError:
        """What the end of the connection means for the exchange that it carried."""
        how = f" ({exc.strerror or type(exc).__name__})" if isinstance(exc, OSError) else ""
        if self._reply is not None:
            return ReplyCut(f"the connection ended in the middle of the reply{how}")
        soon = self._loop.time() - self._sent_s <= STALE_WITHIN_S
        if self._used and soon and not self._heard:
            return WentStale(f"the connection ended before a reply{how}")
        return SentNoReply(f"the connection ended before a reply{how}")


class _Unsound(Exception):
    """Raised through the parser: a reply that llhttp lets pass and we do not."""


def _why(error: BaseException) -> str:
    reason = error.__context__ if isinstance(error.__context__, _Unsound) else error
    if isinstance(error, httptools.HttpParserUpgrade):
        return "not a usable HTTP/1.1 reply: it changes the protocol"
    return f"not a usable HTTP/1.1 reply: {reason}"

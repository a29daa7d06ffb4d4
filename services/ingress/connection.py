"""One client connection: aiohttp's, with the deadlines and refusals that it lacks, and a short way for plain calls.

aiohttp 3.14 has no deadline for a half-sent head and lets odd heads through (measured: HTTP/0.9 lines, absolute-form
targets, a Host with a path in it). Here a head must arrive within `header_timeout_s`, and what the parser refuses is
answered in the clients' own error format.

A connection begins as one of plain calls (plain.py). The first message that is none goes to aiohttp's parser, and so does
everything after it: there is never a doubt who reads which byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError, LineTooLong
from aiohttp.web_protocol import ERROR, PayloadAccessError, _ErrInfo

from services.ingress import plain
from services.ingress.answer import Answer
from services.ingress.plain import PlainBody, PlainCall
from services.ingress.refusals import raw_refusal, refusal_response
from shared.domain.refusal import Reason, Refusal, refuse

KEEPALIVE_S = 75.0
MOST_PIPELINED_BYTES = 64 * 1024

PAYLOAD_IS_OVER = PayloadAccessError()
FAILED = Refusal(reason=Reason.INTERNAL, status=500, message="The gateway failed on this request; it was logged.")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse | Answer]]


class Connection(web.RequestHandler):
    """A client's connection with a deadline for each head."""

    __slots__ = ("_call", "_head_deadline", "_header_timeout_s", "_plain", "_unread")

    def __init__(
        self, manager: web.Server, *, header_timeout_s: float, plain_calls: Mapping[bytes, plain.Handler], **rest: Any
    ) -> None:
        super().__init__(manager, **rest)
        self._header_timeout_s = header_timeout_s
        self._head_deadline: asyncio.TimerHandle | None = None
        self._plain: Mapping[bytes, plain.Handler] | None = plain_calls
        """Targets of plain calls; None once the connection is aiohttp's."""
        self._call: PlainCall | None = None
        """The one that came in last, until it is answered."""
        self._unread = b""
        """What came and belongs to no call yet."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._plain is not None:
            self._read_plain(data)
            return
        super().data_received(data)
        if self._request_count == 0:
            return  # still the first head: its deadline runs since the connection was made
        if self._messages or self._waiter is None or self._waiter.done():
            if self._head_deadline is not None:
                self._disarm()
        elif self._head_deadline is None:
            self._arm()

    def _read_plain(self, data: bytes) -> None:
        if self._force_close or self._close:
            return
        call = self._call
        if call is None:
            self._unread = self._unread + data if self._unread else data
            self._next_call()
            return
        if not call.content.is_eof():
            data = call.content.feed(data)
        if data:  # the next call, before this one's answer
            self._unread += data
            if len(self._unread) > MOST_PIPELINED_BYTES and self.transport is not None:
                self.transport.pause_reading()

    def _next_call(self) -> None:
        """The call that has begun to come in, if its head is here; a message that is no plain call is aiohttp's."""
        unread = self._unread
        ends = unread.find(plain.END) + len(plain.END)
        whole = ends >= len(plain.END)
        if not whole and len(unread) <= plain.MOST_HEAD_BYTES and unread[:6] == plain.BEGINNING[: len(unread)]:
            if self._head_deadline is None:
                self._arm()
            return
        assert self._plain is not None
        call = None
        if whole and ends <= plain.MOST_HEAD_BYTES:
            call = plain.read_call(unread[:ends], self, self._loop, self._plain)
        self._unread = b""
        if call is None:
            self._plain = None
            self.data_received(unread)
            return
        if self._head_deadline is not None:
            self._disarm()
        self._call = call
        self._request_count += 1
        if len(unread) > ends:
            self._unread = call.content.feed(unread[ends:])
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def start(self) -> None:
        """One request after another, each in this connection's own task.

        aiohttp gives every request a task of its own, for the sake of context variables, which nothing here sets: that is two
        more turns of the event loop and a task for each call. The rest is as there, but for what is not used here.
        """
        loop, manager = self._loop, self._manager
        assert manager is not None
        while not self._force_close:
            if self._call is None and not self._messages:
                try:
                    self._waiter = loop.create_future()
                    await self._waiter
                finally:
                    self._waiter = None
            if self._call is not None:
                if not await self._answer(self._call):
                    break
                self._keep_alive()
                continue
            message, payload = self._messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            handler = manager.request_handler
            if isinstance(message, _ErrInfo):
                handler, message = self._make_error_handler(message), ERROR
            writer = StreamWriter(self, loop)
            request = web.BaseRequest(message, payload, self, writer, self._task_handler, loop)  # type: ignore[arg-type]
            try:
                response, gone = await self._handle_request(request, None, handler)
                if gone:
                    break
                self._keepalive = bool(response.keep_alive)
                if not payload.is_eof():
                    await self._linger(payload)
                payload.set_exception(PAYLOAD_IS_OVER)
            except ConnectionError:
                break
            except asyncio.CancelledError:
                self.force_close()
                raise
            except Exception:
                self.logger.exception("unexpected error on a connection")
                self.force_close()
            finally:
                request._task = None  # type: ignore[assignment]  # a cycle
            if not self._keepalive or self._close or self._force_close:
                break
            self._keep_alive()
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    def _keep_alive(self) -> None:
        self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_S
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    async def _answer(self, call: PlainCall) -> bool:
        """Answer a plain call; whether the connection goes on."""
        self._request_in_progress = True
        try:
            answer = await call.handler(call)
            await answer.finish()
        except ConnectionError:
            return False
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception:
            self.logger.exception("unexpected error in a handler")
            if self.transport is not None and not call.answered:
                self.transport.write(raw_refusal(FAILED))
            return False
        finally:
            self._request_in_progress = False
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)
        if not call.content.is_eof():
            call.content.drop()
            await self._linger(call.content)
        self._call = None
        self._keepalive = answer.keep_alive
        if not self._keepalive or self._close or self._force_close:
            return False
        if self._unread:
            if self.transport is not None:
                self.transport.resume_reading()
            self._next_call()
        return True

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """The answer, and whether the client is gone. A call's answer needs nothing of what aiohttp does for its own."""
        if not isinstance(resp, Answer) or self._upgraded:
            return await super().finish_response(request, resp, start_time)
        try:
            await resp.finish()
        except ConnectionError:
            return resp, True
        return resp, False

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp asks for this whenever a body was read. Where nothing is paused there is nothing to parse again either."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    async def _linger(self, payload: StreamReader | PlainBody) -> None:
        """Read what is left of a body that nobody wanted, for a while: a client that still sends would not see the answer."""
        with suppress(TimeoutError, web.RequestPayloadError, HttpProcessingError):
            async with asyncio.timeout(self._lingering_time):
                while not payload.is_eof() and not self._force_close:
                    await payload.readany()
        if not payload.is_eof() and not self._force_close:
            self.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp's parser refuses, and what would otherwise be its own error page."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun: it cannot become an error")
        if status >= 500:
            self.logger.error("unexpected error in a handler", exc_info=exc)
            refusal = FAILED
        elif isinstance(exc, LineTooLong):
            refusal = Refusal(
                reason=Reason.INVALID_BODY, status=431, message="The request line or a header is too long.", retry=False
            )
        elif isinstance(exc, ContentEncodingError):
            refusal = Refusal(
                reason=Reason.UNSUPPORTED_MEDIA_TYPE, status=415, retry=False,
                message="The request's Content-Encoding is not known here: send gzip, deflate or nothing.",
            )  # fmt: skip
        else:
            refusal = Refusal(
                reason=Reason.INVALID_BODY, status=400, message="This is not a well-formed HTTP/1.1 request.", retry=False
            )
        response = refusal_response(refusal, request_id=None)
        response.force_close()
        return response

    def _arm(self) -> None:
        self._head_deadline = self._loop.call_later(self._header_timeout_s, self._head_is_late)

    def _disarm(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _head_is_late(self) -> None:
        self._head_deadline = None
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(
                raw_refusal(
                    Refusal(reason=Reason.SLOW_REQUEST, status=408, message="The request's head did not arrive in time.")
                )
            )
        self.force_close()


class Listener(web.Server):
    """aiohttp's low-level server: every connection is a `Connection`, every request goes to one handler, plain calls to that of
    their target."""

    def __init__(
        self, handler: Handler, *, header_timeout_s: float, plain_calls: Mapping[bytes, plain.Handler] | None = None
    ) -> None:
        super().__init__(cast(Any, handler), handler_cancellation=True)  # answers are duck-typed
        self._header_timeout_s = header_timeout_s
        self._plain_calls = plain_calls or {}

    def __call__(self) -> web.RequestHandler:
        return Connection(
            self,
            loop=self._loop,
            header_timeout_s=self._header_timeout_s,
            plain_calls=self._plain_calls,
            keepalive_timeout=KEEPALIVE_S,
            access_log=None,
            tcp_keepalive=True,
            lingering_time=2.0,
        )


def check_head(request: web.BaseRequest) -> None:
    """Refuse heads on which two parsers could disagree (reliability.md §6.4). Raises Refused."""
    if request.version < (1, 0):
        raise refuse(Reason.INVALID_BODY, 400, "HTTP/0.9 is not spoken here.", retry=False)
    message = request._message
    if not message.path.startswith("/"):
        raise refuse(Reason.INVALID_BODY, 400, "The request target must be a path.", retry=False)
    headers = request.headers
    host = headers.get("Host")
    if host is not None and not plain.is_host(host):
        raise refuse(Reason.INVALID_BODY, 400, "The Host header is not a host.", field="host", retry=False)
    if "Content_Length" in headers or "Transfer_Encoding" in headers:
        raise refuse(Reason.INVALID_BODY, 400, "A framing header is misspelt.", retry=False)

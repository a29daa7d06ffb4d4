"""One client connection: aiohttp's, with the deadlines and refusals that it lacks.

aiohttp 3.14 has no deadline for a half-sent head and lets odd heads through (measured: HTTP/0.9 lines, absolute-form
targets, a Host with a path in it). Here a head must arrive within `header_timeout_s`, and what the parser refuses is
answered in the clients' own error format.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError, LineTooLong
from aiohttp.web_protocol import ERROR, PayloadAccessError, _ErrInfo

from services.ingress.answer import Answer
from services.ingress.refusals import raw_refusal, refusal_response
from shared.domain.refusal import Reason, Refusal, refuse

KEEPALIVE_S = 75.0
HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")

PAYLOAD_IS_OVER = PayloadAccessError()
MOST_HOSTS = 1_000
_GOOD_HOSTS: set[str] = set()

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connection(web.RequestHandler):
    """A client's connection with a deadline for each head."""

    __slots__ = ("_head_deadline", "_header_timeout_s")

    def __init__(self, manager: web.Server, *, header_timeout_s: float, **rest: Any) -> None:
        super().__init__(manager, **rest)
        self._header_timeout_s = header_timeout_s
        self._head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._request_count == 0:
            return  # still the first head: its deadline runs since the connection was made
        if self._messages or self._waiter is None or self._waiter.done():
            if self._head_deadline is not None:
                self._disarm()
        elif self._head_deadline is None:
            self._arm()

    async def start(self) -> None:
        """One request after another, each in this connection's own task.

        aiohttp gives every request a task of its own, for the sake of context variables, which nothing here sets: that is two
        more turns of the event loop and a task for each call. The rest is as there, but for what is not used here.
        """
        loop, manager = self._loop, self._manager
        assert manager is not None
        while not self._force_close:
            if not self._messages:
                try:
                    self._waiter = loop.create_future()
                    await self._waiter
                finally:
                    self._waiter = None
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
            self._next_keepalive_close_time = loop.time() + KEEPALIVE_S
            if self._keepalive_handle is None:
                self._keepalive_handle = loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

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

    async def _linger(self, payload: StreamReader) -> None:
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
            refusal = Refusal(reason=Reason.INTERNAL, status=500, message="The gateway failed on this request; it was logged.")
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
    """aiohttp's low-level server: every connection is a `Connection`, every request goes to one handler."""

    def __init__(self, handler: Handler, *, header_timeout_s: float) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._header_timeout_s = header_timeout_s

    def __call__(self) -> web.RequestHandler:
        return Connection(
            self,
            loop=self._loop,
            header_timeout_s=self._header_timeout_s,
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
    if host is not None and host not in _GOOD_HOSTS:
        if HOST.fullmatch(host) is None:
            raise refuse(Reason.INVALID_BODY, 400, "The Host header is not a host.", field="host", retry=False)
        if len(_GOOD_HOSTS) < MOST_HOSTS:
            _GOOD_HOSTS.add(host)
    if "Content_Length" in headers or "Transfer_Encoding" in headers:
        raise refuse(Reason.INVALID_BODY, 400, "A framing header is misspelt.", retry=False)

"""Endpoint: aiohttp ⇄ flow. A request becomes an Arrival, an answer goes through a Sink, a client that leaves cancels."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from services.ingress.answer import Answer, StreamAnswer, WholeAnswer
from services.ingress.live import LiveStreams
from services.ingress.plain import Request, target_of
from services.ingress.refusals import refusal_answer
from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Reason, Refusal, Refused, refuse
from shared.flow.exchange import Arrival, Gateway, begin, run
from shared.settings import Settings
from shared.upstream.head import VALUE
from shared.wire.codec import FORMATS
from shared.wire.openrouter import PING, encode_stream_error

CHAT, ANTHROPIC = WireFormat.OPENAI_CHAT, WireFormat.ANTHROPIC_MESSAGES
"""For what every call asks: Python 3.11 looks an enum's members up in Python."""
BODY_BYTES_PER_S = 64 * 1024
"""A body may take body_timeout_s plus a second per this many bytes: slow links pass, stalled ones do not."""


async def serve(
    request: Request,
    gateway: Gateway,
    streams: LiveStreams,
    operation: str,
    wire_format: WireFormat,
    *,
    model: str | None = None,
    stream: bool | None = None,
    provider: str | None = None,
    sse: bool = True,
) -> Answer:
    """Run one call. Cancelled when the client disconnects: the flow closes the upstream and books what was used.

    `model`, `stream` and `provider` are those of the URL, where it has them.
    """
    headers, openrouter = request.headers, at_openrouter(request)
    sink = HttpSink(request, streams, wire_format, ping=PING if openrouter and wire_format is CHAT else None)
    arrival = Arrival(
        operation=operation,
        wire_format=wire_format,
        credential=credential_of(headers.get("authorization"), headers, query_key(request)),
        content_type=headers.get("content-type"),
        traceparent=headers.get("traceparent"),
        read_body=lambda: read_body(request, gateway.settings),
        model=model,
        stream=stream,
        provider=provider,
        sse=sse,
        openrouter=openrouter,
        session=headers.get("x-session-id") if openrouter else None,
        deadline=headers.get("x-waystation-deadline-s"),
        headers=forwarded(headers) if wire_format is ANTHROPIC else (),
    )
    x = begin(gateway, arrival, sink)
    try:
        await run(x)
    except Refused as refused:
        gateway.metrics.refused(refused.refusal.reason)
        if not sink.started:
            answer = refusal_answer(
                request,
                refused.refusal,
                request_id=x.event_id,
                wire_format=wire_format,
                openrouter=openrouter,
                beside=x.headers,
            )
            return sink.finished(answer, gateway.draining)
        await sink.fail(refused.refusal)
    finally:
        streams.forget(sink)
    return sink.finished(None, gateway.draining)


OPENROUTER = "/api/v1/"


def at_openrouter(request: Request) -> bool:
    """Whether the caller is one of OpenRouter's."""
    return target_of(request).startswith(OPENROUTER)


FORWARDED = ("anthropic-version", "anthropic-beta")


def forwarded(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What an Anthropic client tells Anthropic beside the body; values that no header line can hold are left out."""
    found = ((name, headers.get(name)) for name in FORWARDED)
    return tuple((name, value) for name, value in found if value is not None and VALUE.fullmatch(value))


def credential_of(authorization: str | None, headers: Mapping[str, str], query_key: str | None = None) -> str | None:
    """The key as any SDK sends it: `Authorization: Bearer`, `x-api-key`, `api-key`, `x-goog-api-key` or `?key=`."""
    if authorization is not None:
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return value.strip()
    return headers.get("x-api-key") or headers.get("api-key") or headers.get("x-goog-api-key") or query_key


async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body, bounded in size and time. Raises Refused (413, 408, 400)."""
    most = settings.max_body_bytes
    content = request.content
    if content.is_eof() and content.exception() is None:  # it came with the head, as small bodies do
        body = content.read_nowait(-1)
        if len(body) > most:
            raise too_large(most)
        return body
    length = request.content_length
    if length is not None and length > most:
        raise too_large(most)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # the client sends its body only then, or after a wait
    pieces, size = [], 0
    try:
        async with asyncio.timeout(settings.body_timeout_s + (length or most) / BODY_BYTES_PER_S):
            while piece := await asyncio.wait_for(content.readany(), settings.body_timeout_s):
                size += len(piece)
                if size > most:
                    raise too_large(most)
                pieces.append(piece)
    except TimeoutError:
        raise refuse(Reason.SLOW_REQUEST, 408, "The request's body did not arrive in time.", retry=True) from None
    except (HttpProcessingError, web.RequestPayloadError):
        raise refuse(
            Reason.INVALID_BODY, 400, "The request's body is not framed or encoded as its headers say.", retry=False
        ) from None
    return b"".join(pieces)


def too_large(most: int) -> Refused:
    return refuse(
        Reason.BODY_TOO_LARGE, 413, f"The request's body is larger than {most} bytes, the most taken here.", retry=False
    )


def query_key(request: Request) -> str | None:
    """`?key=`, as Google's clients send it; asking aiohttp for a query builds a URL object, so only when there is one."""
    return request.query.get("key") if "?" in target_of(request) else None


class HttpSink:
    """A flow's Sink over an aiohttp response. While a write waits for a slow client, `blocked_since_s` says since when."""

    __slots__ = ("_loop", "_ping", "_request", "_response", "_streams", "_wire_format", "blocked_since_s", "last_write_s")

    def __init__(self, request: Request, streams: LiveStreams, wire_format: WireFormat, ping: bytes | None = None) -> None:
        self._request = request
        self._ping = ping
        self._wire_format = wire_format
        self._streams = streams
        self._response: Answer | None = None
        self._loop = request._loop  # the public property warns on every read
        self.blocked_since_s: float | None = None
        self.last_write_s = 0.0

    @property
    def started(self) -> bool:
        return self._response is not None and self._response.prepared

    def reply(self, headers: dict[str, str], body: bytes) -> None:
        self._response = WholeAnswer(self._request, headers, body)

    async def start(self, headers: dict[str, str]) -> None:
        self._response = StreamAnswer(self._request, headers, close=self._streams.draining)
        self.last_write_s = self._loop.time()
        self._streams.remember(self)

    async def write(self, chunk: bytes) -> None:
        assert isinstance(self._response, StreamAnswer)
        self.blocked_since_s = self.last_write_s = self._loop.time()
        await self._response.write(chunk)
        self.blocked_since_s = None

    async def ping(self) -> None:
        """Something that this format's clients ignore. Only whole events are ever written, so it falls between two."""
        self.last_write_s = self._loop.time()
        if isinstance(self._response, StreamAnswer):
            await self._response.write(self._ping or FORMATS[self._wire_format].ping)

    async def fail(self, refusal: Refusal) -> None:
        """End a begun stream with an error in its own format."""
        own = FORMATS[self._wire_format].encode_stream_error
        await self.write(own(refusal, 0) if self._ping is None else encode_stream_error(refusal))

    def finished(self, instead: Answer | None, draining: bool) -> Answer:
        """The answer that the connection finishes: `instead` when nothing was begun."""
        answer = instead or self._response
        if answer is None:
            raise RuntimeError("a call ended without an answer")
        if draining:
            answer.force_close()
        return answer

    def abort(self) -> None:
        """Cut a client that does not read: its handler is cancelled by the lost connection."""
        transport = self._request.transport
        if transport is not None:
            transport.abort()

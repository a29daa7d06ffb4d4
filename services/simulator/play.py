"""A reply onto the wire, with whatever its behaviour breaks on the way."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator

from aiohttp import web

from services.simulator.answer import Reply
from services.simulator.behaviour import Behaviour, Break, Shape
from services.simulator.call import Call
from services.simulator.formats.base import Failure, Format, Step
from services.simulator.state import Record, State

BATCH_BYTES = 16 * 1024
"""Without a pace, events are joined up to this size before they are written."""
HTML = b"<!doctype html><html><head><title>Gateway</title></head><body><h1>Something is wrong</h1></body></html>"
BROKEN_BY_US = "The simulator was asked to fail here."


class Broken(Exception):
    """The connection is gone by our own hand; nothing more can be written."""


def drop_connection(request: web.Request, *, reset: bool = False) -> None:
    """Close the connection now: without the end of the body, or with a TCP reset."""
    if request.transport is None:
        return
    if reset and (sock := request.transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


async def play_whole(
    request: web.Request,
    state: State,
    record: Record,
    reply: Reply,
    behaviour: Behaviour,
    headers: dict[str, str],
    *,
    wire_format: Format,
) -> web.StreamResponse:
    """A reply without a stream."""
    await asyncio.sleep((behaviour.first_token_delay_ms) / 1000)
    payload = wire_format.encode_reply(reply, behaviour)
    if behaviour.break_kind is Break.ERROR:
        payload, _ = wire_format.encode_error(Failure(status=500, message=BROKEN_BY_US, code="server_error"))
    elif behaviour.shape is Shape.TRUNCATED or behaviour.break_kind is Break.MALFORMED:
        payload = payload[: len(payload) // 2]
    elif behaviour.break_kind is not Break.NONE:
        return await _half(request, state, record, payload, behaviour, headers)
    record.tokens_sent = sum(choice.tokens for choice in reply.choices)
    return web.Response(body=payload, content_type="application/json", headers=headers)


async def _half(
    request: web.Request, state: State, record: Record, payload: bytes, behaviour: Behaviour, headers: dict[str, str]
) -> web.StreamResponse:
    """The head with the full length, half of the body, and then what the behaviour says."""
    response = web.StreamResponse(headers={**headers, "Content-Type": "application/json"})
    response.content_length = len(payload)
    await response.prepare(request)
    await response.write(payload[: len(payload) // 2])
    if behaviour.break_kind is Break.STALL:
        await asyncio.Event().wait()
    state.end(record, "broken")
    drop_connection(request, reset=behaviour.break_kind is Break.RESET)
    return response


async def play_stream(
    request: web.Request,
    state: State,
    record: Record,
    reply: Reply,
    behaviour: Behaviour,
    headers: dict[str, str],
    *,
    wire_format: Format,
    call: Call,
    pace_ms: int,
) -> web.StreamResponse:
    """A reply as a stream."""
    kind = wire_format.stream_type if call.sse else "application/json; charset=utf-8"
    response = web.StreamResponse(headers={**headers, "Content-Type": kind, "Cache-Control": "no-cache"})
    await response.prepare(request)
    await asyncio.sleep(behaviour.first_token_delay_ms / 1000)
    events = wire_format.encode_events(reply, behaviour, call)
    if behaviour.shape is Shape.TRUNCATED:
        events = _truncated(events)
    writer = _Writer(response, behaviour, wire_format)
    try:
        await _write_events(writer, events, behaviour, record, pace_ms)
    except Broken:
        state.end(record, "broken")
        drop_connection(request, reset=behaviour.break_kind is Break.RESET)
        return response
    await response.write_eof()
    state.end(record, "complete" if behaviour.break_kind is Break.NONE else "broken")
    return response


async def _write_events(
    writer: _Writer, events: Iterator[tuple[Step, bytes]], behaviour: Behaviour, record: Record, pace_ms: int
) -> None:
    """Raises Broken where the connection has to go."""
    pending = behaviour.break_kind is not Break.NONE
    for step, event in events:
        if pending and step is not Step.OPENING and (step is Step.CLOSING or record.tokens_sent >= behaviour.break_after):
            pending = False
            if await _break(writer, behaviour):
                return
        if step is Step.TOKEN:
            if pace_ms and record.tokens_sent:
                await writer.flush()
                await asyncio.sleep(pace_ms / 1000)
            record.tokens_sent += 1
        await writer.write(event)
    await writer.flush()


async def _break(writer: _Writer, behaviour: Behaviour) -> bool:
    """Do what was asked for; True when the stream ends here (cleanly)."""
    await writer.flush()
    match behaviour.break_kind:
        case Break.STALL:
            await asyncio.Event().wait()
        case Break.CUT | Break.RESET:
            raise Broken
        case Break.MALFORMED:
            await writer.write(writer.wire_format.malformed)
            return False
        case Break.ERROR:
            await writer.write(writer.wire_format.error_event(BROKEN_BY_US))
            await writer.flush()
    return True


def _truncated(events: Iterator[tuple[Step, bytes]]) -> Iterator[tuple[Step, bytes]]:
    """All tokens but the last; of that only half its event, and nothing after."""
    held: bytes | None = None
    for step, event in events:
        if step is Step.CLOSING:
            break
        if held is not None:
            yield Step.TOKEN, held
            held = None
        if step is Step.TOKEN:
            held = event
        else:
            yield step, event
    if held is not None:
        yield Step.TOKEN, held[: len(held) // 2]


class _Writer:
    """Events onto one response: joined for speed, or with the line ends, comments and cuts that were asked for."""

    def __init__(self, response: web.StreamResponse, behaviour: Behaviour, wire_format: Format) -> None:
        self._response = response
        self._behaviour = behaviour
        self.wire_format = wire_format
        self._waiting = bytearray()

    async def write(self, event: bytes) -> None:
        if self._behaviour.comments and self.wire_format.lines:
            self._waiting += b": keep-alive\n\n"
        self._waiting += event
        if len(self._waiting) >= BATCH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        if not self._waiting:
            return
        waiting = bytes(self._waiting)
        self._waiting.clear()
        if self._behaviour.crlf and self.wire_format.lines:
            waiting = waiting.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        size = self._behaviour.split_bytes or len(waiting)
        for start in range(0, len(waiting), size):
            await self._response.write(waiting[start : start + size])
            if size < len(waiting):
                await asyncio.sleep(0)

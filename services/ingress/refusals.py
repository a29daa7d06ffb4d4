"""Refusals as HTTP: status, headers and body in the client's own error format."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from services.ingress.answer import WholeAnswer, status_line
from services.ingress.plain import Request
from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Refusal
from shared.wire.codec import FORMATS
from shared.wire.openrouter import encode_refusal as encode_openrouter

CLOSING = (408, 413)
"""Statuses after which nobody knows what else the client still sends."""


def refusal_response(
    refusal: Refusal,
    *,
    request_id: str | None,
    wire_format: WireFormat = WireFormat.OPENAI_CHAT,
    openrouter: bool = False,
) -> web.Response:
    """For what is no call."""
    status, headers, body = encoded(refusal, request_id, wire_format, openrouter)
    response = web.Response(status=status, body=body, headers=headers)
    if status in CLOSING:
        response.force_close()
    return response


def refusal_answer(
    request: Request, refusal: Refusal, *, request_id: str, wire_format: WireFormat, openrouter: bool, beside: Mapping[str, str]
) -> WholeAnswer:
    """A call's. `beside` are headers that the call had already."""
    status, headers, body = encoded(refusal, request_id, wire_format, openrouter)
    known = {name.lower() for name in headers}
    answer = WholeAnswer(request, {n: v for n, v in beside.items() if n.lower() not in known} | dict(headers), body, status)
    if status in CLOSING:
        answer.force_close()
    return answer


def encoded(
    refusal: Refusal, request_id: str | None, wire_format: WireFormat, openrouter: bool
) -> tuple[int, Mapping[str, str], bytes]:
    own = openrouter and wire_format is WireFormat.OPENAI_CHAT
    encode = encode_openrouter if own else FORMATS[wire_format].encode_refusal
    return encode(refusal, request_id)


def raw_refusal(refusal: Refusal, wire_format: WireFormat = WireFormat.OPENAI_CHAT) -> bytes:
    """A whole HTTP/1.1 answer as bytes, for a connection whose request never became one."""
    status, headers, body = FORMATS[wire_format].encode_refusal(refusal, None)
    lines = [f"HTTP/1.1 {status_line(status)}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()] + ["Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body

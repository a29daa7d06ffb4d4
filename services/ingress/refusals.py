"""Refusals as HTTP: status, headers and body in the client's own error format."""

from __future__ import annotations

from aiohttp import web

from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Refusal
from shared.wire.codec import FORMATS
from shared.wire.openrouter import encode_refusal as encode_openrouter


def refusal_response(
    refusal: Refusal,
    *,
    request_id: str | None,
    wire_format: WireFormat = WireFormat.OPENAI_CHAT,
    openrouter: bool = False,
) -> web.Response:
    own = openrouter and wire_format is WireFormat.OPENAI_CHAT
    encode = encode_openrouter if own else FORMATS[wire_format].encode_refusal
    status, headers, body = encode(refusal, request_id)
    response = web.Response(status=status, body=body, headers=headers)
    if status in (408, 413):
        response.force_close()
    return response


def raw_refusal(refusal: Refusal, wire_format: WireFormat = WireFormat.OPENAI_CHAT) -> bytes:
    """A whole HTTP/1.1 answer as bytes, for a connection whose request never became one."""
    status, headers, body = FORMATS[wire_format].encode_refusal(refusal, None)
    lines = [f"HTTP/1.1 {status} {refusal.reason.value.replace('_', ' ')}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()] + ["Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body

"""Token counts before a call, in the formats that have an endpoint for it.

Claude Code fires two dozen of these at once when it shows its context. They are answered here from the text alone, at four
bytes a token (OpenAI's rule of thumb for English): no provider is asked, nothing is admitted or booked.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
from aiohttp import web

from services.ingress.endpoint import credential_of, query_key, read_body
from services.ingress.node import Node
from shared.domain.catalogue import WireFormat
from shared.flow.accept import authenticate, check_content_type
from shared.wire.codec import FORMATS
from shared.wire.envelope import open_envelope

BYTES_PER_TOKEN = 4
TOKENS_PER_MEDIA = 1_000
"""About what an image of common size costs at the large vendors."""


async def messages(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """`POST /v1/messages/count_tokens` (Anthropic): `{"input_tokens": N}`."""
    tokens = await counted(request, node, WireFormat.ANTHROPIC_MESSAGES)
    return web.Response(body=msgspec.json.encode({"input_tokens": tokens}), content_type="application/json")


async def gemini(request: web.BaseRequest, node: Node, model: str) -> web.StreamResponse:
    """`POST …/models/{model}:countTokens` (Google): `{"totalTokens": N}`."""
    tokens = await counted(request, node, WireFormat.GEMINI, model=model)
    return web.Response(body=msgspec.json.encode({"totalTokens": tokens}), content_type="application/json")


async def counted(request: web.BaseRequest, node: Node, wire_format: WireFormat, **url: Any) -> int:
    """An estimate of the call's input tokens. Raises Refused."""
    gateway, headers = node.gateway, request.headers
    authenticate(gateway, gateway.snapshot(), credential_of(headers.get("Authorization"), headers, query_key(request)))
    check_content_type(headers.get("Content-Type"))
    body = await read_body(request, gateway.settings)
    envelope = open_envelope(body)
    if wire_format is WireFormat.ANTHROPIC_MESSAGES and "max_tokens" not in envelope.fields:
        envelope = open_envelope(orjson.dumps(orjson.loads(body) | {"max_tokens": 1}))
    if wire_format is WireFormat.GEMINI and "contents" not in envelope.fields:  # it may be a whole call, wrapped
        whole = orjson.loads(body).get("generateContentRequest")
        envelope = open_envelope(orjson.dumps(whole if type(whole) is dict else {}))
    call = FORMATS[wire_format].facts(envelope, url.get("model"), False)
    media = call.media
    pieces = media.images + media.audio + media.files
    return max(1, -(-(len(body) - media.inline_bytes) // BYTES_PER_TOKEN) + pieces * TOKENS_PER_MEDIA)

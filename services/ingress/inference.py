"""Every /v1 call that reaches a model: names its wire format and operation, and calls the flow."""

from __future__ import annotations

from aiohttp import web

from services.ingress.endpoint import serve
from services.ingress.node import Node
from shared.domain.catalogue import WireFormat
from shared.flow.exchange import Operation


async def chat(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """`POST /v1/chat/completions` (OpenAI)."""
    return await serve(request, node.gateway, node.streams, Operation.CHAT, WireFormat.OPENAI_CHAT)

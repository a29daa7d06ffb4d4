"""Every call that reaches a model: names its wire format and operation, and calls the flow."""

from __future__ import annotations

from collections.abc import Awaitable

from aiohttp import web

from services.ingress.endpoint import serve
from services.ingress.node import Node
from shared.domain.catalogue import WireFormat
from shared.flow.exchange import Operation


def chat(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse]:
    """`POST /v1/chat/completions` (OpenAI)."""
    return serve(request, node.gateway, node.streams, Operation.CHAT, WireFormat.OPENAI_CHAT)


def messages(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse]:
    """`POST /v1/messages` (Anthropic)."""
    return serve(request, node.gateway, node.streams, Operation.CHAT, WireFormat.ANTHROPIC_MESSAGES)

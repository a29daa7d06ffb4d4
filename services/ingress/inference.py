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


def completions(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse]:
    """`POST /v1/completions` (OpenAI, legacy)."""
    return serve(request, node.gateway, node.streams, Operation.COMPLETIONS, WireFormat.OPENAI_CHAT)


def embeddings(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse]:
    """`POST /v1/embeddings` (OpenAI)."""
    return serve(request, node.gateway, node.streams, Operation.EMBEDDINGS, WireFormat.OPENAI_CHAT)


def images(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse]:
    """`POST /v1/images/generations` (OpenAI)."""
    return serve(request, node.gateway, node.streams, Operation.IMAGES, WireFormat.OPENAI_CHAT)


def moderations(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse]:
    """`POST /v1/moderations` (OpenAI)."""
    return serve(request, node.gateway, node.streams, Operation.MODERATIONS, WireFormat.OPENAI_CHAT)


def rerank(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse]:
    """`POST /v1/rerank` (OpenRouter, vLLM, Jina)."""
    return serve(request, node.gateway, node.streams, Operation.RERANK, WireFormat.OPENAI_CHAT)


def speech(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse]:
    """`POST /v1/audio/speech` (OpenAI)."""
    return serve(request, node.gateway, node.streams, Operation.SPEECH, WireFormat.OPENAI_CHAT)


def messages(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse]:
    """`POST /v1/messages` (Anthropic)."""
    return serve(request, node.gateway, node.streams, Operation.CHAT, WireFormat.ANTHROPIC_MESSAGES)

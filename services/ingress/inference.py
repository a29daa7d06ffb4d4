"""Every call that reaches a model: names its wire format and operation, and calls the flow."""

from __future__ import annotations

from collections.abc import Awaitable

from aiohttp import web

from services.ingress.endpoint import serve
from services.ingress.node import Node
from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Reason, refuse
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


def responses(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse]:
    """`POST /v1/responses` (OpenAI)."""
    return serve(request, node.gateway, node.streams, Operation.CHAT, WireFormat.OPENAI_RESPONSES)


AT_PROVIDER: dict[str, tuple[Operation, WireFormat]] = {
    "chat/completions": (Operation.CHAT, WireFormat.OPENAI_CHAT),
    "responses": (Operation.CHAT, WireFormat.OPENAI_RESPONSES),
    "messages": (Operation.CHAT, WireFormat.ANTHROPIC_MESSAGES),
    "completions": (Operation.COMPLETIONS, WireFormat.OPENAI_CHAT),
    "embeddings": (Operation.EMBEDDINGS, WireFormat.OPENAI_CHAT),
    "images/generations": (Operation.IMAGES, WireFormat.OPENAI_CHAT),
    "moderations": (Operation.MODERATIONS, WireFormat.OPENAI_CHAT),
    "rerank": (Operation.RERANK, WireFormat.OPENAI_CHAT),
    "audio/speech": (Operation.SPEECH, WireFormat.OPENAI_CHAT),
}
PROVIDERS = "/v1/providers/"


def at_provider(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse]:
    """`POST /v1/providers/{provider}/…`: the same operations, at one provider. Raises Refused (404)."""
    provider, _, tail = request.path.removeprefix(PROVIDERS).partition("/")
    found = AT_PROVIDER.get(tail)
    if found is None or not provider:
        raise refuse(Reason.UNKNOWN_URL, 404, f"There is nothing at {request.path[:200]!r}.", retry=False)
    return serve(request, node.gateway, node.streams, *found, provider=provider)


def messages(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse]:
    """`POST /v1/messages` (Anthropic)."""
    return serve(request, node.gateway, node.streams, Operation.CHAT, WireFormat.ANTHROPIC_MESSAGES)

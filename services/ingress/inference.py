"""Every call that reaches a model: names its wire format and operation, and calls the flow."""

from __future__ import annotations

from collections.abc import Awaitable
from urllib.parse import unquote

from aiohttp import web

from services.ingress import counting
from services.ingress.answer import Answer
from services.ingress.endpoint import CHAT, serve
from services.ingress.node import Node
from services.ingress.plain import Request
from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Reason, refuse
from shared.flow.exchange import Operation


def chat(request: Request, node: Node) -> Awaitable[Answer]:
    """`POST /v1/chat/completions` (OpenAI)."""
    return serve(request, node.gateway, node.streams, Operation.CHAT, CHAT)


def completions(request: Request, node: Node) -> Awaitable[Answer]:
    """`POST /v1/completions` (OpenAI, legacy)."""
    return serve(request, node.gateway, node.streams, Operation.COMPLETIONS, WireFormat.OPENAI_CHAT)


def embeddings(request: Request, node: Node) -> Awaitable[Answer]:
    """`POST /v1/embeddings` (OpenAI)."""
    return serve(request, node.gateway, node.streams, Operation.EMBEDDINGS, WireFormat.OPENAI_CHAT)


def images(request: web.BaseRequest, node: Node) -> Awaitable[Answer]:
    """`POST /v1/images/generations` (OpenAI)."""
    return serve(request, node.gateway, node.streams, Operation.IMAGES, WireFormat.OPENAI_CHAT)


def moderations(request: web.BaseRequest, node: Node) -> Awaitable[Answer]:
    """`POST /v1/moderations` (OpenAI)."""
    return serve(request, node.gateway, node.streams, Operation.MODERATIONS, WireFormat.OPENAI_CHAT)


def rerank(request: web.BaseRequest, node: Node) -> Awaitable[Answer]:
    """`POST /v1/rerank` (OpenRouter, vLLM, Jina)."""
    return serve(request, node.gateway, node.streams, Operation.RERANK, WireFormat.OPENAI_CHAT)


def speech(request: web.BaseRequest, node: Node) -> Awaitable[Answer]:
    """`POST /v1/audio/speech` (OpenAI)."""
    return serve(request, node.gateway, node.streams, Operation.SPEECH, WireFormat.OPENAI_CHAT)


def cohere_chat(request: Request, node: Node) -> Awaitable[Answer]:
    """`POST /v2/chat` (Cohere)."""
    return serve(request, node.gateway, node.streams, Operation.CHAT, WireFormat.COHERE)


def cohere_embed(request: web.BaseRequest, node: Node) -> Awaitable[Answer]:
    """`POST /v2/embed` (Cohere)."""
    return serve(request, node.gateway, node.streams, Operation.EMBEDDINGS, WireFormat.COHERE)


def cohere_rerank(request: web.BaseRequest, node: Node) -> Awaitable[Answer]:
    """`POST /v2/rerank` (Cohere)."""
    return serve(request, node.gateway, node.streams, Operation.RERANK, WireFormat.COHERE)


def transcriptions(request: web.BaseRequest, node: Node) -> Awaitable[Answer]:
    """`POST /v1/audio/transcriptions` (OpenAI's form, OpenRouter's JSON)."""
    return serve(request, node.gateway, node.streams, Operation.TRANSCRIPTIONS, WireFormat.OPENAI_CHAT)


def responses(request: Request, node: Node) -> Awaitable[Answer]:
    """`POST /v1/responses` (OpenAI)."""
    return serve(request, node.gateway, node.streams, Operation.CHAT, WireFormat.OPENAI_RESPONSES)


GEMINI = ("/v1beta/models/", "/v1/models/", "/v1alpha/models/")
GEMINI_VERBS = {"generateContent": False, "streamGenerateContent": True}


async def gemini(
    request: web.BaseRequest, node: Node, path: str | None = None, provider: str | None = None
) -> web.StreamResponse | Answer:
    """`POST /v1beta/models/{model}:generateContent`, `:streamGenerateContent` (Google): model and verb are in the URL."""
    model, verb = of_gemini(request.path if path is None else path)
    if verb == "countTokens":
        return await counting.gemini(request, node, model)
    if verb in ("embedContent", "batchEmbedContents"):
        return await serve(
            request, node.gateway, node.streams, Operation.EMBEDDINGS, WireFormat.GEMINI, model=model, provider=provider
        )
    if verb not in GEMINI_VERBS:
        raise refuse(Reason.UNKNOWN_URL, 404, f"There is no {verb[:60]!r} here for Gemini's clients.", retry=False)
    sse = request.query.get("alt") == "sse"
    stream = GEMINI_VERBS[verb]
    return await serve(
        request, node.gateway, node.streams, Operation.CHAT, WireFormat.GEMINI,
        model=model, stream=stream, sse=sse or not stream, provider=provider,
    )  # fmt: skip


def of_gemini(path: str) -> tuple[str, str]:
    """Model and verb of `…/models/{model}:{verb}`; slashes in the model may come raw or as %2F. Raises Refused (404)."""
    tail = unquote(next((path.removeprefix(prefix) for prefix in GEMINI if path.startswith(prefix)), ""))
    model, colon, verb = tail.removeprefix("models/").rpartition(":")
    if not colon or not model:
        raise refuse(Reason.UNKNOWN_URL, 404, f"There is nothing at {path[:200]!r}.", retry=False)
    return model, verb


AT_PROVIDER: dict[str, tuple[str, WireFormat]] = {
    "chat/completions": (Operation.CHAT, WireFormat.OPENAI_CHAT),
    "responses": (Operation.CHAT, WireFormat.OPENAI_RESPONSES),
    "messages": (Operation.CHAT, WireFormat.ANTHROPIC_MESSAGES),
    "completions": (Operation.COMPLETIONS, WireFormat.OPENAI_CHAT),
    "embeddings": (Operation.EMBEDDINGS, WireFormat.OPENAI_CHAT),
    "images/generations": (Operation.IMAGES, WireFormat.OPENAI_CHAT),
    "moderations": (Operation.MODERATIONS, WireFormat.OPENAI_CHAT),
    "rerank": (Operation.RERANK, WireFormat.OPENAI_CHAT),
    "audio/speech": (Operation.SPEECH, WireFormat.OPENAI_CHAT),
    "audio/transcriptions": (Operation.TRANSCRIPTIONS, WireFormat.OPENAI_CHAT),
    "v2/chat": (Operation.CHAT, WireFormat.COHERE),
    "v2/embed": (Operation.EMBEDDINGS, WireFormat.COHERE),
    "v2/rerank": (Operation.RERANK, WireFormat.COHERE),
}
"""Anthropic's, Google's and Cohere's SDKs put the version behind the base URL that they are given; it may be there or not."""
PROVIDERS = "/v1/providers/"


def at_provider(request: web.BaseRequest, node: Node) -> Awaitable[web.StreamResponse | Answer]:
    """`POST /v1/providers/{provider}/…`: the same operations, at one provider. Raises Refused (404)."""
    provider, _, tail = request.path.removeprefix(PROVIDERS).partition("/")
    if provider and ("/" + tail).startswith(GEMINI):
        return gemini(request, node, "/" + tail, provider)
    tail = tail.removeprefix("v1/")
    if provider and tail == "messages/count_tokens":
        return counting.messages(request, node)
    found = AT_PROVIDER.get(tail)
    if found is None or not provider:
        raise refuse(Reason.UNKNOWN_URL, 404, f"There is nothing at {request.path[:200]!r}.", retry=False)
    return serve(request, node.gateway, node.streams, *found, provider=provider)


def messages(request: Request, node: Node) -> Awaitable[Answer]:
    """`POST /v1/messages` (Anthropic)."""
    return serve(request, node.gateway, node.streams, Operation.CHAT, WireFormat.ANTHROPIC_MESSAGES)

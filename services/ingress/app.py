"""The URL table, all of it, and the one place where a request enters.

A plain table and aiohttp's low-level server: no middleware stands between the socket and the flow, every answer, also a
404 and a 405, has the clients' error format, and a route is found with one dictionary look-up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from aiohttp import web

from services.ingress import (
    account,
    counting,
    explain,
    health,
    inference,
    models,
    provider_models,
    requests,
    resilience,
    responses,
)  # fmt: skip
from services.ingress.answer import Answer
from services.ingress.connection import check_head
from services.ingress.endpoint import at_openrouter
from services.ingress.node import Node
from services.ingress.plain import Handler as PlainHandler
from services.ingress.refusals import refusal_response
from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Reason, Refused, refuse

Handler = Callable[[web.BaseRequest, Node], Awaitable[web.StreamResponse | Answer]]

ROUTES: dict[str, dict[str, Handler]] = {
    "/v1/chat/completions": {"POST": inference.chat},
    "/v1/responses": {"POST": inference.responses},
    "/v1/completions": {"POST": inference.completions},
    "/v1/embeddings": {"POST": inference.embeddings},
    "/v1/images/generations": {"POST": inference.images},
    "/v1/moderations": {"POST": inference.moderations},
    "/v1/rerank": {"POST": inference.rerank},
    "/v1/audio/speech": {"POST": inference.speech},
    "/v1/audio/transcriptions": {"POST": inference.transcriptions},
    "/v1/messages": {"POST": inference.messages},
    "/v2/chat": {"POST": inference.cohere_chat},
    "/v2/embed": {"POST": inference.cohere_embed},
    "/v2/rerank": {"POST": inference.cohere_rerank},
    "/v1/messages/count_tokens": {"POST": counting.messages},
    "/v1/models": {"GET": models.every_model},
    "/v1beta/models": {"GET": models.every_model},
    "/v1alpha/models": {"GET": models.every_model},
    "/api/models/catalog": {"GET": models.catalogue},
    "/api/v1/models": {"GET": models.every_model},
    "/api/v1/key": {"GET": account.key},
    "/api/v1/auth/key": {"GET": account.key},
    "/api/v1/credits": {"GET": account.credits},
    "/api/v1/generation": {"GET": account.generation},
    "/api/v1/chat/completions": {"POST": inference.chat},
    "/api/v1/responses": {"POST": inference.responses},
    "/api/v1/completions": {"POST": inference.completions},
    "/api/v1/embeddings": {"POST": inference.embeddings},
    "/api/v1/messages": {"POST": inference.messages},
    "/api/v1/messages/count_tokens": {"POST": counting.messages},
    "/api/v1/rerank": {"POST": inference.rerank},
    "/api/v1/audio/speech": {"POST": inference.speech},
    "/api/v1/audio/transcriptions": {"POST": inference.transcriptions},
    "/api/provider-models": {
        "GET": provider_models.show,
        "POST": provider_models.add,
        "DELETE": provider_models.remove,
    },
    "/api/resilience": {"GET": resilience.show},
    "/api/resilience/unlock": {"POST": resilience.unlock},
    "/api/resilience/reset": {"POST": resilience.reset},
    "/api/explain": {"POST": explain.explain},
    "/livez": {"GET": health.livez},
    "/readyz": {"GET": health.readyz},
    "/metrics": {"GET": health.metrics},
}
UNDER: dict[str, dict[str, Handler]] = {
    inference.PROVIDERS: {"GET": models.at_provider, "POST": inference.at_provider},
    requests.REQUESTS: {"GET": requests.show},
    "/v1/responses/": {"GET": responses.show, "DELETE": responses.forget},
    "/v1/models/": {"GET": models.one_model, "POST": inference.gemini},
    "/v1beta/models/": {"GET": models.one_model, "POST": inference.gemini},
    "/v1alpha/models/": {"GET": models.one_model, "POST": inference.gemini},
    "/api/v1/models/": {"GET": models.one_model},
    "/api/v1/model/": {"GET": models.one_model},
}
"""Prefixes whose rest is an argument."""


PLAIN = {
    b"/v1/chat/completions": inference.chat,
    b"/v1/responses": inference.responses,
    b"/v1/messages": inference.messages,
    b"/v1/messages?beta=true": inference.messages,
    b"/v1/completions": inference.completions,
    b"/v1/embeddings": inference.embeddings,
    b"/v2/chat": inference.cohere_chat,
    b"/api/v1/chat/completions": inference.chat,
}
"""Targets of plain calls: what nearly all traffic is, for which there is a shorter way than aiohttp's (plain.py)."""
COHERE = frozenset(path for path in ROUTES if path.startswith("/v2/"))


def plain_calls(node: Node) -> Mapping[bytes, PlainHandler]:
    """The handler of each plain call's target."""
    return {target: partial(handler, node=node) for target, handler in PLAIN.items()}


def dispatcher(node: Node) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse | Answer]]:
    """The handler that aiohttp's server calls for each request."""

    async def dispatch(request: web.BaseRequest) -> web.StreamResponse | Answer:
        try:
            check_head(request)
            return await route(request)(request, node)
        except Refused as refused:
            node.gateway.metrics.refused(refused.refusal.reason)
            return refusal_response(
                refused.refusal, request_id=None, wire_format=dialect(request), openrouter=at_openrouter(request)
            )

    return dispatch


def dialect(request: web.BaseRequest) -> WireFormat:
    """Whose error format a caller reads, when no endpoint has said so."""
    if request.path.startswith("/v1/messages") or "anthropic-version" in request.headers:
        return WireFormat.ANTHROPIC_MESSAGES
    if request.path in COHERE:
        return WireFormat.COHERE
    if models.of_google(request) or request.path.startswith(inference.GEMINI[0]) or "x-goog-api-key" in request.headers:
        return WireFormat.GEMINI
    return WireFormat.OPENAI_CHAT


def route(request: web.BaseRequest) -> Handler:
    """Raises Refused: 404 for a URL we do not have, 405 for a method it does not take."""
    path = request.path
    methods = ROUTES.get(path) or next((UNDER[prefix] for prefix in UNDER if path.startswith(prefix)), None)
    if methods is None:
        raise refuse(Reason.UNKNOWN_URL, 404, f"There is nothing at {path[:200]!r}. The API is under /v1.", retry=False)
    handler = methods.get(request.method)
    if handler is None:
        allowed = ", ".join(methods)
        raise refuse(
            Reason.METHOD_NOT_ALLOWED, 405, f"{path[:200]} takes {allowed}, not {request.method[:20]}.",
            retry=False, headers=(("Allow", allowed),),
        )  # fmt: skip
    return handler

"""Stored responses: `GET` and `DELETE /v1/responses/{id}`, `GET …/{id}/input_items` (OpenAI). A team sees its own."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from services.ingress.models import caller, json
from services.ingress.node import Node
from shared.domain.refusal import Reason, Refused, refuse
from shared.flow.stored import unavailable
from shared.store.redis import RedisUnavailable

PREFIX = "/v1/responses/"


async def show(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """Raises Refused."""
    response_id, _, tail = request.path.removeprefix(PREFIX).partition("/")
    if tail not in ("", "input_items"):
        raise refuse(Reason.UNKNOWN_URL, 404, f"There is nothing at {request.path[:200]!r}.", retry=False)
    principal = caller(request, node).principal
    try:
        kept = await node.gateway.responses.read(principal.organisation_id, principal.team_id, response_id[:200])
    except RedisUnavailable:
        raise unavailable() from None
    if kept is None:
        raise missing(response_id)
    return json(listed(kept.input, response_id) if tail else kept.response)


def listed(items: list[Any], response_id: str) -> dict[str, Any]:
    """The input as a page that holds all of it; items that came without an id get one."""
    data = [{"id": f"item_{response_id}_{at}"} | item for at, item in enumerate(items) if type(item) is dict]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": False}


async def forget(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """Raises Refused."""
    response_id = request.path.removeprefix(PREFIX)
    principal = caller(request, node).principal
    try:
        gone = await node.gateway.responses.forget(principal.organisation_id, principal.team_id, response_id[:200])
    except RedisUnavailable:
        raise unavailable() from None
    if not gone:
        raise missing(response_id)
    return json({"id": response_id, "object": "response", "deleted": True})


def missing(response_id: str) -> Refused:
    return refuse(Reason.UNKNOWN_URL, 404, f"There is no response {response_id[:200]!r} here.", retry=False)

"""`GET /api/requests/{id}`: what the books say of one call, for keys of its team and for administrators' keys."""

from __future__ import annotations

from uuid import UUID

from aiohttp import web

from services.ingress.models import caller, json
from services.ingress.node import Node
from shared.domain.refusal import Reason, refuse
from shared.store import records

REQUESTS = "/api/requests/"


async def show(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """Its event, the attempts billed beside it, and its decision. It is there once it is booked. Raises Refused (404)."""
    entry = caller(request, node)
    asked = request.path.removeprefix(REQUESTS)
    try:
        found = await records.record(node.pool, str(UUID(asked)))
    except ValueError:
        found = None
    principal = entry.principal
    own = found is not None and (found["organisation_id"], found["team_id"]) == (principal.organisation_id, principal.team_id)
    if found is None or not (own or entry.admin):
        raise refuse(
            Reason.UNKNOWN_URL, 404, f"There is no call {asked[:200]!r} here, or it is not booked yet.", field="id", retry=False
        )
    return json(found)

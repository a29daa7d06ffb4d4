"""`GET /v1/models`: the models that the caller's key can name."""

from __future__ import annotations

from urllib.parse import unquote

import msgspec
from aiohttp import web

from services.ingress.endpoint import credential_of
from services.ingress.node import Node
from shared.domain.catalogue import Deployment
from shared.domain.refusal import Reason, refuse
from shared.flow.accept import authenticate
from shared.snapshot.snapshot import KeyEntry

PREFIX = "/v1/models/"


async def every_model(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """OpenAI's list: `{"object": "list", "data": [{"id", "object", "created", "owned_by"}, …]}`."""
    key = caller(request, node)
    deployments = node.gateway.snapshot().models(key.principal.organisation_id)
    return json({"object": "list", "data": [describe(deployment) for deployment in deployments]})


async def one_model(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """One entry of the list; the id's slash may come raw or as %2F."""
    key = caller(request, node)
    name = unquote(request.path.removeprefix(PREFIX))
    snapshot, organisation_id = node.gateway.snapshot(), key.principal.organisation_id
    deployment = snapshot.deployment(name, organisation_id)
    if deployment is None:
        raise refuse(
            Reason.UNKNOWN_MODEL, 404, f"There is no model {name[:200]!r} here. GET /v1/models lists yours.",
            field="model", retry=False,
        )  # fmt: skip
    return json(describe(deployment))


def caller(request: web.BaseRequest, node: Node) -> KeyEntry:
    headers = request.headers
    return authenticate(node.gateway, node.gateway.snapshot(), credential_of(headers.get("Authorization"), headers))


def describe(deployment: Deployment) -> dict[str, object]:
    model = deployment.model
    entry: dict[str, object] = {
        "id": deployment.name,
        "object": "model",
        "created": 0,
        "owned_by": deployment.provider.name,
    }
    if model.context_tokens is not None:
        entry["context_length"] = model.context_tokens
    if model.max_output_tokens is not None:
        entry["max_output_tokens"] = model.max_output_tokens
    return entry


def json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")

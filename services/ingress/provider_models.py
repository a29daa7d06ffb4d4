"""Models added at run time: `GET`, `POST`, `DELETE /api/provider-models`. Any key may look, an administrator's may change."""

from __future__ import annotations

from typing import Any

import pydantic
from aiohttp import web

from services.ingress.endpoint import read_body
from services.ingress.models import caller, json
from services.ingress.node import Node
from shared.domain.catalogue import Model
from shared.domain.refusal import Reason, refuse
from shared.flow.accept import check_content_type
from shared.snapshot.snapshot import KeyEntry
from shared.store import provider_models
from shared.store.document import ModelEntry, PriceEntry, Strict
from shared.wire.envelope import invalid_field


class Added(Strict):
    """`modelId` and `modelName` as OmniRoute's clients write them; the rest is a model's as in gateway.yaml."""

    provider: str
    modelId: str = pydantic.Field(min_length=1, max_length=200)
    modelName: str | None = pydantic.Field(default=None, max_length=200)
    source: str = pydantic.Field(default="manual", max_length=60)
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    capabilities: tuple[str, ...] = ("text",)
    price: PriceEntry | None = None

    def model(self) -> Model:
        entry = ModelEntry.model_validate(
            {
                "id": self.modelId,
                "context_tokens": self.context_tokens,
                "max_output_tokens": self.max_output_tokens,
                "capabilities": self.capabilities,
            }
        )
        return Model(
            model_id=entry.id,
            context_tokens=entry.context_tokens,
            max_output_tokens=entry.max_output_tokens,
            capabilities=frozenset(entry.capabilities),
            described="capabilities" in self.model_fields_set,
            price=None if self.price is None else self.price.price(f"added {self.source}"),
        )


async def show(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """Of one provider `{"models": […]}`, else a map. `new`: a connection offers it, and nobody has said what it is."""
    entry = caller(request, node)
    listed = await _listed(node, entry)
    wanted = request.query.get("provider")
    if wanted is not None:
        return json({"models": listed.get(_provider(node, wanted), [])})
    return json(listed)


async def _listed(node: Node, entry: KeyEntry) -> dict[str, list[dict[str, Any]]]:
    listed: dict[str, list[dict[str, Any]]] = {}
    known = {(name, model_id) for name, provider in node.providers.items() for model_id in provider.models}
    for row in await provider_models.added(node.pool):
        provider = row.pop("provider")
        listed.setdefault(provider, []).append(row | {"new": False})
        known.add((provider, row["id"]))
    for row in await provider_models.offered(node.pool):
        place = (row["provider"], row["id"])
        if place in known or row["organisation_id"] not in (None, entry.principal.organisation_id):
            continue
        known.add(place)
        seen = row["first_seen_at"].isoformat()
        offered = {"id": row["id"], "name": row["id"], "source": "offered", "new": True, "first_seen_at": seen}
        listed.setdefault(row["provider"], []).append(offered)
    return listed


async def add(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """Raises Refused: 403 without an administrator's key, 400 that names the field."""
    entry = administrator(request, node)
    check_content_type(request.headers.get("Content-Type"))
    body = await read_body(request, node.gateway.settings)
    try:
        given = Added.model_validate_json(body)
        model = given.model()
    except pydantic.ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in fault["loc"]) or "body"
        raise invalid_field(field, f"'{field}': {fault['msg'].removeprefix('Value error, ')}") from None
    provider = _provider(node, given.provider)
    name, actor = given.modelName or given.modelId, entry.principal.key_id
    stored = await provider_models.add(node.pool, provider, model, name=name, source=given.source, actor=actor)
    await node.watch.look()
    return json({"model": stored})


async def remove(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """`?provider=&model=`. Raises Refused."""
    entry = administrator(request, node)
    for name in ("provider", "model"):
        if not request.query.get(name):
            raise invalid_field(name, f"Missing '{name}' in the query: ?provider=…&model=…")
    provider, actor = _provider(node, request.query["provider"]), entry.principal.key_id
    removed = await provider_models.remove(node.pool, provider, request.query["model"], actor=actor)
    await node.watch.look()
    return json({"removed": removed})


def administrator(request: web.BaseRequest, node: Node) -> KeyEntry:
    entry = caller(request, node)
    if not entry.admin:
        raise refuse(Reason.FORBIDDEN, 403, "This takes an administrator's key: `waystation key create --admin`.", retry=False)
    return entry


def _provider(node: Node, name: str) -> str:
    """By name, prefix or alias. Raises Refused."""
    for provider in node.providers.values():
        if name in (provider.name, provider.prefix, *provider.aliases):
            return provider.name
    raise invalid_field("provider", f"There is no provider {name[:100]!r} in the catalogue.")

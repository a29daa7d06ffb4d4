"""`POST /api/explain`: a body in, its plan out. Any key may ask for itself, an administrator's for every key and team."""

from __future__ import annotations

from aiohttp import web

from services.ingress.endpoint import read_body
from services.ingress.models import caller, json
from services.ingress.node import Node
from services.ingress.provider_models import administrator
from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Reason, refuse
from shared.domain.tenancy import Principal
from shared.flow import explain as explaining
from shared.flow.accept import check_content_type
from shared.snapshot.snapshot import KeyEntry, Snapshot
from shared.wire.codec import FORMATS
from shared.wire.envelope import invalid_field


async def explain(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """`?format=`, `operation=`, `provider=` and `openrouter=true` (/api/v1) say which URL the call would go to; `key_id=` or
    `team=` whose it is. Raises Refused."""
    query, gateway = request.query, node.gateway
    entry = caller(request, node)
    snapshot = gateway.snapshot()
    if "key_id" in query or "team" in query:
        administrator(request, node)
        entry = key_of(snapshot, query["key_id"]) if "key_id" in query else team_of(snapshot, query["team"])
    check_content_type(request.headers.get("Content-Type"))
    wire_format = query.get("format", WireFormat.OPENAI_CHAT.value)
    known = {each.value: each for each in FORMATS}
    if wire_format not in known:
        raise invalid_field("format", f"{wire_format[:60]!r} is none of {', '.join(sorted(known))}.")
    body = await read_body(request, gateway.settings)
    return json(
        explaining.explain(
            gateway, snapshot, entry, body,
            wire_format=known[wire_format], operation=query.get("operation", "chat"), provider=query.get("provider"),
            openrouter=query.get("openrouter") == "true",
        )
    )  # fmt: skip


def key_of(snapshot: Snapshot, key_id: str) -> KeyEntry:
    """By its id. Raises Refused (404)."""
    found = next((public for public, row in snapshot.key_rows.items() if row.key_id == key_id), None)
    entry = None if found is None else snapshot.key(found)
    if entry is None:
        raise refuse(Reason.UNKNOWN_URL, 404, f"There is no key {key_id[:100]!r}.", field="key_id", retry=False)
    return entry


def team_of(snapshot: Snapshot, team_id: str) -> KeyEntry:
    """Any key of a team, without a policy of its own. Raises Refused (404)."""
    row = next((row for row in snapshot.key_rows.values() if row.team_id == team_id), None)
    if row is None:
        raise refuse(Reason.UNKNOWN_URL, 404, f"No key is in a team {team_id[:100]!r}.", field="team", retry=False)
    principal = Principal(organisation_id=row.organisation_id, team_id=team_id, key_id="")
    return snapshot.anonymous(principal)

"""A call explained here, from the configuration alone, as a node would that has not seen one yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from services.cli.manage import database
from services.cli.say import fail
from services.ingress.node import built_in
from shared.clock import Clock, SystemClock
from shared.domain.catalogue import Deployment, WireFormat
from shared.domain.refusal import Refused
from shared.domain.tenancy import Principal
from shared.flow import explain as explaining
from shared.providers import registry
from shared.routing.eligible import Health
from shared.settings import Settings
from shared.snapshot.snapshot import KeyEntry, Snapshot, build
from shared.store import configuration
from shared.upstream.load import Load


@dataclass
class Unseen:
    """A node that has not seen a call."""

    load: Load = field(default_factory=Load)
    health: Health | None = None
    quota_left: Callable[[Deployment], float | None] | None = None
    clock: Clock = field(default_factory=SystemClock)


async def here(
    settings: Settings,
    key_id: str | None,
    team: str,
    body: bytes,
    wire_format: WireFormat,
    operation: str,
    *,
    openrouter: bool = False,
) -> dict[str, Any]:
    async with database(settings) as pool:
        snapshot = build(await configuration.load(pool), registry.load(), built_in(settings))
        if key_id is not None:
            entry = key_of(snapshot, key_id)
        else:
            organisation, _, name = team.rpartition("/")
            query = text(
                "SELECT t.id, t.organisation_id FROM teams t JOIN organisations o ON o.id = t.organisation_id "
                "WHERE t.name = :team AND o.name = :organisation"
            )
            async with pool.connect() as db:
                row = (await db.execute(query, {"team": name, "organisation": organisation or "default"})).first()
            if row is None:
                fail(f"there is no team {team!r}")
            entry = snapshot.anonymous(Principal(organisation_id=row.organisation_id, team_id=row.id, key_id=""))
    try:
        return explaining.explain(
            Unseen(), snapshot, entry, body, wire_format=wire_format, operation=operation, openrouter=openrouter
        )
    except Refused as refused:
        fail(f"{refused.refusal.message}")


def key_of(snapshot: Snapshot, key_id: str) -> KeyEntry:
    public = next((public for public, row in snapshot.key_rows.items() if row.key_id == key_id), None)
    entry = None if public is None else snapshot.key(public)
    if entry is None:
        fail(f"there is no key {key_id!r}; `waystation key list` shows them")
    return entry

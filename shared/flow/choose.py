"""Choose: from the asked name to the deployments of a call. The router and `explain` both come through `planned`.

The commonest call (one deployment, no policy, no preferences, nothing unwell) costs a look-up: it gets its tuple, and no Plan
is made for it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random, random
from typing import TYPE_CHECKING, Protocol

import msgspec

from shared.clock import Clock
from shared.domain.catalogue import Deployment, WireFormat
from shared.domain.policy import Preferences
from shared.domain.refusal import Reason, Refused, refuse
from shared.flow.sessions import Session
from shared.routing import plan
from shared.routing.affinity import fingerprint
from shared.routing.eligible import Health, of_provider
from shared.routing.plan import MOST_ATTEMPTS, Plan
from shared.routing.pool import Pool, Removed, joined
from shared.routing.strategy import Inputs
from shared.snapshot.snapshot import KeyEntry, Snapshot
from shared.upstream.load import Load
from shared.wire.envelope import Envelope
from shared.wire.extensions import PRESET, Extensions, foreign_in
from shared.wire.needs import read_needs
from shared.wire.openai_chat import ChatCall
from shared.wire.preferences import CLIENTS, VARIANTS, read_preferences, taken_out, variants_of

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange


class Seen(Protocol):
    """What a node knows of its deployments at the moment; a Gateway is one."""

    @property
    def load(self) -> Load: ...

    @property
    def health(self) -> Health | None: ...

    @property
    def quota_left(self) -> Callable[[Deployment], float | None] | None: ...

    @property
    def clock(self) -> Clock: ...


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A call as far as the decision looks at it. `provider`: that of the URL."""

    snapshot: Snapshot
    key: KeyEntry
    wire_format: WireFormat
    operation: str
    envelope: Envelope
    call: ChatCall
    provider: str | None = None
    extensions: Extensions | None = None
    session: Session | None = None


def choose(x: Exchange) -> tuple[Deployment, ...]:
    """The deployments that the call may go to, in order; the reasons are in `x.decision`, where there was a choice. Raises
    Refused: 404, 400, 403 or 503."""
    name, key, arrival, fields = x.call.model, x.key, x.arrival, x.envelope.fields
    if (
        key.policy is None
        and x.extensions is None
        and arrival.provider is None
        and "provider" not in fields
        and "models" not in fields
        and "route" not in fields
    ):
        pool = x.snapshot.pool(name, key.principal.organisation_id)
        if pool is not None and pool.plain and ":" not in name and PRESET not in name:
            route, health = pool.route, x.gateway.health
            most = MOST_ATTEMPTS if route is None or route.max_attempts is None else route.max_attempts
            if health is None or not health.marks or all_well(pool.members, health, x.gateway.clock):
                x.route = route
                return pool.members[:most]
    asked = Asked(
        snapshot=x.snapshot,
        key=key,
        wire_format=arrival.wire_format,
        operation=arrival.operation,
        envelope=x.envelope,
        call=x.call,
        provider=arrival.provider,
        extensions=x.extensions,
        session=x.session,
    )
    x.decision = planned(asked, x.gateway)
    if arrival.wire_format in CLIENTS and type(x.envelope) is Envelope:
        x.envelope = taken_out(x.envelope)
    if not x.decision.candidates:
        raise Refused(plan.refusal(x.decision))
    x.route = None if x.decision.route is None else x.snapshot.route(x.decision.route)
    return x.decision.candidates


def all_well(members: tuple[Deployment, ...], health: Health, clock: Clock) -> bool:
    now_s = clock.now_s()
    return all(health.standing(each, now_s) is None for each in members)


def decided(x: Exchange) -> Plan:
    """The decision for a record: of a call that there was nothing to decide for, what it came to."""
    if x.decision is not None:
        return x.decision
    return Plan(asked=x.call.model, candidates=x.plan)


def planned(asked: Asked, seen: Seen, *, counted: bool = True) -> Plan:
    """The decision. `counted` False: a round robin does not move on for it. Raises Refused: a preference that cannot be read
    (400), a name that leads nowhere (404)."""
    name, preferences = preferred(asked)
    pool, provider = found(asked, name)
    if pool is None:
        raise unknown(asked)
    if ":" in name:
        refuse_variant(asked, name, pool)
    if preferences is not None and preferences.models:
        pool = with_models(asked, pool, preferences.models)
    load, route, session = seen.load, pool.route, asked.session
    needs = read_needs(asked.wire_format, asked.operation, asked.envelope, asked.call)
    if asked.extensions is not None and asked.extensions.compress:
        needs = msgspec.structs.replace(needs, compressible=True)
    inputs = Inputs(
        figures=load.figures,
        chance=random if session is None else Random(session.number).random,
        turn=load.turn if counted else load.peek,
        needs=needs,
        session=None if session is None else session.number,
        quota_left=seen.quota_left,
        recent_outage=load.outages(),
        prefix=fingerprint(asked.envelope.fields) if route is not None and route.affinity else None,
        most=MOST_ATTEMPTS if route is None or route.max_attempts is None else route.max_attempts,
    )
    made = plan.decide(
        pool,
        inputs,
        preferences=preferences,
        provider=provider,
        health=seen.health,
        now_s=seen.clock.now_s(),
    )
    if session is None or session.seat is None or (preferences is not None and (preferences.order or preferences.sort)):
        return made
    return plan.seated(made, session.seat.served, session.seat.failed)


def preferred(asked: Asked) -> tuple[str, Preferences | None]:
    """The name without its suffixes, unless it is one with them; and what the client prefers."""
    name = asked.call.model
    base, suffixes = variants_of(name)
    organisation_id = asked.key.principal.organisation_id
    if suffixes and (asked.snapshot.names(name, organisation_id) or asked.snapshot.pool(base, organisation_id) is None):
        base, suffixes = name, ()
    foreign = foreign_in(base)
    if asked.extensions is not None:
        foreign += asked.extensions.foreign
    return base, read_preferences(asked.wire_format, asked.envelope, suffixes, foreign)


def found(asked: Asked, name: str) -> tuple[Pool | None, str | None]:
    """What the name leads to, and the provider of the URL that it is bound to. There the prefix may be left out. Raises Refused
    (400) for the model of another provider."""
    pool, provider = asked.snapshot.pool_for(name, asked.key), asked.provider
    if provider is None:
        return pool, None
    members = pool.members if pool is not None else ()
    if pool is not None and (not members or pool.route is not None or of_provider(members[0], provider)):
        return pool, provider
    here = asked.snapshot.pool_for(f"{provider}/{name}", asked.key)
    if here is None and members:
        raise refuse(
            Reason.INVALID_FIELD, 400,
            f"{name[:200]!r} is a model of {members[0].provider.name}, not of {provider[:100]!r}.",
            field="model", retry=False,
        )  # fmt: skip
    return here, provider


def with_models(asked: Asked, first: Pool, names: tuple[str, ...]) -> Pool:
    """The client's own chain instead of the configured one. A name that leads nowhere is noted and passed over."""
    pools, missing = [first], []
    for name in names:
        pool = asked.snapshot.pool_for(name, asked.key)
        if pool is None:
            missing.append(Removed(name[:200], "", "models", "there is no such model here"))
        else:
            pools.append(pool)
    return joined(pools, missing)


def refuse_variant(asked: Asked, name: str, pool: Pool) -> None:
    """Of a model that is known, where nobody knows the name with the suffix. Ids with a colon of their own pass: those of a
    provider that has such or lists none, and whatever looks like a tag or a version (`8b`, `v2:0`). Raises Refused (400)."""
    base, _, suffix = name.rpartition(":")
    if not suffix.isalpha() or not pool.members:
        return
    one, organisation_id = pool.members[0], asked.key.principal.organisation_id
    own = any(":" in model_id for model_id in (*one.provider.models, *one.connection.models))
    plain = variants_of(base)[0]
    if own or not asked.snapshot.names(plain, organisation_id) or asked.snapshot.names(name, organisation_id):
        return
    raise unknown_variant(plain, suffix)


def unknown_variant(base: str, suffix: str) -> Refused:
    known = ", ".join(f":{each}" for each in VARIANTS if each != "online")
    return refuse(
        Reason.UNKNOWN_MODEL, 400, f"{base[:200]!r} has no variant ':{suffix[:64]}' here: there are {known}.",
        field="model", retry=False,
    )  # fmt: skip


def unknown(asked: Asked) -> Refused:
    name = asked.call.model
    told = foreign_in(name)
    if told:
        return refuse(Reason.INVALID_FIELD, 400, f"{told[0].why[0].upper()}{told[0].why[1:]}.", field="model", retry=False)
    base, colon, suffix = variants_of(name)[0].rpartition(":")
    if colon and asked.snapshot.pool_for(plain := variants_of(base)[0], asked.key) is not None:
        return unknown_variant(plain, suffix)
    near = asked.snapshot.suggestions(name, asked.key.principal.organisation_id, asked.key.policy)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return refuse(
        Reason.UNKNOWN_MODEL, 404, f"There is no model {name[:200]!r} here.{hint} GET /v1/models lists yours.",
        field="model", retry=False,
    )  # fmt: skip


def unbounded(decision: Plan | None, kept: tuple[Deployment, ...]) -> Plan | None:
    """The decision without fallbacks that a hard budget cannot be bounded for (admit.py)."""
    if decision is None or len(kept) == len(decision.candidates):
        return decision
    keys = {each.key for each in kept}
    gone = [each for each in decision.candidates if each.key not in keys]
    removed = [
        Removed(each.name, each.connection.name, "budget.unpriced", "a hard budget cannot bound what it costs") for each in gone
    ]
    return msgspec.structs.replace(decision, candidates=kept, removed=(*decision.removed, *removed))

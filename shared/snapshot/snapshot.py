"""Snapshot: configuration as a node serves it. Frozen, indexed, versioned by epoch, swapped whole."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from shared.domain.catalogue import Connection, Deployment, Model, Provider
from shared.domain.configuration import Configuration, KeyRow
from shared.domain.limits import Budget, Limit, Scope
from shared.domain.money import Price
from shared.domain.policy import KeyPolicy
from shared.domain.proxy import ProxyRow
from shared.domain.routing import Choice, Route
from shared.domain.tenancy import Principal
from shared.routing.aliases import Aliases
from shared.routing.eligible import allowed, key_rules
from shared.routing.plan import MOST_ATTEMPTS, chain_of
from shared.routing.pool import FILL_FIRST, Group, Pool, Section
from shared.routing.proxies import ProxyTable

MOST_NAMES = 20_000

Scoped = TypeVar("Scoped", Limit, Budget)


class KeyEntry(msgspec.Struct, frozen=True):
    """A key with everything that decides about its calls: limits and budgets of organisation, team and key."""

    principal: Principal
    digests: tuple[bytes, ...]
    expires_at_s: float | None
    revoked: bool
    limits: tuple[Limit, ...]
    budgets: tuple[Budget, ...]
    admin: bool = False
    policy: KeyPolicy | None = None


class Snapshot:
    """Look-ups are dictionary gets; what they find is made once and kept for the snapshot's life."""

    def __init__(
        self,
        epoch: int,
        keys: Mapping[str, KeyRow],
        limits: Sequence[Limit],
        budgets: Sequence[Budget],
        connections: Sequence[Connection],
        prices: Mapping[str, Price],
        providers: Mapping[str, Provider],
        added: Mapping[str, Mapping[str, Model]] | None = None,
        aliases: Mapping[str, str] | None = None,
        fallbacks: Mapping[str, Sequence[str]] | None = None,
        routes: Iterable[Route] = (),
        accounts: Mapping[str, Choice] | None = None,
        proxies: Iterable[ProxyRow] = (),
    ) -> None:
        self.epoch = epoch
        self.proxies = ProxyTable(proxies)
        self.key_rows = keys
        self._limits = _by_scope(limits)
        self._budgets = _by_scope(budgets)
        self._prices = prices
        self._added = added or {}
        self._aliases = Aliases(aliases or {})
        self._fallbacks = fallbacks or {}
        self._routes = {route.name: route for route in routes}
        self._accounts = accounts or {}
        self._providers = {name: _with(provider, self._added.get(name)) for name, provider in providers.items()}
        self._connections: dict[str, list[Connection]] = defaultdict(list)
        for connection in connections:
            provider = providers.get(connection.provider)
            names = {connection.prefix}
            if provider is not None and connection.prefix == provider.prefix:
                names.update(provider.aliases)
            for name in names:
                self._connections[name].append(connection)
        self._entries: dict[str, KeyEntry] = {}
        self.recognised: dict[str, KeyEntry] = {}
        """Whole keys that this snapshot has verified, so that the next call with one costs a look-up and no HMAC. In memory
        only, gone with the snapshot: a revocation makes a new one."""
        self._pools: dict[tuple[str, str], Pool | None] = {}

    def key(self, public_id: str) -> KeyEntry | None:
        entry = self._entries.get(public_id)
        if entry is not None:
            return entry
        row = self.key_rows.get(public_id)
        if row is None:
            return None
        scopes = (
            (Scope.ORGANISATION, row.organisation_id),
            (Scope.TEAM, row.team_id),
            (Scope.KEY, row.key_id),
        )
        entry = KeyEntry(
            principal=Principal(organisation_id=row.organisation_id, team_id=row.team_id, key_id=row.key_id, key_name=row.name),
            digests=(row.digest,),
            expires_at_s=row.expires_at_s,
            revoked=row.revoked,
            limits=tuple(limit for scope in scopes for limit in self._limits.get(scope, ())),
            budgets=self.budgets_for(row.organisation_id, row.team_id, row.key_id),
            admin=row.admin,
            policy=row.policy or None,
        )
        self._entries[public_id] = entry
        return entry

    def anonymous(self, principal: Principal) -> KeyEntry:
        """A key of that team that nobody has: with the limits and budgets of team and organisation, and no others."""
        scopes = ((Scope.ORGANISATION, principal.organisation_id), (Scope.TEAM, principal.team_id))
        return KeyEntry(
            principal=principal,
            digests=(),
            expires_at_s=None,
            revoked=False,
            limits=tuple(limit for scope in scopes for limit in self._limits.get(scope, ())),
            budgets=tuple(budget for scope in scopes for budget in self._budgets.get(scope, ())),
        )

    def budgets_for(self, organisation_id: str, team_id: str, key_id: str) -> tuple[Budget, ...]:
        """Every budget that a call of this key counts against."""
        scopes = ((Scope.ORGANISATION, organisation_id), (Scope.TEAM, team_id), (Scope.KEY, key_id))
        return tuple(budget for scope in scopes for budget in self._budgets.get(scope, ()))

    def deployment(self, name: str, organisation_id: str) -> Deployment | None:
        """What `prefix/model-id` stands for, for this organisation; None when it may not or cannot be reached."""
        found = self.pool(name, organisation_id)
        return found.members[0] if found is not None else None

    def plan(self, name: str, organisation_id: str) -> tuple[Deployment, ...]:
        """The first deployments that the name leads to, before anything is chosen or filtered; empty when there is none."""
        found = self.pool(name, organisation_id)
        return () if found is None else found.members[:MOST_ATTEMPTS]

    def pool(self, name: str, organisation_id: str) -> Pool | None:
        """Everything that a call of this name may go to; None when that is nothing."""
        try:
            return self._pools[organisation_id, name]
        except KeyError:
            return self._keep((organisation_id, name), self._pool(name, organisation_id))

    def pool_for(self, name: str, entry: KeyEntry) -> Pool | None:
        """The same for a key with a policy: what that leaves, which may be nothing."""
        if entry.policy is None:
            return self.pool(name, entry.principal.organisation_id)
        asked = (entry.principal.key_id, name)
        try:
            return self._pools[asked]
        except KeyError:
            found = self.pool(name, entry.principal.organisation_id)
            return self._keep(asked, None if found is None else allowed(found, entry.policy))

    def _keep(self, asked: tuple[str, str], found: Pool | None) -> Pool | None:
        if len(self._pools) >= MOST_NAMES:
            self._pools.clear()  # any client can ask for any name: the cache is bounded, not grown
        self._pools[asked] = found
        return found

    def names(self, name: str, organisation_id: str) -> bool:
        """Whether it is the whole name of something, so that no suffix is to be read off it."""
        if name in self._routes or self._aliases.exact(name) is not None:
            return True
        found = self._find(name, organisation_id)
        if not found:
            return False
        one = found[0]
        known = one.model.model_id in one.provider.models or one.model.model_id in one.connection.models
        return known or one.provider.quirks.takes_routing

    def models(self, organisation_id: str, policy: KeyPolicy | None = None) -> list[Deployment]:
        """What can be listed: the models that connections or the catalogue name, as far as the key may use them."""
        listed: dict[str, Deployment] = {}
        sift = key_rules(policy) if policy else None
        for connection in self._visible(organisation_id):
            provider = self._providers[connection.provider]
            for model_id in (*connection.models, *self._added.get(provider.name, ())) if connection.models else provider.models:
                pool = self.pool(f"{connection.prefix}/{model_id}", organisation_id)
                accounts = () if pool is None else pool.sections[0].groups[0].members
                deployment = next((each for each in accounts if sift is None or sift(each) is None), None)
                if deployment is not None:
                    listed.setdefault(deployment.name, deployment)
        return [listed[name] for name in sorted(listed)]

    def route(self, name: str) -> Route | None:
        return self._routes.get(name)

    def routes(self, entry: KeyEntry) -> list[tuple[Route, Pool]]:
        """The routes that a key can call, and what they lead to."""
        found = ((route, self.pool_for(name, entry)) for name, route in sorted(self._routes.items()))
        return [(route, pool) for route, pool in found if pool is not None and pool.route is route and pool.sections[0].groups]

    def suggestions(self, name: str, organisation_id: str, policy: KeyPolicy | None = None) -> list[str]:
        """Up to three names that look like what was asked for."""
        names = [deployment.name for deployment in self.models(organisation_id, policy)]
        names += [route.name for route in self._routes.values() if route.organisation_id in (None, organisation_id)]
        return difflib.get_close_matches(name[:200], names, n=3, cutoff=0.6)

    def _visible(self, organisation_id: str) -> list[Connection]:
        seen = {id(c): c for connections in self._connections.values() for c in connections}
        return [c for c in seen.values() if c.organisation_id in (None, organisation_id) and c.provider in self._providers]

    def _pool(self, name: str, organisation_id: str) -> Pool | None:
        """An alias of that very name, else the route, else the model, else what the most specific pattern makes of it."""
        exact = self._aliases.exact(name)
        first = self._section(exact or name, organisation_id)
        if not first.groups and exact is None and (target := self._aliases.matching(name)) is not None:
            first = self._section(target, organisation_id)
        if not first.groups:
            return None
        route = self._routes.get(first.name)
        named = first.groups[0].name
        chain = (route.fallbacks if route is not None else ()) or chain_of(first.name if route else named, self._fallbacks)
        sections = [first, *(self._section(target, organisation_id) for target in chain)]
        return Pool(name, sections, route=route)

    def _section(self, name: str, organisation_id: str) -> Section:
        """A route's targets, or one model; no groups when there is nothing to reach."""
        route = self._routes.get(name)
        if route is None or route.organisation_id not in (None, organisation_id):
            return Section(name=name, groups=self._groups(name, organisation_id, 1))
        groups = [group for each in route.targets for group in self._groups(each.model, organisation_id, each.weight)]
        return Section(name=name, groups=tuple(groups), choice=route.choice)

    def _groups(self, name: str, organisation_id: str, weight: int) -> tuple[Group, ...]:
        members = self._find(name, organisation_id)
        if not members:
            return ()
        prefix = members[0].connection.prefix
        return (
            Group(name=members[0].name, members=tuple(members), choice=self._accounts.get(prefix, FILL_FIRST), weight=weight),
        )

    def _find(self, name: str, organisation_id: str) -> list[Deployment]:
        """The model on each connection of its prefix that has it and that the organisation may use."""
        prefix, slash, model_id = name.partition("/")
        if not slash or not model_id:
            return []
        found = []
        for connection in self._connections.get(prefix, ()):
            provider = self._providers.get(connection.provider)
            if provider is None or connection.organisation_id not in (None, organisation_id):
                continue
            model = self._allowed(connection, model_id)
            if model is not None:
                known = self._known(connection, provider, model)
                found.append(Deployment(provider=provider, connection=connection, model=known))
        return found

    def _allowed(self, connection: Connection, model_id: str) -> Model | None:
        """With a list of its own a connection serves what is on it, and what was added at run time; else anything."""
        if not connection.models:
            return Model(model_id=model_id)
        return connection.models.get(model_id) or self._added.get(connection.provider, {}).get(model_id)

    def _known(self, connection: Connection, provider: Provider, model: Model) -> Model:
        """The model with what the catalogue and the operator's prices know about it; what a connection says wins."""
        facts = provider.models.get(model.model_id)
        if facts is not None:
            model = msgspec.structs.replace(
                model,
                upstream=model.upstream or facts.upstream,
                context_tokens=model.context_tokens or facts.context_tokens,
                max_output_tokens=model.max_output_tokens or facts.max_output_tokens,
                capabilities=model.capabilities | facts.capabilities,
                described=model.described or facts.described,
                quantization=model.quantization or facts.quantization,
                price=model.price or facts.price,
                params=facts.params.then(model.params),
            )
        price = self._prices.get(f"{connection.prefix}/{model.model_id}")
        return model if price is None else msgspec.structs.replace(model, price=price)


def build(
    configuration: Configuration,
    providers: Mapping[str, Provider],
    built_in: Iterable[Connection] = (),
    previous: Snapshot | None = None,
) -> Snapshot:
    """A snapshot of `configuration`; its keys are the previous snapshot's with the changed ones put in."""
    keys = {} if previous is None else dict(previous.key_rows)
    for row in configuration.keys:
        keys[row.public_id] = row
    return Snapshot(
        configuration.epoch,
        keys,
        configuration.limits,
        configuration.budgets,
        (*built_in, *configuration.connections),
        configuration.prices,
        providers,
        configuration.models,
        configuration.aliases,
        configuration.fallbacks,
        configuration.routes,
        configuration.accounts,
        configuration.proxies,
    )


def _with(provider: Provider, added: Mapping[str, Model] | None) -> Provider:
    """The provider and what was added to it; the catalogue's own models stay as they are."""
    return msgspec.structs.replace(provider, models={**added, **provider.models}) if added else provider


def _by_scope(items: Iterable[Scoped]) -> dict[tuple[Scope, str], list[Scoped]]:
    found: dict[tuple[Scope, str], list[Scoped]] = defaultdict(list)
    for item in items:
        found[item.scope, item.scope_id].append(item)
    return found

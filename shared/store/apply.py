"""Apply: make the configuration what an operator's document says. Diff first, idempotent, all or nothing.

What the document does not mention stays as it is. Every change is one line for people; secrets are in none of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.domain.catalogue import Model, Params, Provider
from shared.domain.configuration import Configuration
from shared.domain.identity import new_id
from shared.domain.limits import Budget, Limit, Scope
from shared.store import proxies, routes, tenants
from shared.store.configuration import load
from shared.store.document import (
    BudgetEntry,
    ConnectionEntry,
    Document,
    DocumentError,
    LimitEntry,
    PriceEntry,
    Scoped,
)
from shared.store.secrets import Vault, credential_context

RESERVED_PREFIX = "demo"


class Changes(msgspec.Struct):
    """`lines` say what changes (or would); `epoch` is the new one, when something did."""

    lines: list[str]
    epoch: int | None = None

    @property
    def changed(self) -> bool:
        return bool(self.lines)


def resolve_secret(reference: str) -> str:
    """`env:NAME` or `file:PATH` on this machine. Raises DocumentError that never holds the value."""
    kind, _, rest = reference.partition(":")
    if kind == "env":
        value = os.environ.get(rest, "")
        if not value:
            raise DocumentError(f"env:{rest}: the variable is not set here")
        return value
    try:
        return Path(rest).expanduser().read_text().strip()
    except OSError as error:
        raise DocumentError(f"file:{rest}: {error.strerror}") from None


async def apply_document(
    pool: AsyncEngine,
    vault: Vault,
    document: Document,
    providers: Mapping[str, Provider],
    *,
    dry_run: bool = False,
    secret: Callable[[str], str] = resolve_secret,
) -> Changes:
    """Raises DocumentError or TenantError, and then nothing was written."""
    current = await load(pool)
    async with pool.connect() as connection, connection.begin() as transaction:
        epoch = await tenants.bump(connection)
        applying = Applying(connection, vault, providers, current, secret)
        await applying.organisations(document)
        await applying.connections(document.connections)
        await applying.limits(document.limits)
        await applying.budgets(document.budgets)
        await applying.prices(document.prices)
        await applying.aliases(document.aliases)
        await applying.fallbacks(document.fallbacks)
        applying.lines += await routes.apply(connection, document, current, providers)
        applying.lines += await routes.apply_policies(connection, document.keys, epoch)
        applying.lines += await proxies.put(connection, vault, document.proxies, current, providers, secret)
        changes = Changes(applying.lines)
        if dry_run or not changes.changed:
            await transaction.rollback()
            return changes
        for line in applying.lines:
            await tenants.audit(connection, "apply", line)
        changes.epoch = epoch
        return changes


class Applying:
    """One application under way, in one transaction."""

    def __init__(
        self,
        connection: AsyncConnection,
        vault: Vault,
        providers: Mapping[str, Provider],
        current: Configuration,
        secret: Callable[[str], str],
    ) -> None:
        self._db = connection
        self._vault = vault
        self._providers = providers
        self._current = current
        self._secret = secret
        self.lines: list[str] = []

    async def organisations(self, document: Document) -> None:
        for entry in document.organisations:
            organisation_id = await self._id("SELECT id FROM organisations WHERE name = :name", name=entry.name)
            if organisation_id is None:
                organisation_id = await tenants.add_organisation(self._db, entry.name)
                self.lines.append(f"+ organisation {entry.name}")
            for team in entry.teams:
                found = "SELECT id FROM teams WHERE organisation_id = :org AND name = :name"
                if await self._id(found, org=organisation_id, name=team) is None:
                    await tenants.add_team(self._db, organisation_id, team)
                    self.lines.append(f"+ team {entry.name}/{team}")

    async def connections(self, entries: tuple[ConnectionEntry, ...]) -> None:
        places: dict[str, tuple[str, str, str]] = {
            known.prefix: (known.name, known.provider, known.base_url)
            for known in self._current.connections
            if known.name not in {entry.name for entry in entries}
        }
        names: set[str] = set()
        for number, entry in enumerate(entries):
            at = f"connections[{number}]"
            if entry.name in names:
                raise DocumentError(f"{at}.name: {entry.name!r} is there twice")
            names.add(entry.name)
            row = await self._row(entry, at)
            place = places.setdefault(row["prefix"], (entry.name, row["provider"], row["base_url"]))
            if place[1:] != (row["provider"], row["base_url"]):
                raise DocumentError(f"{at}.prefix: {row['prefix']!r} already belongs to connection {place[0]!r}")
            await self._put_connection(entry, row)

    async def limits(self, entries: tuple[LimitEntry, ...]) -> None:
        known = {(limit.scope, limit.scope_id): limit for limit in self._current.limits}
        for number, entry in enumerate(entries):
            scope, scope_id, label = await self._scope(entry, f"limits[{number}]")
            limit = Limit(
                scope=scope,
                scope_id=scope_id,
                requests_per_minute=entry.rpm,
                tokens_per_minute=entry.tpm,
                concurrent_requests=entry.concurrent,
                burst_requests=entry.burst_rpm,
                burst_tokens=entry.burst_tpm,
                mode=entry.mode,
            )
            before = known.get((scope, scope_id))
            if before != limit:
                await tenants.put_limit(self._db, limit)
                self.lines.append(f"{'+' if before is None else '~'} limit of {label}")

    async def budgets(self, entries: tuple[BudgetEntry, ...]) -> None:
        known: dict[tuple[Scope, str, str], Budget] = {
            (budget.scope, budget.scope_id, budget.period): budget for budget in self._current.budgets
        }
        for number, entry in enumerate(entries):
            scope, scope_id, label = await self._scope(entry, f"budgets[{number}]")
            nano, period = entry.amount()
            before = known.get((scope, scope_id, period))
            hard = entry.mode == "hard"
            if before is None or (before.limit_nano_usd, before.hard) != (nano, hard):
                await tenants.put_budget(self._db, scope, scope_id, nano, period, hard=hard)
                self.lines.append(f"{'+' if before is None else '~'} budget of {label}: {entry.usd} USD per {period}")

    async def prices(self, entries: Mapping[str, PriceEntry]) -> None:
        """A changed price is a new version; old ones stay, for the events that name them."""
        for model, entry in entries.items():
            before = self._current.prices.get(model)
            version = entry.version or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            price = entry.price(version)
            if before is not None and (before == price or (entry.version is None and _same(before, price))):
                continue
            await self._db.execute(
                text("INSERT INTO prices (model, version, price) VALUES (:model, :version, :price)"),
                {"model": model, "version": version, "price": json.dumps(msgspec.to_builtins(price))},
            )
            self.lines.append(f"{'+' if before is None else '~'} price of {model} ({version})")

    async def aliases(self, entries: Mapping[str, str | None]) -> None:
        for name, target in entries.items():
            before = self._current.aliases.get(name)
            if before != target:
                await self._named("aliases", "target", name, target)
                self.lines.append(_line(before, target, f"alias {name}", f" → {target}"))

    async def fallbacks(self, entries: Mapping[str, tuple[str, ...] | None]) -> None:
        for name, targets in entries.items():
            before, after = self._current.fallbacks.get(name), targets or None
            if before != after:
                await self._named("fallbacks", "targets", name, after and json.dumps(after))
                self.lines.append(_line(before, after, f"fallbacks of {name}", f": {', '.join(after or ())}"))

    async def _named(self, table: str, column: str, name: str, value: str | None) -> None:
        """Set what a name stands for in a table of names; None takes the name away."""
        if value is None:
            await self._db.execute(text(f"DELETE FROM {table} WHERE name = :name"), {"name": name})
            return
        await self._db.execute(
            text(
                f"INSERT INTO {table} (name, {column}) VALUES (:name, :value) "
                f"ON CONFLICT (name) DO UPDATE SET {column} = excluded.{column}"
            ),
            {"name": name, "value": value},
        )

    async def _row(self, entry: ConnectionEntry, at: str) -> dict[str, Any]:
        provider = self._providers.get(entry.provider)
        if provider is None:
            raise DocumentError(f"{at}.provider: {entry.provider!r} is not one of {', '.join(sorted(self._providers))}")
        base_url = entry.base_url or provider.base_url
        if base_url is None:
            raise DocumentError(f"{at}.base_url: provider {entry.provider!r} needs one")
        if entry.api_version is not None and not provider.api_version:
            raise DocumentError(f"{at}.api_version: provider {entry.provider!r} has none in its URLs")
        prefix = entry.prefix or (entry.name if provider.base_url is None else provider.prefix)
        if prefix == RESERVED_PREFIX or prefix.startswith(f"{RESERVED_PREFIX}-"):
            raise DocumentError(f"{at}.prefix: {prefix!r} is the built-in simulator's")
        organisation_id = None
        if entry.organisation is not None:
            found = "SELECT id FROM organisations WHERE name = :name"
            organisation_id = await self._id(found, name=entry.organisation)
            if organisation_id is None:
                raise DocumentError(f"{at}.organisation: there is no organisation {entry.organisation!r}")
        timeouts = {
            name: value
            for name in ("connect_timeout_s", "first_byte_timeout_s", "idle_timeout_s")
            if (value := getattr(entry, name)) is not None
        }
        models = [
            msgspec.to_builtins(
                Model(
                    model_id=model.id,
                    context_tokens=model.context_tokens,
                    max_output_tokens=model.max_output_tokens,
                    capabilities=frozenset(model.capabilities),
                    described=model.described,
                    quantization=model.quantization,
                    params=Params(model.drop_params, model.set_params),
                )
            )
            for model in entry.models
        ]
        return {
            "provider": entry.provider,
            "prefix": prefix,
            "base_url": base_url,
            "organisation_id": organisation_id,
            "models": models,
            "timeouts": timeouts,
            "params": msgspec.to_builtins(Params(entry.drop_params, entry.set_params)),
            "settings": _settings(entry),
        }

    async def _put_connection(self, entry: ConnectionEntry, row: dict[str, Any]) -> None:
        found = text("SELECT * FROM connections WHERE name = :name")
        before = (await self._db.execute(found, {"name": entry.name})).first()
        plain = None if entry.api_key is None else self._secret(entry.api_key)
        connection_id = new_id("conn") if before is None else before.id
        version, sealed = (0, None) if before is None else (before.credential_version, before.sealed_credential)
        if not self._same_secret(plain, connection_id, version, sealed):
            version += 1
            sealed = None if plain is None else self._vault.seal(plain, credential_context(connection_id, version))
        changed = before is None or version != before.credential_version
        if before is not None:
            for name, value in row.items():
                old = getattr(before, name)
                same = _canonical(old) == _canonical(value) if name == "models" else old == _stored(value)
                changed = changed or not same
        if not changed:
            return
        await self._db.execute(
            text(
                "INSERT INTO connections (id, name, provider, prefix, base_url, organisation_id, models, timeouts, params, "
                "settings, sealed_credential, credential_version) VALUES (:id, :name, :provider, :prefix, :base_url, "
                ":organisation_id, :models, :timeouts, :params, :settings, :sealed, :version) ON CONFLICT (name) DO UPDATE SET "
                "provider = excluded.provider, prefix = excluded.prefix, base_url = excluded.base_url, "
                "organisation_id = excluded.organisation_id, models = excluded.models, timeouts = excluded.timeouts, "
                "params = excluded.params, settings = excluded.settings, sealed_credential = excluded.sealed_credential, "
                "credential_version = excluded.credential_version"
            ),
            row
            | {
                "id": connection_id,
                "name": entry.name,
                "models": json.dumps(row["models"]),
                "timeouts": json.dumps(row["timeouts"]),
                "params": json.dumps(row["params"]),
                "settings": json.dumps(row["settings"]),
                "sealed": sealed,
                "version": version,
            },
        )
        self.lines.append(f"{'+' if before is None else '~'} connection {entry.name} ({row['prefix']}/…)")

    def _same_secret(self, plain: str | None, connection_id: str, version: int, sealed: bytes | None) -> bool:
        if plain is None or sealed is None:
            return plain is None and sealed is None
        return self._vault.unseal(bytes(sealed), credential_context(connection_id, version)) == plain

    async def _scope(self, entry: Scoped, at: str) -> tuple[Scope, str, str]:
        if entry.organisation is not None:
            found = await self._id("SELECT id FROM organisations WHERE name = :name", name=entry.organisation)
            scope, label = Scope.ORGANISATION, f"organisation {entry.organisation}"
        elif entry.team is not None:
            organisation, _, team = entry.team.rpartition("/")
            query = (
                "SELECT t.id FROM teams t JOIN organisations o ON o.id = t.organisation_id "
                "WHERE t.name = :team AND o.name = :organisation"
            )
            found = await self._id(query, team=team, organisation=organisation or "default")
            scope, label = Scope.TEAM, f"team {entry.team}"
        else:
            query = "SELECT id FROM keys WHERE id = :key OR name = :key ORDER BY id <> :key LIMIT 1"
            found = await self._id(query, key=entry.key)
            scope, label = Scope.KEY, f"key {entry.key}"
        if found is None:
            raise DocumentError(f"{at}: there is no {label}")
        return scope, found, label

    async def _id(self, query: str, **values: object) -> str | None:
        found = await self._db.scalar(text(query), values)
        return None if found is None else str(found)


def _settings(entry: ConnectionEntry) -> dict[str, Any]:
    """What a connection may have beside its columns; only what was set."""
    made: dict[str, Any] = {}
    if entry.profile is not None and (profile := entry.profile.model_dump(mode="json", exclude_none=True)):
        made["profile"] = profile
    if entry.data_policy is not None:
        made["data_policy"] = msgspec.to_builtins(entry.data_policy.policy())
    if entry.api_version is not None:
        made["api_version"] = entry.api_version
    if entry.limits is not None:
        made["limits"] = msgspec.to_builtins(entry.limits.limits())
    return made


def _same(one: Any, other: Any) -> bool:
    return bool(msgspec.structs.replace(one, version="") == msgspec.structs.replace(other, version=""))


def _stored(value: Any) -> Any:
    """As Postgres gives it back: what is a tuple here is a list there."""
    return json.loads(json.dumps(value))


def _canonical(models: list[dict[str, Any]]) -> list[str]:
    """Capabilities are a set: their order says nothing."""
    return [json.dumps(model | {"capabilities": sorted(model["capabilities"])}, sort_keys=True) for model in models]


def _line(before: object, after: object, what: str, value: str) -> str:
    """`+`, `~` or `-`, what it is, and its value unless it went away."""
    return f"- {what}" if after is None else f"{'+' if before is None else '~'} {what}{value}"

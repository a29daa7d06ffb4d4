"""Routes as stored: named sets of models, how accounts are chosen among, and what keys may use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.domain.catalogue import Provider
from shared.domain.configuration import Configuration
from shared.domain.policy import KeyPolicy
from shared.domain.routing import Choice, Route
from shared.store import tenants
from shared.store.document import Document, DocumentError, PolicyEntry, RouteEntry


async def apply(
    db: AsyncConnection, document: Document, current: Configuration, providers: Mapping[str, Provider]
) -> list[str]:
    """One line for each change. Raises DocumentError when a name leads nowhere."""
    known = {route.name for route in current.routes}
    known = (known | {name for name, entry in document.routes.items() if entry}) - {
        name for name, entry in document.routes.items() if not entry
    }
    check_names(document, current, known)
    prefixes = await _prefixes(db, providers)
    before = {route.name: route for route in current.routes}
    lines = []
    for name, entry in document.routes.items():
        if entry is None:
            lines += await _drop(db, "routes", "name", name, f"- route {name}", there=name in before)
            continue
        check_targets(name, entry, prefixes)
        route = entry.route(name, await _organisation(db, name, entry))
        if before.get(name) != route:
            await _put(db, "routes", "name", name, "route", route)
            targets = ", ".join(target.model for target in route.targets)
            lines.append(f"{'~' if name in before else '+'} route {name}: {route.choice.strategy} of {targets}")
    for prefix, choice in document.accounts.items():
        held = current.accounts.get(prefix)
        if choice is None:
            lines += await _drop(db, "accounts", "prefix", prefix, f"- accounts of {prefix}", there=held is not None)
        elif prefix not in prefixes:
            raise DocumentError(f"accounts.{prefix}: no connection has this prefix")
        elif (provider := _aliased(prefix, providers)) is not None:
            raise DocumentError(f"accounts.{prefix}: is another name for {provider.prefix!r}: say that")
        elif held != choice.choice():
            await _put(db, "accounts", "prefix", prefix, "choice", choice.choice())
            lines.append(f"{'~' if held else '+'} accounts of {prefix}: {choice.strategy}")
    return lines


def check_names(document: Document, current: Configuration, known: set[str]) -> None:
    """Every name without a slash that something leads to is a route. Raises DocumentError."""
    aliases = {**current.aliases, **document.aliases}
    fallbacks: dict[str, Sequence[str] | None] = {**current.fallbacks, **document.fallbacks}
    own: dict[str, Sequence[str]] = {route.name: route.fallbacks for route in current.routes if route.name in known}
    own |= {name: entry.fallbacks for name, entry in document.routes.items() if entry}
    leading = [(f"aliases.{name}", target) for name, target in aliases.items() if target]
    leading += [(f"fallbacks.{name}", target) for name, targets in fallbacks.items() for target in targets or ()]
    leading += [(f"routes.{name}.fallbacks", target) for name, targets in own.items() for target in targets]
    for at, target in leading:
        if "/" not in target and target not in known:
            raise DocumentError(f"{at}: {target!r} is no prefix/model, and there is no such route")


def check_targets(name: str, entry: RouteEntry, prefixes: set[str]) -> None:
    seen = set()
    for number, target in enumerate(entry.targets):
        at = f"routes.{name}.targets[{number}]"
        if target.model.partition("/")[0] not in prefixes:
            raise DocumentError(f"{at}: no connection and no provider has the prefix of {target.model!r}")
        if target.model in seen:
            raise DocumentError(f"{at}: {target.model!r} is there twice")
        seen.add(target.model)


async def apply_policies(db: AsyncConnection, entries: tuple[PolicyEntry, ...], epoch: int) -> list[str]:
    """Raises DocumentError."""
    lines = []
    for number, entry in enumerate(entries):
        query = text("SELECT id, policy FROM keys WHERE id = :key OR name = :key ORDER BY id <> :key LIMIT 2")
        rows = (await db.execute(query, {"key": entry.key})).all()
        if not rows:
            raise DocumentError(f"keys[{number}].key: there is no key {entry.key!r}")
        if len(rows) == 2 and rows[0].id != entry.key:
            raise DocumentError(f"keys[{number}].key: two keys are named {entry.key!r}: say which by its id")
        before, policy = msgspec.convert(rows[0].policy, KeyPolicy), entry.policy()
        if before != policy:
            await _put_policy(db, rows[0].id, policy, epoch)
            lines.append(f"{'~' if before else '+'} policy of key {entry.key}: {described(policy)}")
    return lines


async def put_policy(pool: AsyncEngine, key_id: str, policy: KeyPolicy) -> bool:
    """In force on every node within a second. False: no such key."""
    async with pool.begin() as db:
        epoch = await tenants.bump(db)
        found = await _put_policy(db, key_id, policy, epoch)
        if found:
            await tenants.audit(db, "policy", f"key {key_id}", policy=msgspec.to_builtins(policy))
        return found


async def _put_policy(db: AsyncConnection, key_id: str, policy: KeyPolicy, epoch: int) -> bool:
    changed = await db.execute(
        text("UPDATE keys SET policy = :policy, epoch = :epoch WHERE id = :id"),
        {"policy": json.dumps(msgspec.to_builtins(policy)), "epoch": epoch, "id": key_id},
    )
    return bool(changed.rowcount)


def described(policy: KeyPolicy) -> str:
    """For people, in one line."""
    fields = msgspec.to_builtins(policy)
    told = (
        f"{name} {', '.join(value) if isinstance(value, (list, tuple)) else value}" if value is not True else name
        for name, value in fields.items()
    )
    return "; ".join(told) or "everything"


def _aliased(prefix: str, providers: Mapping[str, Provider]) -> Provider | None:
    return next((provider for provider in providers.values() if prefix in provider.aliases), None)


async def _prefixes(db: AsyncConnection, providers: Mapping[str, Provider]) -> set[str]:
    """Every prefix that a connection has, or would have of itself."""
    held = {str(row.prefix) for row in await db.execute(text("SELECT prefix FROM connections"))}
    return held | {prefix for provider in providers.values() for prefix in (provider.prefix, *provider.aliases)}


async def _organisation(db: AsyncConnection, name: str, entry: RouteEntry) -> str | None:
    if entry.organisation is None:
        return None
    found = await db.scalar(text("SELECT id FROM organisations WHERE name = :name"), {"name": entry.organisation})
    if found is None:
        raise DocumentError(f"routes.{name}.organisation: there is no organisation {entry.organisation!r}")
    return str(found)


async def _put(db: AsyncConnection, table: str, key: str, name: str, column: str, value: Route | Choice) -> None:
    await db.execute(
        text(
            f"INSERT INTO {table} ({key}, {column}) VALUES (:name, :value) "
            f"ON CONFLICT ({key}) DO UPDATE SET {column} = excluded.{column}"
        ),
        {"name": name, "value": json.dumps(msgspec.to_builtins(value))},
    )


async def _drop(db: AsyncConnection, table: str, key: str, name: str, line: str, *, there: bool) -> list[str]:
    if not there:
        return []
    await db.execute(text(f"DELETE FROM {table} WHERE {key} = :name"), {"name": name})
    return [line]

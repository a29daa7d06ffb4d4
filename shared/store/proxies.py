"""Proxies as stored: one sealed URL (or `direct`) for each level and name, put there by `apply`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.domain.catalogue import Provider
from shared.domain.configuration import Configuration
from shared.domain.proxy import DIRECT, Level, read_proxy
from shared.store.document import DocumentError, ProxiesEntry
from shared.store.secrets import Vault, proxy_context

FIND = {
    Level.KEY: "SELECT id FROM keys WHERE id = :name OR name = :name ORDER BY id <> :name LIMIT 1",
    Level.ROUTE: "SELECT name FROM routes WHERE name = :name",
    Level.CONNECTION: "SELECT name FROM connections WHERE name = :name",
}
PUT = (
    "INSERT INTO proxies (scope, name, sealed_url, version) VALUES (:scope, :name, :sealed, :version) "
    "ON CONFLICT (scope, name) DO UPDATE SET sealed_url = excluded.sealed_url, version = excluded.version"
)


async def put(
    db: AsyncConnection,
    vault: Vault,
    entry: ProxiesEntry,
    current: Configuration,
    providers: Mapping[str, Provider],
    secret: Callable[[str], str],
) -> list[str]:
    """What changed, a line each, without credentials. Raises DocumentError that names the key, never a value."""
    before = {(row.level, row.name): row for row in current.proxies}
    lines: list[str] = []
    for at, level, name, reference in _entries(entry):
        label = f"proxy of {level} {name}" if name else "proxy of everything"
        stored = await _stored_name(db, providers, level, name, at, taking_away=reference is None)
        known = before.get((level, stored))
        if reference is None:
            if known is not None:
                await db.execute(text("DELETE FROM proxies WHERE scope = :scope AND name = :name"), _place(level, stored))
                lines.append(f"- {label}")
            continue
        url = _url(at, reference, secret)
        if known is not None and vault.unseal(known.sealed_url, proxy_context(level, stored, known.version)) == url:
            continue
        version = 1 if known is None else known.version + 1
        sealed = vault.seal(url, proxy_context(level, stored, version))
        await db.execute(text(PUT), _place(level, stored) | {"sealed": sealed, "version": version})
        lines.append(f"{'+' if known is None else '~'} {label}: {read_proxy(url) or DIRECT}")
    return lines


def _entries(entry: ProxiesEntry) -> Iterator[tuple[str, Level, str, str | None]]:
    """Where it is in the document, level, name, reference (None takes it away)."""
    if "global_" in entry.model_fields_set:
        yield "proxies.global", Level.GLOBAL, "", entry.global_
    for field, level in (
        ("providers", Level.PROVIDER),
        ("connections", Level.CONNECTION),
        ("routes", Level.ROUTE),
        ("keys", Level.KEY),
    ):
        for name, reference in getattr(entry, field).items():
            yield f"proxies.{field}.{name}", level, name, reference


async def _stored_name(
    db: AsyncConnection, providers: Mapping[str, Provider], level: Level, name: str, at: str, *, taking_away: bool
) -> str:
    """A key's id; everything else's own name. What is taken away need not exist any more."""
    if level is Level.GLOBAL:
        return ""
    if level is Level.PROVIDER:
        found = name if name in providers else None
    else:
        found = await db.scalar(text(FIND[level]), {"name": name})
    if found is None and not taking_away:
        known = f": it is not one of {', '.join(sorted(providers))}" if level is Level.PROVIDER else ""
        raise DocumentError(f"{at}: there is no {level} {name!r}{known}")
    return name if found is None else str(found)


def _url(at: str, reference: str, secret: Callable[[str], str]) -> str:
    """Raises DocumentError."""
    if not reference.startswith(("env:", "file:")):
        return reference
    try:
        url = secret(reference)
    except DocumentError as error:
        raise DocumentError(f"{at} {error}") from None
    try:
        read_proxy(url)
    except ValueError as error:
        raise DocumentError(f"{at}: the URL in {reference} {error}") from None
    return url


def _place(level: Level, name: str) -> dict[str, object]:
    return {"scope": str(level), "name": name}

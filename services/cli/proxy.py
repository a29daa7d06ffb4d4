"""`waystation proxy list` and `proxy test`: which network proxies are configured, and whether calls get through them.

A test asks the target for its head, without any credential of the provider: whatever it answers, it was reached.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import click
import msgspec

from services.cli.manage import database
from services.cli.say import answer, fail, guarded, json_option, settings_here, table, wait_for
from shared.domain.catalogue import Connection
from shared.domain.configuration import Configuration
from shared.domain.proxy import DIRECT, Level, Proxy
from shared.providers import registry
from shared.routing.proxies import EnvironmentProxies, ProxyTable, Rows, is_loopback, read_environment
from shared.store import configuration
from shared.store.secrets import Vault
from shared.upstream.head import Head, split_url
from shared.upstream.proxies import Decision, Proxies
from shared.upstream.session import Session
from shared.upstream.transport import TransportError, UpstreamRequest

MOST_SEEN_BYTES = 65_536
ENVIRONMENT = str(Level.ENVIRONMENT)


class Wanted(msgspec.Struct, kw_only=True):
    """What to test: `url` is where to; the others say whose call it would be."""

    url: str
    connection: Connection | None = None
    key_id: str = ""
    route: str = ""


class Installation:
    """The configuration and what opens its proxies."""

    def __init__(self, configured: Configuration, vault: Vault, environment: EnvironmentProxies) -> None:
        self.configured = configured
        self.environment = environment
        self.rows: Rows = ProxyTable(configured.proxies).rows
        self.proxies = Proxies(vault, environment)

    def named(self, name: str, scheme: str) -> Decision:
        """`provider/openai`, as `proxy list` shows it. Raises ProxyFailed, ValueError."""
        if name == ENVIRONMENT:
            proxy = self.environment.https if scheme == "https" else self.environment.http
            if proxy is None:
                raise ValueError(f"there is no {scheme.upper()}_PROXY in this environment")
            return Decision(Level.ENVIRONMENT, "", proxy)
        for row in self.rows.values():
            if name in shown(row.level, row.name, self.key_names.get(row.name, "")):
                return Decision(row.level, row.name, self.proxies.open(row))
        raise ValueError(f"there is no proxy {name!r}; `waystation proxy list` shows them")

    @property
    def key_names(self) -> dict[str, str]:
        return {row.key_id: row.name for row in self.configured.keys}


def shown(level: Level, name: str, key_name: str = "") -> tuple[str, ...]:
    """What NAME may be."""
    if not name:
        return (str(level),)
    names = (f"{level}/{name}",)
    return (*names, f"{level}/{key_name}") if level is Level.KEY and key_name else names


@click.group()
def proxy() -> None:
    """List and try the network proxies that calls leave by."""


@proxy.command("list")
@json_option
@guarded
def list_proxies(as_json: bool) -> None:
    """List the proxies, without their credentials; the environment's are those of this command."""
    here = _installation()
    rows = []
    for row in sorted(here.rows.values(), key=lambda row: (list(Level).index(row.level), row.name)):
        try:
            rows.append(_row(shown(row.level, row.name)[0], row.level, here.proxies.open(row)))
        except TransportError as error:
            rows.append(_row(shown(row.level, row.name)[0], row.level, None) | {"proxy": None, "error": str(error)})
    for scheme in ("https", "http"):
        found: Proxy | None = getattr(here.environment, scheme)
        if found is not None:
            rows.append(_row(ENVIRONMENT, Level.ENVIRONMENT, found) | {"for": scheme})
    columns = ["name", "proxy", "authenticates", *(("for",) if any("for" in row for row in rows) else ())]
    columns += ["error"] if any("error" in row for row in rows) else []
    answer(rows, table(rows, columns) if rows else "no proxies: calls go straight to their providers", as_json=as_json)


def _row(name: str, level: Level, found: Proxy | None) -> dict[str, Any]:
    return {
        "name": name,
        "level": str(level),
        "proxy": DIRECT if found is None else str(found),
        "authenticates": found is not None and bool(found.user),
    }


@proxy.command("test")
@click.argument("name", required=False)
@click.option("--provider", help="As calls to this provider would go.")
@click.option("--connection", help="As calls to this connection would go.")
@click.option("--key", help="As this key's calls would go (id or name).")
@click.option("--route", help="As calls by this route would go.")
@click.option("--url", help="Where to, instead of the connection's base URL.")
@click.option("--seen-by", help="Also ask this URL, which answers with its caller's address, as which one we are seen.")
@click.option("--timeout-s", type=click.FloatRange(0.1, 120), default=10.0, show_default=True)
@json_option
@guarded
def test_proxy(
    name: str | None,
    provider: str | None,
    connection: str | None,
    key: str | None,
    route: str | None,
    url: str | None,
    seen_by: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Connect as calls would, and say which level decided. NAME: that very proxy, as `list` shows it.

    Without NAME or options: every connection.
    """
    here = _installation()
    wanted = list(_wanted(here, provider, connection, key, route, url, just_one=name is not None))
    if not wanted:
        fail("there is no connection to try; give --url")

    async def work() -> list[dict[str, Any]]:
        session = Session()
        try:
            return [await _tried(session, here, one, name, seen_by, timeout_s) for one in wanted]
        finally:
            await session.close()

    results = wait_for(work())
    answer(results, "\n".join(map(_line, results)), as_json=as_json)
    if not all(result["ok"] for result in results):
        raise SystemExit(1)


def _installation() -> Installation:
    settings = settings_here()
    vault = Vault.from_secret(settings.secret())

    async def work() -> Configuration:
        async with database(settings) as pool:
            return await configuration.load(pool)

    return Installation(wait_for(work()), vault, read_environment(os.environ))


def _wanted(
    here: Installation,
    provider: str | None,
    connection: str | None,
    key: str | None,
    route: str | None,
    url: str | None,
    *,
    just_one: bool,
) -> Iterable[Wanted]:
    """Raises ValueError for a name that does not exist."""
    known = here.configured.connections
    if connection is not None:
        known = tuple(each for each in known if each.name == connection)
        if not known:
            raise ValueError(f"there is no connection {connection!r}")
    key_id = ""
    if key is not None:
        found = [row.key_id for row in here.configured.keys if key in (row.key_id, row.name)]
        if not found:
            raise ValueError(f"there is no key {key!r}; `waystation key list` shows them")
        key_id = found[0]
    if provider is not None:
        facts = registry.load().get(provider)
        if facts is None:
            raise ValueError(f"there is no provider {provider!r}")
        known = tuple(each for each in known if each.provider == provider)[:1] or (
            Connection(connection_id="", name="", provider=provider, prefix=facts.prefix, base_url=facts.base_url or url or ""),
        )
        if not known[0].base_url:
            raise ValueError(f"provider {provider!r} has no connection and no base URL of its own; give --url")
    if url is not None:
        yield Wanted(url=url, connection=known[0] if connection or provider else None, key_id=key_id, route=route or "")
        return
    if just_one:  # a proxy by its name: loopback is the least telling target
        known = tuple(sorted(known, key=lambda each: is_loopback(split_url(each.base_url)[0].host)))[:1]
    for each in known:
        yield Wanted(url=each.base_url, connection=each, key_id=key_id, route=route or "")


async def _tried(
    session: Session, here: Installation, wanted: Wanted, name: str | None, seen_by: str | None, timeout_s: float
) -> dict[str, Any]:
    origin = split_url(wanted.url)[0]
    result: dict[str, Any] = {"target": str(origin), "level": None, "name": None, "proxy": None, "ok": False}
    if wanted.connection is not None:
        result["connection"] = wanted.connection.name or None
    began_s = time.monotonic()
    try:
        if name is not None:
            decision = here.named(name, origin.scheme)
        else:
            decision = here.proxies.decide(here.rows, origin, wanted.key_id, wanted.route, wanted.connection)
        result["level"] = None if decision.level is None else str(decision.level)
        result["name"] = decision.name or None
        result["proxy"] = DIRECT if decision.proxy is None else str(decision.proxy)
        status, _ = await _asked(session, "HEAD", wanted.url, decision.proxy, timeout_s)
        result |= {"ok": status != 407, "status": status, "ms": round((time.monotonic() - began_s) * 1000, 1)}
        if seen_by is not None:
            result["seen_as"] = _address_in(*await _asked(session, "GET", seen_by, decision.proxy, timeout_s))
    except TransportError as error:
        result |= {"ok": False, "error": str(error), "ms": round((time.monotonic() - began_s) * 1000, 1)}
    return result


async def _asked(session: Session, method: str, url: str, through: Proxy | None, timeout_s: float) -> tuple[int, bytes]:
    origin, path = split_url(url)
    request = UpstreamRequest(
        head=Head(method, origin, path or "/", [("user-agent", "waystation")]),
        connect_timeout_s=timeout_s,
        first_byte_timeout_s=timeout_s,
        idle_timeout_s=timeout_s,
        proxy=through,
    )
    response = await session.send(request)
    try:
        return response.status, await response.read(MOST_SEEN_BYTES)
    finally:
        response.close()


def _address_in(status: int, body: bytes) -> str:
    if status != 200:
        return f"unknown: it answered {status}"
    return "".join(each for each in body.decode("utf-8", "replace")[:100].strip() if each.isprintable())


def _line(result: dict[str, Any]) -> str:
    decided = "nothing configured" if result["level"] is None else f"{result['level']} {result['name'] or ''}".rstrip()
    way = f"{result['target']} through {result['proxy'] or 'a proxy that cannot be opened'} (decided by: {decided})"
    if not result["ok"]:
        return f"BAD  {way}: {result.get('error') or 'answered 407'}, after {result['ms']:g} ms"
    seen = f", seen as {result['seen_as']}" if "seen_as" in result else ""
    return f"ok   {way}: answered {result['status']} after {result['ms']:g} ms{seen}"

"""`waystation key …`, `apply`, `diff`, `usage`, `migrate`, `doctor`: what an operator does to a running installation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ParamSpec

import click
import msgspec
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cli.say import answer, credentials, fail, guarded, json_option, settings_here, table, wait_for
from shared.domain.money import nano_to_usd
from shared.domain.policy import KeyPolicy
from shared.providers import registry
from shared.settings import Settings
from shared.store import configuration, ledger, postgres, routes, tenants
from shared.store.apply import Changes, apply_document
from shared.store.document import parse, parse_budget, parse_ceiling
from shared.store.redis import client
from shared.store.secrets import Vault


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """A pool for one command; afterwards every node is told that there may be a new epoch."""
    pool = postgres.engine(settings.database_url, pool_size=1)
    try:
        before = await configuration.epoch(pool)
        yield pool
        after = await configuration.epoch(pool)
        if after != before:
            redis = client(settings.redis_url)
            with suppress(RedisError, OSError):  # nodes look by themselves, this only makes it sooner
                await configuration.announce(redis, after)
            await redis.aclose()
    finally:
        await pool.dispose()


P = ParamSpec("P")


def policy_options(command: Callable[P, None]) -> Callable[P, None]:
    """What a key may use."""
    options = (
        click.option("--models", multiple=True, help="Only models like this (openai/*), or a route's name; may be repeated."),
        click.option("--providers", multiple=True, help="Only these providers or prefixes; patterns, may be repeated."),
        click.option("--no-training", is_flag=True, help="Only providers that say that they do not train on prompts."),
        click.option("--zero-retention", is_flag=True, help="Only providers that say that they keep nothing."),
        click.option("--regions", multiple=True, help="Only providers in these regions, like eu; may be repeated."),
        click.option("--max-price", help="USD per million tokens of input/output, like 1/5."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def policy_of(given: dict[str, Any]) -> KeyPolicy:
    """A policy from `policy_options`; lists may also be written with commas."""
    try:
        ceiling = (None, None) if given["max_price"] is None else parse_ceiling(given["max_price"])
    except ValueError as error:
        fail(f"--max-price {error}")

    def several(name: str) -> tuple[str, ...]:
        return tuple(part.strip() for value in given[name] for part in value.split(",") if part.strip())

    return KeyPolicy(
        models=several("models"),
        providers=several("providers"),
        no_training=given["no_training"],
        zero_retention=given["zero_retention"],
        regions=several("regions"),
        max_input_nano_per_mtok=ceiling[0],
        max_output_nano_per_mtok=ceiling[1],
    )


@click.group()
def key() -> None:
    """Create, list and revoke keys."""


@key.command("create")
@click.option("--team", default="default", show_default=True)
@click.option("--organisation", default="default", show_default=True)
@click.option("--name", default="", help="For people; need not be unique.")
@click.option("--rpm", type=click.IntRange(1), help="Requests per minute.")
@click.option("--tpm", type=click.IntRange(1), help="Tokens per minute.")
@click.option("--concurrent", type=click.IntRange(1), help="Calls in flight at once.")
@click.option("--budget-usd", help="A hard budget like 5/month (day, week, month, total).")
@click.option("--expires-days", type=click.IntRange(1), help="Days until the key expires.")
@click.option("--admin", is_flag=True, help="It may change the installation's configuration over HTTP.")
@policy_options
@json_option
@guarded
def create_key(
    team: str,
    organisation: str,
    name: str,
    rpm: int | None,
    tpm: int | None,
    concurrent: int | None,
    budget_usd: str | None,
    expires_days: int | None,
    admin: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Create a key; it is shown this once."""
    settings = settings_here()
    policy = policy_of(given)
    vault = Vault.from_secret(settings.secret())
    try:
        budget = None if budget_usd is None else parse_budget(budget_usd)
    except ValueError as error:
        fail(f"--budget-usd {error}")
    expires_at = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)

    async def work() -> tenants.CreatedKey:
        async with database(settings) as pool:
            return await tenants.create_key(
                pool, vault, team=team, organisation=organisation, name=name, rpm=rpm, tpm=tpm, concurrent=concurrent,
                budget=budget, expires_at=expires_at, admin=admin, policy=policy,
            )  # fmt: skip

    made = wait_for(work())
    answer({"id": made.id, "key": made.key}, f"id   {made.id}\nkey  {made.key}   (shown this once)", as_json=as_json)


@key.command("list")
@json_option
@guarded
def list_keys(as_json: bool) -> None:
    """List keys, without anything that could be used as one."""
    settings = settings_here()

    async def work() -> list[dict[str, object]]:
        async with database(settings) as pool:
            return await tenants.list_keys(pool)

    rows = wait_for(work())
    columns = ["id", "name", "organisation", "team", "last4", "created_at", "expires_at", "revoked_at", "admin", "may"]
    for row in rows:
        row["may"] = routes.described(msgspec.convert(row["policy"], KeyPolicy))
    answer(rows, table(rows, columns), as_json=as_json)


@key.command("revoke")
@click.argument("key_id", metavar="ID")
@json_option
@guarded
def revoke_key(key_id: str, as_json: bool) -> None:
    """Revoke a key: every node refuses it within a second."""
    settings = settings_here()

    async def work() -> bool:
        async with database(settings) as pool:
            return await tenants.revoke_key(pool, key_id)

    if not wait_for(work()):
        fail(f"there is no key {key_id!r} that could be revoked; `waystation key list` shows them")
    answer({"id": key_id, "revoked": True}, f"{key_id} is revoked", as_json=as_json)


@key.command("policy")
@click.argument("key_id", metavar="ID")
@policy_options
@json_option
@guarded
def put_policy(key_id: str, as_json: bool, **given: Any) -> None:
    """Say what a key may use, instead of what was said before; without options everything again."""
    settings, policy = settings_here(), policy_of(given)

    async def work() -> bool:
        async with database(settings) as pool:
            return await routes.put_policy(pool, key_id, policy)

    if not wait_for(work()):
        fail(f"there is no key {key_id!r}; `waystation key list` shows them")
    answer(
        {"id": key_id, "policy": msgspec.to_builtins(policy)}, f"{key_id} may use: {routes.described(policy)}", as_json=as_json
    )


file_option = click.option(
    "-f", "--file", "path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="gateway.yaml"
)


@click.command()
@file_option
@json_option
@guarded
def apply(path: Path, as_json: bool) -> None:
    """Make the configuration what the file says; what it does not mention stays."""
    changes = _apply(path, dry_run=False)
    text = "\n".join([*changes.lines, f"applied: epoch {changes.epoch}"]) if changes.changed else "nothing to change"
    answer({"changes": changes.lines, "epoch": changes.epoch}, text, as_json=as_json)


@click.command()
@file_option
@json_option
@guarded
def diff(path: Path, as_json: bool) -> None:
    """Show what `apply` would change."""
    changes = _apply(path, dry_run=True)
    answer({"changes": changes.lines}, "\n".join(changes.lines) or "nothing to change", as_json=as_json)


def _apply(path: Path, *, dry_run: bool) -> Changes:
    settings = settings_here()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        fail(f"{path.name} is not UTF-8 text")
    document = parse(path, text)
    vault, providers = Vault.from_secret(settings.secret()), registry.load()

    async def work() -> Changes:
        async with database(settings) as pool:
            return await apply_document(pool, vault, document, providers, dry_run=dry_run)

    changes: Changes = wait_for(work())
    return changes


@click.command()
@click.option("--by", type=click.Choice(sorted(ledger.BY)), default="model", show_default=True)
@click.option("--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="UTC; whole hours.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="UTC; whole hours.")
@json_option
@guarded
def usage(by: str, since: datetime | None, until: datetime | None, as_json: bool) -> None:
    """What was used and what it cost."""
    settings = settings_here()

    async def work() -> list[dict[str, Any]]:
        async with database(settings) as pool:
            return await ledger.usage(pool, by=by, since=_utc(since), until=_utc(until))

    rows = wait_for(work())
    for row in rows:
        row["cost_usd"] = f"{nano_to_usd(row['cost_nano_usd']):f}"
    columns = [by, "requests", "errors", "estimated", "input_tokens", "output_tokens", "cost_usd"]
    answer(rows, table(rows, columns), as_json=as_json)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


@click.command()
@click.option("--first-key", is_flag=True, help="Make the first organisation, team, admin and key, if there is none yet.")
@json_option
@guarded
def migrate(first_key: bool, as_json: bool) -> None:
    """Bring the database's schema to this version."""
    settings = settings_here()

    async def work() -> tenants.Bootstrapped | None:
        vault = Vault.from_secret(settings.secret()) if first_key else None  # before anything is changed
        await postgres.migrate(settings.database_url)
        if vault is None:
            return None
        async with database(settings) as pool:
            return await tenants.bootstrap(pool, vault)

    made: tenants.Bootstrapped | None = wait_for(work())
    text = ["the schema is up to date"]
    if made is not None:
        text += credentials(made)
    elif first_key:
        text.append("there is an organisation already: `waystation key create` makes another key")
    answer({"migrated": True} | ({} if made is None else made.shown), "\n".join(text), as_json=as_json)


@click.command()
@json_option
@guarded
def doctor(as_json: bool) -> None:
    """Check the secret, Postgres, its schema, Redis and the catalogue."""
    settings = settings_here()
    checks = wait_for(_checks(settings))
    lines = [f"{'ok ' if check['ok'] else 'BAD'}  {check['check']}: {check['detail']}" for check in checks]
    answer(checks, "\n".join(lines), as_json=as_json)
    if not all(check["ok"] for check in checks):
        raise SystemExit(1)


async def _checks(settings: Settings) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def note(check: str, ok: bool, detail: str) -> None:
        found.append({"check": check, "ok": ok, "detail": detail})

    try:
        Vault.from_secret(settings.secret())
        note("secret", True, "usable")
    except Exception as error:
        note("secret", False, str(error))
    pool = postgres.engine(settings.database_url, pool_size=1)
    try:
        reached = await postgres.answers(pool)
        note("postgres", reached, "answers" if reached else "cannot be reached")
        if reached:
            note("schema", True, f"configuration epoch {await configuration.epoch(pool)}")
    except Exception:
        note("schema", False, "not migrated: run `waystation migrate`")
    finally:
        await pool.dispose()
    redis = client(settings.redis_url)
    try:
        info = await redis.info()
        note("redis", True, f"version {info['redis_version']}")
        policy = info.get("maxmemory_policy", "noeviction")
        note("redis eviction", policy == "noeviction", f"maxmemory-policy {policy} (must be noeviction)")
    except (RedisError, OSError) as error:
        note("redis", False, str(error))
    finally:
        await redis.aclose()
    note("catalogue", True, f"{len(registry.load())} providers")
    return found

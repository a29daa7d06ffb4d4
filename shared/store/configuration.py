"""Configuration: what a snapshot is built from, read in one consistent view."""

from __future__ import annotations

import msgspec
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.domain.catalogue import Connection, DataPolicy, Model, Params
from shared.domain.configuration import Configuration, KeyRow
from shared.domain.limits import Budget, Limit, Mode, Period, Scope
from shared.domain.money import Price
from shared.domain.policy import KeyPolicy
from shared.domain.proxy import Level, ProxyRow
from shared.domain.routing import Choice, Route
from shared.domain.upstream_limits import UpstreamLimits
from shared.routing.breaker import profile
from shared.store import keys
from shared.store.redis import database_of


async def epoch(pool: AsyncEngine) -> int:
    async with pool.connect() as connection:
        return int(await connection.scalar(text("SELECT epoch FROM configuration_epoch")) or 0)


async def announce(redis: Redis, now_epoch: int) -> None:
    """Tell every node that there is a new epoch; they also look by themselves."""
    await redis.publish(keys.config_channel(database_of(redis)), str(now_epoch))


async def load(pool: AsyncEngine, after_epoch: int = -1) -> Configuration:
    """One repeatable-read view. Only keys changed after `after_epoch` are read: a node keeps the others."""
    async with pool.connect() as plain:
        connection = await plain.execution_options(isolation_level="REPEATABLE READ")
        async with connection.begin():
            now_epoch = int(await connection.scalar(text("SELECT epoch FROM configuration_epoch")) or 0)
            return Configuration(
                epoch=now_epoch,
                keys=await _keys(connection, after_epoch),
                limits=await _limits(connection),
                budgets=await _budgets(connection),
                connections=await _connections(connection),
                prices=await _prices(connection),
                models=await _models(connection),
                aliases=await _aliases(connection),
                fallbacks=await _fallbacks(connection),
                proxies=await _proxies(connection),
                routes=await _routes(connection),
                accounts=await _accounts(connection),
            )


async def _keys(connection: AsyncConnection, after_epoch: int) -> tuple[KeyRow, ...]:
    rows = await connection.execute(
        text(
            "SELECT id, public_id, organisation_id, team_id, name, digest, extract(epoch FROM expires_at)::float8 AS expires, "
            "revoked_at IS NOT NULL AS revoked, admin, policy FROM keys WHERE epoch > :after"
        ),
        {"after": after_epoch},
    )
    return tuple(
        KeyRow(
            r.id, r.public_id, r.organisation_id, r.team_id, r.name, bytes(r.digest), r.expires, r.revoked, r.admin,
            msgspec.convert(r.policy, KeyPolicy) if r.policy else None,
        )
        for r in rows
    )  # fmt: skip


async def _limits(connection: AsyncConnection) -> tuple[Limit, ...]:
    rows = await connection.execute(text("SELECT * FROM limits"))
    return tuple(
        Limit(
            scope=Scope(r.scope),
            scope_id=r.scope_id,
            requests_per_minute=r.requests_per_minute,
            tokens_per_minute=r.tokens_per_minute,
            concurrent_requests=r.concurrent_requests,
            burst_requests=r.burst_requests,
            burst_tokens=r.burst_tokens,
            mode=Mode(r.mode),
        )
        for r in rows
    )


async def _budgets(connection: AsyncConnection) -> tuple[Budget, ...]:
    rows = await connection.execute(text("SELECT * FROM budgets"))
    return tuple(
        Budget(
            budget_id=r.id,
            scope=Scope(r.scope),
            scope_id=r.scope_id,
            limit_nano_usd=r.limit_nano_usd,
            period=Period(r.period),
            hard=r.hard,
        )
        for r in rows
    )


async def _connections(connection: AsyncConnection) -> tuple[Connection, ...]:
    rows = await connection.execute(text("SELECT * FROM connections ORDER BY name"))
    return tuple(
        Connection(
            connection_id=r.id,
            name=r.name,
            provider=r.provider,
            prefix=r.prefix,
            base_url=r.base_url,
            organisation_id=r.organisation_id,
            sealed_credential=None if r.sealed_credential is None else bytes(r.sealed_credential),
            credential_version=r.credential_version,
            models={model["model_id"]: msgspec.convert(model, Model) for model in r.models},
            params=msgspec.convert(r.params, Params),
            api_version=r.settings.get("api_version"),
            data_policy=msgspec.convert(r.settings["data_policy"], DataPolicy) if "data_policy" in r.settings else None,
            limits=msgspec.convert(r.settings.get("limits"), UpstreamLimits | None),
            **r.timeouts,
            profile=profile(r.base_url, r.settings.get("profile", {})),
        )
        for r in rows
    )


async def _models(connection: AsyncConnection) -> dict[str, dict[str, Model]]:
    found: dict[str, dict[str, Model]] = {}
    for row in await connection.execute(text("SELECT provider, model_id, model FROM provider_models")):
        found.setdefault(row.provider, {})[row.model_id] = msgspec.convert(row.model, Model)
    return found


async def _aliases(connection: AsyncConnection) -> dict[str, str]:
    return {row.name: row.target for row in await connection.execute(text("SELECT name, target FROM aliases"))}


async def _fallbacks(connection: AsyncConnection) -> dict[str, tuple[str, ...]]:
    return {row.name: tuple(row.targets) for row in await connection.execute(text("SELECT name, targets FROM fallbacks"))}


async def _proxies(connection: AsyncConnection) -> tuple[ProxyRow, ...]:
    rows = await connection.execute(text("SELECT scope, name, sealed_url, version FROM proxies"))
    return tuple(ProxyRow(Level(r.scope), r.name, bytes(r.sealed_url), r.version) for r in rows)


async def _routes(connection: AsyncConnection) -> tuple[Route, ...]:
    rows = await connection.execute(text("SELECT route FROM routes ORDER BY name"))
    return tuple(msgspec.convert(row.route, Route) for row in rows)


async def _accounts(connection: AsyncConnection) -> dict[str, Choice]:
    rows = await connection.execute(text("SELECT prefix, choice FROM accounts"))
    return {row.prefix: msgspec.convert(row.choice, Choice) for row in rows}


async def _prices(connection: AsyncConnection) -> dict[str, Price]:
    rows = await connection.execute(text("SELECT DISTINCT ON (model) model, price FROM prices ORDER BY model, id DESC"))
    return {r.model: msgspec.convert(r.price, Price) for r in rows}

"""Tenants: organisations, teams, keys; each write raises the configuration's epoch in its transaction."""

from __future__ import annotations

import json
import secrets
from datetime import datetime

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.domain.identity import new_id
from shared.domain.limits import Limit, Period, Scope
from shared.domain.policy import NO_POLICY, KeyPolicy
from shared.domain.tenancy import Role
from shared.store.secrets import Vault, hash_password, mint_key


class TenantError(Exception):
    """Something named that is not there, or a name taken; the message says which."""


class CreatedKey(msgspec.Struct, frozen=True):
    """`key` is shown once."""

    id: str
    key: str


class Bootstrapped(msgspec.Struct, frozen=True):
    organisation: str
    team: str
    admin: str
    admin_password: str
    key_id: str
    key: str

    @property
    def shown(self) -> dict[str, str]:
        """What is shown this once."""
        return {"key": self.key, "admin": self.admin, "admin_password": self.admin_password}


async def bump(connection: AsyncConnection) -> int:
    """The next epoch. Its row lock also puts writers of configuration in a line."""
    epoch = await connection.scalar(text("UPDATE configuration_epoch SET epoch = epoch + 1 RETURNING epoch"))
    return int(epoch or 0)


async def audit(connection: AsyncConnection, action: str, subject: str, **detail: object) -> None:
    """Who changed what. `detail` never holds a secret."""
    await connection.execute(
        text("INSERT INTO audit_log (actor, action, subject, detail) VALUES ('operator', :action, :subject, :detail)"),
        {"action": action, "subject": subject, "detail": json.dumps(detail)},
    )


async def bootstrap(pool: AsyncEngine, vault: Vault) -> Bootstrapped | None:
    """The first organisation, team, admin and key; None when there is an organisation already."""
    async with pool.begin() as connection:
        epoch = await bump(connection)
        if await connection.scalar(text("SELECT count(*) FROM organisations")):
            await connection.rollback()  # nothing changes: neither does the epoch
            return None
        organisation_id = await add_organisation(connection, "default")
        await add_team(connection, organisation_id, "default")
        password = secrets.token_urlsafe(18)
        await connection.execute(
            text(
                "INSERT INTO users (id, organisation_id, name, role, password_hash) VALUES (:id, :org, 'admin', :role, :hash)"
            ),
            {"id": new_id("user"), "org": organisation_id, "role": Role.OWNER, "hash": hash_password(password)},
        )
        key = await _insert_key(connection, vault, epoch, "default", "default", "first key", None)
        return Bootstrapped("default", "default", "admin", password, key.id, key.key)


async def add_organisation(connection: AsyncConnection, name: str) -> str:
    organisation_id = new_id("org")
    await connection.execute(
        text("INSERT INTO organisations (id, name) VALUES (:id, :name)"), {"id": organisation_id, "name": name}
    )
    await audit(connection, "create", f"organisation {name}")
    return organisation_id


async def add_team(connection: AsyncConnection, organisation_id: str, name: str) -> str:
    team_id = new_id("team")
    await connection.execute(
        text("INSERT INTO teams (id, organisation_id, name) VALUES (:id, :org, :name)"),
        {"id": team_id, "org": organisation_id, "name": name},
    )
    await audit(connection, "create", f"team {name}", organisation_id=organisation_id)
    return team_id


async def create_key(
    pool: AsyncEngine,
    vault: Vault,
    *,
    team: str,
    organisation: str = "default",
    name: str = "",
    rpm: int | None = None,
    tpm: int | None = None,
    concurrent: int | None = None,
    budget: tuple[int, Period] | None = None,
    expires_at: datetime | None = None,
    admin: bool = False,
    policy: KeyPolicy = NO_POLICY,
) -> CreatedKey:
    """A key with its own limits, hard budget and policy. Raises TenantError when the team is not there."""
    async with pool.begin() as connection:
        epoch = await bump(connection)
        key = await _insert_key(connection, vault, epoch, organisation, team, name, expires_at, admin=admin, policy=policy)
        if rpm is not None or tpm is not None or concurrent is not None:
            await put_limit(
                connection,
                Limit(
                    scope=Scope.KEY,
                    scope_id=key.id,
                    requests_per_minute=rpm,
                    tokens_per_minute=tpm,
                    concurrent_requests=concurrent,
                ),
            )
        if budget is not None:
            await put_budget(connection, Scope.KEY, key.id, budget[0], budget[1], hard=True)
        return key


async def revoke_key(pool: AsyncEngine, key_id: str) -> bool:
    """Refused from now on, on every node within a second. False: no such key, or revoked already."""
    async with pool.begin() as connection:
        epoch = await bump(connection)
        revoked = await connection.execute(
            text("UPDATE keys SET revoked_at = now(), epoch = :epoch WHERE id = :id AND revoked_at IS NULL"),
            {"id": key_id, "epoch": epoch},
        )
        if revoked.rowcount:
            await audit(connection, "revoke", f"key {key_id}")
        return bool(revoked.rowcount)


async def list_keys(pool: AsyncEngine) -> list[dict[str, object]]:
    """Every key, without anything that could be used as one."""
    query = text(
        "SELECT k.id, k.name, o.name AS organisation, t.name AS team, k.last4, k.created_at, k.expires_at, k.revoked_at, "
        "k.admin, k.policy FROM keys k JOIN teams t ON t.id = k.team_id JOIN organisations o "
        "ON o.id = k.organisation_id ORDER BY k.created_at"
    )
    async with pool.connect() as connection:
        rows = await connection.execute(query)
        return [
            {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row._mapping.items()}
            for row in rows
        ]


async def put_limit(connection: AsyncConnection, limit: Limit) -> None:
    await connection.execute(
        text(
            "INSERT INTO limits VALUES (:scope, :scope_id, :rpm, :tpm, :concurrent, :burst_rpm, :burst_tpm, :mode) "
            "ON CONFLICT (scope, scope_id) DO UPDATE SET requests_per_minute = excluded.requests_per_minute, "
            "tokens_per_minute = excluded.tokens_per_minute, concurrent_requests = excluded.concurrent_requests, "
            "burst_requests = excluded.burst_requests, burst_tokens = excluded.burst_tokens, mode = excluded.mode"
        ),
        {
            "scope": limit.scope,
            "scope_id": limit.scope_id,
            "rpm": limit.requests_per_minute,
            "tpm": limit.tokens_per_minute,
            "concurrent": limit.concurrent_requests,
            "burst_rpm": limit.burst_requests,
            "burst_tpm": limit.burst_tokens,
            "mode": limit.mode,
        },
    )


async def put_budget(
    connection: AsyncConnection, scope: Scope, scope_id: str, limit_nano_usd: int, period: Period, *, hard: bool
) -> None:
    await connection.execute(
        text(
            "INSERT INTO budgets VALUES (:id, :scope, :scope_id, :nano, :period, :hard) "
            "ON CONFLICT (scope, scope_id, period) DO UPDATE SET limit_nano_usd = excluded.limit_nano_usd, hard = excluded.hard"
        ),
        {
            "id": new_id("budget"),
            "scope": scope,
            "scope_id": scope_id,
            "nano": limit_nano_usd,
            "period": period,
            "hard": hard,
        },
    )


async def _insert_key(
    connection: AsyncConnection,
    vault: Vault,
    epoch: int,
    organisation: str,
    team: str,
    name: str,
    expires_at: datetime | None,
    *,
    admin: bool = False,
    policy: KeyPolicy = NO_POLICY,
) -> CreatedKey:
    row = (
        await connection.execute(
            text(
                "SELECT t.id, t.organisation_id FROM teams t JOIN organisations o ON o.id = t.organisation_id "
                "WHERE o.name = :organisation AND t.name = :team"
            ),
            {"organisation": organisation, "team": team},
        )
    ).first()
    if row is None:
        raise TenantError(f"there is no team {team!r} in organisation {organisation!r}")
    minted, key_id = mint_key(), new_id("key")
    await connection.execute(
        text(
            "INSERT INTO keys (id, public_id, organisation_id, team_id, name, last4, digest, expires_at, epoch, admin, "
            "policy) VALUES (:id, :public_id, :org, :team, :name, :last4, :digest, :expires_at, :epoch, :admin, :policy)"
        ),
        {
            "id": key_id,
            "public_id": minted.public_id,
            "org": row.organisation_id,
            "team": row.id,
            "name": name,
            "last4": minted.text[-4:],
            "digest": vault.digest(minted.secret),
            "expires_at": expires_at,
            "epoch": epoch,
            "admin": admin,
            "policy": json.dumps(msgspec.to_builtins(policy)),
        },
    )
    await audit(
        connection, "create", f"key {key_id}", team=team, name=name, admin=admin, policy=msgspec.to_builtins(policy)
    )  # fmt: skip
    return CreatedKey(key_id, minted.text)

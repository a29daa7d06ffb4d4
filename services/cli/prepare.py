"""What an installation needs before its first node starts: schema, organisation, admin and key."""

from __future__ import annotations

from shared.settings import Settings
from shared.store import postgres, tenants
from shared.store.redis import client
from shared.store.secrets import Vault


async def prepare(settings: Settings) -> tenants.Bootstrapped | None:
    """Schema, and the first organisation, admin and key if there are none."""
    cache = client(settings.redis_url)
    try:
        await cache.ping()
    finally:
        await cache.aclose()
    await postgres.migrate(settings.database_url)
    pool = postgres.engine(settings.database_url, pool_size=1)
    try:
        return await tenants.bootstrap(pool, Vault.from_secret(settings.secret()))
    finally:
        await pool.dispose()

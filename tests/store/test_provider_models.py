"""Models added at run time: only a change is a new epoch, for an epoch has every node read its configuration again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.domain.catalogue import Model
from shared.store import postgres, provider_models, tenants
from shared.store.configuration import epoch
from shared.store.secrets import Vault, new_secret


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(database_url)
    yield made
    await made.dispose()


async def test_only_a_change_makes_an_epoch(pool: AsyncEngine) -> None:
    async def add() -> str:
        model = Model(model_id="new-model", context_tokens=1000)
        return str((await provider_models.add(pool, "openai", model, name="New", source="manual", actor="key_a"))["name"])

    epochs = [await epoch(pool)]
    assert [await add(), await add()] == ["New", "New"]
    epochs.append(await epoch(pool))
    removed = [await provider_models.remove(pool, "openai", "new-model", actor="key_a") for _ in range(2)]
    epochs.append(await epoch(pool))
    assert removed == [True, False]
    assert epochs == [epochs[0], epochs[0] + 1, epochs[0] + 2]


async def test_a_bootstrap_of_what_is_there_makes_none(pool: AsyncEngine) -> None:
    vault = Vault.from_secret(new_secret())
    assert await tenants.bootstrap(pool, vault) is not None
    before = await epoch(pool)
    assert await tenants.bootstrap(pool, vault) is None
    assert await epoch(pool) == before

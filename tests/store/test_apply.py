"""A document into Postgres and back: what is written is what a snapshot is built from; a fault writes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.domain.catalogue import Capability, Params
from shared.domain.health import PROFILES, ProfileKind
from shared.domain.limits import Mode, Period, Scope
from shared.domain.upstream_limits import Queue, Quota, QuotaUnit, UpstreamLimits, Window
from shared.providers import registry
from shared.store import postgres, tenants
from shared.store.apply import Changes, apply_document
from shared.store.configuration import epoch, load
from shared.store.document import Document, DocumentError
from shared.store.secrets import Vault, credential_context, new_secret
from shared.store.tenants import TenantError

VAULT = Vault.from_secret(new_secret())
CATALOGUE = registry.load()
LAB = {"name": "lab", "provider": "custom", "base_url": "http://127.0.0.1:9/v1", "api_key": "env:LAB"}


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(database_url)
    await tenants.bootstrap(made, VAULT)
    yield made
    await made.dispose()


async def put(pool: AsyncEngine, *, secret: str = "sk-1", dry_run: bool = False, **document: Any) -> Changes:
    made = Document.model_validate(document)
    return await apply_document(pool, VAULT, made, CATALOGUE, dry_run=dry_run, secret=lambda _: secret)


async def test_everything_comes_back_as_it_was_written(pool: AsyncEngine) -> None:
    model = {"id": "big", "context_tokens": 1000, "capabilities": ["text", "tools"], "set_params": {"a": {"b": 1}}}
    changes = await put(
        pool,
        organisations=[{"name": "acme", "teams": ["search"]}],
        connections=[LAB | {"organisation": "acme", "models": [model], "drop_params": ["top_k"], "idle_timeout_s": 7}],
        limits=[{"team": "acme/search", "rpm": 10, "tpm": 20, "concurrent": 3, "burst_rpm": 0, "mode": "shadow"}],
        budgets=[{"organisation": "acme", "usd": "5/month"}, {"organisation": "acme", "usd": "1/day", "mode": "soft"}],
        prices={"lab/big": {"input": "0.1", "output": "0.2", "request": "0.01", "version": "v1"}},
    )
    assert changes.lines == [
        "+ organisation acme", "+ team acme/search", "+ connection lab (lab/…)", "+ limit of team acme/search",
        "+ budget of organisation acme: 5/month USD per month", "+ budget of organisation acme: 1/day USD per day",
        "+ price of lab/big (v1)",
    ]  # fmt: skip
    read = await load(pool)
    assert read.epoch == changes.epoch == await epoch(pool)
    (lab,) = read.connections
    assert (lab.prefix, lab.provider, lab.idle_timeout_s, lab.connect_timeout_s) == ("lab", "custom", 7.0, 5.0)
    assert (lab.params, lab.models["big"].params) == (Params(("top_k",)), Params(set={"a": {"b": 1}}))
    assert lab.models["big"].capabilities == {Capability.TEXT, Capability.TOOLS}
    assert lab.sealed_credential is not None
    assert VAULT.unseal(lab.sealed_credential, credential_context(lab.connection_id, lab.credential_version)) == "sk-1"
    (limit,) = read.limits
    assert (limit.scope, limit.requests_per_minute, limit.burst_requests, limit.mode) == (Scope.TEAM, 10, 0, Mode.SHADOW)
    assert {(budget.period, budget.limit_nano_usd, budget.hard) for budget in read.budgets} == {
        (Period.MONTH, 5_000_000_000, True), (Period.DAY, 1_000_000_000, False),
    }  # fmt: skip
    assert read.prices["lab/big"].request_nano == 10_000_000


async def test_a_profile_is_its_kinds_with_what_the_connection_sets(pool: AsyncEngine) -> None:
    far = LAB | {"base_url": "https://api.lab.example/v1"}
    for entry, expected in (
        (LAB, PROFILES[ProfileKind.LOCAL]),
        (LAB | {"profile": {"failures": 7}}, msgspec.structs.replace(PROFILES[ProfileKind.LOCAL], failures=7)),
        (LAB | {"profile": {"kind": "oauth"}}, PROFILES[ProfileKind.OAUTH]),
        (far | {"profile": {"open_s": 5}}, msgspec.structs.replace(PROFILES[ProfileKind.API_KEY], open_s=5)),
        (far, PROFILES[ProfileKind.API_KEY]),
    ):
        assert (await put(pool, connections=[entry])).changed
        assert not (await put(pool, connections=[entry])).changed
        (lab,) = (await load(pool)).connections
        assert lab.profile == expected


async def test_the_same_document_again_changes_nothing(pool: AsyncEngine) -> None:
    document: dict[str, Any] = {
        "connections": [LAB | {"models": ["a"], "drop_params": ["top_k"]}],
        "prices": {"lab/a": {"input": 1, "output": 2}},
    }
    assert (await put(pool, **document)).changed
    before = await epoch(pool)
    again = await put(pool, **document)
    assert (again.lines, again.epoch, await epoch(pool)) == ([], None, before)


async def test_limits_of_a_connection_are_kept_changed_and_taken_away(pool: AsyncEngine) -> None:
    quotas = [{"usd": "2.5", "window": "day", "at_hour": 10}, {"tokens": 900, "window": "5h"}]
    given = {"rpm": 60, "tpm": 1000, "burst_rpm": 5, "min_gap_ms": 20, "concurrent": 4, "queue": {"most": 7}, "quotas": quotas}
    await put(pool, connections=[LAB | {"limits": given}])
    expected = UpstreamLimits(
        requests_per_minute=60,
        tokens_per_minute=1000,
        burst_requests=5,
        min_gap_ms=20,
        concurrent_requests=4,
        queue=Queue(most=7),
        quotas=(
            Quota(unit=QuotaUnit.USD, limit=2_500_000_000, window=Window.DAY, at_hour=10),
            Quota(unit=QuotaUnit.TOKENS, limit=900, window=Window.FIVE_HOURS),
        ),
    )
    assert (await load(pool)).connections[0].limits == expected
    assert not (await put(pool, connections=[LAB | {"limits": given}])).changed
    changes = await put(pool, connections=[LAB | {"limits": {"rpm": 70}}])
    assert changes.lines == ["~ connection lab (lab/…)"]
    assert (await load(pool)).connections[0].limits == UpstreamLimits(requests_per_minute=70)
    await put(pool, connections=[LAB])
    assert (await load(pool)).connections[0].limits is None


async def test_a_dry_run_says_what_it_would_do_and_does_nothing(pool: AsyncEngine) -> None:
    before = await load(pool)
    changes = await put(pool, dry_run=True, connections=[LAB])
    assert changes.lines == ["+ connection lab (lab/…)"]
    assert await load(pool) == before


async def test_a_rotated_credential_is_a_new_version_sealed_for_that_version_alone(pool: AsyncEngine) -> None:
    await put(pool, connections=[LAB])
    (old,) = (await load(pool)).connections
    assert (await put(pool, secret="sk-2", connections=[LAB])).lines == ["~ connection lab (lab/…)"]
    (new,) = (await load(pool)).connections
    assert (new.connection_id, new.credential_version) == (old.connection_id, old.credential_version + 1)
    bare = {name: value for name, value in LAB.items() if name != "api_key"}
    await put(pool, connections=[bare])
    (without,) = (await load(pool)).connections
    assert without.sealed_credential is None


async def test_a_price_that_rises_is_read_as_it_was_written(pool: AsyncEngine) -> None:
    tier = {"above": 200_000, "input": "2.50", "output": "15", "audio": "3"}
    entry = {"input": "1.25", "output": "10", "audio": "2", "longer": [tier], "version": "one"}
    await put(pool, prices={"lab/a": entry})
    price = (await load(pool)).prices["lab/a"]
    assert (price.audio_nano_per_mtok, price.at(200_000).input_nano_per_mtok) == (2_000_000_000, 1_250_000_000)
    assert (price.at(200_001).output_nano_per_mtok, price.at(200_001).audio_nano_per_mtok) == (15_000_000_000, 3_000_000_000)
    assert (await put(pool, prices={"lab/a": entry})).lines == []


async def test_a_price_that_depends_on_the_time_is_read_as_it_was_written(pool: AsyncEngine) -> None:
    cheaper = {"peaks": ["01:00-04:00"], "weekends": True, "days": [date(2027, 1, 1)], "input": "0.5", "output": "1"}
    entry = {"input": "1", "output": "2", "request": "0.01", "cheaper": cheaper}
    await put(pool, prices={"lab/a": entry})
    price = (await load(pool)).prices["lab/a"]
    hour_s = 3600  # 1970-01-01 was a Thursday
    assert price.during(2 * hour_s, 2 * hour_s) is price
    for moment_s in (5 * hour_s, ((date(2027, 1, 1) - date(1970, 1, 1)).days * 24 + 2) * hour_s):
        then = price.during(moment_s, moment_s)
        assert (then.input_nano_per_mtok, then.output_nano_per_mtok) == (500_000_000, 1_000_000_000)
        assert then.request_nano == price.request_nano == 10_000_000
    assert (await put(pool, prices={"lab/a": entry})).lines == []


async def test_a_changed_price_is_a_new_version_and_the_old_one_stays(pool: AsyncEngine) -> None:
    await put(pool, prices={"lab/a": {"input": 1, "output": 2, "version": "one"}})
    await put(pool, prices={"lab/a": {"input": 3, "output": 2, "version": "two"}})
    assert (await load(pool)).prices["lab/a"].version == "two"
    async with pool.connect() as connection:
        rows = await connection.execute(text("SELECT version FROM prices ORDER BY id"))
        assert [row.version for row in rows] == ["one", "two"]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"connections": [LAB | {"provider": "nobody"}]}, "connections[0].provider: 'nobody' is not one of"),
        ({"connections": [{"name": "a", "provider": "azure"}]}, "connections[0].base_url: provider 'azure' needs one"),
        ({"connections": [LAB, LAB]}, "connections[1].name: 'lab' is there twice"),
        ({"connections": [LAB | {"prefix": "demo-x"}]}, "connections[0].prefix: 'demo-x' is the built-in simulator's"),
        ({"connections": [LAB, LAB | {"name": "b", "prefix": "lab", "base_url": "http://other/v1"}]}, "already belongs to"),
        ({"connections": [LAB | {"organisation": "nobody"}]}, "there is no organisation 'nobody'"),
        ({"limits": [{"team": "nobody", "rpm": 1}]}, "limits[0]"),
        ({"budgets": [{"key": "nobody", "usd": 1}]}, "budgets[0]"),
    ],
)
async def test_a_fault_writes_nothing(pool: AsyncEngine, document: dict[str, Any], told: str) -> None:
    before = await load(pool)
    with pytest.raises((DocumentError, TenantError)) as caught:
        await put(pool, organisations=[{"name": "acme"}], **document)
    assert told in str(caught.value)
    assert await load(pool) == before


async def test_only_keys_that_changed_are_read_again(pool: AsyncEngine) -> None:
    before = await epoch(pool)
    made = await tenants.create_key(pool, VAULT, team="default")
    assert [row.key_id for row in (await load(pool, before)).keys] == [made.id]
    between = await epoch(pool)
    assert await tenants.revoke_key(pool, made.id)
    assert [(row.key_id, row.revoked) for row in (await load(pool, between)).keys] == [(made.id, True)]
    assert not await tenants.revoke_key(pool, "key_nobody")
    assert len((await load(pool)).keys) == 2


async def test_aliases_are_set_changed_and_taken_away(pool: AsyncEngine) -> None:
    assert (await put(pool, aliases={"fast": "lab/a", "gpt-*": "lab/gpt-*"})).lines == [
        "+ alias fast → lab/a", "+ alias gpt-* → lab/gpt-*",
    ]  # fmt: skip
    assert (await put(pool, aliases={"fast": "lab/b", "gpt-*": None, "gone": None})).lines == [
        "~ alias fast → lab/b", "- alias gpt-*",
    ]  # fmt: skip
    assert (await load(pool)).aliases == {"fast": "lab/b"}

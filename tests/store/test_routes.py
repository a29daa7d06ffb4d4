"""Routes, accounts and policies in a document: stored, read back, refused where a name leads nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.domain.catalogue import DataPolicy
from shared.domain.policy import KeyPolicy
from shared.domain.routing import Choice, Route, Strategy, Target
from shared.store import routes, tenants
from shared.store.configuration import load
from shared.store.document import DocumentError, parse, parse_ceiling
from tests.store.test_apply import LAB, VAULT, pool, put

__all__ = ["pool"]

FAST = {"targets": ["lab/a", {"model": "groq/b", "weight": 3}], "strategy": "weighted"}
USD = 1_000_000_000


async def test_routes_come_back_as_they_were_written(pool: AsyncEngine) -> None:
    whole = FAST | {
        "sticky": 5, "fallbacks": ["openai/c", "fast"], "organisation": "acme", "max_attempts": 7, "deadline_s": 30,
        "hedge": True, "continuation": True, "affinity": True,
    }  # fmt: skip
    document: dict[str, Any] = {
        "organisations": [{"name": "acme"}],
        "connections": [LAB],
        "routes": {"fast": FAST, "whole": whole},
        "accounts": {"lab": "least_used", "groq": {"strategy": "round_robin", "sticky": 1}},
        "aliases": {"quick": "fast"},
        "fallbacks": {"lab/a": ["fast"]},
    }
    changes = await put(pool, **document)
    assert [line for line in changes.lines if "route" in line or "accounts" in line] == [
        "+ route fast: weighted of lab/a, groq/b", "+ route whole: weighted of lab/a, groq/b",
        "+ accounts of lab: least_used", "+ accounts of groq: round_robin",
    ]  # fmt: skip
    read = await load(pool)
    fast, made = read.routes
    targets = (Target(model="lab/a"), Target(model="groq/b", weight=3))
    assert fast == Route(name="fast", targets=targets, choice=Choice(strategy=Strategy.WEIGHTED))
    assert made.organisation_id is not None
    assert made == Route(
        name="whole", targets=targets, choice=Choice(strategy=Strategy.WEIGHTED, sticky=5), fallbacks=("openai/c", "fast"),
        organisation_id=made.organisation_id, max_attempts=7, deadline_s=30.0, hedge=True, continuation=True, affinity=True,
    )  # fmt: skip
    assert read.accounts == {
        "lab": Choice(strategy=Strategy.LEAST_USED), "groq": Choice(strategy=Strategy.ROUND_ROBIN, sticky=1),
    }  # fmt: skip
    assert (await put(pool, **document)).lines == []
    changed = await put(pool, routes={"fast": FAST | {"strategy": "random"}, "whole": None}, accounts={"lab": None})
    assert changed.lines == ["~ route fast: random of lab/a, groq/b", "- route whole", "- accounts of lab"]
    assert (await put(pool, routes={"whole": None}, accounts={"lab": None})).lines == []


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"aliases": {"x": "nowhere"}}, "aliases.x: 'nowhere' is no prefix/model, and there is no such route"),
        ({"fallbacks": {"lab/a": ["nowhere"]}}, "fallbacks.lab/a: 'nowhere' is no prefix/model"),
        ({"routes": {"slow": FAST | {"fallbacks": ["nowhere"]}}}, "routes.slow.fallbacks: 'nowhere' is no prefix/model"),
        ({"routes": {"fast": None}}, "aliases.quick: 'fast' is no prefix/model, and there is no such route"),
        (
            {"routes": {"slow": {"targets": ["nobody/m"]}}},
            "routes.slow.targets[0]: no connection and no provider has the prefix",
        ),
        ({"routes": {"slow": {"targets": ["lab/a", "lab/a"]}}}, "routes.slow.targets[1]: 'lab/a' is there twice"),
        ({"routes": {"slow": FAST | {"organisation": "no"}}}, "routes.slow.organisation: there is no organisation 'no'"),
        ({"accounts": {"ds": "random"}}, "accounts.ds: is another name for 'deepseek': say that"),
        ({"accounts": {"nobody": "random"}}, "accounts.nobody: no connection has this prefix"),
        ({"keys": [{"key": "nobody", "no_training": True}]}, "keys[0].key: there is no key 'nobody'"),
        ({"keys": [{"key": "twin", "no_training": True}]}, "keys[0].key: two keys are named 'twin'"),
    ],
)
async def test_a_name_that_leads_nowhere_is_refused_and_nothing_is_written(
    pool: AsyncEngine, document: dict[str, Any], said: str
) -> None:
    await put(pool, connections=[LAB], routes={"fast": FAST}, aliases={"quick": "fast"})
    for _ in range(2):
        await tenants.create_key(pool, VAULT, team="default", name="twin")
    before = await load(pool)
    with pytest.raises(DocumentError) as caught:
        await put(pool, **document)
    assert str(caught.value).startswith(said)
    assert await load(pool) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("routes:\n  a/b:\n    targets: [x/y]\n", "routes.a/b: a route's name is 1 to 100 letters"),
        ("routes:\n  a:nitro:\n    targets: [x/y]\n", "routes.a:nitro: a route's name"),
        ("routes:\n  fast:\n    targets: []\n", "gateway.yaml:3 routes.fast.targets: "),
        ("routes:\n  fast:\n    targets: [plain]\n", "gateway.yaml:3 routes.fast.targets[0].model: 'plain' is no prefix/model"),
        ("routes:\n  fast:\n    strategy: best\n    targets: [x/y]\n", "gateway.yaml:3 routes.fast.strategy: "),
        (
            "routes:\n  fast:\n    targets:\n    - model: x/y\n      weight: -1\n",
            "gateway.yaml:5 routes.fast.targets[0].weight: ",
        ),
        ("routes:\n  fast:\n    targets: [x/y]\n    max_attempts: 0\n", "gateway.yaml:4 routes.fast.max_attempts: "),
        ("accounts:\n  lab: best\n", "gateway.yaml:2 accounts.lab"),
        ("keys:\n- key: k\n  max_price: {input: -1}\n", "gateway.yaml:3 keys[0].max_price.input: "),
        ("aliases:\n  x: a b\n", "aliases.x: 'a b' is no prefix/model and no route"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_key(text: str, said: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(Path("gateway.yaml"), text)
    assert said in str(caught.value)


async def test_what_a_key_may_use_is_said_in_the_document_or_at_its_creation(pool: AsyncEngine) -> None:
    made = await tenants.create_key(pool, VAULT, team="default", name="strict", policy=KeyPolicy(models=("openai/*",)))
    free = await tenants.create_key(pool, VAULT, team="default", name="free")
    rows = {row.key_id: row for row in (await load(pool)).keys}
    assert rows[made.id].policy == KeyPolicy(models=("openai/*",))
    assert rows[free.id].policy is None
    before = await load(pool)
    entry = {"key": "free", "providers": ["groq"], "no_training": True, "zero_retention": True, "regions": ["eu"],
             "max_price": {"input": "0.5", "output": 2}}  # fmt: skip
    changes = await put(pool, keys=[entry])
    assert changes.lines == [
        "+ policy of key free: providers groq; no_training; zero_retention; regions eu; "
        "max_input_nano_per_mtok 500000000; max_output_nano_per_mtok 2000000000"
    ]
    (row,) = (await load(pool, before.epoch)).keys
    assert row.policy == KeyPolicy(
        providers=("groq",), no_training=True, zero_retention=True, regions=("eu",), max_input_nano_per_mtok=USD // 2,
        max_output_nano_per_mtok=2 * USD,
    )  # fmt: skip
    assert (await put(pool, keys=[entry])).lines == []
    assert (await put(pool, keys=[{"key": "free"}])).lines == ["~ policy of key free: everything"]
    assert await routes.put_policy(pool, made.id, KeyPolicy())
    assert not await routes.put_policy(pool, "nobody", KeyPolicy())
    assert all(row.policy is None for row in (await load(pool)).keys)
    async with pool.connect() as db:
        assert await db.scalar(text("SELECT count(*) FROM audit_log WHERE action = 'policy'")) == 1


async def test_a_connections_own_data_policy_goes_over_its_providers(pool: AsyncEngine) -> None:
    contract = {"trains": False, "retention_days": 0, "region": "eu-west-1"}
    models = [{"id": "a", "quantization": "fp8"}, {"id": "b", "capabilities": ["text"]}]
    await put(pool, connections=[LAB | {"data_policy": contract, "models": models}])
    (lab,) = (await load(pool)).connections
    assert lab.data_policy == DataPolicy(trains=False, retention_days=0, region="eu-west-1")
    told = [(model.quantization, model.described) for model in lab.models.values()]
    assert told == [("fp8", False), (None, True)]
    assert (await put(pool, connections=[LAB | {"data_policy": contract, "models": models}])).lines == []
    assert (await put(pool, connections=[LAB | {"models": models}])).lines == ["~ connection lab (lab/…)"]
    assert DataPolicy(region="eu").over(DataPolicy(trains=True, region="us")) == DataPolicy(trains=True, region="eu")


@pytest.mark.parametrize(("said", "nano"), [("1/5", (USD, 5 * USD)), ("0.5", (USD // 2, USD // 2)), ("0/1", (0, USD))])
def test_a_ceiling_is_two_prices_or_one(said: str, nano: tuple[int, int]) -> None:
    assert parse_ceiling(said) == nano


@pytest.mark.parametrize("said", ["", "a", "1/", "-1", "1/2/3"])
def test_a_ceiling_that_is_none(said: str) -> None:
    with pytest.raises(ValueError, match="like 1/5"):
        parse_ceiling(said)

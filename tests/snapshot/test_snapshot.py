"""What a snapshot finds: whose key, which deployment, with what limits; and what it must not show."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.catalogue import Connection, Model, Params, Provider
from shared.domain.configuration import Configuration, KeyRow
from shared.domain.limits import Budget, Limit, Period, Scope
from shared.domain.money import Price
from shared.snapshot.snapshot import MOST_NAMES, Snapshot, build

PRICE = Price(input_nano_per_mtok=1, output_nano_per_mtok=2, version="catalogue")
DEARER = Price(input_nano_per_mtok=5, output_nano_per_mtok=6, version="operator")
KNOWN = Model(model_id="known", context_tokens=100, max_output_tokens=10, price=PRICE, params=Params(("a",)))
LAB = Provider(name="lab", title="Lab", prefix="lab", aliases=("l",), base_url="http://lab", models={"known": KNOWN})
PROVIDERS = {"lab": LAB}


def connection(name: str = "one", **fields: Any) -> Connection:
    made: dict[str, Any] = {"provider": "lab", "prefix": "lab", "base_url": "http://lab"} | fields
    return Connection(connection_id=f"conn_{name}", name=name, **made)


def key(number: int, *, organisation: str = "org", team: str = "team", revoked: bool = False) -> KeyRow:
    return KeyRow(f"key_{number}", f"public{number}", organisation, team, "", b"digest", None, revoked)


def configuration(epoch: int = 1, **fields: Any) -> Configuration:
    empty: dict[str, Any] = {"keys": (), "limits": (), "budgets": (), "connections": (), "prices": {}}
    return Configuration(epoch=epoch, **(empty | fields))


def snapshot(*connections: Connection, **fields: Any) -> Snapshot:
    return build(configuration(connections=connections, **fields), PROVIDERS)


def test_a_key_carries_the_limits_and_budgets_of_its_three_scopes_and_no_others() -> None:
    scopes = [(Scope.ORGANISATION, "org"), (Scope.TEAM, "team"), (Scope.KEY, "key_1"), (Scope.TEAM, "other")]
    limits = tuple(Limit(scope=scope, scope_id=name, requests_per_minute=1) for scope, name in scopes)
    budgets = tuple(
        Budget(budget_id=name, scope=scope, scope_id=name, period=Period.DAY, limit_nano_usd=1, hard=True)
        for scope, name in scopes
    )
    entry = snapshot(keys=(key(1),), limits=limits, budgets=budgets).key("public1")
    assert entry is not None
    assert [limit.scope_id for limit in entry.limits] == ["org", "team", "key_1"]
    assert [budget.scope_id for budget in entry.budgets] == ["org", "team", "key_1"]
    assert snapshot().key("public1") is None


def test_what_a_connection_says_of_a_model_wins_over_the_catalogue() -> None:
    own = Model(model_id="known", max_output_tokens=7, params=Params(set={"x": 1}))
    found = snapshot(connection(models={"known": own})).deployment("lab/known", "org")
    assert found is not None
    assert (found.model.context_tokens, found.model.max_output_tokens, found.model.price) == (100, 7, PRICE)
    assert found.params == Params(("a",), {"x": 1})
    priced = snapshot(connection(), prices={"lab/known": DEARER}).deployment("l/known", "org")
    assert priced is not None
    assert (priced.model.price, priced.name) == (DEARER, "lab/known")


def test_with_a_list_only_its_models_pass_and_without_one_any() -> None:
    listed = snapshot(connection(models={"mine": Model(model_id="mine")}))
    assert listed.deployment("lab/mine", "org") is not None
    assert listed.deployment("lab/known", "org") is None
    free = snapshot(connection()).deployment("lab/some/thing:new", "org")
    assert free is not None
    assert (free.model.model_id, free.model.price) == ("some/thing:new", None)


@pytest.mark.parametrize("name", ["lab", "lab/", "/known", "nobody/known", "", "LAB/known"])
def test_a_name_that_leads_nowhere(name: str) -> None:
    assert snapshot(connection()).deployment(name, "org") is None


def test_an_organisations_own_connection_is_nobody_elses() -> None:
    mine = connection("mine", organisation_id="org", prefix="mine", models={"known": KNOWN})
    made = snapshot(mine, connection("gone", provider="nobody", prefix="gone"))
    assert made.deployment("mine/known", "org") is not None
    assert made.deployment("mine/known", "other") is None
    assert [found.name for found in made.models("org")] == ["mine/known"]
    assert made.models("other") == []
    assert made.suggestions("mine/knwon", "org") == ["mine/known"]
    assert made.suggestions("mine/knwon", "other") == []
    assert made.deployment("gone/known", "org") is None


def test_the_first_connection_that_knows_the_model_serves_it() -> None:
    first = connection("first", organisation_id="other")
    second = connection("second", models={"known": KNOWN})
    third = connection("third")
    made = snapshot(first, second, third)
    assert made.deployment("lab/known", "org").connection.name == "second"  # type: ignore[union-attr]
    assert made.deployment("lab/else", "org").connection.name == "third"  # type: ignore[union-attr]
    assert made.deployment("lab/known", "other").connection.name == "first"  # type: ignore[union-attr]


def test_a_new_snapshot_keeps_the_keys_that_did_not_change() -> None:
    first = build(configuration(1, keys=(key(1), key(2))), PROVIDERS)
    second = build(configuration(2, keys=(key(2, revoked=True),)), PROVIDERS, previous=first)
    assert second.epoch == 2
    assert [second.key(name).revoked for name in ("public1", "public2")] == [False, True]  # type: ignore[union-attr]
    assert first.key("public2").revoked is False  # type: ignore[union-attr]


def test_what_clients_ask_for_cannot_fill_the_memory() -> None:
    made = snapshot(connection())
    for number in range(MOST_NAMES + 5):
        made.deployment(f"lab/{number}", "org")
    assert len(made._pools) <= MOST_NAMES

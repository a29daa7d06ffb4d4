"""What an operator drops from and sets in bodies: exactly that, and never what routing or money depend on."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.catalogue import Connection, Deployment, Model, Params, Provider
from shared.wire.params import GUARDED, applied, guarded

BODY = b'{"model":"m","big":12345678901234567890123,"a":{"b":{"c":1,"d":2}},"top_k":5}'


@pytest.mark.parametrize(
    ("params", "expected", "dropped"),
    [
        (Params(("top_k", "absent")), b'{"model":"m","big":12345678901234567890123,"a":{"b":{"c":1,"d":2}}}', ["top_k"]),
        (Params(("a.b.c",)), b'{"model":"m","big":12345678901234567890123,"a":{"b":{"d":2}},"top_k":5}', ["a.b.c"]),
        (Params(("a.x.c", "top_k.y", "a.b.z")), BODY, []),
        (Params(set={"top_k": 9}), BODY.replace(b'"top_k":5', b'"top_k":9'), []),
        (Params(set={"a": {"b": {"c": 3}}}), BODY.replace(b'"c":1', b'"c":3'), []),
        (Params(set={"a.b.c": 3}), BODY.replace(b'"c":1', b'"c":3'), []),
        (Params(set={"new.x": True}), BODY[:-1] + b',"new":{"x":true}}', []),
        (Params(set={"top_k.x": 1}), BODY.replace(b"5}", b'{"x":1}}'), []),
        (Params(("a",), {"a": {"e": 1}}), b'{"model":"m","big":12345678901234567890123,"top_k":5,"a":{"e":1}}', ["a"]),
    ],
)
def test_a_body_is_changed_there_and_nowhere_else(params: Params, expected: bytes, dropped: list[str]) -> None:
    assert applied(BODY, params) == (expected, dropped)


@pytest.mark.parametrize("name", sorted(GUARDED))
def test_what_routing_and_money_depend_on_cannot_be_touched(name: str) -> None:
    spellings: list[Params] = [
        Params((name,)), Params((f"generationConfig.{name}",)), Params(set={name: 1}), Params(set={"a": {"b": {name: 1}}}),
        Params(set={f"a.{name}": 1}), Params(set={f"{name}.x": 1}),
    ]  # fmt: skip
    assert [guarded(params) for params in spellings if guarded(params) is None] == []
    assert guarded(Params(("temperature",), {"seed": 1})) is None


def test_the_models_word_comes_after_the_connections_and_the_providers() -> None:
    none = Params()

    def made(**params: Params) -> Deployment:
        return Deployment(
            provider=Provider(name="p", title="P", prefix="p", base_url=None, params=params.get("provider", none)),
            connection=Connection(
                connection_id="c", name="c", provider="p", prefix="p", base_url="http://x",
                params=params.get("connection", none),
            ),
            model=Model(model_id="m", params=params.get("model", none)),
        )  # fmt: skip

    def put(value: int) -> Params:
        return Params(set={"x": value, f"y{value}": value})

    assert made().params is None
    everything = made(provider=put(1), connection=put(2), model=put(3)).params
    assert everything == Params((), {"x": 3, "y1": 1, "y2": 2, "y3": 3})
    assert made(provider=Params(("a",)), model=Params(("b", "a"))).params == Params(("a", "b"))


def test_numbers_and_text_survive() -> None:
    body: dict[str, Any] = {"t": "ü\u2028", "f": 1e-7, "n": None}
    changed, _ = applied(orjson.dumps(body), Params(set={"s": 1}))
    assert orjson.loads(changed) == body | {"s": 1}

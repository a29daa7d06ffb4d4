"""What a routing decision costs: `choose` for a route with 50 deployments, by strategy, and for one model named directly.

`python -m tests.bench.decision` runs this row alone.
"""

from __future__ import annotations

import timeit
from collections.abc import Mapping
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

import orjson

from shared.domain.catalogue import Capability, Connection, Deployment, Model, Provider, WireFormat
from shared.domain.configuration import Configuration, KeyRow
from shared.domain.money import Price
from shared.domain.policy import KeyPolicy
from shared.domain.routing import Choice, Route, Strategy, Target
from shared.flow.choose import choose
from shared.snapshot.snapshot import Snapshot, build
from shared.upstream.load import Load
from shared.wire.codec import read_facts
from shared.wire.envelope import open_envelope

DEPLOYMENTS = 50
CALLS = 200
ROUNDS = 40
CALL = {"messages": [{"role": "user", "content": "Hello!" * 50}], "tools": [{"type": "function", "function": {"name": "f"}}]}


def snapshot() -> Snapshot:
    """Fifty connections of one model each; a route for every strategy; a key without a policy and one with."""
    price = Price(input_nano_per_mtok=1, output_nano_per_mtok=2)
    can = frozenset({Capability.TEXT, Capability.TOOLS})
    model = Model(model_id="m", price=price, capabilities=can, described=True, context_tokens=100_000)
    provider = Provider(name="lab", title="Lab", prefix="lab", base_url="", models={"m": model})
    names = [f"lab{at}" for at in range(DEPLOYMENTS)]
    connections = tuple(
        Connection(connection_id=f"conn_{name}", name=name, provider="lab", prefix=name, base_url="") for name in names
    )
    targets = tuple(Target(model=f"{name}/m", weight=at % 3) for at, name in enumerate(names))
    routes = tuple(Route(name=each.value, targets=targets, choice=Choice(strategy=each)) for each in Strategy)
    keys = tuple(
        KeyRow(name, name, "org", "team", "", b"", None, False, False, policy)
        for name, policy in (("free", None), ("strict", KeyPolicy(models=("lab?/m", "lab1*"))))
    )
    made = Configuration(
        epoch=1, keys=keys, limits=(), budgets=(), connections=connections, prices={}, routes=routes
    )  # fmt: skip
    return build(made, {"lab": provider})


def load() -> Load:
    made, chance = Load(), Random(1)
    for at in range(DEPLOYMENTS):
        for _ in range(10):
            made.started(f"conn_lab{at}/m")
            made.first_token(f"conn_lab{at}/m", chance.uniform(0.2, 2))
            made.ended(f"conn_lab{at}/m")
    return made


class Health:
    """One of the fifty is out."""

    marks: Mapping[str, object] = {"conn_lab7/m": True}

    def standing(self, deployment: Deployment, now_s: float) -> Any:
        return OUT if deployment.key in self.marks else None


OUT = SimpleNamespace(state="open", until_s=1.0, reason="failed")


def exchange(made: Snapshot, seen: Load, model: str, key: str) -> Any:
    envelope = open_envelope(orjson.dumps({"model": model} | CALL))
    clock = SimpleNamespace(now_s=lambda: 0.0)
    return SimpleNamespace(
        gateway=SimpleNamespace(load=seen, health=None, quota_left=lambda each: 0.5, clock=clock),
        snapshot=made,
        arrival=SimpleNamespace(wire_format=WireFormat.OPENAI_CHAT, operation="chat", provider=None),
        key=made.key(key),
        envelope=envelope,
        call=read_facts(WireFormat.OPENAI_CHAT, "chat", envelope, None, None),
        decision=None,
        extensions=None,
        session=None,
    )


def measured(calls: int = CALLS, rounds: int = ROUNDS) -> dict[str, object]:
    """µs a decision, the best round of several, as timeit advises."""
    made, seen = snapshot(), load()
    rows: dict[str, float] = {}
    names = {each.value: (each.value, "free") for each in Strategy}
    names |= {
        "one model": ("lab0/m", "free"),
        "key with a policy": (Strategy.POWER_OF_TWO.value, "strict"),
        "one is out": (Strategy.POWER_OF_TWO.value, "free"),
    }
    for row, (model, key) in names.items():
        once = partial(choose, exchange(made, seen, model, key))
        once()
        if row == "one is out":
            once.args[0].gateway.health = Health()
        rows[row] = round(min(timeit.repeat(once, number=calls, repeat=rounds)) / calls * 1e6, 2)
    told = ", ".join(f"{name} {us}" for name, us in rows.items())
    print(f"decision among {DEPLOYMENTS} deployments, µs: {told}", flush=True)
    return {"deployments": DEPLOYMENTS, "us": rows}


if __name__ == "__main__":
    measured()

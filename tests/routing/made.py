"""Deployments, pools and inputs for tests of decisions: everything is said, nothing is read from a clock or drawn unseeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from shared.domain.catalogue import Capability, Connection, DataPolicy, Deployment, Model, Provider, Quirks
from shared.domain.load import Figures
from shared.domain.money import Price
from shared.domain.policy import NO_NEEDS, Needs
from shared.domain.routing import Choice, Route, Strategy
from shared.routing.pool import Group, Pool, Section
from shared.routing.strategy import Inputs

USD = 1_000_000_000
TEXT = frozenset({Capability.TEXT})


def deployment(
    name: str = "lab/m",
    connection: str = "",
    *,
    price: tuple[int, int] | None = None,
    can: frozenset[Capability] | None = None,
    context_tokens: int | None = None,
    quantization: str | None = None,
    drop: tuple[str, ...] = (),
    takes_routing: bool = False,
    endpoints: dict[str, str] | None = None,
    **policy: Any,
) -> Deployment:
    """`price` in USD per million tokens of input and output; `can`: None, nobody says."""
    prefix, _, model_id = name.partition("/")
    quirks = Quirks(drop=drop, takes_routing=takes_routing)
    ends = {"chat": "/chat", "embeddings": "/embeddings"} if endpoints is None else endpoints
    cost = None if price is None else Price(input_nano_per_mtok=price[0] * USD, output_nano_per_mtok=price[1] * USD)
    return Deployment(
        provider=Provider(
            name=prefix, title=prefix.title(), prefix=prefix, base_url="", quirks=quirks, endpoints=ends,
            data_policy=DataPolicy(**policy),
        ),
        connection=Connection(
            connection_id=f"conn_{connection or prefix}", name=connection or prefix, provider=prefix, prefix=prefix, base_url=""
        ),
        model=Model(
            model_id=model_id, capabilities=TEXT if can is None else TEXT | can, described=can is not None, price=cost,
            context_tokens=context_tokens, quantization=quantization,
        ),
    )  # fmt: skip


def group(*members: Deployment, weight: int = 1, strategy: Strategy = Strategy.PRIORITY) -> Group:
    return Group(name=members[0].name, members=members, weight=weight, choice=Choice(strategy=strategy))


def pool(
    *groups: Group | Deployment,
    strategy: Strategy = Strategy.PRIORITY,
    sticky: int = 3,
    chain: tuple[Group | Deployment, ...] = (),
) -> Pool:
    """A route `fast` of these models, then its chain."""
    first = tuple(each if isinstance(each, Group) else group(each) for each in groups)
    after = [each if isinstance(each, Group) else group(each) for each in chain]
    sections = [
        Section(name="fast", groups=first, choice=Choice(strategy=strategy, sticky=sticky)),
        *(Section(name=each.name, groups=(each,)) for each in after),
    ]
    return Pool("fast", sections, route=Route(name="fast", targets=()))


def inputs(
    seed: int = 1,
    *,
    figures: Mapping[str, Figures] | None = None,
    turn: int = 0,
    needs: Needs = NO_NEEDS,
    quota_left: Callable[[Deployment], float | None] | None = None,
    recent_outage: Callable[[str], bool] | None = None,
    most: int = 5,
) -> Inputs:
    return Inputs(
        figures=figures or {}, chance=Random(seed).random, turn=lambda _: turn, needs=needs, quota_left=quota_left,
        recent_outage=recent_outage, most=most,
    )  # fmt: skip

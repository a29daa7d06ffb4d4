"""Routes, accounts and network proxies."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from shared.domain.proxy import read_proxy
from shared.domain.routing import Choice, Route, Strategy, Target
from shared.routing.aliases import fault
from shared.store.document.fields import (
    Seconds,
    Strict,
    valid_reference,
)


def _target(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


def as_choice(value: object) -> object:
    return {"strategy": value} if isinstance(value, str) else value


def _target_name(value: str) -> str:
    if "/" not in value or "*" in value or fault("x", value) is not None:
        raise ValueError(f"{value!r} is no prefix/model")
    return value


def valid_lead(value: str) -> str:
    if "*" in value or fault("x", value) is not None:
        raise ValueError(f"{value!r} is no prefix/model and no route")
    return value


Sticky = Annotated[int, Field(ge=1, le=1_000_000)]


class ChoiceEntry(Strict):
    strategy: Strategy
    sticky: Sticky = 3

    def choice(self) -> Choice:
        return Choice(strategy=self.strategy, sticky=self.sticky)


class TargetEntry(Strict):
    model: Annotated[str, AfterValidator(_target_name)]
    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 1


class RouteEntry(Strict):
    """What a route's name leads to. An entry replaces the whole route."""

    targets: Annotated[tuple[Annotated[TargetEntry, BeforeValidator(_target)], ...], Field(min_length=1, max_length=200)]
    strategy: Strategy = Strategy.PRIORITY
    sticky: Sticky = 3
    fallbacks: tuple[Annotated[str, AfterValidator(valid_lead)], ...] = ()
    organisation: str | None = None
    max_attempts: Annotated[int, Field(ge=1, le=20)] | None = None
    deadline_s: Seconds | None = None
    hedge: bool = False
    continuation: bool = False
    affinity: bool = False

    def route(self, name: str, organisation_id: str | None) -> Route:
        return Route(
            name=name,
            targets=tuple(Target(model=each.model, weight=each.weight) for each in self.targets),
            choice=Choice(strategy=self.strategy, sticky=self.sticky),
            fallbacks=self.fallbacks,
            organisation_id=organisation_id,
            max_attempts=self.max_attempts,
            deadline_s=self.deadline_s,
            hedge=self.hedge,
            continuation=self.continuation,
            affinity=self.affinity,
        )


def _proxy_reference(value: str) -> str:
    if value.startswith(("env:", "file:")):
        return valid_reference(value)
    if "@" in value:
        raise ValueError("holds a user or password: write env:NAME or file:PATH, which holds the URL")
    read_proxy(value)
    return value


ProxyReference = Annotated[str, AfterValidator(_proxy_reference)]


class ProxiesEntry(Strict):
    """By which network proxy calls leave; null takes one away. `direct`: by none, whatever the levels below say."""

    global_: ProxyReference | None = Field(default=None, alias="global")
    providers: dict[str, ProxyReference | None] = {}
    connections: dict[str, ProxyReference | None] = {}
    routes: dict[str, ProxyReference | None] = {}
    keys: dict[str, ProxyReference | None] = {}
    """A key is its id or name."""

"""The document: every section that it may have."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, model_validator

from shared.routing.aliases import ROUTE, fault
from shared.store.document.connections import ConnectionEntry, PriceEntry
from shared.store.document.fields import Name, Strict
from shared.store.document.routes import ChoiceEntry, ProxiesEntry, RouteEntry, as_choice
from shared.store.document.tenants import BudgetEntry, LimitEntry, OrganisationEntry, PolicyEntry


class Document(Strict):
    organisations: tuple[OrganisationEntry, ...] = ()
    connections: tuple[ConnectionEntry, ...] = ()
    limits: tuple[LimitEntry, ...] = ()
    budgets: tuple[BudgetEntry, ...] = ()
    prices: dict[str, PriceEntry] = {}
    aliases: dict[str, str | None] = {}
    """Null takes one away."""
    fallbacks: dict[str, tuple[Name, ...] | None] = {}
    """Null takes one away."""
    proxies: ProxiesEntry = ProxiesEntry()
    routes: dict[str, RouteEntry | None] = {}
    """By name. Null takes one away."""
    accounts: dict[str, Annotated[ChoiceEntry, BeforeValidator(as_choice)] | None] = {}
    """By prefix: how to choose among its connections. Null takes it away."""
    keys: tuple[PolicyEntry, ...] = ()

    @model_validator(mode="after")
    def sound_names(self) -> Document:
        for name in self.routes:
            if ROUTE.fullmatch(name) is None:
                raise ValueError(f"routes.{name}: a route's name is 1 to 100 letters, digits, dots, dashes and underscores")
        for name, target in self.aliases.items():
            if target is not None and (problem := fault(name, target)) is not None:
                raise ValueError(f"aliases.{name}: {problem}")
        for name, targets in self.fallbacks.items():
            for target in targets or ():
                if "*" in target or (problem := fault("x", target)) is not None:
                    raise ValueError(f"fallbacks.{name}: {target!r} is no prefix/model and no route")
        return self

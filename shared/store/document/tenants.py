"""Tenants: organisations, their limits and budgets, and what a key may use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shared.domain.limits import Mode, Period
from shared.domain.money import usd_to_nano
from shared.domain.policy import KeyPolicy
from shared.store.document.fields import (
    Name,
    NanoUsd,
    Positive,
    Strict,
)


class Scoped(Strict):
    """Whose it is: exactly one of the three. A team is `name` or `organisation/name`, a key its id or name."""

    organisation: str | None = None
    team: str | None = None
    key: str | None = None

    @model_validator(mode="after")
    def one_scope(self) -> Scoped:
        if sum(value is not None for value in (self.organisation, self.team, self.key)) != 1:
            raise ValueError("must name exactly one of organisation, team, key")
        return self


class LimitEntry(Scoped):
    rpm: Positive | None = None
    tpm: Positive | None = None
    concurrent: Positive | None = None
    burst_rpm: Annotated[int, Field(ge=0)] | None = None
    burst_tpm: Annotated[int, Field(ge=0)] | None = None
    mode: Mode = Mode.ENFORCE


def parse_budget(value: str) -> tuple[int, Period]:
    """`5/month` → (5_000_000_000 nano-USD, month); without a period: total. Raises ValueError."""
    amount, _, period = value.partition("/")
    try:
        return usd_to_nano(amount.strip()), Period(period.strip() or "total")
    except ValueError as error:
        periods = ", ".join(Period)
        raise ValueError(f"must be USD/period like 5/month (periods: {periods}): {error}") from None


class BudgetEntry(Scoped):
    usd: str | int | float
    period: Period | None = None
    mode: Literal["hard", "soft"] = "hard"

    @model_validator(mode="after")
    def readable(self) -> BudgetEntry:
        self.amount()
        return self

    def amount(self) -> tuple[int, Period]:
        nano, period = parse_budget(str(self.usd))
        return nano, self.period or period


Patterns = tuple[Annotated[str, Field(min_length=1, max_length=200)], ...]


def parse_ceiling(value: str) -> tuple[int, int]:
    """`1/5` → nano-USD per million tokens of input and of output; one number stands for both. Raises ValueError."""
    given, slash, made = value.partition("/")
    try:
        return usd_to_nano(given.strip()), usd_to_nano((made if slash else given).strip())
    except ValueError as error:
        raise ValueError(f"must be USD per million tokens of input/output, like 1/5: {error}") from None


class CeilingEntry(Strict):
    """USD per million tokens."""

    input: NanoUsd | None = None
    output: NanoUsd | None = None


class PolicyEntry(Strict):
    """What a key may use: an entry replaces the whole policy, and one that says nothing takes it away."""

    key: str
    models: Patterns = ()
    providers: Patterns = ()
    no_training: bool = False
    zero_retention: bool = False
    regions: Patterns = ()
    max_price: CeilingEntry = CeilingEntry()

    def policy(self) -> KeyPolicy:
        return KeyPolicy(
            models=self.models,
            providers=self.providers,
            no_training=self.no_training,
            zero_retention=self.zero_retention,
            regions=self.regions,
            max_input_nano_per_mtok=self.max_price.input,
            max_output_nano_per_mtok=self.max_price.output,
        )


class OrganisationEntry(Strict):
    name: Name
    teams: tuple[Name, ...] = ()

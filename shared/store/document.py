"""The operator's document: `gateway.yaml` (or .toml) as typed data, or an error that names file, line and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from shared.domain.catalogue import Capability, Params
from shared.domain.limits import Mode, Period
from shared.domain.money import Price, usd_to_nano
from shared.routing.aliases import fault
from shared.wire.params import guarded


class DocumentError(Exception):
    """One line per fault: `gateway.yaml:12 connections[0].base_url: …`."""


def _usd(value: object) -> int:
    """USD, as a string or number, in nano-USD."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise ValueError('must be an amount of USD, like 5 or "0.15"')
    return usd_to_nano(str(value))


def _secret_reference(value: str) -> str:
    if re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", value) is None:
        raise ValueError("must be env:NAME or file:PATH, never the secret itself")
    return value


def _base_url(value: str) -> str:
    if re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value) is None:
        raise ValueError("must be a URL like https://host/v1, without user, query or fragment")
    return value.rstrip("/")


def _prefix(value: str) -> str:
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", value) is None:
        raise ValueError("must be lower-case letters, digits, dots or dashes")
    return value


def _touchable(value: tuple[str, ...] | dict[str, Any]) -> Any:
    name = guarded(Params(set=value) if isinstance(value, dict) else Params(drop=value))
    if name is not None:
        raise ValueError(f"{name!r} decides about routing or money and cannot be dropped or set")
    return value


DropParams = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], AfterValidator(_touchable)]
SetParams = Annotated[dict[str, Any], AfterValidator(_touchable)]
NanoUsd = Annotated[int, BeforeValidator(_usd)]
Positive = Annotated[int, Field(gt=0, le=10**12)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Name = Annotated[str, Field(min_length=1, max_length=100)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PriceEntry(Strict):
    """USD per million tokens, `request` in USD per call, `minute` in USD per minute of sound."""

    input: NanoUsd | None = None
    output: NanoUsd | None = None
    cache_read: NanoUsd | None = None
    cache_write: NanoUsd | None = None
    cache_write_1h: NanoUsd | None = None
    reasoning: NanoUsd | None = None
    request: NanoUsd = 0
    minute: NanoUsd = 0
    version: str | None = Field(default=None, max_length=60)

    @model_validator(mode="after")
    def _is_one(self) -> PriceEntry:
        if not self.minute and (self.input is None or self.output is None):
            raise ValueError("needs input and output, or minute for transcription")
        return self

    def price(self, version: str) -> Price:
        return Price(
            input_nano_per_mtok=self.input or 0,
            output_nano_per_mtok=self.output or 0,
            cache_read_nano_per_mtok=self.cache_read,
            cache_write_nano_per_mtok=self.cache_write,
            reasoning_nano_per_mtok=self.reasoning,
            request_nano=self.request,
            version=version,
            cache_write_1h_nano_per_mtok=self.cache_write_1h,
            minute_nano=self.minute,
        )


class ModelEntry(Strict):
    id: Name
    context_tokens: Positive | None = None
    max_output_tokens: Positive | None = None
    capabilities: tuple[Capability, ...] = (Capability.TEXT,)
    drop_params: DropParams = ()
    set_params: SetParams = {}


def _model(value: object) -> object:
    return {"id": value} if isinstance(value, str) else value


class ConnectionEntry(Strict):
    name: Name
    provider: str
    prefix: Annotated[str, AfterValidator(_prefix)] | None = None
    base_url: Annotated[str, AfterValidator(_base_url)] | None = None
    api_key: Annotated[str, AfterValidator(_secret_reference)] | None = None
    organisation: str | None = None
    models: tuple[Annotated[ModelEntry, BeforeValidator(_model)], ...] = ()
    drop_params: DropParams = ()
    set_params: SetParams = {}
    connect_timeout_s: Seconds | None = None
    first_byte_timeout_s: Seconds | None = None
    idle_timeout_s: Seconds | None = None


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


class OrganisationEntry(Strict):
    name: Name
    teams: tuple[Name, ...] = ()


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

    @model_validator(mode="after")
    def sound_aliases(self) -> Document:
        for name, target in self.aliases.items():
            if target is not None and (problem := fault(name, target)) is not None:
                raise ValueError(f"aliases.{name}: {problem}")
        for name, targets in self.fallbacks.items():
            for target in targets or ():
                if "*" in target or (problem := fault("x", target)) is not None:
                    raise ValueError(f"fallbacks.{name}: {target!r} is no prefix/model")
        return self


def parse(path: Path, text: str) -> Document:
    """Raises DocumentError."""
    lines: Mapping[tuple[str | int, ...], int] = {}
    try:
        if path.suffix == ".toml":
            data = tomllib.loads(text)
        else:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            lines = _lines(node, ()) if node is not None else {}
            data = yaml.safe_load(text) or {}
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"{path.name}: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DocumentError(f"{path.name}:{line} {error.problem or 'is not YAML'}") from None
    try:
        return Document.model_validate(data)
    except ValidationError as error:
        faults = [_fault(path, text, lines, dict(fault)) for fault in error.errors(include_input=False, include_url=False)]
        raise DocumentError("\n".join(faults)) from None


def _fault(path: Path, text: str, lines: Mapping[tuple[str | int, ...], int], fault: dict[str, Any]) -> str:
    location = tuple(part for part in fault["loc"] if not str(part).startswith("function-"))
    at = location
    while at and at not in lines:
        at = at[:-1]
    line = lines.get(at) or _toml_line(text, location)
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    message = fault["msg"].removeprefix("Value error, ")
    return f"{path.name}:{line} {name or 'document'}: {message}"


def _toml_line(text: str, location: tuple[str | int, ...]) -> int:
    """The first line that sets the key; TOML's reader keeps no positions."""
    names = [part for part in location if isinstance(part, str)]
    for number, line in enumerate(text.splitlines(), 1):
        if names and re.match(rf"\s*{re.escape(names[-1])}\s*=", line):
            return number
    return 1


def _lines(node: yaml.Node, path: tuple[str | int, ...]) -> dict[tuple[str | int, ...], int]:
    """Where each key of a YAML document stands, counted from 1."""
    found = {path: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
            found |= _lines(value, (*path, key.value))
            found[*path, key.value] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            found |= _lines(item, (*path, index))
    return found

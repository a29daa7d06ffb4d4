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

from shared.domain.catalogue import Capability, DataPolicy, Params
from shared.domain.health import ProfileKind
from shared.domain.limits import Mode, Period
from shared.domain.money import Price, usd_to_nano
from shared.domain.policy import KeyPolicy
from shared.domain.proxy import read_proxy
from shared.domain.routing import Choice, Route, Strategy, Target
from shared.domain.upstream_limits import Queue, Quota, QuotaUnit, UpstreamLimits, Window
from shared.routing.aliases import ROUTE, fault
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


def _proxy_reference(value: str) -> str:
    if value.startswith(("env:", "file:")):
        return _secret_reference(value)
    if "@" in value:
        raise ValueError("holds a user or password: write env:NAME or file:PATH, which holds the URL")
    read_proxy(value)
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
    quantization: Name | None = None
    drop_params: DropParams = ()
    set_params: SetParams = {}

    @property
    def described(self) -> bool:
        """Whether it says what the model can do."""
        return "capabilities" in self.model_fields_set


class DataPolicyEntry(Strict):
    """What this account's contract says; the provider's own word stands where it says nothing."""

    trains: bool | None = None
    retention_days: Annotated[int, Field(ge=0, le=36_500)] | None = None
    region: Name | None = None

    def policy(self) -> DataPolicy:
        return DataPolicy(trains=self.trains, retention_days=self.retention_days, region=self.region)


def _model(value: object) -> object:
    return {"id": value} if isinstance(value, str) else value


class ProfileEntry(Strict):
    """What is left out is the kind's (shared/domain/health.py)."""

    kind: ProfileKind | None = None
    failures: Annotated[float, Field(ge=1, le=1000)] | None = None
    error_share: Annotated[float, Field(gt=0, le=1)] | None = None
    least_calls: Annotated[int, Field(ge=1, le=100_000)] | None = None
    window_s: Annotated[float, Field(ge=1, le=600)] | None = None
    open_s: Seconds | None = None
    longest_open_s: Seconds | None = None
    cooldown_s: Seconds | None = None
    longest_cooldown_s: Seconds | None = None


class QuotaEntry(Strict):
    """So much in a window: exactly one of the three units."""

    requests: Positive | None = None
    tokens: Positive | None = None
    usd: Annotated[NanoUsd, Field(gt=0)] | None = None
    window: Window
    at_hour: Annotated[int, Field(ge=0, le=23)] = 0

    @model_validator(mode="after")
    def one_unit(self) -> QuotaEntry:
        if sum(getattr(self, unit) is not None for unit in QuotaUnit) != 1:
            raise ValueError("must name exactly one of requests, tokens, usd")
        if self.window is Window.FIVE_HOURS and self.at_hour:
            raise ValueError("a window of 5h is rolling: leave out at_hour")
        return self

    def quota(self) -> Quota:
        unit = next(unit for unit in QuotaUnit if getattr(self, unit) is not None)
        return Quota(unit=unit, limit=getattr(self, unit), window=self.window, at_hour=self.at_hour)


class QueueEntry(Strict):
    most: Annotated[int, Field(ge=0, le=10_000)] = Queue().most
    wait_s: Annotated[float, Field(ge=0, le=600)] = Queue().wait_s


class UpstreamLimitsEntry(Strict):
    """What a provider allows the account behind a connection."""

    rpm: Positive | None = None
    tpm: Positive | None = None
    burst_rpm: Positive | None = None
    burst_tpm: Positive | None = None
    min_gap_ms: Annotated[int, Field(gt=0, le=3_600_000)] | None = None
    concurrent: Positive | None = None
    adaptive: bool = True
    queue: QueueEntry = QueueEntry()
    quotas: Annotated[tuple[QuotaEntry, ...], Field(max_length=8)] = ()

    @model_validator(mode="after")
    def sound(self) -> UpstreamLimitsEntry:
        for burst, limit in (("burst_rpm", "rpm"), ("burst_tpm", "tpm")):
            if getattr(self, burst) is not None and getattr(self, limit) is None:
                raise ValueError(f"{burst} needs {limit}")
        kept = [(quota.quota().unit, quota.window, quota.at_hour) for quota in self.quotas]
        if len(set(kept)) != len(kept):
            raise ValueError("quotas: two have the same unit and window")
        return self

    def limits(self) -> UpstreamLimits:
        return UpstreamLimits(
            requests_per_minute=self.rpm,
            tokens_per_minute=self.tpm,
            burst_requests=self.burst_rpm,
            burst_tokens=self.burst_tpm,
            min_gap_ms=self.min_gap_ms,
            concurrent_requests=self.concurrent,
            adaptive=self.adaptive,
            queue=Queue(most=self.queue.most, wait_s=self.queue.wait_s),
            quotas=tuple(quota.quota() for quota in self.quotas),
        )


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
    data_policy: DataPolicyEntry | None = None
    limits: UpstreamLimitsEntry | None = None
    connect_timeout_s: Seconds | None = None
    first_byte_timeout_s: Seconds | None = None
    idle_timeout_s: Seconds | None = None
    profile: ProfileEntry | None = None


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


def _target(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


def _choice(value: object) -> object:
    return {"strategy": value} if isinstance(value, str) else value


def _target_name(value: str) -> str:
    if "/" not in value or "*" in value or fault("x", value) is not None:
        raise ValueError(f"{value!r} is no prefix/model")
    return value


def _lead_name(value: str) -> str:
    if "*" in value or fault("x", value) is not None:
        raise ValueError(f"{value!r} is no prefix/model and no route")
    return value


Sticky = Annotated[int, Field(ge=1, le=1_000_000)]
Patterns = tuple[Annotated[str, Field(min_length=1, max_length=200)], ...]


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
    fallbacks: tuple[Annotated[str, AfterValidator(_lead_name)], ...] = ()
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


ProxyReference = Annotated[str, AfterValidator(_proxy_reference)]


class ProxiesEntry(Strict):
    """By which network proxy calls leave; null takes one away. `direct`: by none, whatever the levels below say."""

    global_: ProxyReference | None = Field(default=None, alias="global")
    providers: dict[str, ProxyReference | None] = {}
    connections: dict[str, ProxyReference | None] = {}
    routes: dict[str, ProxyReference | None] = {}
    keys: dict[str, ProxyReference | None] = {}
    """A key is its id or name."""


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
    accounts: dict[str, Annotated[ChoiceEntry, BeforeValidator(_choice)] | None] = {}
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

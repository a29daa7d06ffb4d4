"""Connections: where providers are reached, their models, prices, limits and profiles."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from msgspec.structs import replace
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from shared.domain.catalogue import Capability, DataPolicy
from shared.domain.health import ProfileKind
from shared.domain.money import Price
from shared.domain.times import Times, read_times
from shared.domain.upstream_limits import Queue, Quota, QuotaUnit, UpstreamLimits, Window
from shared.store.document.fields import (
    DropParams,
    Name,
    NanoUsd,
    Positive,
    Seconds,
    SetParams,
    Strict,
    valid_api_version,
    valid_base_url,
    valid_prefix,
    valid_reference,
)


class TokenPrices(Strict):
    """In USD per million tokens."""

    input: NanoUsd | None = None
    output: NanoUsd | None = None
    cache_read: NanoUsd | None = None
    cache_write: NanoUsd | None = None
    cache_write_1h: NanoUsd | None = None
    reasoning: NanoUsd | None = None
    audio: NanoUsd | None = None

    def of_tokens(self) -> Price:
        return Price(
            input_nano_per_mtok=self.input or 0,
            output_nano_per_mtok=self.output or 0,
            cache_read_nano_per_mtok=self.cache_read,
            cache_write_nano_per_mtok=self.cache_write,
            cache_write_1h_nano_per_mtok=self.cache_write_1h,
            reasoning_nano_per_mtok=self.reasoning,
            audio_nano_per_mtok=self.audio,
        )


class TierEntry(TokenPrices):
    """The price of calls with more input tokens than `above`."""

    above: Positive
    input: NanoUsd
    output: NanoUsd


class CheaperEntry(TokenPrices):
    """The price at cheaper times: outside `peaks` (hours of the day, UTC; none on weekends or `days` if so), before the day
    `until`."""

    peaks: tuple[str, ...] = ()
    weekends: bool = False
    days: tuple[date, ...] = ()
    until: date | None = None
    input: NanoUsd
    output: NanoUsd

    @model_validator(mode="after")
    def _is_some_time(self) -> CheaperEntry:
        self.times()
        return self

    def times(self) -> Times:
        return read_times(self.peaks, weekends=self.weekends, days=self.days, until=self.until)


class PriceEntry(TokenPrices):
    """`request` in USD per call, `minute` in USD per minute of sound."""

    longer: tuple[TierEntry, ...] = ()
    cheaper: CheaperEntry | None = None
    request: NanoUsd = 0
    minute: NanoUsd = 0
    least_seconds: Annotated[int, Field(ge=0, le=3_600)] = 0
    version: str | None = Field(default=None, max_length=60)

    @model_validator(mode="after")
    def _is_one(self) -> PriceEntry:
        if not self.minute and (self.input is None or self.output is None):
            raise ValueError("needs input and output, or minute for transcription")
        above = [tier.above for tier in self.longer]
        if above != sorted(set(above)):
            raise ValueError("the tiers of longer must rise: each above more tokens than the one before")
        self.price("")
        return self

    def price(self, version: str) -> Price:
        price = replace(
            self.of_tokens(),
            request_nano=self.request,
            version=version,
            minute_nano=self.minute,
            least_audio_ms=self.least_seconds * 1000,
            longer=tuple(replace(tier.of_tokens(), above_tokens=tier.above) for tier in self.longer),
        )
        return price if self.cheaper is None else price.with_cheaper(self.cheaper.of_tokens(), self.cheaper.times())


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
    prefix: Annotated[str, AfterValidator(valid_prefix)] | None = None
    base_url: Annotated[str, AfterValidator(valid_base_url)] | None = None
    api_key: Annotated[str, AfterValidator(valid_reference)] | None = None
    api_version: Annotated[str, BeforeValidator(valid_api_version)] | None = None
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

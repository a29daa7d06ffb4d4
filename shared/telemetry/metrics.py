"""The metric table: every Prometheus series that a process exports.

Labels are provider, model and outcome: never a tenant, a key or anything else that a client can multiply. Model names
beyond MAX_SERIES become `__other__`. Histograms' buckets double, so p50, p95 and p99 read from them are within a
factor of two at worst and interpolate well in between.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from shared.domain.catalogue import Deployment
from shared.domain.failure import FailureClass
from shared.domain.refusal import Reason
from shared.domain.usage import Outcome, UsageEvent

SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68)
FAST_SECONDS = (0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.5, 1.0)
MAX_SERIES = 2_000
OTHER = "__other__"


class DeploymentMeters:
    """Series of one (provider, model), bound once so that a call only adds numbers."""

    __slots__ = (
        "_labels",
        "_requests",
        "cache_read",
        "cost",
        "duration",
        "first_token",
        "input",
        "outcomes",
        "output",
        "reasoning",
    )  # fmt: skip

    def __init__(self, metrics: Metrics, provider: str, model: str) -> None:
        self.duration = metrics.duration.labels(provider, model)
        self.first_token = metrics.first_token.labels(provider, model)
        self.cost = metrics.cost.labels(provider, model)
        self.input = metrics.tokens.labels(provider, model, "input")
        self.output = metrics.tokens.labels(provider, model, "output")
        self.cache_read = metrics.tokens.labels(provider, model, "cache_read")
        self.reasoning = metrics.tokens.labels(provider, model, "reasoning")
        self._labels = (provider, model)
        self._requests = metrics.requests
        self.outcomes: dict[Outcome, Counter] = {}

    def count(self, outcome: Outcome) -> None:
        counter = self.outcomes.get(outcome)
        if counter is None:
            counter = self.outcomes[outcome] = self._requests.labels(*self._labels, outcome.value)
        counter.inc()


class Metrics:
    """One per process, with a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        by_model = ["provider", "model"]
        self.duration = Histogram(
            "waystation_request_duration_seconds", "From arrival to the answer's last byte.", by_model,
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "waystation_time_to_first_token_seconds", "From arrival to the first token of a stream.", by_model,
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.before_upstream = Histogram(
            "waystation_before_upstream_seconds", "From arrival until the request leaves for the provider.",
            buckets=FAST_SECONDS, registry=registry,
        )  # fmt: skip
        self.redis_seconds = Histogram(
            "waystation_redis_admission_seconds", "Round trip of an admission.", buckets=FAST_SECONDS, registry=registry
        )
        self.requests = Counter(
            "waystation_requests_total", "Admitted calls by their end.", [*by_model, "outcome"], registry=registry
        )
        self.tokens = Counter("waystation_tokens_total", "Tokens by kind.", [*by_model, "kind"], registry=registry)
        self.cost = Counter("waystation_cost_nano_usd_total", "Cost in nano-USD.", by_model, registry=registry)
        self.refusals = Counter("waystation_refusals_total", "Our noes to clients.", ["reason"], registry=registry)
        self.failures = Counter(
            "waystation_attempt_failures_total", "Bad ends of attempts.", ["provider", "failure"], registry=registry
        )
        self.above_bound = Counter(
            "waystation_usage_above_bound_total", "Provider reports above what was possible; held to the bound.",
            ["provider"], registry=registry,
        )  # fmt: skip
        self.usage_log_full = Counter(
            "waystation_usage_log_full_total", "Settlements that the node's own log could not take.", registry=registry
        )
        self.degraded = Counter("waystation_degraded_admissions_total", "Admissions decided without Redis.", registry=registry)
        ProcessCollector(registry=registry)
        self._meters: dict[tuple[str, str], DeploymentMeters] = {}

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """A value that is read when Prometheus asks."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def finished(self, deployment: Deployment, event: UsageEvent, *, duration_s: float, first_token_s: float | None) -> None:
        meters = self._meters.get((event.provider, event.model)) or self._bind(event.provider, event.model)
        meters.count(event.outcome)
        meters.duration.observe(duration_s)
        if first_token_s is not None:
            meters.first_token.observe(first_token_s)
        if event.input_tokens:
            meters.input.inc(event.input_tokens)
        if event.output_tokens:
            meters.output.inc(event.output_tokens)
        if event.cache_read_tokens:
            meters.cache_read.inc(event.cache_read_tokens)
        if event.reasoning_tokens:
            meters.reasoning.inc(event.reasoning_tokens)
        if event.cost_nano_usd:
            meters.cost.inc(event.cost_nano_usd)

    def refused(self, reason: Reason) -> None:
        self.refusals.labels(reason.value).inc()

    def failed(self, provider: str, failure: FailureClass) -> None:
        self.failures.labels(provider, failure.value).inc()

    def usage_above_bound(self, deployment: Deployment) -> None:
        self.above_bound.labels(deployment.provider.name).inc()

    def render(self) -> tuple[bytes, str]:
        """Body and content type of /metrics."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _bind(self, provider: str, model: str) -> DeploymentMeters:
        if len(self._meters) >= MAX_SERIES:
            model = OTHER
        meters = self._meters.get((provider, model))
        if meters is None:
            meters = self._meters[provider, model] = DeploymentMeters(self, provider, model)
        return meters

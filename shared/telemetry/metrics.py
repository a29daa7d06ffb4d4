"""The metric table: every Prometheus series that a process exports.

Labels are provider, model, outcome and connection: never a tenant, a key or anything else that a client can multiply. Names of
models beyond MAX_SERIES become `__other__`. Histograms' buckets double, so p50, p95 and p99 read from them are within a
factor of two at worst and interpolate well in between.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from shared.domain.catalogue import Deployment
from shared.domain.failure import FailureClass
from shared.domain.refusal import Reason
from shared.domain.usage import Outcome, UsageEvent

SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68)
FAST_SECONDS = (0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.5, 1.0)
MAX_SERIES = 2_000
OTHER = "__other__"


class Tally:
    """A histogram as plain numbers: an observation is two additions, Prometheus' shape is made when it asks.

    prometheus_client takes a lock and walks the buckets for each observation, which is several times the price.
    """

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as the exposition format wants them."""
        running, made = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            running += count
            made.append(("+Inf" if bound == float("inf") else str(bound), float(running)))
        return made


class DeploymentMeters:
    """Numbers of one (provider, model)."""

    __slots__ = ("cost", "duration", "first_token", "outcomes", "tokens")

    def __init__(self) -> None:
        self.duration = Tally(SECONDS)
        self.first_token = Tally(SECONDS)
        self.outcomes: dict[Outcome, int] = {}
        self.tokens = [0, 0, 0, 0]
        """Input, output, cache reads, reasoning."""
        self.cost = 0

    def add(self, event: UsageEvent, duration_s: float, first_token_s: float | None) -> None:
        self.outcomes[event.outcome] = self.outcomes.get(event.outcome, 0) + 1
        self.duration.observe(duration_s)
        if first_token_s is not None:
            self.first_token.observe(first_token_s)
        self.spend(event)

    def spend(self, event: UsageEvent) -> None:
        tokens = self.tokens
        tokens[0] += event.input_tokens
        tokens[1] += event.output_tokens
        tokens[2] += event.cache_read_tokens
        tokens[3] += event.reasoning_tokens
        self.cost += event.cost_nano_usd


class Calls(Collector):
    """Series of finished calls by provider and model, and of the gateway's own time."""

    def __init__(self) -> None:
        self.meters: dict[tuple[str, str], DeploymentMeters] = {}
        self.before_upstream = Tally(FAST_SECONDS)
        self.admission = Tally(FAST_SECONDS)

    def of(self, provider: str, model: str) -> DeploymentMeters:
        meters = self.meters.get((provider, model))
        if meters is None:
            if len(self.meters) >= MAX_SERIES:
                model = OTHER
            meters = self.meters.setdefault((provider, model), DeploymentMeters())
        return meters

    def collect(self) -> Iterator[Metric]:
        by = ("provider", "model")
        duration = HistogramMetricFamily(
            "waystation_request_duration_seconds", "From arrival to the answer's last byte.", labels=by
        )
        first_token = HistogramMetricFamily(
            "waystation_time_to_first_token_seconds", "From arrival to the first token of a stream.", labels=by
        )
        requests = CounterMetricFamily("waystation_requests", "Admitted calls by their end.", labels=(*by, "outcome"))
        tokens = CounterMetricFamily("waystation_tokens", "Tokens by kind.", labels=(*by, "kind"))
        cost = CounterMetricFamily("waystation_cost_nano_usd", "Cost in nano-USD.", labels=by)
        for place, meters in list(self.meters.items()):
            duration.add_metric(place, meters.duration.buckets(), meters.duration.total)
            first_token.add_metric(place, meters.first_token.buckets(), meters.first_token.total)
            for outcome, count in list(meters.outcomes.items()):
                requests.add_metric((*place, outcome.value), count)
            for kind, count in zip(("input", "output", "cache_read", "reasoning"), meters.tokens, strict=True):
                tokens.add_metric((*place, kind), count)
            cost.add_metric(place, meters.cost)
        before = HistogramMetricFamily(
            "waystation_before_upstream_seconds", "From arrival until the request leaves for the provider."
        )
        before.add_metric((), self.before_upstream.buckets(), self.before_upstream.total)
        admission = HistogramMetricFamily("waystation_redis_admission_seconds", "Round trip of an admission.")
        admission.add_metric((), self.admission.buckets(), self.admission.total)
        yield from (duration, first_token, requests, tokens, cost, before, admission)


class SlotMeters(Collector):
    """Series of the queues in front of connections; a connection is the operator's, so its name may be a label."""

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}
        self._waited: dict[str, Tally] = {}
        self._refused: dict[tuple[str, str], int] = {}
        self._paused: dict[str, int] = {}

    def waits(self, connection: str, more: int) -> None:
        """So many more (or fewer) of this node's calls stand in the queue."""
        self._waiting[connection] = self._waiting.get(connection, 0) + more

    def waited(self, connection: str, wait_s: float) -> None:
        self._waited.setdefault(connection, Tally(SECONDS)).observe(wait_s)

    def refused(self, connection: str, why: str) -> None:
        self._refused[connection, why] = self._refused.get((connection, why), 0) + 1

    def paused(self, connection: str) -> None:
        self._paused[connection] = self._paused.get(connection, 0) + 1

    def collect(self) -> Iterator[Metric]:
        by = ("connection",)
        waiting = GaugeMetricFamily("waystation_upstream_waiting", "Calls of this node that wait for a connection.", labels=by)
        waited = HistogramMetricFamily(
            "waystation_upstream_wait_seconds", "How long calls that had to wait for a connection did.", labels=by
        )
        refused = CounterMetricFamily(
            "waystation_upstream_refused", "Calls that a connection's limits kept out.", labels=(*by, "why")
        )
        paused = CounterMetricFamily("waystation_upstream_pauses", "Times a provider wanted to be left alone.", labels=by)
        for name, count in list(self._waiting.items()):
            waiting.add_metric((name,), count)
        for name, tally in list(self._waited.items()):
            waited.add_metric((name,), tally.buckets(), tally.total)
        for place, count in list(self._refused.items()):
            refused.add_metric(place, count)
        for name, count in list(self._paused.items()):
            paused.add_metric((name,), count)
        yield from (waiting, waited, refused, paused)


class Metrics:
    """One per process, with a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.calls = Calls()
        registry.register(self.calls)
        self.slots = SlotMeters()
        registry.register(self.slots)
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
        self.response_not_kept = Counter(
            "waystation_responses_not_kept_total", "Answers of /v1/responses that could not be stored.", registry=registry
        )
        self.retries_denied = Counter(
            "waystation_retries_denied_total", "Further attempts that the retry budget did not allow.", registry=registry
        )
        self.degraded = Counter("waystation_degraded_admissions_total", "Admissions decided without Redis.", registry=registry)
        self.health_changes = Counter(
            "waystation_health_changes_total", "Breakers and connections by what they became; counted where it was decided.",
            ["state"], registry=registry,
        )  # fmt: skip
        self.probes = Counter("waystation_probes_total", "Ended half-open probes.", ["end"], registry=registry)
        ProcessCollector(registry=registry)

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """A value that is read when Prometheus asks."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def finished(self, event: UsageEvent, *, duration_s: float, first_token_s: float | None) -> None:
        self.calls.of(event.provider, event.model).add(event, duration_s, first_token_s)

    def paid(self, event: UsageEvent) -> None:
        """An attempt that failed and is billed: no call of its own, but its tokens and cost count."""
        self.calls.of(event.provider, event.model).spend(event)

    def left(self, before_upstream_s: float) -> None:
        """A request left for its provider, so long after it arrived."""
        self.calls.before_upstream.observe(before_upstream_s)

    def refused(self, reason: Reason) -> None:
        self.refusals.labels(reason.value).inc()

    def failed(self, provider: str, failure: FailureClass) -> None:
        self.failures.labels(provider, failure.value).inc()

    def health_changed(self, state: str) -> None:
        self.health_changes.labels(state).inc()

    def probe_ended(self, end: str) -> None:
        self.probes.labels(end).inc()

    def usage_above_bound(self, deployment: Deployment) -> None:
        self.above_bound.labels(deployment.provider.name).inc()

    def render(self) -> tuple[bytes, str]:
        """Body and content type of /metrics."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

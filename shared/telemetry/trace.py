"""Traces: OpenTelemetry spans with the GenAI attributes (semantic conventions in development, 2026-05).

Two levels, as gateways are about to be described there: a SERVER span for the call as the client made it, and a CLIENT
child for the attempt at the provider. Spans are made when the call is over, from times taken on the way: while tracing
is off (the default) a call pays one attribute look-up for it. Content is never recorded.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from shared.domain.failure import Failure
from shared.domain.usage import UsageEvent


class CallTrace(msgspec.Struct, frozen=True):
    """One finished call: wall times in Unix seconds, and what the spans say about it."""

    event: UsageEvent
    started_s: float
    ended_s: float
    sent_s: float | None
    traceparent: str | None
    requested_model: str
    upstream_model: str
    finish_reason: str | None
    max_tokens: int | None
    failure: Failure | None
    server_address: str
    server_port: int


class Tracer(Protocol):
    enabled: bool

    def call(self, trace: CallTrace) -> None: ...

    def close(self) -> None: ...


class NoTracer:
    """Tracing is off."""

    enabled = False

    def call(self, trace: CallTrace) -> None:
        return

    def close(self) -> None:
        return


def tracer(otlp_endpoint: str, node: str) -> Tracer:
    """`http://collector:4318` → spans by OTLP over HTTP; empty → none."""
    if not otlp_endpoint:
        return NoTracer()
    from shared.telemetry.otel import OtelTracer, exporter  # a quarter of a second that only tracing costs

    return OtelTracer(exporter(otlp_endpoint), node)

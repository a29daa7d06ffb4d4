"""OpenTelemetry: a finished call as spans. Imported only where tracing is on."""

from __future__ import annotations

import threading

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.telemetry.trace import CallTrace

NANO = 1_000_000_000
CLOSE_S = 2.0


class OtelTracer:
    enabled = True

    def __init__(self, exporter: SpanExporter, node: str) -> None:
        resource = Resource.create({"service.name": "waystation", "service.instance.id": node})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("waystation")
        self._propagator = TraceContextTextMapPropagator()

    def call(self, trace: CallTrace) -> None:
        parent = self._propagator.extract({"traceparent": trace.traceparent}) if trace.traceparent else None
        event = trace.event
        name = f"{event.operation} {trace.requested_model}"
        attributes = self._attributes(trace)
        span = self._tracer.start_span(
            name, context=parent, kind=SpanKind.SERVER, attributes=attributes, start_time=int(trace.started_s * NANO)
        )
        span.set_attribute("waystation.request_id", event.event_id)
        span.set_attribute("waystation.organisation", event.organisation_id)
        span.set_attribute("waystation.team", event.team_id)
        span.set_attribute("waystation.outcome", event.outcome.value)
        span.set_attribute("waystation.cost_nano_usd", event.cost_nano_usd)
        for tried in () if event.decision is None else event.decision.tried:
            span.add_event(
                "waystation.attempt",
                {"deployment": tried.deployment, "result": tried.result, "duration_ms": tried.duration_ms},
                timestamp=int(trace.ended_s * NANO),
            )
        if trace.sent_s is not None:
            child = self._tracer.start_span(
                f"{event.operation} {trace.upstream_model}",
                context=set_span_in_context(span),
                kind=SpanKind.CLIENT,
                attributes=attributes
                | {
                    "gen_ai.request.model": trace.upstream_model,
                    "server.address": trace.server_address,
                    "server.port": trace.server_port,
                },
                start_time=int(trace.sent_s * NANO),
            )
            end(child, trace)
        end(span, trace)

    def close(self) -> None:
        """Send what is left, for CLOSE_S at most: a collector that is away does not hold up a node that stops."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(CLOSE_S)

    @staticmethod
    def _attributes(trace: CallTrace) -> dict[str, str | int | float | bool | list[str]]:
        event = trace.event
        attributes: dict[str, str | int | float | bool | list[str]] = {
            "gen_ai.operation.name": event.operation,
            "gen_ai.provider.name": event.provider,
            "gen_ai.request.model": trace.requested_model,
            "gen_ai.request.stream": event.stream,
            "gen_ai.usage.input_tokens": event.input_tokens,
            "gen_ai.usage.output_tokens": event.output_tokens,
        }
        if event.cache_read_tokens:
            attributes["gen_ai.usage.cache_read.input_tokens"] = event.cache_read_tokens
        if event.reasoning_tokens:
            attributes["gen_ai.usage.reasoning.output_tokens"] = event.reasoning_tokens
        if trace.max_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = trace.max_tokens
        if trace.finish_reason is not None:
            attributes["gen_ai.response.finish_reasons"] = [trace.finish_reason]
        if event.first_token_ms is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = event.first_token_ms / 1000
        return attributes


def end(span: Span, trace: CallTrace) -> None:
    if trace.failure is not None:
        span.set_attribute("error.type", trace.failure.failure_class.value)
        span.set_status(Status(StatusCode.ERROR))
    span.end(end_time=int(trace.ended_s * NANO))


def exporter(otlp_endpoint: str) -> SpanExporter:
    """OTLP over HTTP."""
    return OTLPSpanExporter(endpoint=f"{otlp_endpoint.rstrip('/')}/v1/traces")

"""Spans as a collector receives them: two levels, GenAI attributes, no content."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from shared.domain.failure import Failure, FailureClass
from shared.telemetry import otel
from shared.telemetry.otel import OtelTracer
from shared.telemetry.trace import CallTrace, NoTracer, tracer
from tests.store.test_wal import event

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def trace(failure: Failure | None = None, sent_s: float | None = 1000.5) -> CallTrace:
    return CallTrace(
        event=event(first_token_ms=1500), started_s=1000.0, ended_s=1003.0, sent_s=sent_s, traceparent=PARENT,
        requested_model="lab/chat", upstream_model="chat", finish_reason="stop", max_tokens=50, failure=failure,
        server_address="api.example", server_port=443,
    )  # fmt: skip


def test_a_call_is_a_server_span_with_a_client_span_for_its_attempt() -> None:
    exporter = InMemorySpanExporter()
    made = OtelTracer(exporter, "node-1")
    made.call(trace())
    made.close()
    attempt, call = exporter.get_finished_spans()
    assert (call.name, call.kind, attempt.name, attempt.kind) == (
        "chat lab/chat",
        SpanKind.SERVER,
        "chat chat",
        SpanKind.CLIENT,
    )
    assert call.parent is not None
    assert f"{call.context.trace_id:032x}" == PARENT.split("-")[1]
    assert attempt.parent is not None
    assert attempt.parent.span_id == call.context.span_id
    assert call.attributes is not None
    assert attempt.attributes is not None
    assert call.attributes["gen_ai.usage.input_tokens"] == 3
    assert call.attributes["gen_ai.response.time_to_first_chunk"] == 1.5
    assert attempt.attributes["gen_ai.request.model"] == "chat"
    assert attempt.attributes["server.address"] == "api.example"
    assert (call.start_time, call.end_time) == (1000 * 10**9, 1003 * 10**9)
    assert not any("message" in name or "content" in name for name in call.attributes)


def test_a_failed_attempt_names_its_failure() -> None:
    exporter = InMemorySpanExporter()
    made = OtelTracer(exporter, "node-1")
    made.call(trace(Failure(failure_class=FailureClass.CUT, message="was cut"), sent_s=None))
    made.close()
    (call,) = exporter.get_finished_spans()
    assert call.attributes is not None
    assert call.attributes["error.type"] == "cut"


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    class Away(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            answers.wait(30)
            return super().export(spans)

    monkeypatch.setattr(otel, "CLOSE_S", 0.2)
    made = OtelTracer(Away(), "node-1")
    made.call(trace())
    begun_s = time.monotonic()
    made.close()
    assert time.monotonic() - begun_s < 5
    answers.set()


def test_tracing_is_off_by_default() -> None:
    assert isinstance(tracer("", "node-1"), NoTracer)

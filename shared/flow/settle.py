"""Settle: what the call did cost, booked once, whatever happened to it.

The settlement goes to the node's own log first, then (in one write with other calls') to Redis: the script that turns
the reservation into spending, and the event on the usage stream. Nothing here waits, so nothing here can be lost to a
client that leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec.structs import replace

from shared.domain.decision import Decision
from shared.domain.failure import FailureClass
from shared.domain.money import Price, cost_nano_usd
from shared.domain.usage import MAX_TOKENS, EventKind, Outcome, Usage, UsageEvent, UsageSource, encode_event
from shared.flow import record
from shared.store.wal import WalFull
from shared.telemetry.trace import CallTrace

if TYPE_CHECKING:
    from shared.admission.gate import Reservation
    from shared.flow.exchange import Exchange, Gateway

ACTUAL, BY_PROVIDER, NOTHING = EventKind.ACTUAL, UsageSource.PROVIDER, UsageSource.NONE
"""For what every call asks: Python 3.11 looks an enum's members up in Python."""
BYTES_PER_TOKEN = 4
"""Where a provider reports nothing, four bytes of text count as one token (OpenAI's rule of thumb for English)."""

SPENT_WITHOUT_REPORT = frozenset(
    {
        FailureClass.FIRST_BYTE_TIMEOUT, FailureClass.DEADLINE, FailureClass.IDLE_TIMEOUT, FailureClass.CUT,
        FailureClass.MALFORMED,
    }
)  # fmt: skip
"""Failures after which the provider had the whole prompt and will bill it, though it never said how much."""


def settle(x: Exchange) -> None:
    """Book the exchange: local log, settlement, usage event, metrics, trace, access log."""
    reservation = x.reservation
    if reservation is None or x.event is not None:
        return
    usage, source = final_usage(x)
    gateway = x.gateway
    now_s = gateway.clock.monotonic_s()
    x.event = event = event_of(x, x.event_id, usage, source, now_s, record.decision_of(x))
    book(gateway, reservation, event)
    gateway.metrics.finished(event, duration_s=now_s - x.started_s, first_token_s=_since(x))
    if x.sent_s is not None:
        gateway.metrics.left(x.sent_s - x.started_s)
    if x.failure is not None:
        gateway.metrics.failed(event.provider, x.failure.failure_class)
    gateway.log.call(event, x.failure)
    if gateway.tracer.enabled:
        gateway.tracer.call(trace_of(x, event, now_s))


def book(gateway: Gateway, reservation: Reservation, event: UsageEvent) -> None:
    """To the node's own log first, then, with other calls', to Redis."""
    encoded = encode_event(event)
    try:
        gateway.wal.settle(event, encoded)
    except WalFull:
        gateway.metrics.usage_log_full.inc()
    gateway.gate.settle(reservation, event, encoded)


def event_of(
    x: Exchange, event_id: str, usage: Usage, source: UsageSource, now_s: float, decision: Decision | None = None
) -> UsageEvent:
    """The attempt under way, or just over, as the ledger books it."""
    assert x.reservation is not None
    deployment = x.deployment
    price = in_force(x)
    return replace(
        x.reservation.event,
        event_id=event_id,
        kind=ACTUAL,
        provider=deployment.provider.name,
        connection=deployment.connection.name,
        model=deployment.name,
        unpriced=price is None,
        price_version="" if price is None else price.version,
        attempts=attempts_of(x),
        outcome=x.outcome,
        source=source,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_nano_usd=cost_nano_usd(usage, price) if price is not None and source is not NOTHING else 0,
        duration_ms=int((now_s - x.started_s) * 1000),
        first_token_ms=None if x.first_token_s is None else int((x.first_token_s - x.started_s) * 1000),
        decision=decision,
    )


def attempts_of(x: Exchange) -> int:
    """How many were asked."""
    if not x.tried:
        return x.attempts or 1
    return max(1, x.attempts - sum(each.result in record.NOT_ASKED for each in x.tried))


def in_force(x: Exchange) -> Price | None:
    """The attempt's price; where that depends on the time, what it is by now, and its version says which one."""
    price = x.deployment.model.price
    if price is None or price.cheaper is None:
        return price
    clock = x.gateway.clock
    now_s, sent_s = clock.now_s(), x.started_s if x.sent_s is None else x.sent_s
    found = price.during(now_s - (clock.monotonic_s() - sent_s), now_s)
    return price if found is price else replace(found, version=f"{price.version}, cheaper")


def final_usage(x: Exchange) -> tuple[Usage, UsageSource]:
    """The provider's report if there is one, held to what was provably possible; else a count of what went by."""
    if x.usage is not None and (x.finish_reason is not None or x.streamed_deltas <= x.usage.output_tokens):
        return within_bound(x, x.usage), BY_PROVIDER
    made = max(x.streamed_deltas, -(-x.streamed_bytes // BYTES_PER_TOKEN))
    if x.usage is not None:
        return within_bound(x, replace(x.usage, output_tokens=made)), UsageSource.COUNTED  # told before it broke off
    if x.sent_s is None or not spent_without_report(x):
        return Usage(), NOTHING
    given = max(0, x.body_bytes - x.left_out_bytes) + (0 if x.begun is None else len(x.begun.text.encode()))
    counted = Usage(
        input_tokens=-(-given // BYTES_PER_TOKEN),
        output_tokens=made,
        audio_ms=0 if x.call.sound is None else x.call.sound.likely_ms,
    )
    return within_bound(x, counted), UsageSource.COUNTED


def spent_without_report(x: Exchange) -> bool:
    """Whether the provider will bill what it never told us of: it made output, or it had the prompt and fell silent."""
    if x.streamed_deltas:
        return True
    if x.failure is None:
        return x.outcome in (Outcome.OK, Outcome.CLIENT_GONE, Outcome.CUT, Outcome.HEDGE_LOST, Outcome.UNKNOWN)
    return x.failure.failure_class in SPENT_WITHOUT_REPORT


def within_bound(x: Exchange, usage: Usage) -> Usage:
    """No report above the reservation's bound is believed: that bound counts every byte as a token."""
    held = possible(x, usage)
    if held is not usage:
        x.gateway.metrics.usage_above_bound(x.deployment)
    return held


def possible(x: Exchange, usage: Usage) -> Usage:
    """The usage as far as it is within the reservation's bound."""
    assert x.reservation is not None
    most_in, most_out = x.reservation.input_tokens_bound, x.reservation.output_tokens_bound
    if most_out is None:
        most_out = MAX_TOKENS
    most_audio_ms = 0 if x.call.sound is None else x.call.sound.most_ms
    if usage.input_tokens <= most_in and usage.output_tokens <= most_out and usage.audio_ms <= most_audio_ms:
        return usage
    return usage.within(most_in, most_out, most_audio_ms)


def _since(x: Exchange) -> float | None:
    return None if x.first_token_s is None else x.first_token_s - x.started_s


def trace_of(x: Exchange, event: UsageEvent, now_s: float) -> CallTrace:
    """The call for the tracer: monotonic times moved onto the wall clock."""
    wall_s = x.gateway.clock.now_s() - now_s
    address = urlsplit(x.deployment.connection.base_url)
    return CallTrace(
        event=event,
        started_s=wall_s + x.started_s,
        ended_s=wall_s + now_s,
        sent_s=None if x.sent_s is None else wall_s + x.sent_s,
        traceparent=x.arrival.traceparent,
        requested_model=x.call.model,
        upstream_model=x.deployment.model.model_id,
        finish_reason=x.finish_reason,
        max_tokens=x.call.max_tokens,
        failure=x.failure,
        server_address=address.hostname or "",
        server_port=address.port or (443 if address.scheme == "https" else 80),
    )

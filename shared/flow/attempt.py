"""Attempt: one upstream call. The intent is on the node's disk before a byte leaves for the provider."""

from __future__ import annotations

import math
from secrets import token_hex
from typing import TYPE_CHECKING

from msgspec.structs import replace

from shared.domain.failure import Failure, FailureClass
from shared.domain.refusal import Reason, Refused, refuse
from shared.domain.usage import Outcome
from shared.flow import continuation, openrouter
from shared.flow.fetch import fetch
from shared.flow.leave import proxy_of
from shared.providers.failure import classify, consequence, in_own_words
from shared.store.wal import WalFull
from shared.upstream.transport import (
    FirstByteTimeout,
    IdleTimeout,
    MalformedResponse,
    NothingSent,
    ProxyFailed,
    ReplyTooLarge,
    TransportError,
    UpstreamRequest,
    UpstreamResponse,
)
from shared.wire import forced, params
from shared.wire.codec import Bridge, Stamp, bridge, joined, passing
from shared.wire.transcription import Passthrough, Transcription
from shared.wire.translate import Translation

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange

MAX_ERROR_BYTES = 64 * 1024
PATIENCE, LEAST_PATIENCE_S = 3.0, 1.0

OUTCOME = {
    FailureClass.CLIENT_FAULT: Outcome.REJECTED,
    FailureClass.CONTENT_FILTER: Outcome.REJECTED,
    FailureClass.RATE_LIMITED: Outcome.PROVIDER_LIMIT,
    FailureClass.QUOTA: Outcome.PROVIDER_LIMIT,
    FailureClass.FIRST_BYTE_TIMEOUT: Outcome.TIMEOUT,
    FailureClass.DEADLINE: Outcome.TIMEOUT,
    FailureClass.IDLE_TIMEOUT: Outcome.TIMEOUT,
    FailureClass.CUT: Outcome.CUT,
}


class Unsuited(Refused):
    """The deployment cannot be asked for this: its format has no word for it. Another's may."""


async def have_media(x: Exchange) -> None:
    """What a call names by URL, where its provider takes only bytes. Raises Refused."""
    try:
        await fetch(x)
    except TransportError as error:
        raise refused(x, failure_of(error)) from None
    except Refused as no:
        raise unsuited(x, no) from None


def leaving(x: Exchange) -> UpstreamRequest:
    """The attempt's request, with nothing left to do but to send it. Raises Refused."""
    try:
        request = encode(x)
    except TransportError as error:
        raise refused(x, failure_of(error)) from None
    except Refused as no:
        raise unsuited(x, no) from None
    intend(x)
    x.sent_s = now_s = x.gateway.clock.monotonic_s()
    within_s = x.deadline_s - now_s
    if x.call.stream and x.deployment is not x.plan[-1]:
        within_s = min(within_s, patience_s(x))
    if request.first_byte_timeout_s > within_s:
        request = replace(request, first_byte_timeout_s=max(0.0, within_s))
    return request


def patience_s(x: Exchange) -> float:
    """How long a stream's first byte may take while another could be asked: three times what 99 of 100 take there."""
    slow_s = x.gateway.load.quantile(x.deployment.key, 0.99)
    return math.inf if slow_s is None else max(LEAST_PATIENCE_S, PATIENCE * slow_s)


def unsuited(x: Exchange, no: Refused) -> Unsuited:
    x.outcome, x.passed_over = Outcome.REJECTED, "unsuited"
    return Unsuited(no.refusal)


async def send(x: Exchange, request: UpstreamRequest) -> UpstreamResponse:
    """One request and its 2xx answer; anything else raises Refused."""
    try:
        response = await x.gateway.transport.send(request)
    except TransportError as error:
        raise refused(x, failure_of(error)) from None
    x.said = response
    if not 200 <= response.status < 300:
        raise await said_no(x, response)
    return response


async def said_no(x: Exchange, response: UpstreamResponse) -> Refused:
    try:
        body = await response.read(MAX_ERROR_BYTES)
    except TransportError:
        body = b""
    finally:
        response.close()
    return refused(x, classify(response.status, response.headers, body, x.gateway.clock.now_s()))


def encode(x: Exchange) -> UpstreamRequest:
    """Raises Refused, NothingSent."""
    deployment, reservation = x.deployment, x.reservation
    assert reservation is not None
    arrival = x.arrival
    endpoint = arrival.operation
    if endpoint == "transcriptions":
        return first_step(x)
    if continuation.wanted(x):
        x.bridge = joining(x)
    else:
        hub = (arrival.openrouter and openrouter.needs_hub(x)) or forced.needs_hub(x.envelope.fields, deployment)
        plain = None if hub else passing(arrival.wire_format, deployment, endpoint, sse=arrival.sse)
        x.bridge = plain or translating(x, endpoint, hub=hub)
    translated = isinstance(x.bridge, Translation)
    if arrival.openrouter:
        openrouter.dress(x)
    body, x.dropped = x.bridge.request_body(x.envelope, deployment, x.call, reservation.output_cap_to_send)
    if deployment.params is not None:
        body, without = params.applied(body, deployment.params)
        x.dropped = [*x.dropped, *without]
    if endpoint == "completions" and translated:
        endpoint = "chat"
    if x.begun is not None and x.begun.text and "chat_prefix" in deployment.provider.endpoints:
        endpoint = "chat_prefix"
    elif x.call.stream and f"{endpoint}_stream" in deployment.provider.endpoints:
        endpoint += "_stream"
    same = arrival.wire_format is deployment.provider.wire_format
    return x.gateway.credentials.request(deployment, endpoint, body, arrival.headers if same else (), proxy_of(x))


def first_step(x: Exchange) -> UpstreamRequest:
    """A transcription's first request; transcribe.py does the others. Raises Refused, NothingSent."""
    bridge = translating(x, x.arrival.operation)
    assert isinstance(bridge, Passthrough | Transcription)
    x.step, x.dropped = bridge.first(x.envelope, x.deployment, x.call, f"waystation-{token_hex(16)}")
    x.bridge = bridge
    return x.gateway.credentials.step(x.deployment, x.step, proxy_of(x))


def joining(x: Exchange) -> Bridge:
    """The bridge of an attempt whose stream may go on elsewhere, or is the rest of another's."""
    made = joined(x.arrival.wire_format, x.deployment, stamp_of(x))
    made.begun, made.fetched = x.begun, x.fetched
    return made


def stamp_of(x: Exchange) -> Stamp:
    return Stamp(
        event_id=x.event_id,
        created_s=int(x.gateway.clock.now_s()),
        model=x.call.model,
        sse=x.arrival.sse,
        previous_response_id=x.previous_response_id,
        stored=x.history is not None,
        native_finish=x.arrival.openrouter,
    )


def translating(x: Exchange, operation: str, *, hub: bool = False) -> Bridge:
    made = bridge(x.arrival.wire_format, x.deployment, stamp_of(x), operation, hub=hub)
    if x.fetched and isinstance(made, Translation):
        made.fetched = x.fetched
    return made


def intend(x: Exchange) -> None:
    """The write-ahead intent, once a call: if this process dies now, the reservation becomes an estimated event."""
    assert x.reservation is not None
    if x.intended:
        return
    try:
        x.gateway.wal.intend(x.reservation.event, x.reservation.encoded_event)
        x.intended = True
    except WalFull:
        x.outcome = Outcome.REJECTED
        raise refuse(
            Reason.OVERLOADED, 503, "This gateway node cannot write its usage log. Retry: another node will answer.",
            retry_after_s=1.0, retry=True,
        ) from None  # fmt: skip


def refused(x: Exchange, failure: Failure) -> Refused:
    """Note the attempt's bad end on the exchange and say what it means to the client."""
    if failure.failure_class is FailureClass.FIRST_BYTE_TIMEOUT and x.gateway.clock.monotonic_s() >= x.deadline_s:
        failure = replace(failure, failure_class=FailureClass.DEADLINE)
    x.failure = failure
    x.outcome = OUTCOME.get(failure.failure_class, Outcome.PROVIDER_ERROR)
    refusal = consequence(failure, x.deployment.provider.title)
    said = x.bridge.provider_message(failure.body) if x.sent_s is not None else None
    if said is not None:
        refusal = in_own_words(refusal, failure, said)
    return Refused(refusal)


def failure_of(error: TransportError) -> Failure:
    """A transport error as a failure class: the error says what it was, this says what it means."""
    match error:
        case NothingSent():
            kind, sent = FailureClass.CONNECT, False
        case FirstByteTimeout():
            kind, sent = FailureClass.FIRST_BYTE_TIMEOUT, True
        case IdleTimeout():
            kind, sent = FailureClass.IDLE_TIMEOUT, True
        case MalformedResponse() | ReplyTooLarge():
            kind, sent = FailureClass.MALFORMED, True
        case _:
            kind, sent = FailureClass.CUT, True
    return Failure(failure_class=kind, message=str(error), sent=sent, by_proxy=isinstance(error, ProxyFailed))

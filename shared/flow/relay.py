"""Relay: the provider's bytes to the client, with usage picked out on the way.

Nothing is sent to the client until the provider's answer proves to be one: the whole reply, or the first event of a
stream. Until then a bad end is a clean error; afterwards the stream itself says it, in the client's own format.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

import orjson

from shared.domain.catalogue import WireFormat
from shared.domain.decision import Tried
from shared.domain.failure import Failure, FailureClass
from shared.domain.usage import Outcome
from shared.flow import attempt, continuation, settle, stored, transcribe
from shared.providers.failure import in_a_good_answer
from shared.upstream.transport import TransportError, UpstreamResponse
from shared.wire.codec import MalformedReply, Tap
from shared.wire.seam import SeamTap

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange

OK, ANTHROPIC = Outcome.OK, WireFormat.ANTHROPIC_MESSAGES
"""For what every call asks: Python 3.11 looks an enum's members up in Python."""
STREAMS = ("text/event-stream", "application/vnd.amazon.eventstream")
"""Content types of providers' streams."""
SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


OPENING_S = 5.0
"""A stream that has opened and made nothing yet is the client's after so long."""


async def relay_whole(x: Exchange, response: UpstreamResponse) -> None:
    """Raises Refused; sets outcome and usage on the exchange."""
    try:
        body = await response.read(x.gateway.settings.max_reply_bytes)
    except TransportError as error:
        raise attempt.refused(x, attempt.failure_of(error)) from None
    if x.arrival.operation == "transcriptions":
        body = await transcribe.follow(x, body)
    try:
        reply = x.bridge.read_reply(body)
    except MalformedReply as error:
        raise attempt.refused(x, malformed(str(error), response, body)) from None
    if x.race is not None:
        x.race.won(x)
    x.usage, x.finish_reason = reply.usage, reply.finish_reason
    x.streamed_bytes = 0 if reply.usage is not None or x.call.max_tokens == 0 else len(body)
    x.outcome = OK
    if x.history is not None:
        await stored.keep(x, orjson.loads(reply.body))
    settle.settle(x)  # booked before the client hears, so that the cost can travel with the answer
    headers = answer_headers(x)
    speech = x.arrival.operation == "speech"
    said = response.headers.get("content-type", "audio/mpeg") if speech else "application/json"
    headers["Content-Type"] = reply.content_type or said
    x.sink.reply(headers, reply.body)


async def relay_stream(x: Exchange, response: UpstreamResponse) -> None:
    """Raises Refused while nothing has gone out; sets outcome and usage on the exchange."""
    if not response.headers.get("content-type", "").startswith(STREAMS):
        body = await read_quietly(response)
        raise attempt.refused(x, malformed("no event stream", response, body))
    tap = x.bridge.tap(hide_usage=not x.call.include_usage)
    await follow(x, response, tap, Opening(x))


async def follow(x: Exchange, response: UpstreamResponse, tap: Tap, opening: Opening) -> None:
    """One provider's stream to its end, whatever that is."""
    try:
        async for chunk in response:
            out = tap.feed(chunk)
            if x.first_token_s is None and tap.first_token_seen:
                note_first_token(x)
            if opening.over:
                if out:
                    await x.sink.write(out)
                if tap.error is not None and isinstance(tap, SeamTap):
                    break
                continue
            opening.held += out
            if not tap.events:
                continue
            if opening.begun is None:
                raise_if_error_came_first(x, tap)
            if tap.first_token_seen or tap.done or tap.finish_reason is not None or opening.begun is not None:
                await opening.end()
            else:
                opening.wait()
        await finish_stream(x, tap, opening)
    except TransportError as error:
        note(x, tap)
        await cut_stream(x, tap, opening, attempt.failure_of(error))
    except MalformedReply as error:
        note(x, tap)
        await cut_stream(x, tap, opening, malformed(str(error), response, b""))
    finally:
        opening.leave()
        note(x, tap)


def note_first_token(x: Exchange) -> None:
    x.first_token_s = x.gateway.clock.monotonic_s()
    if x.sent_s is not None:
        x.gateway.load.first_token(x.deployment.key, x.first_token_s - x.sent_s)
    if x.probe is not None:  # it answers: the others need not wait for its last token
        x.gateway.health.report(x.deployment, None, probe=x.probe)
        x.probe = None


class Opening:
    """What a stream says before its first token, held back: until there is one, another deployment can still be asked.

    Not for ever: a model may think for minutes, and a client wants to see that somebody is there.
    """

    __slots__ = ("_timer", "_x", "begun", "held", "over")

    def __init__(self, x: Exchange) -> None:
        self._x = x
        self._timer: asyncio.TimerHandle | None = None
        self.held = b""
        self.begun: asyncio.Task[None] | None = None
        """The client was kept waiting long enough: it gets what is held."""
        self.over = False

    def wait(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(OPENING_S, self._begin)

    def _begin(self) -> None:
        race = self._x.race
        if race is not None and race.open:  # another attempt may have its first token before this one
            self._timer = asyncio.get_running_loop().call_later(OPENING_S, self._begin)
            return
        self.begun = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        x = self._x
        if not x.sink.started:
            if x.race is not None:
                x.race.won(x)
            await x.sink.start(answer_headers(x) | stream_headers(x))
        if self.held:
            out, self.held = self.held, b""
            await x.sink.write(out)

    async def end(self) -> None:
        """The stream is the client's from now on."""
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        if self.begun is not None:
            await self.begun
        await self._send()

    def leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.begun is not None:
            self.begun.cancel()


def raise_if_error_came_first(x: Exchange, tap: Tap) -> None:
    """HTTP 200 and then an error as the first event is a failed attempt, not a stream (wire.md §5 #104)."""
    if tap.error is not None and not tap.first_token_seen:
        plain = Failure(failure_class=FailureClass.PROVIDER_FAULT, message="answered with an error event", body=tap.error)
        raise attempt.refused(x, in_a_good_answer(tap.error) or plain)


async def finish_stream(x: Exchange, tap: Tap, opening: Opening) -> None:
    """The provider closed the stream: complete it if it said why it stopped, else tell the client it was cut."""
    tail = tap.close()
    if tap.error is not None and isinstance(tap, SeamTap):
        note(x, tap)
        failed = Failure(
            failure_class=FailureClass.PROVIDER_FAULT, message="failed in the middle of its answer", body=tap.error
        )
        await cut_stream(x, tap, opening, failed)
        return
    if tap.error is not None:
        attempt.refused(x, Failure(failure_class=FailureClass.PROVIDER_FAULT, message="ended its stream with an error event"))
    elif tap.done or tap.finish_reason is not None:
        x.outcome = Outcome.OK
        if not tap.done:
            tail += tap.terminator
    else:
        note(x, tap)
        await cut_stream(x, tap, opening, Failure(failure_class=FailureClass.CUT, message="ended its stream without a finish"))
        return
    if x.history is not None and x.outcome is Outcome.OK:
        await stored.keep(x, tap.response)
    opening.held += tail
    await opening.end()


async def cut_stream(x: Exchange, tap: Tap, opening: Opening, failure: Failure) -> None:
    """A stream that broke: a clean error when the client has seen nothing, an error event when it has."""
    refused = attempt.refused(x, failure)
    if not opening.over and opening.begun is None:
        raise refused
    await opening.end()
    if isinstance(tap, SeamTap):
        told = await continuation.goes_on(x, tap, opening, refused)
        if told is None:
            return
        refused = told
    await x.sink.write(x.bridge.stream_error(refused.refusal, tap.sequence))


def note(x: Exchange, tap: Tap) -> None:
    """What the tap heard so far becomes the exchange's: a client that leaves still pays for what was made."""
    x.usage = tap.usage
    x.finish_reason = tap.finish_reason
    x.streamed_deltas = tap.deltas
    x.streamed_bytes = tap.content_bytes


def malformed(what: str, response: UpstreamResponse, body: bytes) -> Failure:
    said = in_a_good_answer(body)
    if said is not None:
        return said
    content_type = response.headers.get("content-type", "no content type")[:80]
    return Failure(
        failure_class=FailureClass.MALFORMED, message=f"{what} ({content_type})", status=response.status, body=body[:512]
    )


async def read_quietly(response: UpstreamResponse) -> bytes:
    try:
        return await response.read(64 * 1024)
    except TransportError:
        return b""


def answer_headers(x: Exchange) -> dict[str, str]:
    """What every answer says about itself, beside the admission's rate-limit headers."""
    headers = x.headers
    headers["x-request-id"] = x.event_id
    headers["x-waystation-model"] = x.deployment.name if x.event is None else x.event.model
    headers["x-waystation-attempts"] = x.deployment.name if not x.tried else attempts_text(x)
    if x.arrival.wire_format is ANTHROPIC:
        headers["request-id"] = x.event_id
    if x.dropped:
        headers["x-waystation-dropped"] = ", ".join(x.dropped)
    if x.event is not None and not x.event.unpriced:
        headers["x-waystation-cost-usd"] = usd_text(x.event.cost_nano_usd)
    return headers


def attempts_text(x: Exchange) -> str:
    """`lab/chat overloaded 503, spare/chat ok`: the attempts in their order."""
    return ", ".join([*told(x.tried), f"{x.deployment.name} ok"])


def told(tried: Iterable[Tried]) -> list[str]:
    return [f"{each.deployment} {each.result}{'' if each.status is None else f' {each.status}'}" for each in tried]


def stream_headers(x: Exchange) -> dict[str, str]:
    return SSE_HEADERS if x.arrival.sse else SSE_HEADERS | {"Content-Type": "application/json; charset=utf-8"}


def usd_text(nano: int) -> str:
    """Exact USD with nine decimals: `0.000012345`."""
    return f"{nano // 1_000_000_000}.{nano % 1_000_000_000:09d}"


def outcome_of(error: BaseException) -> Outcome:
    """How an exception that is no refusal ended the call."""
    return Outcome.CLIENT_GONE if isinstance(error, (asyncio.CancelledError, ConnectionError)) else Outcome.UNKNOWN

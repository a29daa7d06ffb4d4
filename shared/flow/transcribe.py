"""Transcribe: the one operation that may take several requests to its provider (AssemblyAI: upload, order, ask until done)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson

from shared.domain.failure import Failure, FailureClass
from shared.flow import attempt
from shared.flow.leave import proxy_of
from shared.upstream.transport import TransportError
from shared.wire.reply import MalformedReply
from shared.wire.transcription import Failed, Passthrough, Step, Transcription

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange


async def follow(x: Exchange, body: bytes) -> bytes:
    """The rest of the requests, until an answer is the transcript. Raises Refused; a client that leaves ends it."""
    bridge = x.bridge
    assert isinstance(bridge, Passthrough | Transcription)
    deadline_s = x.gateway.clock.monotonic_s() + x.deployment.connection.first_byte_timeout_s
    while (step := _following(x, bridge, body)) is not None:
        if x.gateway.clock.monotonic_s() + step.wait_s > deadline_s:
            late = Failure(failure_class=FailureClass.FIRST_BYTE_TIMEOUT, message="was not done with the sound in time")
            raise attempt.refused(x, late)
        await asyncio.sleep(step.wait_s)
        body = await _answer(x, step)
        x.step = step
    return body


def _following(x: Exchange, bridge: Passthrough | Transcription, body: bytes) -> Step | None:
    try:
        return bridge.following(body, x.step)
    except MalformedReply as error:
        raise attempt.refused(x, Failure(failure_class=FailureClass.MALFORMED, message=str(error), body=body[:512])) from None
    except Failed as failed:
        told = orjson.dumps({"error": str(failed)})
        raise attempt.refused(
            x, Failure(failure_class=FailureClass.CLIENT_FAULT, message="could not transcribe it", status=400, body=told)
        ) from None


async def _answer(x: Exchange, step: Step) -> bytes:
    try:
        response = await attempt.send(x, x.gateway.credentials.step(x.deployment, step, proxy_of(x)))
    except TransportError as error:
        raise attempt.refused(x, attempt.failure_of(error)) from None
    try:
        return await response.read(x.gateway.settings.max_reply_bytes)
    except TransportError as error:
        raise attempt.refused(x, attempt.failure_of(error)) from None
    finally:
        response.close()

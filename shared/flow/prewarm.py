"""Prewarm: `max_tokens: 0` at Anthropic fills its prompt cache and makes nothing. Elsewhere there is nothing to fill: the call
is answered here, no provider is asked and nothing is booked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.catalogue import WireFormat
from shared.domain.usage import Usage
from shared.flow import relay
from shared.flow.choose import choose
from shared.wire.canonical import Choice, Reply, Stamp, Start, Stop, Stopped
from shared.wire.codec import FORMATS

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange


async def answered(x: Exchange) -> bool:
    """Whether this was all there is to the call. Raises Refused (404) for an unknown model."""
    wire_format = x.arrival.wire_format
    if wire_format is not WireFormat.ANTHROPIC_MESSAGES:
        return False
    x.plan = choose(x)
    if x.plan[0].provider.wire_format is wire_format:
        return False
    x.deployment = x.plan[0]
    stamp = Stamp(event_id=x.event_id, created_s=int(x.gateway.clock.now_s()), model=x.call.model)
    headers, client = relay.answer_headers(x), FORMATS[wire_format]
    headers.pop("x-waystation-attempts")  # there was none
    if not x.call.stream:
        reply = Reply(choices=(Choice(parts=(), stop=Stop.LENGTH),), usage=Usage())
        x.sink.reply(headers | {"Content-Type": "application/json"}, client.encode_reply(reply, stamp))
        return True
    encoder = client.stream_encoder(stamp)
    await x.sink.start(headers | relay.stream_headers(x))
    await x.sink.write(encoder.feed(Start(usage=Usage())) + encoder.feed(Stopped(Stop.LENGTH)) + encoder.close())
    return True

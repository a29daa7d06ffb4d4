"""OpenRouter: what a call at /api/v1 has beside the call itself (wire/openrouter.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from shared.domain.catalogue import WireFormat
from shared.domain.money import cost_nano_usd, output_nano_usd
from shared.domain.usage import Usage
from shared.flow import sessions, settle
from shared.wire import middle_out
from shared.wire.codec import read_facts
from shared.wire.envelope import Envelope, open_envelope
from shared.wire.extensions import read_extensions
from shared.wire.openrouter import THROUGH_THE_HUB, Cost, Dressed, Face, Fitting
from shared.wire.preferences import CLIENTS

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange


def accept(x: Exchange) -> None:
    """What OpenRouter's clients may ask for beside a call. Raises Refused (400)."""
    always_with_usage(x)
    if x.arrival.wire_format in CLIENTS and type(x.envelope) is Envelope:
        asked = x.extensions = read_extensions(x.envelope, x.arrival.session, x.arrival.operation)
        if asked is not None and asked.session is not None:
            x.session = sessions.begin(x, asked.session)


def always_with_usage(x: Exchange) -> None:
    """A stream at OpenRouter ends with its usage, asked for or not."""
    arrival = x.arrival
    if not x.call.stream or x.call.include_usage or arrival.wire_format is not WireFormat.OPENAI_CHAT:
        return
    given = x.envelope.fields.get("stream_options")
    wanted = ((orjson.loads(bytes(given)) if given is not None else None) or {}) | {"include_usage": True}
    x.envelope = open_envelope(x.envelope.edited({"stream_options": orjson.dumps(wanted)}))
    x.call = read_facts(arrival.wire_format, arrival.operation, x.envelope, arrival.model, arrival.stream)


def needs_hub(x: Exchange) -> bool:
    """Whether a Chat call asks for something in OpenRouter's words that its provider, of the same format, has others for."""
    quirks = x.deployment.provider.quirks
    asks = not quirks.takes_routing and any(name in x.envelope.fields for name in THROUGH_THE_HUB)
    return asks and x.arrival.wire_format is WireFormat.OPENAI_CHAT


def dress(x: Exchange) -> None:
    """Put the face onto the attempt's bridge."""
    face = Face(
        wire_format=x.arrival.wire_format,
        event_id=x.event_id,
        provider=x.deployment.provider.title,
        cost=lambda usage: _cost(x, usage),
    )
    documents = x.envelope.fields.get("documents") if x.arrival.operation == "rerank" else None
    x.bridge = Dressed(x.bridge, face, None if documents is None else bytes(documents), fitting(x))
    x.headers["x-generation-id"] = face.generation_id


def fitting(x: Exchange) -> Fitting | None:
    """How the prompt is made to fit the attempt's deployment; None where it does, or shall not be touched."""
    x.left_out_bytes = 0
    asked = None if x.extensions is None else x.extensions.compress
    if x.arrival.operation != "chat" or not middle_out.wanted(asked, x.arrival.wire_format, x.deployment, x.call):
        return None

    def fitted(envelope: Envelope) -> tuple[Envelope, str | None]:
        cut = middle_out.fitted(envelope, x.deployment, x.call)
        if cut is None:
            return envelope, None
        x.left_out_bytes = len(envelope.body) - len(cut.envelope.body)
        return cut.envelope, cut.told()

    return fitted


def _cost(x: Exchange, usage: Usage) -> Cost | None:
    """As settle.py books it."""
    price = settle.in_force(x)
    if price is None:
        return None
    held = settle.possible(x, usage)
    return Cost(cost_nano_usd(held, price), output_nano_usd(held, price))

"""A translation as a test sees it: a client's body in, the provider's body out; the provider's answer in, the client's out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from shared.domain.catalogue import Capability, Connection, Deployment, Model, Provider, Quirks, WireFormat
from shared.wire.canonical import Stamp
from shared.wire.codec import FORMATS
from shared.wire.codec import PROVIDERS as HALVES
from shared.wire.envelope import open_envelope
from shared.wire.sse import Splitter
from shared.wire.translate import Translation

STAMP = Stamp(event_id="01a1fbf8-ff5c-7166-8e7c-afa80df7600e", created_s=1_790_000_000, model="lab/model")
EVERYTHING = frozenset(Capability)


class Translated:
    """One translation between two formats, to a model with `quirks`."""

    def __init__(
        self,
        client: WireFormat,
        provider: WireFormat,
        *,
        model_id: str = "model",
        max_output_tokens: int | None = 8_192,
        capabilities: frozenset[Capability] = EVERYTHING,
        **quirks: Any,
    ) -> None:
        self.client = client
        self.deployment = Deployment(
            provider=Provider(
                name="lab", title="Lab", prefix="lab", base_url=None, wire_format=provider, quirks=Quirks(**quirks)
            ),
            connection=Connection(connection_id="c", name="lab", provider="lab", prefix="lab", base_url="http://127.0.0.1"),
            model=Model(model_id=model_id, max_output_tokens=max_output_tokens, capabilities=capabilities),
        )
        self.bridge = Translation(FORMATS[client], HALVES[provider], STAMP)
        self.dropped: list[str] = []

    def sent(self, body: dict[str, Any], cap: int | None = None, **url: Any) -> dict[str, Any]:
        """What the provider gets."""
        envelope = open_envelope(orjson.dumps(body))
        call = FORMATS[self.client].facts(envelope, url.get("model"), url.get("stream"))
        raw, self.dropped = self.bridge.request_body(envelope, self.deployment, call, cap)
        return orjson.loads(raw)  # type: ignore[no-any-return]

    def answered(self, reply: dict[str, Any]) -> dict[str, Any]:
        """What the client gets of a whole answer."""
        return orjson.loads(self.bridge.read_reply(orjson.dumps(reply)).body)  # type: ignore[no-any-return]

    def streamed(self, chunks: Iterable[bytes]) -> bytes:
        """What the client gets of a stream."""
        tap = self.bridge.tap(hide_usage=False)
        return b"".join([tap.feed(chunk) for chunk in chunks]) + tap.close()


def events(stream: bytes) -> list[Any]:
    """The data of a stream's events, parsed; `[DONE]` stays text."""
    splitter = Splitter()
    found = [data for _, data in splitter.feed(stream) if data is not None]
    assert splitter.close() is None
    return [data.decode() if data == b"[DONE]" else orjson.loads(data) for data in found]


def chat_stream(*deltas: dict[str, Any], finish: str | None = "stop", usage: dict[str, Any] | None = None) -> bytes:
    """A Chat provider's stream of deltas."""
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "real-model"}
    chunks = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if finish is not None:
        chunks.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if usage is not None:
        chunks.append(head | {"choices": [], "usage": usage})
    return b"".join([b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks]) + b"data: [DONE]\n\n"


def named_stream(*events: dict[str, Any]) -> bytes:
    """A stream of named events, as Anthropic sends them."""
    return b"".join([b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events])

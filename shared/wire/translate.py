"""Translate: a bridge between two formats, through the hub. The body is decoded once an attempt; a stream flows as events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
import orjson
from msgspec.structs import replace

from shared.domain.catalogue import Deployment, Model, Quirks
from shared.domain.refusal import Reason, Refusal
from shared.domain.usage import Usage
from shared.wire.canonical import (
    Begin,
    Call,
    Choice,
    Delta,
    Encoded,
    End,
    Event,
    Failed,
    Reply,
    Stamp,
    Start,
    Stopped,
    ToolCall,
    Used,
)
from shared.wire.envelope import Envelope
from shared.wire.openai_chat.facts import ChatCall
from shared.wire.reply import ReplyFacts


class Decoder(Protocol):
    def feed(self, chunk: bytes) -> list[Event]: ...

    def close(self) -> list[Event]: ...


class Encoder(Protocol):
    def feed(self, event: Event) -> bytes: ...

    def close(self) -> bytes: ...


class ClientHalf(msgspec.Struct, frozen=True):
    """How a format's clients are understood and answered."""

    facts: Callable[[Envelope, str | None, bool | None], ChatCall]
    decode_call: Callable[..., Call]
    encode_reply: Callable[[Reply, Stamp], bytes]
    stream_encoder: Callable[[Stamp], Encoder]
    encode_refusal: Callable[[Refusal, str | None], tuple[int, dict[str, str], bytes]]
    encode_stream_error: Callable[[Refusal], bytes]
    ping: bytes


class ProviderHalf(msgspec.Struct, frozen=True):
    """How a format's providers are called and understood."""

    encode_call: Callable[[Call, Model, Quirks], Encoded]
    decode_reply: Callable[[bytes], Reply]
    stream_decoder: Callable[[], Decoder]
    error_message: Callable[[bytes], str | None]


class Translation:
    """One attempt's. `request_body` first: a reply's tool names are given back as the client knows them."""

    def __init__(self, client: ClientHalf, provider: ProviderHalf, stamp: Stamp) -> None:
        self._client, self._provider, self._stamp = client, provider, stamp
        self._names: Mapping[str, str] = {}

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        decoded = self._client.decode_call(orjson.loads(envelope.body), model=call.model, stream=call.stream)
        shown = decoded.reasoning is None or decoded.reasoning.show is not False
        self._stamp = replace(self._stamp, include_usage=decoded.include_usage, show_thinking=shown)
        if output_cap is not None:
            decoded = replace(decoded, max_tokens=output_cap)
        encoded = self._provider.encode_call(decoded, deployment.model, deployment.provider.quirks)
        self._names = encoded.names
        return encoded.body, [*encoded.dropped, *decoded.left_out]

    def read_reply(self, body: bytes) -> ReplyFacts:
        """Raises MalformedReply."""
        reply = self._provider.decode_reply(body)
        if self._names:
            reply = replace(reply, choices=tuple(self._renamed(choice) for choice in reply.choices))
        finish = reply.choices[0].stop.value if reply.choices else None
        return ReplyFacts(body=self._client.encode_reply(reply, self._stamp), usage=reply.usage, finish_reason=finish)

    def tap(self, *, hide_usage: bool) -> TranslatingTap:
        return TranslatingTap(
            self._provider.stream_decoder(),
            self._client.stream_encoder(self._stamp),
            self._names,
            self._client.encode_stream_error,
        )

    def stream_error(self, refusal: Refusal) -> bytes:
        return self._client.encode_stream_error(refusal)

    def provider_message(self, body: bytes) -> str | None:
        return self._provider.error_message(body)

    def _renamed(self, choice: Choice) -> Choice:
        parts = tuple(named(part, self._names) if isinstance(part, ToolCall) else part for part in choice.parts)
        return replace(choice, parts=parts)


def named(part: ToolCall, names: Mapping[str, str]) -> ToolCall:
    """The call under the client's own name of the tool."""
    return replace(part, name=names.get(part.name, part.name))


class TranslatingTap:
    """A provider's stream in, the client's stream out; what was heard is kept for the flow (wire/codec.py Tap)."""

    terminator = b""

    def __init__(
        self, decoder: Decoder, encoder: Encoder, names: Mapping[str, str], encode_error: Callable[[Refusal], bytes]
    ) -> None:
        self._decoder, self._encoder, self._names, self._encode_error = decoder, encoder, names, encode_error
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.error: bytes | None = None
        self.done = False
        self.events = self.deltas = self.content_bytes = 0
        self.first_token_seen = False

    def feed(self, chunk: bytes) -> bytes:
        """The client's bytes. Raises MalformedReply."""
        return b"".join([self._event(event) for event in self._decoder.feed(chunk)])

    def close(self) -> bytes:
        out = b"".join([self._event(event) for event in self._decoder.close()])
        if self.error is None and self.finish_reason is not None:
            self.done = True
            out += self._encoder.close()
        return out

    def _event(self, event: Event) -> bytes:
        self.events += 1
        if self.error is not None:
            return b""
        match event:
            case Delta():
                self.deltas += 1
                self.content_bytes += len(event.text)
                self.first_token_seen = True
            case Used():
                self.usage = event.usage
            case Start() if event.usage is not None:
                self.usage = event.usage
            case Stopped():
                self.finish_reason = event.stop.value
            case Failed():
                self.error = event.raw or b"{}"
                message = f"The provider failed in the middle of its answer: {event.message[:300]}"
                return self._encode_error(Refusal(reason=Reason.PROVIDER_ERROR, status=502, message=message))
            case Begin() | End() if self._names and isinstance(event.part, ToolCall):
                event = replace(event, part=named(event.part, self._names))
        return self._encoder.feed(event)


def json_error_message(body: bytes) -> str | None:
    """The message in a JSON error, as most providers write it: `{"error": {"message"}}`, `{"message"}`, `{"error": "…"}`."""
    try:
        value: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if type(value) is list and value:
        value = value[0]
    if type(value) is not dict:
        return None
    error = value.get("error", value)
    message = error.get("message") if type(error) is dict else error
    return message if type(message) is str and message else None

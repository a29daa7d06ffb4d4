"""Codec: the table of wire formats, and the bridge between a client's and a provider's.

What a format can do on the client's side is a row of FORMATS. A bridge joins two formats for one attempt; where they are the
same it is a Passthrough: the body keeps every byte but for the model's name and the policy fields, the answer passes untouched
with a tap listening.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
import orjson

from shared.domain.catalogue import Deployment, WireFormat
from shared.domain.refusal import Refusal
from shared.domain.usage import Usage
from shared.wire import openai_chat
from shared.wire.envelope import Envelope
from shared.wire.openai_chat import ChatCall
from shared.wire.reply import MalformedReply, ReplyFacts
from shared.wire.tap import ChatTap

__all__ = ["FORMATS", "Bridge", "ClientFormat", "MalformedReply", "ReplyFacts", "Tap", "bridge"]


class Tap(Protocol):
    """Listens to a stream: `feed` gives what to send on, the rest is what was heard."""

    usage: Usage | None
    finish_reason: str | None
    error: bytes | None
    done: bool
    events: int
    deltas: int
    content_bytes: int
    first_token_seen: bool
    terminator: bytes

    def feed(self, chunk: bytes) -> bytes: ...

    def close(self) -> bytes: ...


class ClientFormat(msgspec.Struct, frozen=True):
    """How our noes are said in a format."""

    encode_refusal: Callable[[Refusal, str | None], tuple[int, dict[str, str], bytes]]
    encode_stream_error: Callable[[Refusal], bytes]


FORMATS: dict[WireFormat, ClientFormat] = {
    WireFormat.OPENAI_CHAT: ClientFormat(openai_chat.encode_refusal, openai_chat.encode_stream_error),
}


class Bridge(Protocol):
    """Between a client's format and a provider's, for one attempt."""

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        """The provider's body, and the client's fields that it does not have because the provider refuses them."""
        ...

    def read_reply(self, body: bytes) -> ReplyFacts:
        """Raises MalformedReply."""
        ...

    def tap(self, *, hide_usage: bool) -> Tap: ...

    def stream_error(self, refusal: Refusal) -> bytes: ...


class ChatPassthrough:
    """openai-chat to openai-chat."""

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        quirks = deployment.provider.quirks
        fields = envelope.fields
        drop = [name for name in quirks.drop if name in fields]
        unsaid = list(drop)
        replace = {"model": orjson.dumps(deployment.model.model_id)}
        if call.stream:
            if quirks.stream_usage:
                if not call.include_usage:
                    replace["stream_options"] = _asking_for_usage(fields.get("stream_options"))
            elif "stream_options" in fields:
                drop.append("stream_options")
        if output_cap is not None:
            drop += ["max_tokens", "max_completion_tokens"]
            replace[quirks.rename.get("max_completion_tokens", "max_completion_tokens")] = b"%d" % output_cap
        return envelope.edited(replace, drop, quirks.rename), unsaid

    def read_reply(self, body: bytes) -> ReplyFacts:
        try:
            reply = _decode_reply(body)
        except msgspec.DecodeError:
            raise MalformedReply("answered with something that is no chat completion") from None
        if reply.choices is None:
            raise MalformedReply("answered without choices")
        usage = openai_chat.read_usage(reply.usage) if reply.usage else None
        finish = reply.choices[0].finish_reason if reply.choices else None
        return ReplyFacts(body=body, usage=usage, finish_reason=finish)

    def tap(self, *, hide_usage: bool) -> Tap:
        return ChatTap(hide_usage)

    def stream_error(self, refusal: Refusal) -> bytes:
        return openai_chat.encode_stream_error(refusal)


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Reply(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw()


_decode_reply = msgspec.json.Decoder(_Reply).decode
_slices = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode

_BRIDGES: dict[tuple[WireFormat, WireFormat], Bridge] = {
    (WireFormat.OPENAI_CHAT, WireFormat.OPENAI_CHAT): ChatPassthrough(),
}


def bridge(client: WireFormat, upstream: WireFormat) -> Bridge:
    return _BRIDGES[client, upstream]


def _asking_for_usage(options: msgspec.Raw | None) -> bytes:
    """The client's stream_options with usage asked for."""
    if options is None or bytes(options) == b"null":
        return b'{"include_usage":true}'
    fields = _slices(options)
    fields["include_usage"] = msgspec.Raw(b"true")
    return _encode(fields)

"""Passthrough: a bridge between two ends that speak one format. The body keeps every byte but for the model's name and the
policy fields; the answer passes untouched, with a tap listening.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from shared.domain.catalogue import Deployment, Quirks
from shared.domain.refusal import Refusal
from shared.domain.usage import Usage
from shared.wire import openai_chat
from shared.wire.canonical import Delta, Event, Failed, Start, Stop, Stopped, Used
from shared.wire.envelope import Envelope
from shared.wire.openai_chat import ChatCall
from shared.wire.openai_chat.reply import BROKEN
from shared.wire.openai_chat.tidy import refuse_more_than_one, tidied
from shared.wire.openai_responses.encode import as_response_format
from shared.wire.reply import UNREADABLE, MalformedReply, ReplyFacts, gone_wrong
from shared.wire.sse import MAX_EVENT_BYTES, Splitter
from shared.wire.tap import ChatTap
from shared.wire.translate import ClientHalf, Decoder, ProviderHalf, came_to_an_end


class ChatPassthrough:
    """openai-chat to openai-chat: the commonest of all, so everything here is as cheap as it can be."""

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        quirks = deployment.provider.quirks
        fields = envelope.fields
        drop = [name for name in quirks.drop if name in fields]
        unsaid = list(drop)
        replace = {"model": orjson.dumps(deployment.model.sent_id)}
        if call.stream:
            if quirks.stream_usage:
                if not call.include_usage:
                    replace["stream_options"] = _asking_for_usage(fields.get("stream_options"))
            elif "stream_options" in fields:
                drop.append("stream_options")
        if output_cap is not None:
            drop += ["max_tokens", "max_completion_tokens"]
            replace[quirks.rename.get("max_completion_tokens", "max_completion_tokens")] = b"%d" % output_cap
        if envelope.routing is not None and quirks.takes_routing:
            replace["provider"] = envelope.routing
        if quirks.tidied:
            _tidy(envelope, quirks, call, replace, drop, unsaid)
        return envelope.edited(replace, drop, quirks.rename), unsaid

    def read_reply(self, body: bytes) -> ReplyFacts:
        try:
            reply = _decode_reply(body)
        except UNREADABLE:
            raise MalformedReply("answered with something that is no chat completion") from None
        if reply.choices is None or (reply.base_resp is not None and reply.base_resp.status_code):
            raise MalformedReply("answered without choices")
        usage = openai_chat.read_usage(reply.usage) if reply.usage else None
        finish = reply.choices[0].finish_reason if reply.choices else None
        if finish in BROKEN:
            raise MalformedReply(gone_wrong(finish))
        return ReplyFacts(body=body, usage=usage, finish_reason=finish)

    def tap(self, *, hide_usage: bool) -> ChatTap:
        return ChatTap(hide_usage)

    def stream_error(self, refusal: Refusal, sequence: int) -> bytes:
        return openai_chat.encode_stream_error(refusal)

    def provider_message(self, body: bytes) -> str | None:
        return None


def _tidy(
    envelope: Envelope, quirks: Quirks, call: ChatCall, replace: dict[str, bytes], drop: list[str], unsaid: list[str]
) -> None:
    """What some providers refuse within the body. Raises Refused."""
    if "n" in quirks.drop:
        refuse_more_than_one(call.choices)
    fields = envelope.fields
    if quirks.no_nulls:
        nulls = [name for name, value in fields.items() if bytes(value) == b"null" and name not in replace]
        drop += nulls
        unsaid[:] = [name for name in unsaid if name not in nulls]
    if not (quirks.message_drop or quirks.no_nulls or quirks.alternating):
        return
    messages = bytes(fields.get("messages", b""))
    made, without = tidied(messages, quirks)
    if made is not messages:
        replace["messages"] = made
    unsaid += without


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _BaseResp(msgspec.Struct, gc=False):
    status_code: int = 0


class _Reply(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    base_resp: _BaseResp | None = None
    """MiniMax: another status than 0 is an error (providers/failure.py)."""


_decode_reply = msgspec.json.Decoder(_Reply).decode
_slices = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def _asking_for_usage(options: msgspec.Raw | None) -> bytes:
    """The client's stream_options with usage asked for."""
    if options is None or bytes(options) == b"null":
        return b'{"include_usage":true}'
    fields = _slices(options)
    fields["include_usage"] = msgspec.Raw(b"true")
    return _encode(fields)


class NativePassthrough:
    """Any other format to itself. `cap` is the path of the output cap in the body; `model_in_body` False: it is in the URL."""

    def __init__(
        self,
        client: ClientHalf,
        provider: ProviderHalf,
        cap: tuple[str, ...],
        *,
        model_in_body: bool = True,
        mark: bytes = b"",
        unmarked: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._client, self._provider, self._cap, self._model_in_body = client, provider, cap, model_in_body
        self._mark, self._unmarked = mark, unmarked
        """Where the mark is in a body, its messages hold something of ours that must come out."""

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        quirks = deployment.provider.quirks
        drop = [name for name in quirks.drop if name in envelope.fields]
        replace = {"model": orjson.dumps(deployment.model.sent_id)} if self._model_in_body else {}
        if output_cap is not None:
            replace[self._cap[0]] = self._capped(envelope, output_cap)
        if self._unmarked is not None and self._mark in envelope.body and "messages" in envelope.fields:
            replace["messages"] = self._unmarked(bytes(envelope.fields["messages"]))
        if quirks.response_format and "text" in envelope.fields:
            wanted, unsaid = as_response_format(orjson.loads(bytes(envelope.fields["text"])))
            replace |= {name: orjson.dumps(value) for name, value in wanted.items()}
            return envelope.edited(replace, [*drop, "text"], quirks.rename), [*drop, *(f"text.{name}" for name in unsaid)]
        if not replace and not drop and not quirks.rename:
            return envelope.body, []
        return envelope.edited(replace, drop, quirks.rename), drop

    def _capped(self, envelope: Envelope, output_cap: int) -> bytes:
        if len(self._cap) == 1:
            return b"%d" % output_cap
        outer, inner = self._cap
        held = envelope.fields.get(outer)
        fields = _slices(held) if held is not None and bytes(held) != b"null" else {}
        fields[inner] = msgspec.Raw(b"%d" % output_cap)
        return _encode(fields)

    def read_reply(self, body: bytes) -> ReplyFacts:
        reply = self._provider.decode_reply(body)
        came_to_an_end(reply)
        finish = reply.choices[0].stop.value if reply.choices else None
        return ReplyFacts(body=body, usage=reply.usage, finish_reason=finish)

    def tap(self, *, hide_usage: bool) -> ListeningTap:
        return ListeningTap(self._provider.stream_decoder())

    def stream_error(self, refusal: Refusal, sequence: int) -> bytes:
        return self._client.encode_stream_error(refusal, sequence)

    def provider_message(self, body: bytes) -> str | None:
        return None


class ListeningTap:
    """Passes whole events on as they came, and has the format's own decoder tell what they say."""

    terminator = b""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._splitter = Splitter()
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.error: bytes | None = None
        self.done = False
        self.events = self.deltas = self.content_bytes = 0
        self.first_token_seen = False

    @property
    def sequence(self) -> int:
        return self.events

    @property
    def response(self) -> dict[str, Any] | None:
        return getattr(self._decoder, "response", None)

    def feed(self, chunk: bytes) -> bytes:
        """Raises MalformedReply."""
        out = []
        for raw, data in self._splitter.feed(chunk):
            if data is not None:
                self.events += 1
                for event in self._decoder.feed(raw):
                    self._hear(event)
            out.append(raw)
        if self._splitter.overflown:
            raise MalformedReply(f"sent an event larger than {MAX_EVENT_BYTES} bytes")
        return b"".join(out)

    def close(self) -> bytes:
        last = self._splitter.close()
        if last is not None and last[1] is not None:
            for event in self._decoder.feed(last[0].rstrip(b"\r\n") + b"\n\n"):
                self._hear(event)
        for event in self._decoder.close():
            self._hear(event)
        self.done = self.error is None and self.finish_reason is not None
        return last[0] if last is not None else b""

    def _hear(self, event: Event) -> None:
        match event:
            case Delta():
                self.deltas += 1
                self.content_bytes += len(event.text)
                self.first_token_seen = True
            case Used():
                self.usage = event.usage
            case Start() if event.usage is not None:
                self.usage = event.usage
            case Stopped(stop=Stop.ERROR) if not self.first_token_seen:
                raise MalformedReply(gone_wrong(event.native))
            case Stopped():
                self.finish_reason = event.stop.value
            case Failed():
                self.error = event.raw or b"{}"

"""Translate: a bridge between two formats, through the hub. The body is decoded once an attempt; a stream flows as events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import orjson
from msgspec.structs import replace

from shared.domain.catalogue import Deployment, Model, Quirks, WireFormat
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
    Stop,
    Stopped,
    Tool,
    ToolCall,
    Used,
)
from shared.wire.envelope import Envelope, open_envelope
from shared.wire.forced import Unforcing, answer_tool, forced, unforced
from shared.wire.inline import Fetched, inlined
from shared.wire.openai_chat.facts import ChatCall
from shared.wire.reply import MalformedReply, ReplyFacts, gone_wrong
from shared.wire.unsaid import unread, unspoken


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
    encode_stream_error: Callable[[Refusal, int], bytes]
    ping: bytes


class ProviderHalf(msgspec.Struct, frozen=True):
    """How a format's providers are called and understood."""

    encode_call: Callable[[Call, Model, Quirks], Encoded]
    decode_reply: Callable[[bytes], Reply]
    stream_decoder: Callable[[], Decoder]
    error_message: Callable[[bytes], str | None]
    tagged: ProviderHalf | None = None
    """The same for models whose reasoning comes inline, in <think> tags (Quirks.think_tags)."""


class Translation:
    """One attempt's. `request_body` first: a reply's tool names are given back as the client knows them."""

    def __init__(self, client: ClientHalf, provider: ProviderHalf, stamp: Stamp) -> None:
        self._client, self._provider, self._stamp = client, provider, stamp
        self._tools = Tools((), {})
        self.fetched: Mapping[str, Fetched] = {}
        """What the client named by URL, for a provider that takes only bytes."""

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        quirks = deployment.provider.quirks
        if quirks.think_tags:
            self._provider = self._provider.tagged or self._provider
        values = orjson.loads(envelope.body)
        decoded = self._client.decode_call(values, model=call.model, stream=call.stream)
        if self.fetched:
            decoded = inlined(decoded, self.fetched)
        shown = decoded.reasoning is None or decoded.reasoning.show is not False
        self._stamp = replace(self._stamp, include_usage=decoded.include_usage, show_thinking=shown, call=decoded)
        if output_cap is not None:
            decoded = replace(decoded, max_tokens=output_cap)
        decoded = self._shaped(decoded, deployment)
        answer = answer_tool(decoded, deployment)
        if answer is not None:
            decoded = forced(decoded, answer)
        encoded = self._provider.encode_call(decoded, deployment.model, quirks)
        self._tools = Tools(decoded.tools, encoded.names, answer)
        if envelope.routing is not None and quirks.takes_routing:
            encoded = replace(encoded, body=open_envelope(encoded.body).edited({"provider": envelope.routing}))
        spoken = WireFormat(decoded.format)
        lost = (
            *encoded.dropped,
            *decoded.left_out,
            *unread(spoken, values),
            *unspoken(decoded, deployment.provider.wire_format),
        )
        return encoded.body, list(dict.fromkeys(lost))

    def _shaped(self, call: Call, deployment: Deployment) -> Call:
        """The call as this attempt puts it."""
        return call

    def read_reply(self, body: bytes) -> ReplyFacts:
        """Raises MalformedReply."""
        reply = self._provider.decode_reply(body)
        came_to_an_end(reply)
        if self._tools:
            reply = replace(reply, choices=tuple(self._restored(choice) for choice in reply.choices))
        finish = reply.choices[0].stop.value if reply.choices else None
        return ReplyFacts(body=self._client.encode_reply(reply, self._stamp), usage=reply.usage, finish_reason=finish)

    def tap(self, *, hide_usage: bool) -> TranslatingTap:
        return TranslatingTap(
            self._provider.stream_decoder(),
            self._client.stream_encoder(self._stamp),
            self._tools,
            self._client.encode_stream_error,
        )

    def stream_error(self, refusal: Refusal, sequence: int) -> bytes:
        return self._client.encode_stream_error(refusal, sequence)

    def provider_message(self, body: bytes) -> str | None:
        return self._provider.error_message(body)

    def _restored(self, choice: Choice) -> Choice:
        parts = tuple(self._tools.restored(part) if isinstance(part, ToolCall) else part for part in choice.parts)
        choice = replace(choice, parts=parts)
        return choice if self._tools.answer is None else unforced(choice, self._tools.answer)


def came_to_an_end(reply: Reply) -> None:
    """Raises MalformedReply where the provider itself says that it went wrong (Gemini's MALFORMED_FUNCTION_CALL): nobody has
    seen anything of it, so another may be asked."""
    for choice in reply.choices:
        if choice.stop is Stop.ERROR:
            raise MalformedReply(gone_wrong(choice.native))


class Tools:
    """The way back from tools as the provider knows them to the client's own: names, namespaces, custom tools."""

    def __init__(self, tools: Sequence[Tool], names: Mapping[str, str], answer: str | None = None) -> None:
        self._names = names
        self.answer = answer
        """The tool that the answer itself was asked by (wire/forced.py)."""
        self._namespaced = {tool.full_name: tool for tool in tools if tool.namespace}
        self._custom = {tool.name for tool in tools if tool.custom}

    def __bool__(self) -> bool:
        return bool(self._names or self._namespaced or self._custom or self.answer)

    def named(self, part: ToolCall) -> ToolCall:
        """Under the client's own name. A custom tool's call is marked as one."""
        name = self._names.get(part.name, part.name)
        tool = self._namespaced.get(name)
        if tool is not None:
            part = replace(part, name=tool.name, namespace=tool.namespace)
        elif name != part.name:
            part = replace(part, name=name)
        return replace(part, custom=True) if part.name in self._custom else part

    def restored(self, part: ToolCall) -> ToolCall:
        """The whole call. A custom tool that travelled as a function gives up its one string."""
        made = self.named(part)
        return replace(made, arguments=_input(part.arguments)) if made.custom and not part.custom else made


def _input(arguments: str) -> str:
    try:
        given = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = given.get("input") if type(given) is dict else None
    return text if type(text) is str else arguments


class TranslatingTap:
    """A provider's stream in, the client's stream out; what was heard is kept for the flow (wire/codec.py Tap)."""

    terminator = b""

    def __init__(self, decoder: Decoder, encoder: Encoder, tools: Tools, encode_error: Callable[[Refusal, int], bytes]) -> None:
        self._decoder, self._encoder, self._tools, self._encode_error = decoder, encoder, tools, encode_error
        self._unforcing = None if tools.answer is None else Unforcing(tools.answer)
        self._withheld = False
        """The open part is a custom tool's call that travels as JSON: it can be given out only when it is whole."""
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.error: bytes | None = None
        self.done = False
        self.events = self.deltas = self.content_bytes = 0
        self.first_token_seen = False

    @property
    def sequence(self) -> int:
        """How many events the client was sent, where its format numbers them."""
        return getattr(self._encoder, "sequence", 0)

    @property
    def response(self) -> dict[str, Any] | None:
        return getattr(self._encoder, "response", None)

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
            case Stopped(stop=Stop.ERROR):
                if not self.first_token_seen:
                    raise MalformedReply(gone_wrong(event.native))
                return self._failed(Failed(gone_wrong(event.native)))
            case Stopped():
                self.finish_reason = event.stop.value
            case Failed():
                return self._failed(event)
        return self._restored(event) if self._tools else self._encoder.feed(event)

    def _failed(self, event: Failed) -> bytes:
        self.error = event.raw or orjson.dumps({"error": {"message": event.message}})
        message = f"The provider failed in the middle of its answer: {event.message[:300]}"
        refusal = Refusal(reason=Reason.PROVIDER_ERROR, status=502, message=message)
        return self._encode_error(refusal, self.sequence)

    def _restored(self, event: Event) -> bytes:
        match event:
            case Begin(part=ToolCall() as part):
                made = self._tools.named(part)
                self._withheld = made.custom and not part.custom
                return self._give(replace(event, part=made))
            case Delta() if self._withheld:
                return b""
            case End(part=ToolCall() as part):
                made = self._tools.restored(part)
                text = Delta(event.index, made.arguments, event.choice)
                before = self._give(text) if self._withheld else b""
                self._withheld = False
                return before + self._give(replace(event, part=made))
        return self._give(event)

    def _give(self, event: Event) -> bytes:
        if self._unforcing is None:
            return self._encoder.feed(event)
        events = self._unforcing.feed(event)
        for each in events:
            if isinstance(each, Stopped):
                self.finish_reason = each.stop.value
        return b"".join([self._encoder.feed(each) for each in events])


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

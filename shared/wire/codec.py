"""Codec: the table of wire formats, and the bridge between a client's and a provider's.

A new wire format is one module (canonical.py says its interface) and its rows here. Where both ends speak one format the
bridge is a Passthrough, else a Translation through the hub; nobody who holds a bridge asks which.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any, Protocol

from msgspec.structs import replace

from shared.domain.catalogue import Deployment, WireFormat
from shared.domain.refusal import Refusal
from shared.domain.usage import Usage
from shared.wire import (
    anthropic_messages,
    bedrock,
    cohere,
    completions,
    embeddings,
    facts,
    gemini,
    openai_chat,
    openai_json,
    openai_responses,
    transcription,
)
from shared.wire.canonical import Stamp
from shared.wire.citing import CitingPassthrough
from shared.wire.envelope import Envelope, invalid_field
from shared.wire.openai_chat import ChatCall
from shared.wire.passthrough import ChatPassthrough, NativePassthrough
from shared.wire.reply import MalformedReply, ReplyFacts
from shared.wire.rerank import Rerank
from shared.wire.seam import SeamTranslation
from shared.wire.translate import ClientHalf, ProviderHalf, Translation, json_error_message

__all__ = [
    "FORMATS", "Bridge", "MalformedReply", "ReplyFacts", "Stamp", "Tap", "bridge", "joined", "joins", "passing", "read_facts",
]  # fmt: skip


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

    @property
    def response(self) -> dict[str, Any] | None:
        """Responses: the whole of it, once it has ended."""
        ...

    @property
    def sequence(self) -> int:
        """How many events the client was sent, where its format numbers them; else 0."""
        ...

    def feed(self, chunk: bytes) -> bytes: ...

    def close(self) -> bytes: ...


class Bridge(Protocol):
    """Between a client's format and a provider's, for one attempt."""

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        """The provider's body, and the client's fields that are not in it. Raises Refused for what cannot be expressed."""
        ...

    def read_reply(self, body: bytes) -> ReplyFacts:
        """Raises MalformedReply."""
        ...

    def tap(self, *, hide_usage: bool) -> Tap: ...

    def stream_error(self, refusal: Refusal, sequence: int) -> bytes:
        """`sequence`: the tap's."""
        ...

    def provider_message(self, body: bytes) -> str | None:
        """What a provider's error says, where its body is none that the client could read; else None."""
        ...


def _client(module: ModuleType, read_facts: Any) -> ClientHalf:
    return ClientHalf(
        facts=read_facts,
        decode_call=module.decode_call,
        encode_reply=module.encode_reply,
        stream_encoder=module.StreamEncoder,
        encode_refusal=module.encode_refusal,
        encode_stream_error=module.encode_stream_error,
        ping=module.PING,
    )


def _provider(module: ModuleType) -> ProviderHalf:
    return ProviderHalf(
        encode_call=module.encode_call,
        decode_reply=module.decode_reply,
        stream_decoder=module.StreamDecoder,
        error_message=getattr(module, "error_message", json_error_message),
    )


def _chat_provider() -> ProviderHalf:
    plain = _provider(openai_chat)
    decoder = partial(openai_chat.StreamDecoder, think_tags=True)
    return replace(plain, tagged=replace(plain, decode_reply=openai_chat.decode_tagged_reply, stream_decoder=decoder))


FORMATS: dict[WireFormat, ClientHalf] = {
    WireFormat.OPENAI_CHAT: _client(openai_chat, lambda envelope, model, stream: openai_chat.check_call(envelope)),
    WireFormat.OPENAI_RESPONSES: _client(openai_responses, facts.responses_facts),
    WireFormat.ANTHROPIC_MESSAGES: _client(anthropic_messages, facts.messages_facts),
    WireFormat.GEMINI: _client(gemini, facts.gemini_facts),
    WireFormat.COHERE: _client(cohere, facts.cohere_facts),
}
"""What clients speak."""

PROVIDERS: dict[WireFormat, ProviderHalf] = {
    WireFormat.OPENAI_CHAT: _chat_provider(),
    WireFormat.OPENAI_RESPONSES: _provider(openai_responses),
    WireFormat.ANTHROPIC_MESSAGES: _provider(anthropic_messages),
    WireFormat.GEMINI: _provider(gemini),
    WireFormat.COHERE: _provider(cohere),
    WireFormat.BEDROCK: _provider(bedrock),
}
"""What providers speak."""


def _native(wire_format: WireFormat, *cap: str, **more: Any) -> NativePassthrough:
    return NativePassthrough(FORMATS[wire_format], PROVIDERS[wire_format], cap, **more)


OPENAI_CHAT = WireFormat.OPENAI_CHAT
"""For what every call asks: Python 3.11 looks an enum's members up in Python."""
CHAT, CITING = ChatPassthrough(), CitingPassthrough()
PASSTHROUGHS: dict[WireFormat, Bridge] = {
    WireFormat.OPENAI_CHAT: CHAT,
    WireFormat.OPENAI_RESPONSES: _native(WireFormat.OPENAI_RESPONSES, "max_output_tokens"),
    WireFormat.ANTHROPIC_MESSAGES: _native(
        WireFormat.ANTHROPIC_MESSAGES, "max_tokens", mark=anthropic_messages.MARK, unmarked=anthropic_messages.without_ours
    ),
    WireFormat.COHERE: _native(WireFormat.COHERE, "max_tokens"),
    WireFormat.GEMINI: _native(WireFormat.GEMINI, "generationConfig", "maxOutputTokens", model_in_body=False),
}


FACTS: dict[tuple[WireFormat, str], openai_json.Facts] = {
    **{(client, operation): read for client in FORMATS for operation, read in openai_json.FACTS.items()},
    **{(client, "transcriptions"): transcription.facts for client in FORMATS},
    **{(client, "chat"): half.facts for client, half in FORMATS.items()},
    (WireFormat.GEMINI, "embeddings"): facts.gemini_embeddings_facts,
    (WireFormat.COHERE, "embeddings"): facts.cohere_embeddings_facts,
}
"""What a format's clients ask for in OpenAI's words, unless the format has its own."""


def read_facts(client: WireFormat, operation: str, envelope: Envelope, model: str | None, stream: bool | None) -> ChatCall:
    """What the gateway must know of a call. Raises Refused, naming the field."""
    return FACTS[client, operation](envelope, model, stream)


COMPLETIONS = _client(completions, openai_json.FACTS["completions"])
"""Legacy completions, for providers that only chat."""
JSON_OPERATION, SPEECH = openai_json.JsonPassthrough(), openai_json.JsonPassthrough(json_answer=False)


def passing(client: WireFormat, deployment: Deployment, operation: str = "chat", *, sse: bool = True) -> Bridge | None:
    """The bridge where both ends speak one format, so that nothing needs translating; else None.

    A provider whose dialect needs more than fields renamed is translated even from its own format.
    """
    provider = deployment.provider
    if client is not provider.wire_format or not sse or provider.quirks.rewritten or operation != "chat":
        return None
    if client is OPENAI_CHAT:
        return CITING if provider.quirks.citations else CHAT
    return PASSTHROUGHS[client]


def bridge(client: WireFormat, deployment: Deployment, stamp: Stamp, operation: str = "chat", *, hub: bool = False) -> Bridge:
    """The bridge for one attempt. `hub`: a chat is translated even where it could pass. Raises Refused when the provider has no
    such operation."""
    provider = deployment.provider
    if operation != "chat":
        found = None
        if operation in provider.endpoints:
            found = _beside_chat(client, provider.wire_format, stamp, operation)
        elif operation == "completions" and provider.wire_format in PROVIDERS:
            found = Translation(COMPLETIONS, PROVIDERS[provider.wire_format], stamp)
        if found is None:
            raise invalid_field("model", f"{deployment.name} has no {operation} here: {provider.title} offers none.")
        return found
    if provider.wire_format not in PROVIDERS:
        raise invalid_field("model", f"{deployment.name} is no chat model: {provider.title} offers none.")
    plain = None if hub else passing(client, deployment, sse=stamp.sse)
    return plain or Translation(FORMATS[client], PROVIDERS[provider.wire_format], stamp)


def joined(client: WireFormat, deployment: Deployment, stamp: Stamp) -> SeamTranslation:
    """The bridge for one attempt of a chat whose stream may go on elsewhere. Raises Refused."""
    provider = deployment.provider
    if provider.wire_format not in PROVIDERS:
        raise invalid_field("model", f"{deployment.name} is no chat model: {provider.title} offers none.")
    return SeamTranslation(FORMATS[client], PROVIDERS[provider.wire_format], stamp)


def joins(deployment: Deployment) -> bool:
    """Whether a deployment can go on from the beginning of an answer."""
    provider = deployment.provider
    if not provider.quirks.continues:
        return False
    return provider.wire_format is not WireFormat.ANTHROPIC_MESSAGES or anthropic_messages.takes_prefill(deployment.model)


def _beside_chat(client: WireFormat, provider: WireFormat, stamp: Stamp, operation: str) -> Bridge | None:
    """The bridge of an operation that is no chat; None where none is known between these two."""
    if client is provider is WireFormat.OPENAI_CHAT and operation != "transcriptions":
        return SPEECH if operation == "speech" else JSON_OPERATION
    if operation == "embeddings" and provider in embeddings.PROVIDERS:
        return embeddings.Embeddings(embeddings.CLIENTS[client], embeddings.PROVIDERS[provider], stamp)
    if operation == "transcriptions":
        return transcription.transcription(provider)
    if operation == "rerank" and provider is WireFormat.COHERE:
        return Rerank(stamp)
    if operation == "rerank" and client is WireFormat.COHERE and provider is WireFormat.OPENAI_CHAT:
        return JSON_OPERATION  # the shape is Cohere's own
    return None

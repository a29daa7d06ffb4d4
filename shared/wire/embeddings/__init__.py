"""Embeddings between formats: a text's vector is the same number of numbers everywhere, so nothing but words changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import orjson

from shared.domain.catalogue import Deployment, Model, WireFormat
from shared.wire.canonical import Encoded, Stamp
from shared.wire.embeddings import cohere, gemini, openai
from shared.wire.embeddings.canonical import EmbedCall, EmbedReply
from shared.wire.envelope import Envelope
from shared.wire.openai_chat.facts import ChatCall
from shared.wire.reply import MalformedReply, ReplyFacts
from shared.wire.translate import json_error_message
from shared.wire.whole import WholeAnswers

__all__ = ["CLIENTS", "PROVIDERS", "Embeddings"]


class Client(Protocol):
    """How a format's clients ask for embeddings and are answered."""

    decode_call: Callable[..., EmbedCall]
    encode_reply: Callable[[EmbedReply, EmbedCall, Stamp], bytes]


class Provider(Protocol):
    encode_call: Callable[[EmbedCall, Model], Encoded]
    decode_reply: Callable[[bytes], EmbedReply]


CLIENTS: dict[WireFormat, Any] = {
    WireFormat.OPENAI_CHAT: openai,
    WireFormat.GEMINI: gemini,
    WireFormat.COHERE: cohere,
}
PROVIDERS: dict[WireFormat, Any] = {
    WireFormat.OPENAI_CHAT: openai,
    WireFormat.GEMINI: gemini,
    WireFormat.COHERE: cohere,
}


class Embeddings(WholeAnswers):
    """One attempt's bridge (wire/codec.py Bridge)."""

    def __init__(self, client: Client, provider: Provider, stamp: Stamp) -> None:
        self._client, self._provider, self._stamp = client, provider, stamp
        self._call: EmbedCall | None = None

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        """Raises Refused."""
        self._call = self._client.decode_call(orjson.loads(envelope.body), model=call.model)
        encoded = self._provider.encode_call(self._call, deployment.model)
        return encoded.body, list(encoded.dropped)

    def read_reply(self, body: bytes) -> ReplyFacts:
        """Raises MalformedReply, also when a text has no vector."""
        assert self._call is not None
        reply = self._provider.decode_reply(body)
        if len(reply.vectors) != len(self._call.inputs):
            raise MalformedReply(f"answered {len(self._call.inputs)} texts with {len(reply.vectors)} embeddings")
        answer = self._client.encode_reply(reply, self._call, self._stamp)
        return ReplyFacts(body=answer, usage=reply.usage, finish_reason="stop")

    def provider_message(self, body: bytes) -> str | None:
        return json_error_message(body)

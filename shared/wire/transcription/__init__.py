"""Transcriptions: a bridge whose provider may want several requests for one answer (wire/codec.py Bridge, and its steps)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any

import orjson

from shared.domain.catalogue import Deployment, WireFormat
from shared.domain.refusal import Refused
from shared.domain.usage import Usage
from shared.wire.envelope import Envelope, invalid_field
from shared.wire.multipart import encode_form
from shared.wire.openai_chat.facts import ChatCall
from shared.wire.passthrough import ListeningTap
from shared.wire.reply import ReplyFacts
from shared.wire.transcription import assemblyai, deepgram, openai
from shared.wire.transcription.assemblyai import Failed
from shared.wire.transcription.canonical import Step, TranscribeCall
from shared.wire.transcription.facts import facts
from shared.wire.transcription.stream import StreamDecoder
from shared.wire.whole import WholeAnswers

__all__ = ["Failed", "Passthrough", "Step", "Transcription", "facts", "transcription"]


class _Stepwise(WholeAnswers, ABC):
    @abstractmethod
    def first(self, envelope: Envelope, deployment: Deployment, call: ChatCall, boundary: str) -> tuple[Step, list[str]]:
        """The first request, and the client's fields that are not in it. Raises Refused."""

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        """The first request's; where it goes and as what, only `first` tells."""
        step, dropped = self.first(envelope, deployment, call, "waystation")
        return step.body, dropped


class Passthrough(_Stepwise):
    """To a provider of OpenAI's format: the form is written again under the provider's name of the model.

    Where the price is by the minute, the provider is always asked for `verbose_json`, the one answer in which all of them tell
    the duration; the client's own format is made of it.
    """

    def __init__(self) -> None:
        self._content_type = "application/json"
        self._asked: TranscribeCall | None = None

    def first(self, envelope: Envelope, deployment: Deployment, call: ChatCall, boundary: str) -> tuple[Step, list[str]]:
        """`boundary`: one that no client can know, or a file could hold fields of its own making. Raises Refused."""
        values = openai.values_of(envelope) | {"model": deployment.model.sent_id}
        upload = openai.upload_of(envelope)
        price = deployment.model.price
        if price is not None and price.minute_nano:
            if call.stream:
                raise not_streamed(f"{deployment.name} is billed by the minute, and a stream tells no duration")
            if values.get("response_format") != "verbose_json":
                self._asked = openai.decode_call(envelope, model=call.model)
                values["response_format"] = "verbose_json"
        fields: list[tuple[str, str]] = []
        for name, value in values.items():
            if name != "input_audio":
                fields += [(f"{name}[]", _text(each)) for each in value] if type(value) is list else [(name, _text(value))]
        body, content_type = encode_form(fields, [("file", upload)], boundary)
        self._content_type = openai.CONTENT_TYPES.get(str(values.get("response_format")), "application/json")
        path = deployment.provider.endpoints["transcriptions"]
        return Step(method="POST", path=path, body=body, content_type=content_type), []

    def following(self, body: bytes, asked: Step) -> Step | None:
        return None

    def read_reply(self, body: bytes) -> ReplyFacts:
        """Raises MalformedReply."""
        if self._asked is None:
            usage = openai.read_usage(body)
            return ReplyFacts(body=body, usage=usage, finish_reason="stop", content_type=self._content_type)
        transcript, usage = openai.decode_reply(body), openai.read_usage(body)
        answer, content_type = openai.encode_reply(transcript, self._asked)
        return ReplyFacts(body=answer, usage=usage, finish_reason="stop", content_type=content_type)

    def tap(self, *, hide_usage: bool) -> ListeningTap:
        return ListeningTap(StreamDecoder())

    def provider_message(self, body: bytes) -> str | None:
        return None


def _text(value: Any) -> str:
    return value if type(value) is str else orjson.dumps(value).decode()


class Transcription(_Stepwise):
    """To a provider with an API of its own."""

    def __init__(self, provider: ModuleType) -> None:
        self._provider = provider
        self._call: TranscribeCall | None = None
        self._deployment: Deployment | None = None

    def first(self, envelope: Envelope, deployment: Deployment, call: ChatCall, boundary: str) -> tuple[Step, list[str]]:
        """Raises Refused."""
        if call.stream:
            raise not_streamed(f"{deployment.provider.title} is asked for whole transcripts")
        self._call, self._deployment = openai.decode_call(envelope, model=call.model), deployment
        for name in self._provider.REFUSED:
            if self._call.extra.get(name) is not None:
                raise invalid_field(name, f"{name!r} is not taken here: the answer, or what it costs, would go elsewhere.")
        step, dropped = self._provider.first(self._call, deployment.model)
        return step, dropped

    def following(self, body: bytes, asked: Step) -> Step | None:
        """The next request; None when `body` is the transcript. Raises MalformedReply, Failed."""
        if self._provider is not assemblyai:
            return None
        assert self._call is not None
        assert self._deployment is not None
        return assemblyai.following(body, asked, self._call, self._deployment.model)

    def read_reply(self, body: bytes) -> ReplyFacts:
        """Raises MalformedReply. These are billed by the minute: no tokens are counted. Without a duration nothing is said, and
        the flow counts by the bytes."""
        assert self._call is not None
        transcript = self._provider.decode_reply(body)
        usage = None if transcript.duration_s is None else Usage(audio_ms=openai.milliseconds(transcript.duration_s))
        answer, content_type = openai.encode_reply(transcript, self._call)
        return ReplyFacts(body=answer, usage=usage, finish_reason="stop", content_type=content_type)

    def provider_message(self, body: bytes) -> str | None:
        said: str | None = self._provider.error_message(body)
        return said


def not_streamed(why: str) -> Refused:
    return invalid_field("stream", f"This transcription cannot be streamed: {why}. Leave 'stream' out.")


def transcription(provider: WireFormat) -> Passthrough | Transcription | None:
    if provider is WireFormat.OPENAI_CHAT:
        return Passthrough()
    module = {WireFormat.DEEPGRAM: deepgram, WireFormat.ASSEMBLYAI: assemblyai}.get(provider)
    return None if module is None else Transcription(module)

"""Transcriptions: a bridge whose provider may want several requests for one answer (wire/codec.py Bridge, and its steps)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import msgspec
import orjson

from shared.domain.catalogue import Deployment, WireFormat
from shared.domain.usage import Usage
from shared.wire.envelope import Envelope
from shared.wire.multipart import encode_form
from shared.wire.openai_chat.facts import ChatCall
from shared.wire.openai_json import read_usage
from shared.wire.reply import ReplyFacts
from shared.wire.transcription import assemblyai, deepgram, openai
from shared.wire.transcription.assemblyai import Failed
from shared.wire.transcription.canonical import Step, TranscribeCall
from shared.wire.whole import WholeAnswers

__all__ = ["Failed", "Passthrough", "Step", "Transcription", "transcription"]


class _Stepwise(WholeAnswers):
    def first(self, envelope: Envelope, deployment: Deployment, call: ChatCall, boundary: str) -> tuple[Step, list[str]]:
        raise NotImplementedError

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        """The first request's; where it goes and as what, only `first` tells."""
        step, dropped = self.first(envelope, deployment, call, "waystation")
        return step.body, dropped


class Passthrough(_Stepwise):
    """To a provider of OpenAI's format: the form is written again under the provider's name of the model."""

    def __init__(self) -> None:
        self._content_type = "application/json"

    def first(self, envelope: Envelope, deployment: Deployment, call: ChatCall, boundary: str) -> tuple[Step, list[str]]:
        """`boundary`: one that no client can know, or a file could hold fields of its own making. Raises Refused."""
        values = openai.values_of(envelope) | {"model": deployment.model.model_id}
        upload = openai.upload_of(envelope)
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
        return ReplyFacts(body=body, usage=_usage(body), finish_reason="stop", content_type=self._content_type)

    def provider_message(self, body: bytes) -> str | None:
        return None


def _text(value: Any) -> str:
    return value if type(value) is str else orjson.dumps(value).decode()


def _usage(body: bytes) -> Usage | None:
    """Tokens, where the model is billed by them; whisper tells seconds."""
    try:
        told = orjson.loads(body).get("usage")
        return read_usage(msgspec.Raw(orjson.dumps(told))) if type(told) is dict else None
    except (orjson.JSONDecodeError, AttributeError):
        return None


class Transcription(_Stepwise):
    """To a provider with an API of its own."""

    def __init__(self, provider: ModuleType) -> None:
        self._provider = provider
        self._call: TranscribeCall | None = None
        self._deployment: Deployment | None = None

    def first(self, envelope: Envelope, deployment: Deployment, call: ChatCall, boundary: str) -> tuple[Step, list[str]]:
        """Raises Refused."""
        self._call, self._deployment = openai.decode_call(envelope, model=call.model), deployment
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
        """Raises MalformedReply. These are billed by the minute, so no tokens are counted."""
        assert self._call is not None
        answer, content_type = openai.encode_reply(self._provider.decode_reply(body), self._call)
        return ReplyFacts(body=answer, usage=Usage(), finish_reason="stop", content_type=content_type)

    def provider_message(self, body: bytes) -> str | None:
        said: str | None = self._provider.error_message(body)
        return said


def transcription(provider: WireFormat) -> Passthrough | Transcription | None:
    if provider is WireFormat.OPENAI_CHAT:
        return Passthrough()
    module = {WireFormat.DEEPGRAM: deepgram, WireFormat.ASSEMBLYAI: assemblyai}.get(provider)
    return None if module is None else Transcription(module)

"""OpenAI's operations beside chat that are one JSON object in and one answer out: facts, and a bridge that passes them through.

completions (legacy), embeddings, images, moderations, rerank (Cohere's and Jina's shape, as OpenRouter and vLLM take it),
speech. Sources: OpenAI's API reference; OpenRouter's OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import orjson

from shared.domain.catalogue import Deployment
from shared.domain.usage import MAX_TOKENS, Usage
from shared.wire import openai_chat
from shared.wire.envelope import Envelope, invalid_field, wrong_type
from shared.wire.facts import MAX_CHOICES, call_facts
from shared.wire.openai_chat import ChatCall
from shared.wire.openai_chat.facts import checked_model
from shared.wire.reply import UNREADABLE, MalformedReply, ReplyFacts
from shared.wire.whole import WholeAnswers

Facts = Callable[[Envelope, str | None, bool | None], ChatCall]


def completions_facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """`POST /v1/completions`. Raises Refused."""
    _needed(envelope, "prompt")
    streaming = envelope.flag("stream")
    cap = envelope.integer("max_tokens", 0, MAX_TOKENS)
    choices = envelope.integer("n", 1, MAX_CHOICES) or 1
    prompts = envelope.value("prompt")
    many = len(prompts) if type(prompts) is list and prompts and type(prompts[0]) in (str, list) else 1
    return _facts(
        envelope, stream=streaming, max_tokens=cap, choices=choices * many, include_usage=_include_usage(envelope) and streaming
    )


def embeddings_facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """`POST /v1/embeddings`: input is a string, strings, token ids or arrays of them. Raises Refused."""
    given = _needed(envelope, "input")
    if type(given) not in (str, list) or given == []:
        raise wrong_type("input", "a string or an array", given)
    return _facts(envelope, max_tokens=0)


def images_facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """`POST /v1/images/generations`. Raises Refused."""
    envelope.text("prompt")
    if envelope.flag("stream"):
        raise invalid_field("stream", "Images are not streamed here: leave 'stream' out.")
    return _facts(envelope, choices=envelope.integer("n", 1, MAX_CHOICES) or 1)


def moderations_facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """`POST /v1/moderations`. Raises Refused."""
    _needed(envelope, "input")
    return _facts(envelope, max_tokens=0)


def rerank_facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """`POST /v1/rerank`. Raises Refused."""
    envelope.text("query")
    if type(_needed(envelope, "documents")) is not list:
        raise wrong_type("documents", "an array", envelope.value("documents"))
    return _facts(envelope, max_tokens=0)


def speech_facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """`POST /v1/audio/speech`. Raises Refused."""
    envelope.text("input")
    if envelope.value("stream_format") == "sse":
        raise invalid_field("stream_format", "Speech is sent as audio here: leave 'stream_format' out, or say 'audio'.")
    return _facts(envelope)


FACTS: Mapping[str, Facts] = {
    "completions": completions_facts,
    "embeddings": embeddings_facts,
    "images": images_facts,
    "moderations": moderations_facts,
    "rerank": rerank_facts,
    "speech": speech_facts,
}


def _needed(envelope: Envelope, name: str) -> object:
    value = envelope.value(name)
    if value is None:
        raise invalid_field(name, f"Missing required field {name!r}.")
    return value


def _include_usage(envelope: Envelope) -> bool:
    options = envelope.value("stream_options")
    return type(options) is dict and options.get("include_usage") is True


def _facts(
    envelope: Envelope,
    *,
    stream: bool = False,
    include_usage: bool = False,
    max_tokens: int | None = None,
    choices: int = 1,
) -> ChatCall:
    return call_facts(
        envelope,
        model=checked_model(envelope.text("model")),
        stream=stream,
        include_usage=include_usage,
        max_tokens=max_tokens,
        choices=choices,
    )


class _Meta(msgspec.Struct, gc=False):
    usage: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Meta).decode


class JsonPassthrough(WholeAnswers):
    """One of these operations to a provider that has it. The answer may be no JSON (speech): it passes as it came."""

    def __init__(self, *, json_answer: bool = True) -> None:
        self._json_answer = json_answer

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        replace = {"model": orjson.dumps(deployment.model.sent_id)}
        if call.stream and not call.include_usage and deployment.provider.quirks.stream_usage:
            replace["stream_options"] = b'{"include_usage":true}'
        if output_cap is not None and "max_tokens" in envelope.fields:
            replace["max_tokens"] = b"%d" % output_cap
        if envelope.routing is not None and deployment.provider.quirks.takes_routing:
            replace["provider"] = envelope.routing
        return envelope.edited(replace), []

    def read_reply(self, body: bytes) -> ReplyFacts:
        if not self._json_answer:
            return ReplyFacts(body=body, usage=None, finish_reason="stop")
        try:
            usage = _decode(body).usage
        except UNREADABLE:
            raise MalformedReply("answered with something that is no JSON object") from None
        return ReplyFacts(body=body, usage=read_usage(usage), finish_reason="stop")

    def provider_message(self, body: bytes) -> str | None:
        return None


def read_usage(raw: msgspec.Raw) -> Usage | None:
    """Chat's shape, or the images API's input_tokens and output_tokens."""
    if not raw:
        return None
    usage = openai_chat.read_usage(raw)
    if usage is not None:
        return usage
    report = orjson.loads(bytes(raw))
    given, made = (report.get(name) for name in ("input_tokens", "output_tokens")) if type(report) is dict else (None, None)
    if type(given) is not int or given < 0:
        return None
    return Usage(
        input_tokens=min(given, MAX_TOKENS), output_tokens=min(made, MAX_TOKENS) if type(made) is int and made > 0 else 0
    )

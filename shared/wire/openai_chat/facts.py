"""OpenAI Chat Completions as clients speak it: call facts, refusals.

Refusals are OpenAI error objects, `{"error": {"message", "type", "param", "code"}}`, beside the refusal's own status:

    reason                 type                    code
    invalid_body           invalid_request_error   invalid_body
    invalid_field          invalid_request_error   invalid_field
    missing_key            authentication_error    missing_api_key
    invalid_key            authentication_error    invalid_api_key
    forbidden              permission_error        forbidden
    unknown_model          not_found_error         model_not_found
    no_deployment          not_found_error         no_endpoints
    unavailable            server_error            no_deployment_available
    unknown_url            not_found_error         unknown_url
    method_not_allowed     invalid_request_error   method_not_allowed
    unsupported_media_type invalid_request_error   unsupported_media_type
    body_too_large         invalid_request_error   body_too_large
    slow_request           invalid_request_error   request_timeout
    budget_exhausted       insufficient_quota      budget_exhausted
    unpriced_model         invalid_request_error   unpriced_model
    rate_limited           rate_limit_error        rate_limit_exceeded
    provider_limited       rate_limit_error        provider_rate_limited
    overloaded             server_error            gateway_overloaded
    not_ready              server_error            gateway_not_ready
    provider_refused       invalid_request_error   provider_refused
    context_length         invalid_request_error   context_length_exceeded
    provider_error         server_error            provider_error
    provider_unreachable   server_error            provider_unreachable
    provider_timeout       server_error            provider_timeout
    provider_invalid       server_error            provider_invalid_response
    provider_credential    server_error            provider_credential
    internal               server_error            internal_error

Headers: `Retry-After` (whole seconds, rounded up), `retry-after-ms` and `x-should-retry`, which the SDKs obey. They
give up, rather than wait, when `Retry-After` is above 120 s (openai-python 3.52).
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import orjson

from shared.domain.refusal import Reason, Refusal
from shared.domain.usage import MAX_TOKENS
from shared.wire import sse
from shared.wire.envelope import Envelope, invalid_field, wrong_type

MAX_CHOICES = 128
MAX_MODEL_CHARS = 256
TEXT_PARTS = ("text", "refusal", "thinking")

PING = sse.comment(b"waystation")
DONE = sse.event(b"[DONE]")
"""What ends a stream that ended well."""

ERRORS: dict[Reason, tuple[str, str]] = {
    Reason.INVALID_BODY: ("invalid_request_error", "invalid_body"),
    Reason.INVALID_FIELD: ("invalid_request_error", "invalid_field"),
    Reason.MISSING_KEY: ("authentication_error", "missing_api_key"),
    Reason.INVALID_KEY: ("authentication_error", "invalid_api_key"),
    Reason.FORBIDDEN: ("permission_error", "forbidden"),
    Reason.UNKNOWN_MODEL: ("not_found_error", "model_not_found"),
    Reason.NO_DEPLOYMENT: ("not_found_error", "no_endpoints"),
    Reason.UNAVAILABLE: ("server_error", "no_deployment_available"),
    Reason.UNKNOWN_URL: ("not_found_error", "unknown_url"),
    Reason.METHOD_NOT_ALLOWED: ("invalid_request_error", "method_not_allowed"),
    Reason.UNSUPPORTED_MEDIA_TYPE: ("invalid_request_error", "unsupported_media_type"),
    Reason.BODY_TOO_LARGE: ("invalid_request_error", "body_too_large"),
    Reason.SLOW_REQUEST: ("invalid_request_error", "request_timeout"),
    Reason.BUDGET_EXHAUSTED: ("insufficient_quota", "budget_exhausted"),
    Reason.UNPRICED_MODEL: ("invalid_request_error", "unpriced_model"),
    Reason.RATE_LIMITED: ("rate_limit_error", "rate_limit_exceeded"),
    Reason.PROVIDER_LIMITED: ("rate_limit_error", "provider_rate_limited"),
    Reason.OVERLOADED: ("server_error", "gateway_overloaded"),
    Reason.NOT_READY: ("server_error", "gateway_not_ready"),
    Reason.PROVIDER_REFUSED: ("invalid_request_error", "provider_refused"),
    Reason.CONTEXT_LENGTH: ("invalid_request_error", "context_length_exceeded"),
    Reason.PROVIDER_ERROR: ("server_error", "provider_error"),
    Reason.PROVIDER_UNREACHABLE: ("server_error", "provider_unreachable"),
    Reason.PROVIDER_TIMEOUT: ("server_error", "provider_timeout"),
    Reason.PROVIDER_INVALID: ("server_error", "provider_invalid_response"),
    Reason.PROVIDER_CREDENTIAL: ("server_error", "provider_credential"),
    Reason.INTERNAL: ("server_error", "internal_error"),
}


class Media(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a call carries beside text, in parts. The bytes are those of base64 within the body."""

    images: int = 0
    audio: int = 0
    files: int = 0
    others: int = 0
    """Parts of a kind not known here, and references to earlier audio: nobody can say what they cost."""
    by_reference: int = 0
    """How many of all these the provider fetches or has already (URLs, file ids)."""
    image_bytes: int = 0
    audio_bytes: int = 0
    file_bytes: int = 0

    @property
    def inline_bytes(self) -> int:
        return self.image_bytes + self.audio_bytes + self.file_bytes


NO_MEDIA = Media()


class Sound(msgspec.Struct, frozen=True):
    """How long sound in a call can be, and how long it likely is (wire/transcription/length.py)."""

    most_ms: int
    likely_ms: int


class ChatCall(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the gateway reads of a call; all the rest travels unread.

    `max_tokens` bounds the output of each of `choices`; None: the client set no bound. With both of OpenAI's fields
    given, which OpenAI itself refuses, it is the larger.
    """

    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    choices: int
    messages: int
    media: Media
    body_bytes: int
    sound: Sound | None = None
    """What is to be transcribed, for prices by the minute."""

    @property
    def text_bytes(self) -> int:
        """Bytes of the body without inline media."""
        return self.body_bytes - self.media.inline_bytes


def checked_model(model: str) -> str:
    """Raises Refused."""
    if not model.strip() or len(model) > MAX_MODEL_CHARS or not model.isprintable():
        raise invalid_field("model", f"Invalid value for 'model': expected 1 to {MAX_MODEL_CHARS} printable characters.")
    return model


def messages_of(envelope: Envelope) -> list[Any]:
    """Raises Refused."""
    messages = envelope.value("messages")
    if messages is None:
        raise invalid_field("messages", "Missing required field 'messages': it must be an array of messages.")
    if type(messages) is not list:
        raise wrong_type("messages", "an array of messages", messages)
    if not messages:
        raise invalid_field("messages", "Invalid value for 'messages': expected at least one message.")
    return messages


def check_call(envelope: Envelope) -> ChatCall:
    """Check the fields that decide about routing, limits and money, and read them. Raises Refused, naming the field.

    Releases the envelope's parsed values: nothing reads them afterwards.
    """
    model = checked_model(envelope.text("model"))
    messages = messages_of(envelope)
    stream = envelope.flag("stream")
    cap, other = envelope.integer("max_tokens", 1, MAX_TOKENS), envelope.integer("max_completion_tokens", 1, MAX_TOKENS)
    call = ChatCall(
        model=model,
        stream=stream,
        include_usage=_include_usage(envelope) and stream,
        max_tokens=cap if other is None else max(other, cap or 0),
        choices=envelope.integer("n", 1, MAX_CHOICES) or 1,
        messages=len(messages),
        media=_media(messages),
        body_bytes=len(envelope.body),
    )
    envelope.release()
    return call


def _include_usage(envelope: Envelope) -> bool:
    options = envelope.value("stream_options")
    if options is None:
        return False
    if type(options) is not dict:
        raise wrong_type("stream_options", "an object", options)
    for name in options:
        if name != "include_usage" and name.casefold() == "include_usage":
            raise invalid_field(f"stream_options.{name}", f"Unknown field {name!r}: did you mean 'include_usage'?")
    include = options.get("include_usage")
    if include is not None and type(include) is not bool:
        raise wrong_type("stream_options.include_usage", "a boolean", include)
    return include is True


def _media(messages: list[object]) -> Media:
    """Count what is not text. Raises Refused when a message, its content or a part of it is of the wrong type."""
    parts: list[dict[str, object]] = []
    for index, message in enumerate(messages):
        if type(message) is not dict:
            raise wrong_type(f"messages[{index}]", "an object", message)
        content = message.get("content")
        if type(content) is list:
            for at, part in enumerate(content):
                if type(part) is not dict:
                    raise wrong_type(f"messages[{index}].content[{at}]", "an object", part)
                if part.get("type") not in TEXT_PARTS:
                    parts.append(part)
        elif content is not None and type(content) is not str:
            raise wrong_type(f"messages[{index}].content", "a string or an array of parts", content)
        if message.get("audio") is not None:
            parts.append({"type": "audio"})
    return _count(parts) if parts else NO_MEDIA


def _count(parts: list[dict[str, object]]) -> Media:
    counts = {"image_url": 0, "input_audio": 0, "file": 0}
    sizes = dict(counts)
    others = by_reference = 0
    for part in parts:
        kind = part.get("type")
        if type(kind) is not str or kind not in counts:
            others += 1
            by_reference += 1
            continue
        inline = _inline_bytes(part.get(kind))
        counts[kind] += 1
        sizes[kind] += inline
        by_reference += inline == 0
    return Media(
        images=counts["image_url"],
        audio=counts["input_audio"],
        files=counts["file"],
        others=others,
        by_reference=by_reference,
        image_bytes=sizes["image_url"],
        audio_bytes=sizes["input_audio"],
        file_bytes=sizes["file"],
    )


def _inline_bytes(source: object) -> int:
    """Length of a part's base64, 0 when it is elsewhere: image_url {url}, input_audio {data}, file {file_data}."""
    if type(source) is not dict:
        source = {"url": source}
    data = source.get("data") or source.get("file_data")
    if type(data) is str:
        return len(data)
    url = source.get("url")
    return len(url) if type(url) is str and url.startswith("data:") else 0


def encode_refusal(refusal: Refusal, request_id: str | None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a refusal."""
    headers = {"Content-Type": "application/json"}
    if request_id is not None:
        headers["x-request-id"] = request_id
    if refusal.retry_after_s is not None:
        wait_ms = max(0, math.ceil(refusal.retry_after_s * 1000))
        headers["Retry-After"] = str(-(-wait_ms // 1000))
        headers["retry-after-ms"] = str(wait_ms)
    if refusal.retry is not None:
        headers["x-should-retry"] = "true" if refusal.retry else "false"
    headers.update(refusal.headers)
    return refusal.status, headers, _error_object(refusal)


def encode_stream_error(refusal: Refusal, sequence: int = 0) -> bytes:
    """The event that ends a stream which went wrong after it began; no `[DONE]` follows it."""
    return sse.event(_error_object(refusal))


def _error_object(refusal: Refusal) -> bytes:
    if refusal.raw_body is not None:
        return refusal.raw_body
    kind, code = ERRORS[refusal.reason]
    error = {"message": refusal.message, "type": kind, "param": refusal.field, "code": code}
    return orjson.dumps({"error": error})

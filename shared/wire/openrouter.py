"""OpenRouter's face: what answers at /api/v1 say beyond their format, put onto whatever another bridge makes.

    Chat          id `gen-…`, `provider`, `native_finish_reason` beside a `finish_reason` of OpenRouter's own list, `reasoning`,
                  usage with `cost`, `cost_details`, `is_byok`; in a stream it comes once, in the last chunk
    Responses,
    Messages      the costs in their usage
    errors        `{"error": {"code": <status>, "message", "metadata"}}`; in a stream a chunk with an error

Source: OpenRouter's OpenAPI document and its error pages. Each answer and event is decoded and written again, which is why it
happens at /api/v1 and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import orjson
from msgspec.structs import replace

from shared.domain.catalogue import Deployment, WireFormat
from shared.domain.failure import TOO_LONG
from shared.domain.refusal import Reason, Refusal
from shared.domain.usage import Usage
from shared.wire import loose, openai_chat, sse
from shared.wire.codec import Bridge, Tap
from shared.wire.envelope import Envelope, open_envelope
from shared.wire.openai_chat import ChatCall
from shared.wire.openai_chat.reply import FINISH, stop_of
from shared.wire.preferences import CLIENTS
from shared.wire.reply import ReplyFacts

PING = sse.comment(b"OPENROUTER PROCESSING")
"""What keeps a silent stream alive, as its clients know it."""
NANO_PER_USD = 1_000_000_000
OWN = frozenset(
    {
        "usage", "transforms", "plugins", "session_id", "preset", "debug", "trace", "image_config", "stop_server_tools_when",
        "top_a",
    }
)  # fmt: skip
"""Fields that only OpenRouter takes: elsewhere they are left out, since others refuse what they do not know."""
HEEDED = frozenset({"usage", "session_id", "trace", "transforms", "plugins"})
"""Those of them that want nothing of the answer that it has not got anyway, or that were heeded before (wire/extensions.py)."""
THROUGH_THE_HUB = ("reasoning", "include_reasoning")
"""Fields that a provider of Chat's format may know under another name: with them a call is translated."""
FINISHES = frozenset({"stop", "length", "tool_calls", "content_filter", "error"})

ERROR_TYPES: dict[Reason, str] = {
    Reason.INVALID_BODY: "invalid_request",
    Reason.INVALID_FIELD: "invalid_request",
    Reason.MISSING_KEY: "authentication",
    Reason.INVALID_KEY: "authentication",
    Reason.FORBIDDEN: "permission_denied",
    Reason.UNKNOWN_MODEL: "not_found",
    Reason.UNKNOWN_URL: "not_found",
    Reason.NO_DEPLOYMENT: "not_found",
    Reason.UNAVAILABLE: "provider_unavailable",
    Reason.BODY_TOO_LARGE: "payload_too_large",
    Reason.BUDGET_EXHAUSTED: "payment_required",
    Reason.UNPRICED_MODEL: "permission_denied",
    Reason.RATE_LIMITED: "rate_limit_exceeded",
    Reason.PROVIDER_LIMITED: "rate_limit_exceeded",
    Reason.PROVIDER_REFUSED: "invalid_request",
    Reason.OVERLOADED: "provider_overloaded",
    Reason.CONTEXT_LENGTH: "context_length_exceeded",
    Reason.PROVIDER_TIMEOUT: "timeout",
    Reason.PROVIDER_ERROR: "provider_unavailable",
    Reason.PROVIDER_UNREACHABLE: "provider_unavailable",
    Reason.PROVIDER_INVALID: "provider_unavailable",
    Reason.INTERNAL: "server",
}
"""OpenRouter's own list; what has no word there is `unmapped`."""


EXCLUDED_BY = {
    "provider.only": ("no_endpoints", "allowed_providers"),
    "provider.ignore": ("no_endpoints", "allowed_providers"),
    "provider.order": ("no_endpoints", "allowed_providers"),
    "provider.free": ("no_endpoints", "max_price"),
    "provider.max_price": ("constraint_filtered", "max_price"),
    "provider.quantizations": ("constraint_filtered", "quantization"),
    "provider.require_parameters": ("constraint_filtered", "require_parameters"),
    "provider.data_collection": ("privacy_restricted", "data_policy:training"),
    "provider.zdr": ("privacy_restricted", "data_policy:zdr"),
}
"""By the rule that left nothing: what `error.availability` says."""
COMPRESS = 'Shorten it, or send `"transforms": ["middle-out"]` to have its middle left out.'


class Cost(msgspec.Struct, frozen=True):
    """Of one answer, in nano-USD."""

    total_nano_usd: int
    output_nano_usd: int


class Face(msgspec.Struct, frozen=True, kw_only=True):
    """What one answer says of itself. `cost` gives None where the price is unknown."""

    wire_format: WireFormat
    event_id: str
    provider: str
    cost: Callable[[Usage], Cost | None]

    @property
    def generation_id(self) -> str:
        return "gen-" + self.event_id.replace("-", "")


Fitting = Callable[[Envelope], tuple[Envelope, str | None]]
"""A body made to fit a deployment's context, and what was left out."""


class Dressed:
    """A bridge whose answers wear the face (wire/codec.py Bridge)."""

    def __init__(self, bridge: Bridge, face: Face, documents: bytes | None = None, fitting: Fitting | None = None) -> None:
        """`documents`: what is to be ranked, as JSON: its results hold them again."""
        self._bridge, self._face, self._documents, self._fitting = bridge, face, documents, fitting

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        own = [] if deployment.provider.quirks.takes_routing else [name for name in envelope.fields if name in OWN]
        cut: str | None = None
        if self._fitting is not None:
            envelope, cut = self._fitting(envelope)
        if own and self._face.wire_format in CLIENTS:
            routing = envelope.routing
            envelope = open_envelope(envelope.edited(drop=own))
            envelope.routing = routing
        body, dropped = self._bridge.request_body(envelope, deployment, call, output_cap)
        told = [*(name for name in own if name not in HEEDED and name not in dropped), *dropped]
        return body, told if cut is None else [cut, *told]

    def read_reply(self, body: bytes) -> ReplyFacts:
        """Raises MalformedReply."""
        reply = self._bridge.read_reply(body)
        answer = loose.parsed(reply.body)
        if type(answer) is not dict:
            return reply
        if self._documents is not None:
            answer = with_documents(answer, loose.array(loose.parsed(self._documents)))
        return replace(reply, body=orjson.dumps(put_on(answer, self._face, reply.usage)))

    def tap(self, *, hide_usage: bool) -> DressedTap:
        return DressedTap(self._bridge.tap(hide_usage=hide_usage), self._face)

    def stream_error(self, refusal: Refusal, sequence: int) -> bytes:
        if self._face.wire_format is not WireFormat.OPENAI_CHAT:
            return self._bridge.stream_error(refusal, sequence)
        return sse.event(orjson.dumps(error_chunk(error_object(refusal), self._face)))

    def provider_message(self, body: bytes) -> str | None:
        return self._bridge.provider_message(body)


class DressedTap:
    """Another tap's events, with the face on. What it heard is copied after each step (wire/codec.py Tap)."""

    def __init__(self, tap: Tap, face: Face) -> None:
        self._tap, self._face = tap, face
        self._splitter = sse.Splitter()
        self._copy()

    def _copy(self) -> None:
        tap = self._tap
        self.usage: Usage | None = tap.usage
        self.finish_reason: str | None = tap.finish_reason
        self.error: bytes | None = tap.error
        self.done = tap.done
        self.events, self.deltas, self.content_bytes = tap.events, tap.deltas, tap.content_bytes
        self.first_token_seen = tap.first_token_seen
        self.terminator = tap.terminator

    @property
    def sequence(self) -> int:
        return self._tap.sequence

    @property
    def response(self) -> dict[str, Any] | None:
        return self._tap.response

    def feed(self, chunk: bytes) -> bytes:
        """Raises MalformedReply."""
        try:
            return self._dressed(self._tap.feed(chunk))
        finally:
            self._copy()

    def close(self) -> bytes:
        try:
            return self._dressed(self._tap.close())
        finally:
            self._copy()

    def _dressed(self, out: bytes) -> bytes:
        """`out` is whole events: taps give out nothing else."""
        events = self._splitter.feed(out) if out else ()
        return b"".join([raw if data is None else self._event(raw, data) for raw, data in events])

    def _event(self, raw: bytes, data: bytes) -> bytes:
        event = loose.parsed(data)
        if type(event) is not dict:
            return raw
        face = self._face
        if face.wire_format is WireFormat.OPENAI_CHAT and event.get("error"):
            worn: dict[str, Any] = error_chunk(_error_of(event["error"]), face)
        else:
            worn = put_on(event, face, self._tap.usage)
        lines = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        head = b"".join([line + b"\n" for line in lines if line and not line.startswith(b"data")])
        return head + b"data: " + orjson.dumps(worn) + b"\n\n"


def put_on(answer: dict[str, Any], face: Face, usage: Usage | None) -> dict[str, Any]:
    """An answer or an event of one, with what OpenRouter says beside."""
    if face.wire_format is WireFormat.OPENAI_CHAT:
        answer = _as_generation(answer, face)
    elif answer.get("object") == "response":
        answer = NEEDED | answer
    inner = answer.get("response")
    told = inner if type(inner) is dict else answer
    cost = face.cost(usage) if usage is not None and type(told.get("usage")) is dict else None
    if cost is None:
        return answer
    told = told | {"usage": told["usage"] | _costs(cost)}
    return answer | {"response": told} if type(inner) is dict else told


NEEDED = {
    "completed_at": None, "instructions": None, "metadata": None, "temperature": None, "top_p": None,
    "frequency_penalty": 0, "presence_penalty": 0,
}  # fmt: skip
"""Keys that OpenRouter's SDKs do not go without in a response."""


def with_documents(answer: dict[str, Any], documents: list[Any]) -> dict[str, Any]:
    """A ranking, each result with its document."""
    results = []
    for result in loose.tables(answer.get("results")):
        at = result.get("index")
        known = documents[at] if type(at) is int and 0 <= at < len(documents) else ""
        results.append({"document": known if type(known) is dict else {"text": str(known)}} | result)
    return answer | {"results": results}


def _costs(cost: Cost) -> dict[str, Any]:
    total, made = cost.total_nano_usd / NANO_PER_USD, cost.output_nano_usd / NANO_PER_USD
    given = (cost.total_nano_usd - cost.output_nano_usd) / NANO_PER_USD
    details = {
        "upstream_inference_cost": total,
        "upstream_inference_prompt_cost": given,
        "upstream_inference_completions_cost": made,
        "upstream_inference_input_cost": given,
        "upstream_inference_output_cost": made,
    }
    return {"cost": total, "cost_details": details, "is_byok": False}


def _as_generation(answer: dict[str, Any], face: Face) -> dict[str, Any]:
    """A chat or a completion; embeddings and the like have no choices and stay as they are."""
    answer = {name: value for name, value in answer.items() if name != "usage" or value is not None}
    choices = answer.get("choices")
    if type(choices) is not list:
        return answer
    worn = answer | {"id": face.generation_id, "choices": [_choice(each) if type(each) is dict else each for each in choices]}
    worn.setdefault("provider", face.provider)
    kind = answer.get("object")
    if kind == "chat.completion":  # its SDKs want the key here, null or not, and no null in a chunk
        worn.setdefault("system_fingerprint", None)
    elif kind == "chat.completion.chunk" and worn.get("system_fingerprint") is None:
        worn.pop("system_fingerprint", None)
    return worn


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    finish = choice.get("finish_reason")
    worn = dict(choice)
    if type(finish) is str:
        worn.setdefault("native_finish_reason", finish)
        if finish not in FINISHES:
            called = finish == "function_call" or bool(loose.table(choice.get("message")).get("tool_calls"))
            worn["finish_reason"] = FINISH[stop_of(finish, called=called)]
    for name in ("message", "delta"):
        part = choice.get(name)
        if type(part) is dict and "reasoning_content" in part:
            thought = part.get("reasoning") or part["reasoning_content"]
            rest = {key: value for key, value in part.items() if key != "reasoning_content"}
            worn[name] = rest | {"reasoning": thought}
    return worn


# -- errors


def encode_refusal(refusal: Refusal, request_id: str | None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a refusal."""
    status, headers, _ = openai_chat.encode_refusal(refusal, request_id)
    return status, headers, orjson.dumps({"error": error_object(refusal)})


def error_object(refusal: Refusal) -> dict[str, Any]:
    """What a provider said in an error of OpenAI's shape is said on; of a prompt that is too long, what helps."""
    raw = loose.table(loose.table(loose.parsed(refusal.raw_body or b"")).get("error"))
    message = loose.text(raw.get("message")) or refusal.message
    reason = refusal.reason
    if reason is Reason.PROVIDER_REFUSED and (raw.get("code") == "context_length_exceeded" or TOO_LONG.search(message)):
        reason = Reason.CONTEXT_LENGTH
    if reason is Reason.CONTEXT_LENGTH:
        message = f"{message} {COMPRESS}"
    metadata: dict[str, Any] = {"error_type": ERROR_TYPES.get(reason, "unmapped")}
    if refusal.field is not None:
        metadata["field"] = refusal.field
    if refusal.provider is not None:
        metadata["provider_name"] = refusal.provider
    return {"code": refusal.status, "message": message, "metadata": metadata} | _availability(refusal)


def _availability(refusal: Refusal) -> dict[str, Any]:
    """Why there was nobody to ask, in OpenRouter's words."""
    told: dict[str, Any]
    if refusal.rule in EXCLUDED_BY:
        code, by = EXCLUDED_BY[refusal.rule]
        told = {"code": code, "retryable": False, "excluded_by": [by]}
    elif refusal.reason is Reason.UNKNOWN_MODEL:
        told = {"code": "model_not_found", "retryable": False}
    elif refusal.reason is Reason.UNAVAILABLE:
        told = {"code": "temporarily_unavailable", "retryable": refusal.retry is True}
    else:
        return {}
    return {"availability": told}


def _error_of(error: Any) -> dict[str, Any]:
    """A provider's error object in the midst of a stream."""
    told = loose.table(error)
    code = told.get("code")
    return {
        "code": code if type(code) is int and 400 <= code < 600 else 502,
        "message": loose.text(told.get("message")) or loose.text(error) or "The provider failed.",
        "metadata": {"error_type": "provider_unavailable"},
    }


def encode_stream_error(refusal: Refusal) -> bytes:
    """The event that ends a stream which nobody answers any more: this node stops."""
    return sse.event(orjson.dumps(error_chunk(error_object(refusal), None)))


def error_chunk(error: dict[str, Any], face: Face | None) -> dict[str, Any]:
    """The event that ends a stream."""
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "native_finish_reason": None}
    return {
        "id": "" if face is None else face.generation_id,
        "object": "chat.completion.chunk",
        "provider": "" if face is None else face.provider,
        "error": error,
        "choices": [choice],
    }

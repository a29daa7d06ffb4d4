"""Refusals in Anthropic's format: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

reason                                    status  type
missing_key, invalid_key                  401     authentication_error
forbidden                                 403     permission_error
unknown_model, unknown_url                404     not_found_error
body_too_large                            413     request_too_large
budget_exhausted                          429     billing_error
rate_limited, provider_limited            429     rate_limit_error
overloaded, not_ready, and providers' 503 529     overloaded_error
provider_timeout                          504     timeout_error
other 5xx                                 as is   api_error
everything else                           as is   invalid_request_error
"""

from __future__ import annotations

import re

import orjson

from shared.domain.refusal import Reason, Refusal
from shared.wire.anthropic_messages.stream import named
from shared.wire.openai_chat.facts import encode_refusal as encode_openai_refusal

PING = named({"type": "ping"})

KINDS: dict[Reason, str] = {
    Reason.MISSING_KEY: "authentication_error",
    Reason.INVALID_KEY: "authentication_error",
    Reason.FORBIDDEN: "permission_error",
    Reason.UNKNOWN_MODEL: "not_found_error",
    Reason.NO_DEPLOYMENT: "not_found_error",
    Reason.UNKNOWN_URL: "not_found_error",
    Reason.BODY_TOO_LARGE: "request_too_large",
    Reason.BUDGET_EXHAUSTED: "billing_error",
    Reason.RATE_LIMITED: "rate_limit_error",
    Reason.PROVIDER_LIMITED: "rate_limit_error",
    Reason.OVERLOADED: "overloaded_error",
    Reason.NOT_READY: "overloaded_error",
    Reason.PROVIDER_TIMEOUT: "timeout_error",
}
OVERLOADED = 529


_MOST = re.compile(r"maximum (?:context length|[a-z ]*)\D{0,20}(\d+)|limit of (\d+)", re.IGNORECASE)
_GIVEN = re.compile(r"(?:resulted in|requested|has|contains|token count \(?)\D{0,12}(\d+)", re.IGNORECASE)


def message_of(refusal: Refusal) -> str:
    """Claude Code compacts a conversation when it reads `prompt is too long: N tokens > M maximum`."""
    if refusal.reason is not Reason.CONTEXT_LENGTH or refusal.message.startswith("prompt is too long"):
        return refusal.message
    most, given = _MOST.search(refusal.message), _GIVEN.search(refusal.message)
    if most is None or given is None:
        return f"prompt is too long: {refusal.message}"
    return f"prompt is too long: {given[1]} tokens > {most[1] or most[2]} maximum"


def kind_of(refusal: Refusal) -> str:
    if refusal.reason in KINDS:
        return KINDS[refusal.reason]
    if refusal.status == 503:
        return "overloaded_error"
    return "api_error" if refusal.status >= 500 else "invalid_request_error"


def encode_refusal(refusal: Refusal, request_id: str | None) -> tuple[int, dict[str, str], bytes]:
    status, headers, _ = encode_openai_refusal(refusal, request_id)
    if request_id is not None:
        headers["request-id"] = request_id
    return OVERLOADED if status == 503 else status, headers, _body(refusal, request_id)


def _body(refusal: Refusal, request_id: str | None) -> bytes:
    if refusal.raw_body is not None:
        return refusal.raw_body
    error = {"type": kind_of(refusal), "message": message_of(refusal)}
    return orjson.dumps({"type": "error", "error": error, "request_id": request_id})


def encode_stream_error(refusal: Refusal, sequence: int = 0) -> bytes:
    """The event that ends a stream which went wrong after it began; no message_stop follows it."""
    return named({"type": "error", "error": {"type": kind_of(refusal), "message": message_of(refusal)}})


def error_message(body: bytes) -> str | None:
    """The message of a provider's error, in this shape or OpenAI's."""
    try:
        error = orjson.loads(body)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return None
    return error if type(error) is str else None

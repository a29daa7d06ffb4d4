"""Refusals in Google's format: `{"error": {"code", "message", "status", "details"}}`; RetryInfo says when to come back."""

from __future__ import annotations

import orjson

from shared.domain.refusal import Refusal
from shared.wire.openai_chat.facts import encode_refusal as encode_openai_refusal
from shared.wire.translate import json_error_message as error_message

__all__ = ["PING", "encode_refusal", "encode_stream_error", "error_message"]

PING = b"\n"
STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED",
    409: "ABORTED", 413: "INVALID_ARGUMENT", 415: "INVALID_ARGUMENT", 422: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL", 502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


def encode_refusal(refusal: Refusal, request_id: str | None) -> tuple[int, dict[str, str], bytes]:
    status, headers, _ = encode_openai_refusal(refusal, request_id)
    return status, headers, refusal.raw_body if refusal.raw_body is not None else _body(refusal)


def encode_stream_error(refusal: Refusal, sequence: int = 0) -> bytes:
    """The event that ends a stream which went wrong after it began."""
    return b"data: " + _body(refusal) + b"\r\n\r\n"


def _body(refusal: Refusal) -> bytes:
    details: list[dict[str, object]] = [{"@type": ERROR_INFO, "reason": refusal.reason.value.upper()}]
    if refusal.field is not None:
        details[0]["metadata"] = {"field": refusal.field}
    if refusal.retry_after_s is not None:
        details.append({"@type": RETRY_INFO, "retryDelay": f"{refusal.retry_after_s:.3f}s"})
    status = STATUSES.get(refusal.status, "INTERNAL" if refusal.status >= 500 else "FAILED_PRECONDITION")
    error = {"code": refusal.status, "message": refusal.message, "status": status, "details": details}
    return orjson.dumps({"error": error})

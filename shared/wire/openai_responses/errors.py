"""Refusals to Responses clients: OpenAI's error object before an answer, `response.failed` within one.

Codex knows `context_length_exceeded`, `insufficient_quota`, and `rate_limit_exceeded` with "try again in 7s" in the message;
everything else it tries again.
"""

from __future__ import annotations

import orjson

from shared.domain.refusal import Reason, Refusal
from shared.wire import sse
from shared.wire.openai_chat.facts import encode_refusal
from shared.wire.translate import json_error_message as error_message

__all__ = ["PING", "encode_refusal", "encode_stream_error", "error_message"]

PING = sse.comment(b"waystation")
CODES: dict[Reason, str] = {
    Reason.CONTEXT_LENGTH: "context_length_exceeded",
    Reason.BUDGET_EXHAUSTED: "insufficient_quota",
    Reason.RATE_LIMITED: "rate_limit_exceeded",
    Reason.PROVIDER_LIMITED: "rate_limit_exceeded",
    Reason.PROVIDER_REFUSED: "invalid_prompt",
}


def encode_stream_error(refusal: Refusal, sequence: int = 0) -> bytes:
    """The event that ends a stream which went wrong after it began. `sequence`: how many events came before."""
    message = refusal.message
    if refusal.retry_after_s is not None:
        message = f"{message} Please try again in {refusal.retry_after_s:g}s."
    error = {"code": CODES.get(refusal.reason, "server_error"), "message": message}
    response = {"object": "response", "status": "failed", "error": error, "output": []}
    body = orjson.dumps({"type": "response.failed", "sequence_number": sequence, "response": response})
    return b"event: response.failed\ndata: " + body + b"\n\n"

"""An attempt's bad end. What follows from each class is one table: providers/failure.py."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

TOO_LONG = re.compile(
    r"context.length.exceeded|maximum context length|prompt is too long|input is too long|too many (?:input )?tokens"
    r"|exceeds? the (?:model's )?(?:maximum|context|limit)|input token count .{0,40}exceeds",
    re.IGNORECASE,
)
"""How providers say that a prompt is longer than the model's context."""


class FailureClass(StrEnum):
    CLIENT_FAULT = "client_fault"
    CREDENTIAL = "credential"
    QUOTA = "quota"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    PROVIDER_FAULT = "provider_fault"
    CONNECT = "connect"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    DEADLINE = "deadline"
    IDLE_TIMEOUT = "idle_timeout"
    CUT = "cut"
    MALFORMED = "malformed"
    CONTENT_FILTER = "content_filter"


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is the provider's, when it answered; `retry_after_s` what it asked for; `body` its error, bounded."""

    failure_class: FailureClass
    message: str
    status: int | None = None
    retry_after_s: float | None = None
    body: bytes = b""
    by_proxy: bool = False
    """The network proxy failed, not the provider."""
    sent: bool = True
    """Whether any byte of the request may have reached the provider: if not, nothing was spent."""

"""An attempt's bad end. What follows from each class is one table: providers/failure.py."""

from __future__ import annotations

from enum import StrEnum

import msgspec


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

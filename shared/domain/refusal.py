"""Our no to a client: why, with which status, about which field, what to do, and when to come back.

Four different noes about capacity, which must never be mistaken for each other (product.md §11.7):
`budget_exhausted`, `rate_limited` (the tenant's own limit), `provider_limited`, `overloaded`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Reason(StrEnum):
    INVALID_BODY = "invalid_body"
    INVALID_FIELD = "invalid_field"
    MISSING_KEY = "missing_key"
    INVALID_KEY = "invalid_key"
    FORBIDDEN = "forbidden"
    UNKNOWN_MODEL = "unknown_model"
    NO_DEPLOYMENT = "no_deployment"
    UNAVAILABLE = "unavailable"
    UNKNOWN_URL = "unknown_url"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    BODY_TOO_LARGE = "body_too_large"
    SLOW_REQUEST = "slow_request"
    BUDGET_EXHAUSTED = "budget_exhausted"
    UNPRICED_MODEL = "unpriced_model"
    RATE_LIMITED = "rate_limited"
    PROVIDER_LIMITED = "provider_limited"
    OVERLOADED = "overloaded"
    NOT_READY = "not_ready"
    PROVIDER_REFUSED = "provider_refused"
    CONTEXT_LENGTH = "context_length"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_UNREACHABLE = "provider_unreachable"
    PROVIDER_TIMEOUT = "provider_timeout"
    PROVIDER_INVALID = "provider_invalid"
    PROVIDER_CREDENTIAL = "provider_credential"
    INTERNAL = "internal"


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """`retry_after_s` is when a retry can succeed; `retry=False` tells SDKs not to try; `retry=None` says nothing.

    `raw_body` is a provider's own error object in the client's format, passed on unchanged.
    """

    reason: Reason
    status: int
    message: str
    field: str | None = None
    retry_after_s: float | None = None
    retry: bool | None = None
    provider: str | None = None
    raw_body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    rule: str | None = None
    """The filter that left no deployment (routing/eligible.py), where one did."""


class Refused(Exception):
    """Carries a refusal up to the host, which writes it in the client's own error format."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def refuse(reason: Reason, status: int, message: str, **rest: object) -> Refused:
    """`raise refuse(Reason.INVALID_FIELD, 400, "…", field="model")`."""
    return Refused(Refusal(reason=reason, status=status, message=message, **rest))  # type: ignore[arg-type]

"""Failure (pure): what a provider's bad answer means, and what follows from each class. The only place that knows.

class               the client gets                      retry
client_fault        the provider's own 4xx and error     no
content_filter      the provider's own 4xx and error     no
credential, quota   502 provider_credential, no details  no: our credential is at fault, an operator must act
rate_limited        429 provider_limited                 after the provider's Retry-After, if it said one
overloaded          503 provider_error                   after the provider's Retry-After, if it said one
provider_fault      502 provider_error                   yes
connect             502 provider_unreachable             yes
first byte, idle    504 provider_timeout                 yes
deadline            504 provider_timeout                 yes: the call's own deadline, not the provider's fault
cut, malformed      502 provider_invalid                 yes
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

from shared.domain.failure import TOO_LONG, Failure, FailureClass
from shared.domain.refusal import Reason, Refusal
from shared.wire.reply import GONE_WRONG

MOST_RETRY_AFTER_S = 3600.0
MOST_BODY = 64 * 1024
CLIENT_FAULTS = frozenset({400, 404, 405, 409, 410, 411, 413, 414, 415, 416, 417, 422, 431})
QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "credit_balance_too_low"})
LOOKS_SECRET = re.compile(
    rb"wsk_[0-9A-Za-z]{12}_|\b(?:sk|gsk|pk|xai|nvapi|fw|key)[-_][0-9A-Za-z_\-*]{6,}|(?i:bearer)\s+\S", re.ASCII
)


class _Error(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None


class _Body(msgspec.Struct):
    error: _Error


_decode = msgspec.json.Decoder(_Body).decode


def classify(status: int, headers: Mapping[str, str], body: bytes, now_s: float) -> Failure:
    """A provider's answer that is no 2xx, as a failure. `headers` have lower-case names."""
    error = _error_of(body)
    code = "" if error is None or error.code is None else str(error.code)
    kind = "" if error is None or error.type is None else error.type
    if status == 429:
        quota = code in QUOTA_CODES or kind in QUOTA_CODES
        failure_class = FailureClass.QUOTA if quota else FailureClass.RATE_LIMITED
    elif status in (401, 403):
        failure_class = FailureClass.CREDENTIAL
    elif status == 402:
        failure_class = FailureClass.QUOTA
    elif status in (503, 529):
        failure_class = FailureClass.OVERLOADED
    elif code == "content_filter":
        failure_class = FailureClass.CONTENT_FILTER
    elif status in CLIENT_FAULTS:
        failure_class = FailureClass.CLIENT_FAULT
    else:
        failure_class = FailureClass.PROVIDER_FAULT
    return Failure(
        failure_class=failure_class,
        message=f"answered {status}",
        status=status,
        retry_after_s=google_retry_delay_s(body) if (told := retry_after_s(headers, now_s)) is None else told,
        body=body[:MOST_BODY],
    )


MINIMAX: dict[int, tuple[FailureClass, int]] = {
    1002: (FailureClass.RATE_LIMITED, 429),  # requests
    1039: (FailureClass.RATE_LIMITED, 429),  # tokens
    1041: (FailureClass.RATE_LIMITED, 429),  # connections
    2045: (FailureClass.RATE_LIMITED, 429),  # growth
    1004: (FailureClass.CREDENTIAL, 401),
    2049: (FailureClass.CREDENTIAL, 401),
    1008: (FailureClass.QUOTA, 402),  # balance
    2056: (FailureClass.QUOTA, 402),  # five hours' allowance
    1026: (FailureClass.CONTENT_FILTER, 400),  # input
    1027: (FailureClass.CONTENT_FILTER, 400),  # output
    1042: (FailureClass.CLIENT_FAULT, 400),  # invisible characters
    2013: (FailureClass.CLIENT_FAULT, 400),
}
"""MiniMax's codes (platform.minimax.io/docs/api-reference/errorcode) and the statuses that others answer so with; all else is
its own fault."""


class _BaseResp(msgspec.Struct, frozen=True):
    status_code: int = 0
    status_msg: str = ""


class _WithBaseResp(msgspec.Struct):
    base_resp: _BaseResp = _BaseResp()


_decode_base_resp = msgspec.json.Decoder(_WithBaseResp).decode


def in_a_good_answer(body: bytes) -> Failure | None:
    """The failure in an answer with status 200: MiniMax says it in `base_resp`. None where there is none.

    Its body becomes an error as OpenAI writes it, so that a client can read the provider's words.
    """
    if b'"base_resp"' not in body:
        return None
    try:
        told = _decode_base_resp(body).base_resp
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if told.status_code == 0:
        return None
    failure_class, status = MINIMAX.get(told.status_code, (FailureClass.PROVIDER_FAULT, 502))
    error = {"message": told.status_msg or "no reason given", "type": failure_class.value, "code": str(told.status_code)}
    return Failure(
        failure_class=failure_class,
        message=f"answered 200 with base_resp.status_code {told.status_code}",
        status=status,
        body=msgspec.json.encode({"error": error}),
    )


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """`retry-after-ms`, or `Retry-After` in seconds or as a date (RFC 9110 §10.2.3); None when absent or unreadable."""
    try:
        if "retry-after-ms" in headers:
            wait_s = float(headers["retry-after-ms"]) / 1000
        elif "retry-after" in headers:
            value = headers["retry-after"].strip()
            wait_s = float(value) if value[:1].isdigit() else _moment(value) - now_s
        else:
            return None
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait_s, 0.0), MOST_RETRY_AFTER_S) if wait_s == wait_s else None


def _moment(value: str) -> float:
    """A date in Unix seconds; one without a zone is in UTC, as all of HTTP's are."""
    at = parsedate_to_datetime(value)
    return (at.replace(tzinfo=UTC) if at.tzinfo is None else at).timestamp()


RETRY_DELAY = re.compile(rb'"retryDelay"\s*:\s*"(\d{1,6}(?:\.\d{1,9})?)s"')


def google_retry_delay_s(body: bytes) -> float | None:
    """Google says it in the error's details: `{"@type": "…RetryInfo", "retryDelay": "38s"}`."""
    match = RETRY_DELAY.search(body[:MOST_BODY])
    return None if match is None else min(float(match[1]), MOST_RETRY_AFTER_S)


def consequence(failure: Failure, provider: str) -> Refusal:
    """What the client is told. `provider` is the provider's title."""
    wait_s = failure.retry_after_s
    match failure.failure_class:
        case FailureClass.CLIENT_FAULT | FailureClass.CONTENT_FILTER:
            return _provider_said_no(failure, provider)
        case FailureClass.CREDENTIAL:
            return Refusal(
                reason=Reason.PROVIDER_CREDENTIAL, status=502, retry=False, provider=provider,
                message=f"{provider} refused the gateway's credential. Your key is fine; tell whoever runs this gateway.",
            )  # fmt: skip
        case FailureClass.QUOTA:
            return Refusal(
                reason=Reason.PROVIDER_CREDENTIAL, status=502, retry=False, provider=provider,
                message=f"The gateway's account at {provider} is out of credit. Tell whoever runs this gateway.",
            )  # fmt: skip
        case FailureClass.RATE_LIMITED:
            return Refusal(
                reason=Reason.PROVIDER_LIMITED, status=429, retry=True, provider=provider,
                retry_after_s=wait_s,
                message=f"{provider} limits the gateway's calls now. This is not your own limit; retry later.",
            )  # fmt: skip
        case FailureClass.OVERLOADED:
            return Refusal(
                reason=Reason.PROVIDER_ERROR, status=503, retry=True, provider=provider,
                retry_after_s=wait_s,
                message=f"{provider} is overloaded (it {failure.message}). Retry later.",
            )  # fmt: skip
        case FailureClass.PROVIDER_FAULT:
            return Refusal(
                reason=Reason.PROVIDER_ERROR, status=502, retry=True, provider=provider, retry_after_s=wait_s,
                message=f"{provider} failed: it {failure.message}. Retry, or use another model.",
            )  # fmt: skip
        case FailureClass.CONNECT:
            return Refusal(
                reason=Reason.PROVIDER_UNREACHABLE, status=502, retry=True, provider=provider,
                message=f"{provider} cannot be reached. Retry, or use another model.",
            )  # fmt: skip
        case FailureClass.FIRST_BYTE_TIMEOUT | FailureClass.IDLE_TIMEOUT:
            return Refusal(
                reason=Reason.PROVIDER_TIMEOUT, status=504, retry=True, provider=provider,
                message=f"{provider} did not answer in time. Retry, or use another model.",
            )  # fmt: skip
        case FailureClass.DEADLINE:
            return Refusal(
                reason=Reason.PROVIDER_TIMEOUT, status=504, retry=True, provider=provider,
                message=f"{provider} did not answer within this call's deadline. Give it more time, or use another model.",
            )  # fmt: skip
        case FailureClass.CUT:
            what = "ended its answer before it was whole"
        case FailureClass.MALFORMED:
            broken = GONE_WRONG in failure.message
            what = f"gave an answer that is none{f' (it {failure.message})' if broken else ''}"
    return Refusal(
        reason=Reason.PROVIDER_INVALID, status=502, retry=True, provider=provider,
        message=f"{provider} {what}. Retry, or use another model.",
    )  # fmt: skip


def in_own_words(refusal: Refusal, failure: Failure, said: str | None) -> Refusal:
    """A provider's no for a client that could not read the provider's own body: its message, in the client's format.

    Clients act on one kind of it: a prompt beyond the context makes them compact the conversation.
    """
    if refusal.reason is not Reason.PROVIDER_REFUSED:
        return refusal
    usable = said is not None and LOOKS_SECRET.search(said.encode()) is None
    message = said if usable and said is not None else refusal.message
    told = b"context_length_exceeded" in failure.body or TOO_LONG.search(message) is not None
    too_long = told and failure.status in (400, 413, 422)
    return msgspec.structs.replace(
        refusal, raw_body=None, message=message[:2000], reason=Reason.CONTEXT_LENGTH if too_long else refusal.reason
    )


def _provider_said_no(failure: Failure, provider: str) -> Refusal:
    """The provider's own words, when they are an OpenAI error object without anything like a credential in it."""
    error = _error_of(failure.body)
    usable = error is not None and error.message and LOOKS_SECRET.search(failure.body) is None
    return Refusal(
        reason=Reason.PROVIDER_REFUSED,
        status=failure.status or 400,
        retry=False,
        provider=provider,
        message=f"{provider} refused the request (it {failure.message}).",
        raw_body=failure.body if usable else None,
    )


def _error_of(body: bytes) -> _Error | None:
    try:
        return _decode(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None

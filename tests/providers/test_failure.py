"""What a provider's bad answer is, how long it asks to wait, and what the client is told."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.failure import Failure, FailureClass
from shared.domain.refusal import Reason, Refusal
from shared.providers.failure import (
    CLIENT_FAULTS,
    LOOKS_SECRET,
    MOST_BODY,
    MOST_RETRY_AFTER_S,
    classify,
    consequence,
    google_retry_delay_s,
    in_a_good_answer,
    in_own_words,
    retry_after_s,
)

NOW_S = 784_111_777.0
"""Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110."""


def error_body(**error: Any) -> bytes:
    return json.dumps({"error": error}).encode()


def class_of(status: int, body: bytes = b"") -> FailureClass:
    return classify(status, {}, body, NOW_S).failure_class


@pytest.mark.parametrize(
    ("status", "failure_class"),
    [
        (400, FailureClass.CLIENT_FAULT),
        (401, FailureClass.CREDENTIAL),
        (402, FailureClass.QUOTA),
        (403, FailureClass.CREDENTIAL),
        (404, FailureClass.CLIENT_FAULT),
        (408, FailureClass.PROVIDER_FAULT),
        (413, FailureClass.CLIENT_FAULT),
        (422, FailureClass.CLIENT_FAULT),
        (429, FailureClass.RATE_LIMITED),
        (301, FailureClass.PROVIDER_FAULT),
        (418, FailureClass.PROVIDER_FAULT),
        (451, FailureClass.PROVIDER_FAULT),
        (500, FailureClass.PROVIDER_FAULT),
        (502, FailureClass.PROVIDER_FAULT),
        (503, FailureClass.OVERLOADED),
        (504, FailureClass.PROVIDER_FAULT),
        (520, FailureClass.PROVIDER_FAULT),
        (529, FailureClass.OVERLOADED),
        (599, FailureClass.PROVIDER_FAULT),
    ],
)
def test_a_status_alone_has_a_class(status: int, failure_class: FailureClass) -> None:
    for body in (b"", b"<html>", b"{}", b"null", b'{"error":"x"}', b'{"error":null}', b'{"error":{"code":[1]}}', b'{"error":'):
        assert class_of(status, body) is failure_class


def test_every_client_fault_is_one() -> None:
    assert {class_of(status) for status in CLIENT_FAULTS} == {FailureClass.CLIENT_FAULT}


@pytest.mark.parametrize(
    ("status", "error", "failure_class"),
    [
        (429, {"code": "insufficient_quota"}, FailureClass.QUOTA),
        (429, {"type": "insufficient_quota", "code": None}, FailureClass.QUOTA),
        (429, {"code": "billing_hard_limit_reached"}, FailureClass.QUOTA),
        (429, {"type": "credit_balance_too_low"}, FailureClass.QUOTA),
        (429, {"code": "rate_limit_exceeded", "type": "requests"}, FailureClass.RATE_LIMITED),
        (429, {"code": 429}, FailureClass.RATE_LIMITED),
        (429, {"code": "content_filter"}, FailureClass.RATE_LIMITED),
        (400, {"code": "content_filter"}, FailureClass.CONTENT_FILTER),
        (422, {"code": "content_filter"}, FailureClass.CONTENT_FILTER),
        (400, {"code": "insufficient_quota"}, FailureClass.CLIENT_FAULT),
        (400, {"code": 400, "type": "content_filter"}, FailureClass.CLIENT_FAULT),
        (401, {"code": "content_filter"}, FailureClass.CREDENTIAL),
        (403, {"code": "insufficient_quota"}, FailureClass.CREDENTIAL),
        (503, {"code": "insufficient_quota"}, FailureClass.OVERLOADED),
    ],
)
def test_a_body_tells_quota_from_rate_and_a_filter_from_a_fault(
    status: int, error: dict[str, Any], failure_class: FailureClass
) -> None:
    assert class_of(status, error_body(**error)) is failure_class


def test_a_failure_keeps_the_status_the_wait_and_a_bounded_body() -> None:
    failure = classify(503, {"retry-after": "7"}, b"x" * (MOST_BODY + 1), NOW_S)
    assert failure == Failure(
        failure_class=FailureClass.OVERLOADED, message="answered 503", status=503, retry_after_s=7.0, body=b"x" * MOST_BODY
    )


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "0"}, 0.0),
        ({"retry-after-ms": "0.5"}, 0.0005),
        ({"retry-after-ms": "-20"}, 0.0),
        ({"retry-after-ms": "inf"}, 3600.0),
        ({"retry-after-ms": "nan"}, None),
        ({"retry-after-ms": "soon"}, None),
        ({"retry-after-ms": "2000", "retry-after": "60"}, 2.0),
        ({"retry-after": "60"}, 60.0),
        ({"retry-after": " 60 "}, 60.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "3600"}, 3600.0),
        ({"retry-after": "3601"}, 3600.0),
        ({"retry-after": "1" * 400}, 3600.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "5 seconds"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Sun, 06 Nov 1994 08:50:07 GMT"}, 30.0),
        ({"retry-after": "Sun, 06 Nov 1994 09:50:07 +0100"}, 30.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:50:07"}, 30.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:50:07 -0000"}, 30.0),
        ({"retry-after": "Sunday, 06-Nov-94 08:50:07 GMT"}, 30.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.0),
        ({"retry-after": "Sat, 05 Nov 1994 08:49:37 GMT"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 2100 23:59:59 GMT"}, 3600.0),
        ({"retry-after": "Sun, 99 Nov 1994 08:49:37 GMT"}, None),
        ({"Retry-After": "60"}, None),
    ],
)
def test_the_wait_is_read_in_milliseconds_seconds_or_as_a_date(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s(headers, NOW_S) == wait_s


@given(st.sampled_from(["retry-after", "retry-after-ms"]), st.text(max_size=30) | st.floats().map(str))
def test_no_header_makes_a_wait_that_cannot_be(name: str, value: str) -> None:
    wait_s = retry_after_s({name: value}, NOW_S)
    assert wait_s is None or 0 <= wait_s <= MOST_RETRY_AFTER_S


@pytest.mark.parametrize(
    ("body", "wait_s"),
    [
        (b'{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"38s"}]}}', 38.0),
        (b'{"retryDelay" : "0.25s"}', 0.25),
        (b'{"retryDelay":"999999s"}', 3600.0),
        (b'{"retryDelay":"-1s"}', None),
        (b'{"retryDelay":"38"}', None),
        (b'{"retryDelay":38}', None),
        (b"", None),
        (b" " * MOST_BODY + b'{"retryDelay":"38s"}', None),
    ],
)
def test_google_says_the_wait_in_its_error(body: bytes, wait_s: float | None) -> None:
    assert google_retry_delay_s(body) == wait_s
    assert classify(429, {}, body, NOW_S).retry_after_s == wait_s


def test_a_header_is_asked_before_googles_error() -> None:
    assert classify(429, {"retry-after": "5"}, b'{"retryDelay":"38s"}', NOW_S).retry_after_s == 5.0
    assert classify(429, {"retry-after": "soon"}, b'{"retryDelay":"38s"}', NOW_S).retry_after_s == 38.0


def told(failure_class: FailureClass, **fields: Any) -> Refusal:
    return consequence(Failure(failure_class=failure_class, **{"message": "answered 500"} | fields), "Acme")


@pytest.mark.parametrize(
    ("failure_class", "reason", "status", "retry"),
    [
        (FailureClass.CLIENT_FAULT, Reason.PROVIDER_REFUSED, 400, False),
        (FailureClass.CONTENT_FILTER, Reason.PROVIDER_REFUSED, 400, False),
        (FailureClass.CREDENTIAL, Reason.PROVIDER_CREDENTIAL, 502, False),
        (FailureClass.QUOTA, Reason.PROVIDER_CREDENTIAL, 502, False),
        (FailureClass.RATE_LIMITED, Reason.PROVIDER_LIMITED, 429, True),
        (FailureClass.OVERLOADED, Reason.PROVIDER_ERROR, 503, True),
        (FailureClass.PROVIDER_FAULT, Reason.PROVIDER_ERROR, 502, True),
        (FailureClass.CONNECT, Reason.PROVIDER_UNREACHABLE, 502, True),
        (FailureClass.FIRST_BYTE_TIMEOUT, Reason.PROVIDER_TIMEOUT, 504, True),
        (FailureClass.IDLE_TIMEOUT, Reason.PROVIDER_TIMEOUT, 504, True),
        (FailureClass.CUT, Reason.PROVIDER_INVALID, 502, True),
        (FailureClass.MALFORMED, Reason.PROVIDER_INVALID, 502, True),
    ],
)
def test_each_class_has_its_consequence(failure_class: FailureClass, reason: Reason, status: int, retry: bool) -> None:
    refusal = told(failure_class)
    assert (refusal.reason, refusal.status, refusal.retry, refusal.provider) == (reason, status, retry, "Acme")
    assert refusal.message.startswith(("Acme ", "The gateway's account at Acme "))


def test_every_class_has_a_consequence() -> None:
    assert {told(failure_class).provider for failure_class in FailureClass} == {"Acme"}


@pytest.mark.parametrize(
    ("failure_class", "asked_s", "told_s"),
    [
        (FailureClass.RATE_LIMITED, 7.5, 7.5),
        (FailureClass.RATE_LIMITED, 0.0, 0.0),
        (FailureClass.RATE_LIMITED, None, None),
        (FailureClass.OVERLOADED, 7.5, 7.5),
        (FailureClass.OVERLOADED, None, None),
        (FailureClass.PROVIDER_FAULT, 7.5, 7.5),
        (FailureClass.PROVIDER_FAULT, None, None),
        (FailureClass.CREDENTIAL, 7.5, None),
        (FailureClass.QUOTA, 7.5, None),
        (FailureClass.CLIENT_FAULT, 7.5, None),
        (FailureClass.CONNECT, 7.5, None),
        (FailureClass.CUT, 7.5, None),
    ],
)
def test_the_wait_goes_on_where_a_retry_can_help(
    failure_class: FailureClass, asked_s: float | None, told_s: float | None
) -> None:
    assert told(failure_class, retry_after_s=asked_s).retry_after_s == told_s


@pytest.mark.parametrize("failure_class", [one for one in FailureClass if one not in ("client_fault", "content_filter")])
def test_only_a_clients_fault_shows_the_providers_words(failure_class: FailureClass) -> None:
    refusal = told(failure_class, status=500, body=error_body(message="org-123 owes 5 USD"))
    assert refusal.raw_body is None
    assert "org-123" not in refusal.message


@pytest.mark.parametrize("failure_class", [FailureClass.CLIENT_FAULT, FailureClass.CONTENT_FILTER])
def test_a_clients_fault_keeps_the_providers_status_and_body(failure_class: FailureClass) -> None:
    body = b'{ "error": {"message": "max_tokens is too large", "code": 400, "extra": [1]} }'
    refusal = told(failure_class, status=422, message="answered 422", body=body)
    assert (refusal.status, refusal.raw_body) == (422, body)
    assert refusal.message == "Acme refused the request (it answered 422)."


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>no</html>", b"{}", b"[]", b'{"error":"no"}', b'{"error":{}}', b'{"error":{"message":""}}',
        b'{"error":{"message":null}}', b'{"error":{"message":["no"]}}', b'{"detail":"no"}', b'{"error":{"message":"cut',
        b'{"error":{"message":"Incorrect API key provided: sk-proj-abcdef"}}',
        b'{"error":{"message":"no","seen":"Authorization: Bearer abc"}}',
    ],
)  # fmt: skip
def test_a_body_that_is_no_error_object_or_holds_a_secret_stays_here(body: bytes) -> None:
    refusal = told(FailureClass.CLIENT_FAULT, status=400, body=body)
    assert (refusal.status, refusal.raw_body) == (400, None)


@pytest.mark.parametrize(
    "text",
    [
        b"sk-abcdef", b"(sk-proj-abc_def)", b"sk-****wxyz", b"gsk_abcdef12", b"xai-abcdef", b"nvapi-abcdef", b"fw_abcdef",
        b"pk-abcdef", b"key-abcdef", b"wsk_0123456789ab_", b"Bearer x", b"BEARER\tx", b"bearer  x",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_seen(text: bytes) -> None:
    assert LOOKS_SECRET.search(b"You sent " + text + b" here")


@pytest.mark.parametrize(
    "text",
    [b"risk-averse-model", b"sk-abc", b"the key is missing", b"monkey-business", b"a bearer", b"wsk_short_", b"task_abcdefgh"],
)
def test_what_only_resembles_a_secret_is_let_pass(text: bytes) -> None:
    assert LOOKS_SECRET.search(text) is None


def own_words(said: str | None, status: int = 400, body: bytes = b"") -> Refusal:
    failure = Failure(failure_class=FailureClass.CLIENT_FAULT, message=f"answered {status}", status=status, body=body)
    return in_own_words(consequence(failure, "Acme"), failure, said)


def test_a_no_in_another_format_keeps_the_providers_message_without_its_body() -> None:
    refusal = own_words("temperature: too hot", body=error_body(message="temperature: too hot"))
    assert (refusal.reason, refusal.status, refusal.message) == (Reason.PROVIDER_REFUSED, 400, "temperature: too hot")
    assert refusal.raw_body is None


@pytest.mark.parametrize("said", [None, "Incorrect API key provided: sk-proj-abcdef"])
def test_a_no_that_cannot_be_repeated_is_told_in_ours(said: str | None) -> None:
    assert own_words(said).message == "Acme refused the request (it answered 400)."


def test_a_message_is_cut_at_two_thousand_characters() -> None:
    assert own_words("é" * 3000).message == "é" * 2000


@pytest.mark.parametrize(
    "said",
    [
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "Input is too long for requested model.",
        "too many tokens: 9 > 8",
        "Too many input tokens",
        "The input exceeds the model's maximum of 8 tokens",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    ],
)
@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_beyond_the_context_is_named_so(said: str, status: int) -> None:
    assert own_words(said, status).reason is Reason.CONTEXT_LENGTH


def test_a_prompt_beyond_the_context_is_seen_in_the_code_too() -> None:
    assert own_words("Bad.", body=error_body(code="context_length_exceeded")).reason is Reason.CONTEXT_LENGTH


@pytest.mark.parametrize(("said", "status"), [("prompt is too long", 404), ("max_tokens is too large", 400), ("tokens", 422)])
def test_another_no_is_no_matter_of_context(said: str, status: int) -> None:
    assert own_words(said, status).reason is Reason.PROVIDER_REFUSED


def test_only_a_providers_no_is_put_in_other_words() -> None:
    failure = Failure(failure_class=FailureClass.QUOTA, message="answered 402", status=402)
    refusal = consequence(failure, "Acme")
    assert in_own_words(refusal, failure, "you owe us") is refusal


@pytest.mark.parametrize("body", [b'{"error":{"message":"\xff"}}', b'{"error":{"message":' + b"[" * 6000 + b"]" * 6000 + b"}}"])
def test_a_body_that_cannot_be_read_is_still_a_failure(body: bytes) -> None:
    assert classify(400, {}, body, 0).failure_class is FailureClass.CLIENT_FAULT


def test_at_once_is_not_some_time() -> None:
    assert classify(429, {"retry-after": "0"}, b"", 0).retry_after_s == 0.0


@pytest.mark.parametrize(
    ("code", "failure_class", "status"),
    [
        (1000, FailureClass.PROVIDER_FAULT, 502),
        (1001, FailureClass.PROVIDER_FAULT, 502),
        (1002, FailureClass.RATE_LIMITED, 429),
        (1004, FailureClass.CREDENTIAL, 401),
        (1008, FailureClass.QUOTA, 402),
        (1026, FailureClass.CONTENT_FILTER, 400),
        (1027, FailureClass.CONTENT_FILTER, 400),
        (1039, FailureClass.RATE_LIMITED, 429),
        (2013, FailureClass.CLIENT_FAULT, 400),
        (2049, FailureClass.CREDENTIAL, 401),
        (2056, FailureClass.QUOTA, 402),
        (-5, FailureClass.PROVIDER_FAULT, 502),
    ],
)
def test_minimax_says_its_errors_with_status_200(code: int, failure_class: FailureClass, status: int) -> None:
    body = b'{"id":"1","choices":null,"base_resp":{"status_code":%d,"status_msg":"told so"}}' % code
    failure = in_a_good_answer(body)
    assert failure is not None
    assert (failure.failure_class, failure.status) == (failure_class, status)
    assert failure.message == f"answered 200 with base_resp.status_code {code}"
    error = {"message": "told so", "type": failure_class.value, "code": str(code)}
    assert msgspec.json.decode(failure.body) == {"error": error}
    refusal = consequence(failure, "MiniMax")
    if failure_class in (FailureClass.CONTENT_FILTER, FailureClass.CLIENT_FAULT):
        assert (refusal.status, refusal.raw_body) == (400, failure.body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"base_resp":{"status_code":0,"status_msg":""}}',
        b'{"base_resp":null}',
        b'{"base_resp":"x"}',
        b'"base_resp"',
    ],
)
def test_an_answer_that_says_no_error(body: bytes) -> None:
    assert in_a_good_answer(body) is None

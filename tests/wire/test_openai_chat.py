"""OpenAI Chat at its edges: which calls are refused and why, what usage a vendor's report amounts to, what a no looks like."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.refusal import Reason, Refusal, Refused
from shared.domain.usage import MAX_TOKENS, Usage
from shared.wire import openai_chat
from shared.wire.canonical import Failed
from shared.wire.codec import CHAT, MalformedReply
from shared.wire.envelope import open_envelope
from shared.wire.openai_chat import (
    DONE,
    ERRORS,
    NO_MEDIA,
    ChatCall,
    Media,
    check_call,
    encode_refusal,
    encode_stream_error,
    read_usage,
)

MESSAGES = [{"role": "user", "content": "hi"}]


def called(**fields: Any) -> ChatCall:
    body: dict[str, Any] = {"model": "m", "messages": MESSAGES}
    return check_call(open_envelope(json.dumps(body | fields).encode()))


def refused(body: dict[str, Any]) -> Refusal:
    with pytest.raises(Refused) as caught:
        check_call(open_envelope(json.dumps(body).encode()))
    return caught.value.refusal


def media_of(*parts: Any) -> Media:
    return called(messages=[{"role": "user", "content": list(parts)}]).media


BAD_MODEL = "Invalid value for 'model': expected 1 to 256 printable characters."


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"model": None}, "model", "Missing required field 'model': it must be a string."),
        ({"model": 5}, "model", "Invalid type for 'model': expected a string, but got an integer instead."),
        ({"model": ["m"]}, "model", "Invalid type for 'model': expected a string, but got an array instead."),
        ({"model": ""}, "model", BAD_MODEL),
        ({"model": "  "}, "model", BAD_MODEL),
        ({"model": "a\nb"}, "model", BAD_MODEL),
        ({"model": "a\0"}, "model", BAD_MODEL),
        ({"model": "m" * 257}, "model", BAD_MODEL),
        ({"messages": None}, "messages", "Missing required field 'messages': it must be an array of messages."),
        (
            {"messages": {}},
            "messages",
            "Invalid type for 'messages': expected an array of messages, but got an object instead.",
        ),
        (
            {"messages": "hi"},
            "messages",
            "Invalid type for 'messages': expected an array of messages, but got a string instead.",
        ),
        ({"messages": []}, "messages", "Invalid value for 'messages': expected at least one message."),
        ({"messages": ["hi"]}, "messages[0]", "Invalid type for 'messages[0]': expected an object, but got a string instead."),
        (
            {"messages": [*MESSAGES, None]},
            "messages[1]",
            "Invalid type for 'messages[1]': expected an object, but got null instead.",
        ),
        (
            {"messages": [*MESSAGES, {"content": 5}]},
            "messages[1].content",
            "Invalid type for 'messages[1].content': expected a string or an array of parts, but got an integer instead.",
        ),
        (
            {"messages": [{"content": {"type": "text"}}]},
            "messages[0].content",
            "Invalid type for 'messages[0].content': expected a string or an array of parts, but got an object instead.",
        ),
        (
            {"messages": [{"content": [{"type": "text", "text": ""}, "x"]}]},
            "messages[0].content[1]",
            "Invalid type for 'messages[0].content[1]': expected an object, but got a string instead.",
        ),
        ({"stream": "true"}, "stream", "Invalid type for 'stream': expected a boolean, but got a string instead."),
        ({"stream": 1}, "stream", "Invalid type for 'stream': expected a boolean, but got an integer instead."),
        ({"max_tokens": 0}, "max_tokens", "Invalid value for 'max_tokens': expected an integer from 1 to 1000000000."),
        ({"max_tokens": -1}, "max_tokens", "Invalid value for 'max_tokens': expected an integer from 1 to 1000000000."),
        (
            {"max_tokens": MAX_TOKENS + 1},
            "max_tokens",
            "Invalid value for 'max_tokens': expected an integer from 1 to 1000000000.",
        ),
        ({"max_tokens": "9"}, "max_tokens", "Invalid type for 'max_tokens': expected an integer, but got a string instead."),
        ({"max_tokens": True}, "max_tokens", "Invalid type for 'max_tokens': expected an integer, but got a boolean instead."),
        (
            {"max_tokens": 9.0},
            "max_tokens",
            "Invalid type for 'max_tokens': expected an integer, but got a decimal number instead.",
        ),
        (
            {"max_tokens": 10**30},
            "max_tokens",
            "Invalid type for 'max_tokens': expected an integer, but got a decimal number instead.",
        ),
        (
            {"max_tokens": 9, "max_completion_tokens": 0},
            "max_completion_tokens",
            "Invalid value for 'max_completion_tokens': expected an integer from 1 to 1000000000.",
        ),
        (
            {"max_completion_tokens": [1]},
            "max_completion_tokens",
            "Invalid type for 'max_completion_tokens': expected an integer, but got an array instead.",
        ),
        ({"n": 0}, "n", "Invalid value for 'n': expected an integer from 1 to 128."),
        ({"n": 129}, "n", "Invalid value for 'n': expected an integer from 1 to 128."),
        ({"n": 1.5}, "n", "Invalid type for 'n': expected an integer, but got a decimal number instead."),
        ({"n": False}, "n", "Invalid type for 'n': expected an integer, but got a boolean instead."),
        (
            {"stream_options": True},
            "stream_options",
            "Invalid type for 'stream_options': expected an object, but got a boolean instead.",
        ),
        (
            {"stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "Invalid type for 'stream_options.include_usage': expected a boolean, but got an integer instead.",
        ),
        (
            {"stream_options": {"Include_Usage": True}},
            "stream_options.Include_Usage",
            "Unknown field 'Include_Usage': did you mean 'include_usage'?",
        ),
    ],
)
def test_a_call_is_refused_by_the_field_that_is_wrong(fields: dict[str, Any], field: str, message: str) -> None:
    body = {"model": "m", "messages": MESSAGES} | fields
    refusal = refused({name: value for name, value in body.items() if name in ("model", "messages") or value is not None})
    assert refusal == Refusal(reason=Reason.INVALID_FIELD, status=400, message=message, field=field, retry=False)


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_field_that_is_absent_is_named_as_one_that_is_null(field: str) -> None:
    body = {name: value for name, value in {"model": "m", "messages": MESSAGES}.items() if name != field}
    assert refused(body).field == field


def test_the_least_call_has_every_default() -> None:
    body = b'{"model":"m","messages":[{}]}'
    call = check_call(open_envelope(body))
    assert call == ChatCall(
        model="m", stream=False, include_usage=False, max_tokens=None, choices=1, messages=1, media=NO_MEDIA,
        body_bytes=len(body),
    )  # fmt: skip
    assert call.text_bytes == len(body)


def test_null_is_as_good_as_absent() -> None:
    names = ("stream", "stream_options", "max_tokens", "max_completion_tokens", "n")
    call = called(**dict.fromkeys(names))
    assert (call.stream, call.include_usage, call.max_tokens, call.choices) == (False, False, None, 1)


@pytest.mark.parametrize("model", ["m", "m" * 256, "openai/gpt-4.1", "modèle", "a b"])
def test_a_model_may_be_called(model: str) -> None:
    assert called(model=model).model == model


@pytest.mark.parametrize(
    ("fields", "bound"),
    [
        ({"max_tokens": 1}, 1),
        ({"max_tokens": MAX_TOKENS}, MAX_TOKENS),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 5}, 7),
        ({"max_tokens": 7, "max_completion_tokens": None}, 7),
    ],
)
def test_of_two_bounds_the_larger_counts(fields: dict[str, Any], bound: int) -> None:
    assert called(**fields).max_tokens == bound


@pytest.mark.parametrize("choices", [1, 2, 128])
def test_choices_are_counted(choices: int) -> None:
    assert called(n=choices).choices == choices


@pytest.mark.parametrize(
    ("stream", "options", "include_usage"),
    [
        (True, {"include_usage": True}, True),
        (True, {"include_usage": False}, False),
        (True, {"include_usage": None}, False),
        (True, {"include_obfuscation": False}, False),
        (True, {}, False),
        (False, {"include_usage": True}, False),
    ],
)
def test_usage_is_asked_for_in_streams_only(stream: bool, options: dict[str, Any], include_usage: bool) -> None:
    call = called(stream=stream, stream_options=options)
    assert (call.stream, call.include_usage) == (stream, include_usage)


@pytest.mark.parametrize(
    ("part", "media"),
    [
        ({"type": "text", "text": "data:"}, NO_MEDIA),
        ({"type": "refusal", "refusal": "no"}, NO_MEDIA),
        ({"type": "thinking", "thinking": []}, NO_MEDIA),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, Media(images=1, image_bytes=26)),
        ({"type": "image_url", "image_url": "data:image/png;base64,AAAA"}, Media(images=1, image_bytes=26)),
        ({"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}, Media(images=1, by_reference=1)),
        ({"type": "image_url"}, Media(images=1, by_reference=1)),
        ({"type": "image_url", "image_url": {"url": 5}}, Media(images=1, by_reference=1)),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, Media(audio=1, audio_bytes=4)),
        ({"type": "file", "file": {"file_data": "AAAAAA"}}, Media(files=1, file_bytes=6)),
        ({"type": "file", "file": {"file_id": "f"}}, Media(files=1, by_reference=1)),
        ({"type": "video_url", "video_url": {"url": "data:,"}}, Media(others=1, by_reference=1)),
        ({"type": ["text"]}, Media(others=1, by_reference=1)),
        ({}, Media(others=1, by_reference=1)),
    ],
)
def test_what_is_not_text_is_counted(part: dict[str, Any], media: Media) -> None:
    assert media_of({"type": "text", "text": "look"}, part) == media


def test_media_of_all_messages_add_up_and_are_no_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:," + "A" * 94}}
    sound = {"type": "input_audio", "input_audio": {"data": "B" * 50}}
    messages = [
        {"content": [image, sound]},
        {"content": None},
        {"content": [image]},
        {"role": "assistant", "audio": {"id": "a"}},
    ]
    call = called(messages=messages)
    assert call.media == Media(images=2, audio=1, others=1, by_reference=1, image_bytes=200, audio_bytes=50)
    assert (call.messages, call.media.inline_bytes, call.text_bytes) == (4, 250, call.body_bytes - 250)


def test_parsed_values_are_let_go_once_a_call_is_checked() -> None:
    envelope = open_envelope(b'{"model":"m","messages":[{}]}')
    check_call(envelope)
    assert envelope.value("model") is None


USAGE_REPORTS: dict[str, tuple[dict[str, Any], Usage]] = {
    "openai": (
        {
            "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 20, "accepted_prediction_tokens": 0},
        },
        Usage(input_tokens=100, output_tokens=50, cache_read_tokens=64, reasoning_tokens=20),
    ),
    "openai with nulls": (
        {
            "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
            "prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": None},
        },
        Usage(input_tokens=10, output_tokens=5),
    ),
    "openrouter with cache writes": (
        {
            "prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105,
            "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 40, "audio_tokens": 20}, "cost": 0.01,
        },
        Usage(input_tokens=100, output_tokens=5, cache_read_tokens=30, cache_write_tokens=40, audio_input_tokens=20),
    ),
    "alibaba, its cache asked for": (
        {
            "prompt_tokens": 2000, "completion_tokens": 5, "total_tokens": 2005,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 1500, "cache_type": "ephemeral"},
        },
        Usage(input_tokens=2000, output_tokens=5, cache_write_tokens=1500),
    ),
    "deepseek": (
        {
            "prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105,
            "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36,
        },
        Usage(input_tokens=100, output_tokens=5, cache_read_tokens=64),
    ),
    "moonshot": (
        {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "cached_tokens": 12},
        Usage(input_tokens=100, output_tokens=5, cache_read_tokens=12),
    ),
    "details before a vendor's own field": (
        {
            "prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "cached_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 10},
        },
        Usage(input_tokens=100, output_tokens=5, cache_read_tokens=10),
    ),
    "xai, reasoning beside the output": (
        {
            "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        Usage(input_tokens=10, output_tokens=25, reasoning_tokens=20),
    ),
    "reasoning beside the output, no total": (
        {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 20}},
        Usage(input_tokens=10, output_tokens=25, reasoning_tokens=20),
    ),
    "reasoning within the output, no total": (
        {"prompt_tokens": 10, "completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 20}},
        Usage(input_tokens=10, output_tokens=30, reasoning_tokens=20),
    ),
    "reasoning at the top": (
        {"prompt_tokens": 10, "completion_tokens": 30, "total_tokens": 40, "reasoning_tokens": 20},
        Usage(input_tokens=10, output_tokens=30, reasoning_tokens=20),
    ),
    "more reasoning than output by the total": (
        {
            "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        Usage(input_tokens=10, output_tokens=5, reasoning_tokens=5),
    ),
    "floats": (
        {"prompt_tokens": 10.0, "completion_tokens": 5.0, "total_tokens": 15.0},
        Usage(input_tokens=10, output_tokens=5),
    ),
    "no total": ({"prompt_tokens": 10, "completion_tokens": 5}, Usage(input_tokens=10, output_tokens=5)),
    "a total of nobody knows what": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 99},
        Usage(input_tokens=10, output_tokens=5),
    ),
    "embeddings": ({"prompt_tokens": 10, "total_tokens": 10}, Usage(input_tokens=10)),
    "no output told, no total": ({"prompt_tokens": 10}, Usage(input_tokens=10)),
    "output follows from the total": (
        {"prompt_tokens": 10, "completion_tokens": None, "total_tokens": 15},
        Usage(input_tokens=10, output_tokens=5),
    ),
    "input follows from the total": ({"completion_tokens": 5, "total_tokens": 15}, Usage(input_tokens=10, output_tokens=5)),
    "negative input follows from the total": (
        {"prompt_tokens": -1, "completion_tokens": 5, "total_tokens": 15},
        Usage(input_tokens=10, output_tokens=5),
    ),
    "zeros": ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage()),
    "more cached than sent": (
        {
            "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 99, "cache_write_tokens": 99},
        },
        Usage(input_tokens=10, output_tokens=5, cache_read_tokens=10),
    ),
    "cached and written beyond what was sent": (
        {
            "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 99},
        },
        Usage(input_tokens=10, output_tokens=5, cache_read_tokens=4, cache_write_tokens=6),
    ),
    "negative details": (
        {
            "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cached_tokens": -3,
            "prompt_tokens_details": {"cached_tokens": -1, "cache_write_tokens": -1},
            "completion_tokens_details": {"reasoning_tokens": -5},
        },
        Usage(input_tokens=10, output_tokens=5),
    ),
    "details that are none": (
        {
            "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
            "prompt_tokens_details": [64], "completion_tokens_details": "20", "prompt_cache_hit_tokens": "7",
        },
        Usage(input_tokens=10, output_tokens=5),
    ),
    "too large": (
        {"prompt_tokens": 10**12, "completion_tokens": 10**30, "total_tokens": 10**40},
        Usage(input_tokens=MAX_TOKENS, output_tokens=MAX_TOKENS),
    ),
    "too large with reasoning beside it": (
        {
            "prompt_tokens": 1, "completion_tokens": MAX_TOKENS - 1,
            "completion_tokens_details": {"reasoning_tokens": MAX_TOKENS},
        },
        Usage(input_tokens=1, output_tokens=MAX_TOKENS, reasoning_tokens=MAX_TOKENS),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", USAGE_REPORTS)
def test_usage_is_read_in_every_vendors_shape(name: str) -> None:
    report, usage = USAGE_REPORTS[name]
    assert read_usage(json.dumps(report).encode()) == usage


@pytest.mark.parametrize(
    "report",
    [
        b"", b" ", b"null", b"true", b"5", b'"10"', b"[]", b"[10,5]", b"{}", b"{", b"nonsense", b'{"total_tokens":15}',
        b'{"input_tokens":10,"output_tokens":5}',
        b'{"completion_tokens":5}',
        b'{"prompt_tokens":-1,"completion_tokens":5}',
        b'{"prompt_tokens":10,"completion_tokens":-5}',
        b'{"prompt_tokens":10,"completion_tokens":null}',
        b'{"prompt_tokens":-1,"completion_tokens":-1,"total_tokens":-2}',
        b'{"prompt_tokens":"10","completion_tokens":"5","total_tokens":"15"}',
        b'{"prompt_tokens":1.5,"completion_tokens":5}',
        b'{"prompt_tokens":true,"completion_tokens":true,"total_tokens":true}',
        b'{"prompt_tokens":[1],"completion_tokens":{},"total_tokens":null}',
        b'{"prompt_tokens":10,"completion_tokens":"x","total_tokens":9}',
        b'{"prompt_tokens":NaN,"completion_tokens":5}',
        b'{"prompt_tokens":1e999,"completion_tokens":5}',
        b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":\xff}',
    ],
)  # fmt: skip
def test_nonsense_is_no_usage(report: bytes) -> None:
    assert read_usage(report) is None


ODD_COUNTS = (
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    | st.integers(0, 50)
)  # fmt: skip
ODD_DETAILS = ODD_COUNTS | st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "cache_creation_input_tokens", "reasoning_tokens", "audio_tokens"]),
    ODD_COUNTS,
)
ODD_REPORTS = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": ODD_COUNTS, "completion_tokens": ODD_COUNTS, "total_tokens": ODD_COUNTS, "cached_tokens": ODD_COUNTS,
        "prompt_cache_hit_tokens": ODD_COUNTS, "reasoning_tokens": ODD_COUNTS, "prompt_tokens_details": ODD_DETAILS,
        "completion_tokens_details": ODD_DETAILS,
    },
)  # fmt: skip


@given(ODD_REPORTS)
def test_no_report_makes_a_count_that_cannot_be(report: dict[str, Any]) -> None:
    usage = read_usage(json.dumps(report).encode())
    if usage is not None:
        assert 0 <= usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens <= MAX_TOKENS
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens <= MAX_TOKENS
        assert min(usage.cache_read_tokens, usage.cache_write_tokens) >= 0
        assert 0 <= usage.audio_input_tokens <= usage.input_tokens


HALF = st.integers(0, MAX_TOKENS // 2) | st.integers(0, 9)


@given(HALF, HALF, HALF, HALF)
def test_a_plain_report_reads_the_same_as_one_with_a_field_more(prompt: int, made: int, cached: int, thought: int) -> None:
    """The first is decoded by type, the second looked at slowly."""
    plain = {
        "prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": thought, "cache_creation_input_tokens": made},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }  # fmt: skip
    assert read_usage(json.dumps(plain).encode()) == read_usage(json.dumps(plain | {"cached_tokens": -1}).encode())


def refusal(**fields: Any) -> Refusal:
    given: dict[str, Any] = {"reason": Reason.INVALID_FIELD, "status": 400, "message": "No “é”."}
    return Refusal(**given | fields)


def test_every_reason_has_a_type_and_a_code_of_its_own() -> None:
    assert set(ERRORS) == set(Reason)
    assert len({code for _, code in ERRORS.values()}) == len(Reason)


@pytest.mark.parametrize("reason", list(Reason))
def test_a_refusal_is_an_openai_error_object(reason: Reason) -> None:
    status, headers, body = encode_refusal(refusal(reason=reason, status=418, field="messages[0].content"), None)
    kind, code = ERRORS[reason]
    assert json.loads(body) == {"error": {"message": "No “é”.", "type": kind, "param": "messages[0].content", "code": code}}
    assert (status, headers) == (418, {"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("reason", "kind", "code"),
    [
        (Reason.INVALID_KEY, "authentication_error", "invalid_api_key"),
        (Reason.UNKNOWN_MODEL, "not_found_error", "model_not_found"),
        (Reason.BUDGET_EXHAUSTED, "insufficient_quota", "budget_exhausted"),
        (Reason.RATE_LIMITED, "rate_limit_error", "rate_limit_exceeded"),
        (Reason.PROVIDER_LIMITED, "rate_limit_error", "provider_rate_limited"),
        (Reason.OVERLOADED, "server_error", "gateway_overloaded"),
        (Reason.CONTEXT_LENGTH, "invalid_request_error", "context_length_exceeded"),
    ],
)
def test_noes_that_clients_act_on_keep_their_names(reason: Reason, kind: str, code: str) -> None:
    assert ERRORS[reason] == (kind, code)


def test_a_refusal_of_no_field_has_a_null_param() -> None:
    assert json.loads(encode_refusal(refusal(), None)[2])["error"]["param"] is None


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({}, {}),
        ({"retry": True}, {"x-should-retry": "true"}),
        ({"retry": False}, {"x-should-retry": "false"}),
        ({"retry_after_s": 0.0}, {"Retry-After": "0", "retry-after-ms": "0"}),
        ({"retry_after_s": -3.0}, {"Retry-After": "0", "retry-after-ms": "0"}),
        ({"retry_after_s": 0.0001}, {"Retry-After": "1", "retry-after-ms": "1"}),
        ({"retry_after_s": 1.0}, {"Retry-After": "1", "retry-after-ms": "1000"}),
        ({"retry_after_s": 1.0001}, {"Retry-After": "2", "retry-after-ms": "1001"}),
        ({"retry_after_s": 90.5, "retry": True}, {"Retry-After": "91", "retry-after-ms": "90500", "x-should-retry": "true"}),
        ({"headers": (("Allow", "POST"),)}, {"Allow": "POST"}),
    ],
)
def test_a_refusals_headers_say_when_to_come_back(fields: dict[str, Any], headers: dict[str, str]) -> None:
    sent = encode_refusal(refusal(**fields), "req_1")[1]
    assert sent == {"Content-Type": "application/json", "x-request-id": "req_1"} | headers


def test_a_providers_own_error_goes_on_as_it_came() -> None:
    raw = b'{ "error": {"message": "no"} }'
    status, headers, body = encode_refusal(refusal(raw_body=raw, status=422, retry=False), None)
    assert (status, headers["x-should-retry"], body) == (422, "false", raw)


def test_a_stream_ends_in_an_error_event_and_no_done() -> None:
    sent = encode_stream_error(refusal(reason=Reason.PROVIDER_TIMEOUT, message="a\nb"))
    assert sent.startswith(b"data: {")
    assert sent.endswith(b"}\n\n")
    assert sent.count(b"\n") == 2
    assert DONE not in sent
    assert json.loads(sent[6:]) == {
        "error": {"message": "a\nb", "type": "server_error", "param": None, "code": "provider_timeout"}
    }


MINIMAX = {"id": "1", "choices": [], "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}


def test_an_answer_that_is_minimaxs_error() -> None:
    body = orjson.dumps(MINIMAX)
    for read in (CHAT.read_reply, openai_chat.decode_reply):
        with pytest.raises(MalformedReply):
            read(body)
    fine = orjson.dumps(MINIMAX | {"base_resp": {"status_code": 0, "status_msg": ""}})
    assert CHAT.read_reply(fine).body == fine
    assert openai_chat.decode_reply(fine).choices == ()
    (_, failed) = openai_chat.StreamDecoder().feed(b"data: " + body + b"\n\n")
    assert failed == Failed("rate limit", body)

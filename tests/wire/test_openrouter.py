"""What answers at /api/v1 say beyond their format: every answer and event written out."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.catalogue import Connection, Deployment, Model, Provider, Quirks, WireFormat
from shared.domain.refusal import Reason, Refusal
from shared.domain.usage import Usage
from shared.wire.canonical import Stamp
from shared.wire.codec import bridge
from shared.wire.envelope import open_envelope
from shared.wire.openai_chat import check_call
from shared.wire.openrouter import Cost, Dressed, Face, encode_refusal, encode_stream_error, with_documents
from tests.wire.test_every_codec import cut

NUMBER = "018f4e6a-7b1c-7d2e-9f3a-4b5c6d7e8f90"
ID = "gen-018f4e6a7b1c7d2e9f3a4b5c6d7e8f90"
COSTS = {
    "cost": 0.000012,
    "cost_details": {
        "upstream_inference_cost": 0.000012,
        "upstream_inference_prompt_cost": 0.000004,
        "upstream_inference_completions_cost": 0.000008,
        "upstream_inference_input_cost": 0.000004,
        "upstream_inference_output_cost": 0.000008,
    },
    "is_byok": False,
}


def dressed(
    provider: WireFormat, client: WireFormat = WireFormat.OPENAI_CHAT, *, priced: bool = True, stream: bool = False
) -> Dressed:
    lab = Provider(name="lab", title="Lab", prefix="lab", base_url=None, wire_format=provider)
    connection = Connection(connection_id="c", name="lab", provider="lab", prefix="lab", base_url="http://x")
    to = Deployment(provider=lab, connection=connection, model=Model(model_id="m", max_output_tokens=100))
    stamp = Stamp(event_id=NUMBER, created_s=1, model="lab/m", native_finish=True)
    made = bridge(client, to, stamp)
    if client is WireFormat.OPENAI_CHAT:
        body: dict[str, Any] = {"model": "lab/m", "messages": [{"role": "user", "content": "hi"}]}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        envelope = open_envelope(orjson.dumps(body))
        made.request_body(envelope, to, check_call(open_envelope(envelope.body)), None)
    face = Face(wire_format=client, event_id=NUMBER, provider="Lab", cost=lambda usage: cost(usage) if priced else None)
    return Dressed(made, face)


def cost(usage: Usage) -> Cost:
    """A thousand nano-USD for a token of input, two for one of output."""
    return Cost(usage.input_tokens * 1000 + usage.output_tokens * 2000, usage.output_tokens * 2000)


USED = {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}
PASSED: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 5,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "eos", "message": {"role": "assistant", "content": "x", "reasoning_content": "t"}}
    ],
    "usage": USED,
}


def test_a_passed_answer() -> None:
    made = orjson.loads(dressed(WireFormat.OPENAI_CHAT).read_reply(orjson.dumps(PASSED)).body)
    assert made == {
        "id": ID,
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "native_finish_reason": "eos",
                "message": {"role": "assistant", "content": "x", "reasoning": "t"},
            }
        ],
        "usage": USED | COSTS,
        "provider": "Lab",
        "system_fingerprint": None,
    }


def test_without_a_price_there_is_no_cost() -> None:
    made = orjson.loads(dressed(WireFormat.OPENAI_CHAT, priced=False).read_reply(orjson.dumps(PASSED)).body)
    assert made["usage"] == USED
    told = orjson.loads(
        dressed(WireFormat.OPENAI_CHAT, priced=False)
        .read_reply(orjson.dumps(PASSED | {"provider": "Host", "usage": USED | {"cost": 0.5}}))
        .body
    )
    assert (told["provider"], told["usage"]["cost"]) == ("Host", 0.5)


@pytest.mark.parametrize(
    ("provider", "answer", "native", "finish"),
    [
        (
            WireFormat.ANTHROPIC_MESSAGES,
            {
                "content": [{"type": "text", "text": "x"}], "stop_reason": "model_context_window_exceeded",
                "usage": {"input_tokens": 4, "output_tokens": 4},
            },
            "model_context_window_exceeded", "length",
        ),
        (
            WireFormat.GEMINI,
            {
                "candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "RECITATION"}],
                "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 4},
            },
            "RECITATION", "content_filter",
        ),
        (
            WireFormat.OPENAI_RESPONSES,
            {
                "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
                "output": [{"type": "message", "content": [{"type": "output_text", "text": "x"}]}],
                "usage": {"input_tokens": 4, "output_tokens": 4},
            },
            "max_output_tokens", "length",
        ),
        (
            WireFormat.COHERE,
            {
                "message": {"content": [{"type": "text", "text": "x"}]}, "finish_reason": "COMPLETE",
                "usage": {"tokens": {"input_tokens": 4, "output_tokens": 4}},
            },
            "COMPLETE", "stop",
        ),
        (
            WireFormat.BEDROCK,
            {
                "output": {"message": {"content": [{"text": "x"}]}}, "stopReason": "guardrail_intervened",
                "usage": {"inputTokens": 4, "outputTokens": 4},
            },
            "guardrail_intervened", "content_filter",
        ),
    ],
)  # fmt: skip
def test_a_translated_answer_has_the_providers_own_reason(
    provider: WireFormat, answer: dict[str, Any], native: str, finish: str
) -> None:
    made = orjson.loads(dressed(provider).read_reply(orjson.dumps(answer)).body)
    choice = made["choices"][0]
    assert (choice["native_finish_reason"], choice["finish_reason"], choice["message"]["content"]) == (native, finish, "x")
    assert (made["id"], made["provider"], made["system_fingerprint"]) == (ID, "Lab", None)
    assert {name: made["usage"][name] for name in COSTS} == COSTS


def events(stream: bytes) -> list[Any]:
    return [orjson.loads(part[6:]) if part[6:] != b"[DONE]" else "done" for part in stream.split(b"\n\n") if part]


def streamed(made: Dressed, stream: bytes, sizes: list[int]) -> bytes:
    tap = made.tap(hide_usage=False)
    out = b"".join([tap.feed(piece) for piece in cut(stream, sizes)]) + tap.close()
    assert tap.done
    return out if tap.usage is not None else b"no usage"


CHUNK = b'data: {"id":"a","object":"chat.completion.chunk","choices":[%b],"usage":%b}\n\n'
PASSED_STREAM = b"".join(
    [
        CHUNK % (b'{"index":0,"delta":{"content":"x","reasoning_content":"t"},"finish_reason":null}', b"null"),
        CHUNK % (b'{"index":0,"delta":{},"finish_reason":"stop"}', b"null"),
        CHUNK % (b"", orjson.dumps(USED)),
        b"data: [DONE]\n\n",
    ]
)
HEAD = {"id": ID, "object": "chat.completion.chunk", "provider": "Lab"}


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3))
def test_a_passed_stream_however_it_is_cut(sizes: list[int]) -> None:
    made = events(streamed(dressed(WireFormat.OPENAI_CHAT, stream=True), PASSED_STREAM, sizes))
    assert made == [
        HEAD | {"choices": [{"index": 0, "delta": {"content": "x", "reasoning": "t"}, "finish_reason": None}]},
        HEAD | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "native_finish_reason": "stop"}]},
        HEAD | {"choices": [], "usage": USED | COSTS},
        "done",
    ]


def test_a_translated_stream() -> None:
    told: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 4, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "stop_sequence"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    ]
    stream = b"".join(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in told)
    made = events(streamed(dressed(WireFormat.ANTHROPIC_MESSAGES, stream=True), stream, [1000]))
    assert [each if each == "done" else (each["id"], each["provider"]) for each in made] == [(ID, "Lab")] * 4 + ["done"]
    finish = made[2]["choices"][0]
    assert (finish["finish_reason"], finish["native_finish_reason"]) == ("stop", "stop_sequence")
    assert {name: made[3]["usage"][name] for name in COSTS} == COSTS
    assert all("usage" not in each and "system_fingerprint" not in each for each in made[:3])


def test_responses_and_messages_have_the_cost_in_their_usage() -> None:
    answer = {"content": [], "stop_reason": "end_turn", "usage": {"input_tokens": 4, "output_tokens": 4}}
    made = dressed(WireFormat.ANTHROPIC_MESSAGES, WireFormat.ANTHROPIC_MESSAGES).read_reply(orjson.dumps(answer))
    assert orjson.loads(made.body) == answer | {"usage": {"input_tokens": 4, "output_tokens": 4} | COSTS}
    response = {"output": [], "status": "completed", "usage": {"input_tokens": 4, "output_tokens": 4}}
    event = b"event: response.completed\r\ndata: %b\r\n\r\n" % orjson.dumps(
        {"type": "response.completed", "response": response}
    )
    tap = dressed(WireFormat.OPENAI_RESPONSES, WireFormat.OPENAI_RESPONSES).tap(hide_usage=False)
    name, _, data = tap.feed(event).partition(b"\n")
    assert name == b"event: response.completed"
    assert orjson.loads(data[6:])["response"]["usage"] == response["usage"] | COSTS  # type: ignore[operator]


def test_what_is_no_json_passes() -> None:
    tap = dressed(WireFormat.OPENAI_CHAT, stream=True).tap(hide_usage=False)
    assert tap.feed(b": a comment\n\n") == b": a comment\n\n"


def test_errors_before_and_in_a_stream() -> None:
    refusal = Refusal(reason=Reason.UNKNOWN_MODEL, status=404, message="no such model", field="model", retry=False)
    status, headers, body = encode_refusal(refusal, "r1")
    assert (status, headers["x-request-id"], headers["x-should-retry"]) == (404, "r1", "false")
    assert orjson.loads(body) == {
        "error": {
            "code": 404,
            "message": "no such model",
            "metadata": {"error_type": "not_found", "field": "model"},
            "availability": {"code": "model_not_found", "retryable": False},
        }
    }
    said = Refusal(
        reason=Reason.PROVIDER_REFUSED, status=422, message="x", provider="Lab", raw_body=b'{"error":{"message":"too odd"}}'
    )
    assert orjson.loads(encode_refusal(said, None)[2])["error"] == {
        "code": 422, "message": "too odd", "metadata": {"error_type": "invalid_request", "provider_name": "Lab"},
    }  # fmt: skip
    made = dressed(WireFormat.OPENAI_CHAT, stream=True)
    chunk = {
        "id": ID, "object": "chat.completion.chunk", "provider": "Lab",
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error", "native_finish_reason": None}],
    }  # fmt: skip
    cut_off = Refusal(reason=Reason.PROVIDER_INVALID, status=502, message="broke off")
    told = {"code": 502, "message": "broke off", "metadata": {"error_type": "provider_unavailable"}}
    assert events(made.stream_error(cut_off, 3)) == [chunk | {"error": told}]
    tap = made.tap(hide_usage=False)
    (event,) = events(tap.feed(b'data: {"error":{"message":"overloaded","code":529}}\n\n'))
    told = {"code": 529, "message": "overloaded", "metadata": {"error_type": "provider_unavailable"}}
    assert event == chunk | {"error": told}
    assert tap.error is not None


@pytest.mark.parametrize("takes_routing", [False, True])
def test_openrouters_own_fields_go_to_openrouter_alone(takes_routing: bool) -> None:
    lab = Provider(name="lab", title="Lab", prefix="lab", base_url=None, quirks=Quirks(takes_routing=takes_routing))
    connection = Connection(connection_id="c", name="lab", provider="lab", prefix="lab", base_url="http://x")
    to = Deployment(provider=lab, connection=connection, model=Model(model_id="m", max_output_tokens=100))
    stamp = Stamp(event_id=NUMBER, created_s=1, model="lab/m", native_finish=True)
    own = {"usage": {"include": True}, "transforms": ["middle-out"], "session_id": "s", "plugins": [], "top_a": 0.1}
    plain = {"model": "lab/m", "messages": [{"role": "user", "content": "hi"}], "safe_prompt": True}
    face = Face(wire_format=WireFormat.OPENAI_CHAT, event_id=NUMBER, provider="Lab", cost=cost)
    for hub in (False, True):
        envelope = open_envelope(orjson.dumps(plain | own))
        made = Dressed(bridge(WireFormat.OPENAI_CHAT, to, stamp, hub=hub), face)
        body, dropped = made.request_body(envelope, to, check_call(envelope), None)
        sent = orjson.loads(body)
        assert {name for name in own if name in sent} == (set(own) if takes_routing else set())
        assert (sent["safe_prompt"], sent["model"]) == (True, "m")
        assert dropped == ([] if takes_routing else ["top_a"])


def test_a_ranking_has_its_documents_again() -> None:
    ranked = {"results": [{"index": 1, "relevance_score": 0.5}, {"index": 0, "document": {"text": "told"}}, {"index": 9}]}
    made = with_documents(ranked, ["a", {"text": "b", "more": 1}])
    assert [each["document"] for each in made["results"]] == [{"text": "b", "more": 1}, {"text": "told"}, {"text": ""}]


@pytest.mark.parametrize(
    ("rule", "code", "by"),
    [
        ("provider.only", "no_endpoints", "allowed_providers"), ("provider.max_price", "constraint_filtered", "max_price"),
        ("provider.zdr", "privacy_restricted", "data_policy:zdr"),
        ("provider.data_collection", "privacy_restricted", "data_policy:training"),
        ("provider.quantizations", "constraint_filtered", "quantization"),
    ],
)  # fmt: skip
def test_why_there_is_nobody_to_ask_is_said_in_openrouters_words(rule: str, code: str, by: str) -> None:
    refusal = Refusal(reason=Reason.NO_DEPLOYMENT, status=404, message="no", field="provider", retry=False, rule=rule)
    told = orjson.loads(encode_refusal(refusal, None)[2])["error"]["availability"]
    assert told == {"code": code, "retryable": False, "excluded_by": [by]}


@pytest.mark.parametrize(
    "error",
    [
        {"message": "too much", "code": "context_length_exceeded"},
        {"message": "This model's maximum context length is 8192 tokens.", "code": 400},
    ],
)
def test_a_prompt_that_is_too_long_is_told_what_helps(error: dict[str, Any]) -> None:
    raw = orjson.dumps({"error": error})
    refusal = Refusal(reason=Reason.PROVIDER_REFUSED, status=400, message="no", retry=False, raw_body=raw)
    told = orjson.loads(encode_refusal(refusal, None)[2])["error"]
    assert (told["code"], told["metadata"]) == (400, {"error_type": "context_length_exceeded"})
    assert told["message"].startswith(error["message"])
    assert '"transforms": ["middle-out"]' in told["message"]


def test_a_node_that_stops_says_so_in_openrouters_words() -> None:
    refusal = Refusal(reason=Reason.OVERLOADED, status=503, message="This node stops.", retry=True)
    event = encode_stream_error(refusal)
    told = orjson.loads(event.removeprefix(b"data: "))
    assert (told["object"], told["choices"][0]["finish_reason"]) == ("chat.completion.chunk", "error")
    assert told["error"]["code"] == 503
    assert told["error"]["metadata"] == {"error_type": "provider_overloaded"}

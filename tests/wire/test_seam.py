"""The seam: two providers' streams are one answer, wherever the first breaks off."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.domain.catalogue import Capability, Connection, Deployment, Model, Provider, Quirks, WireFormat
from shared.domain.usage import Usage
from shared.providers import registry
from shared.wire.canonical import Stamp
from shared.wire.codec import joined, joins, read_facts
from shared.wire.envelope import open_envelope
from shared.wire.seam import Begun, SeamTap, SeamTranslation

CATALOGUE = registry.load()
STAMP = Stamp(event_id="0" * 32, created_s=1, model="a/b")
BODY: dict[str, Any] = {"model": "a/b", "messages": [{"role": "user", "content": "Tell me."}], "stream": True}


def deployment(name: str, model: str = "m", quirks: Quirks | None = None, **facts: Any) -> Deployment:
    provider: Provider = CATALOGUE[name]
    if quirks is not None:
        provider = replace(provider, quirks=quirks)
    connection = Connection(connection_id="c", name="c", provider=name, prefix=name, base_url="http://x/v1")
    return Deployment(provider=provider, connection=connection, model=Model(model_id=model, **facts))


def bridge(at: Deployment, begun: Begun | None = None, **fields: Any) -> tuple[SeamTranslation, dict[str, Any]]:
    """For a chat client's call, and the body that the provider gets."""
    envelope = open_envelope(json.dumps(BODY | fields).encode())
    made = joined(WireFormat.OPENAI_CHAT, at, STAMP)
    made.begun = begun
    body, _ = made.request_body(envelope, at, read_facts(WireFormat.OPENAI_CHAT, "chat", envelope, None, None), None)
    return made, orjson.loads(body)


def begun_at(at: Deployment, **fields: Any) -> SeamTap:
    return bridge(at, **fields)[0].tap(hide_usage=False)


def chat(pieces: list[str], *, ends: bool = True) -> bytes:
    deltas: list[dict[str, Any]] = [
        {"delta": {"role": "assistant", "content": ""}},
        *({"delta": {"content": p}} for p in pieces),
    ]
    if ends:
        deltas.append({"delta": {}, "finish_reason": "stop"})
    return b"".join(b"data: " + orjson.dumps({"choices": [{"index": 0} | each]}) + b"\n\n" for each in deltas)


def messages(pieces: list[str], *, ends: bool = True) -> bytes:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in pieces),
        {"type": "content_block_stop", "index": 0},
    ]
    if ends:
        events += [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}]
    return b"".join(b"event: %b\ndata: %b\n\n" % (each["type"].encode(), orjson.dumps(each)) for each in events)


PROVIDERS = {"demo": chat, "demo-messages": messages}


def said(out: bytes) -> str:
    events = [json.loads(line[6:]) for line in out.decode().split("\n") if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


PIECES = st.lists(st.text(st.sampled_from("ab \n\t\u00a0é👋."), min_size=1, max_size=5), min_size=1, max_size=12)


@given(
    PIECES, st.sampled_from(sorted(PROVIDERS)), st.sampled_from(sorted(PROVIDERS)), st.floats(0, 1), st.floats(0, 1), st.data()
)
def test_the_answer_is_whole_wherever_it_broke_off(
    pieces: list[str], first: str, second: str, cut: float, again: float, data: st.DataObject
) -> None:
    """Two breaks, at any byte; each next provider says the rest in pieces of its own."""
    answer = "".join(pieces)
    tap = begun_at(deployment(first))
    whole = PROVIDERS[first](pieces)
    out = tap.feed(whole[: int(cut * len(whole))])
    for provider, share in ((second, again), (first, 1.1)):
        out += tap.close()
        if not tap.safe:
            break
        text = tap.text
        assert said(out) == text == text.rstrip()
        assert answer.startswith(text)
        made, body = bridge(deployment(provider), Begun(text, None))
        if text:
            last = body["messages"][-1]
            content = last["content"] if isinstance(last["content"], str) else last["content"][0]["text"]
            assert (last["role"], content) == ("assistant", text)
        tap.charge(Usage(input_tokens=1, output_tokens=2))
        tap.next_leg(made, Usage)
        rest, size = answer[len(text) :], data.draw(st.integers(1, 7))
        stream = PROVIDERS[provider]([rest[at : at + size] for at in range(0, len(rest), size)])
        out += tap.feed(stream[: int(share * len(stream))])
    out += tap.close()
    assert tap.finish_reason == "end"
    assert said(out) == answer
    assert out.count(b'"role"') == 1
    assert out.count(b'"finish_reason":"stop"') == 1


UNSAFE: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object"}},
    {"reasoning_effort": "high"},
    {"logprobs": True},
    {"messages": [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "Well,"}]},
    {"stop": ["b!"]},
]


@pytest.mark.parametrize("fields", [{}, {"stop": ["c!"]}, {"reasoning_effort": "none"}, *UNSAFE])
def test_what_a_call_asks_for_decides(fields: dict[str, Any]) -> None:
    tap = begun_at(deployment("demo"), **fields)
    tap.feed(chat(["a", " b"], ends=False))
    assert tap.safe is (fields not in UNSAFE)


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "Hm."},
        {"refusal": "No."},
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "look", "arguments": ""}}]},
    ],
)
def test_what_is_no_plain_text_is_never_joined(delta: dict[str, Any]) -> None:
    tap = begun_at(deployment("demo"))
    tap.feed(chat(["a"], ends=False))
    assert tap.safe
    tap.feed(b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": delta}]}) + b"\n\n")
    assert not tap.safe


def test_a_later_leg_may_call_a_tool() -> None:
    """Nothing of the call was begun before: it is one provider's own."""
    tap = begun_at(deployment("demo"))
    out = tap.feed(chat(["I look"], ends=False))
    made, _ = bridge(deployment("demo"), Begun(tap.text, None))
    tap.charge(Usage())
    tap.next_leg(made, Usage)
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    choices: list[dict[str, Any]] = [{"delta": {"tool_calls": [call]}}, {"delta": {}, "finish_reason": "tool_calls"}]
    out += tap.feed(b"".join(b"data: " + orjson.dumps({"choices": [{"index": 0} | each]}) + b"\n\n" for each in choices))
    out += tap.close()
    assert said(out) == "I look"
    assert b'"name":"look"' in out
    assert rb'"{\"a\":1}"' in out
    assert out.count(b'"finish_reason":"tool_calls"') == 1


FLAGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("deepseek", {"prefix": True}, {}),
    ("mistral", {"prefix": True}, {}),
    ("kimi", {"partial": True}, {}),
    ("qwen-api", {"partial": True}, {}),
    ("vllm", {}, {"continue_final_message": True, "add_generation_prompt": False}),
    ("anthropic", {}, {}),
]


@pytest.mark.parametrize(("name", "flag", "fields"), FLAGS)
def test_each_provider_is_told_in_its_own_way(name: str, flag: dict[str, Any], fields: dict[str, Any]) -> None:
    _, body = bridge(deployment(name, "claude-sonnet-4-5" if name == "anthropic" else "m"), Begun("Once", 7))
    last = body["messages"][-1]
    assert last["role"] == "assistant"
    assert flag.items() <= last.items()
    assert fields.items() <= body.items()
    assert 7 in (body.get("max_tokens"), body.get("max_completion_tokens"))


def test_a_model_that_would_think_is_told_not_to() -> None:
    facts: dict[str, Any] = {"capabilities": frozenset({Capability.TEXT, Capability.REASONING})}
    assert bridge(deployment("kimi", **facts), Begun("Once", None))[1]["thinking"] == {"type": "disabled"}
    assert bridge(deployment("qwen-api", **facts), Begun("Once", None))[1]["enable_thinking"] is False
    assert "thinking" not in bridge(deployment("kimi", **facts))[1]


def test_who_can_go_on_is_what_the_catalogue_says() -> None:
    able = {name for name, provider in CATALOGUE.items() if provider.quirks.continues}
    assert able == {"anthropic", "deepseek", "demo", "demo-messages", "kimi", "mistral", "qwen-api", "vllm"}
    assert joins(deployment("anthropic", "claude-haiku-4-5"))
    assert not joins(deployment("anthropic", "claude-opus-4-6"))
    assert not joins(deployment("anthropic", "claude-sonnet-5"))
    assert not joins(deployment("openai"))
    assert joins(deployment("custom", quirks=Quirks(continues="prefix")))
    assert CATALOGUE["deepseek"].endpoints["chat_prefix"] == "/beta/chat/completions"

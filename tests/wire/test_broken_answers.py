"""Answers that a provider itself calls broken (wire.md §5 #58): before the first token another may be asked, after it the
client's own stream says so; what was blocked is told as that."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.catalogue import WireFormat
from shared.wire.codec import PASSTHROUGHS, MalformedReply
from tests.wire.translation import Translated, chat_stream, events

CHAT, MESSAGES, RESPONSES, GEMINI, COHERE = (
    WireFormat.OPENAI_CHAT,
    WireFormat.ANTHROPIC_MESSAGES,
    WireFormat.OPENAI_RESPONSES,
    WireFormat.GEMINI,
    WireFormat.COHERE,
)
CLIENTS = (CHAT, MESSAGES, RESPONSES, GEMINI, COHERE)
BROKEN = ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE", "OTHER"]
BLOCKED = ["SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"]
SAID = {"text": "I will"}


def asked(client: WireFormat, provider: WireFormat, *, stream: bool) -> Translated:
    bridge = Translated(client, provider)
    hello = {"role": "user", "content": "hi"}
    match client:
        case WireFormat.GEMINI:
            bridge.sent({"contents": [{"parts": [{"text": "hi"}]}]}, model="lab/model", stream=stream)
        case WireFormat.OPENAI_RESPONSES:
            bridge.sent({"model": "lab/model", "input": "hi", "stream": stream})
        case _:
            bridge.sent({"model": "lab/model", "max_tokens": 9, "messages": [hello], "stream": stream})
    return bridge


def candidate(reason: str | None, *parts: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"index": 0} | ({"finishReason": reason} if reason else {})
    if parts:
        made["content"] = {"role": "model", "parts": list(parts)}
    return {"candidates": [made], "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2}}


def chunk(reason: str | None, *parts: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(candidate(reason, *parts)) + b"\r\n\r\n"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_answer_that_nobody_saw_is_the_providers_failure(client: WireFormat, reason: str) -> None:
    """Whole or as a stream: nothing has gone out, so the flow may ask another deployment."""
    with pytest.raises(MalformedReply, match=f"stopped without a usable answer: {reason}"):
        asked(client, GEMINI, stream=False).answered(candidate(reason))
    with pytest.raises(MalformedReply, match=reason):
        asked(client, GEMINI, stream=False).answered(candidate(reason, SAID))
    with pytest.raises(MalformedReply, match=reason):
        asked(client, GEMINI, stream=True).streamed([chunk(reason)])


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("parts", [(), ({"text": ""},)])
def test_an_empty_candidate_is_no_answer(client: WireFormat, parts: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(MalformedReply, match="STOP"):
        asked(client, GEMINI, stream=False).answered(candidate("STOP", *parts))
    with pytest.raises(MalformedReply, match="STOP"):
        asked(client, GEMINI, stream=True).streamed([chunk("STOP", *parts)])


def test_a_candidate_that_only_called_is_an_answer() -> None:
    call = {"functionCall": {"name": "f", "args": {}}}
    made = asked(CHAT, GEMINI, stream=False).answered(candidate("STOP", call))["choices"][0]
    assert made["finish_reason"] == "tool_calls"
    cut_off = asked(CHAT, GEMINI, stream=False).answered(candidate("MAX_TOKENS"))["choices"][0]
    assert (cut_off["message"]["content"], cut_off["finish_reason"]) == ("", "length")


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"])
@pytest.mark.parametrize("client", CLIENTS)
def test_an_answer_that_breaks_in_the_midst_ends_with_the_clients_error(client: WireFormat, reason: str) -> None:
    tap = asked(client, GEMINI, stream=True).bridge.tap(hide_usage=False)
    out = tap.feed(chunk(None, SAID)) + tap.feed(chunk(reason)) + tap.close()
    message = f"The provider failed in the middle of its answer: stopped without a usable answer: {reason}"
    found = events(out)
    last = found[-1]
    match client:
        case WireFormat.OPENAI_CHAT:
            assert last["error"]["message"] == message
            assert not any(choice["finish_reason"] for each in found[:-1] for choice in each.get("choices", ()))
        case WireFormat.ANTHROPIC_MESSAGES:
            assert last == {"type": "error", "error": {"type": "api_error", "message": message}}
            assert "message_stop" not in {event["type"] for event in found}
        case WireFormat.OPENAI_RESPONSES:
            assert (last["type"], last["response"]["error"]["message"]) == ("response.failed", message)
            assert [event["sequence_number"] for event in found] == list(range(len(found)))
        case WireFormat.GEMINI:
            assert (last["error"]["message"], last["error"]["status"]) == (message, "UNAVAILABLE")
        case _:
            assert (last["type"], last["delta"]) == ("message-end", {"finish_reason": "ERROR", "error": message})
    assert b"I will" in out
    assert tap.error is not None
    assert tap.usage is not None
    assert (tap.usage.input_tokens, tap.usage.output_tokens) == (7, 2)


@pytest.mark.parametrize("reason", BLOCKED)
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("client", CLIENTS)
def test_what_was_blocked_is_told_in_the_clients_word(client: WireFormat, streamed: bool, reason: str) -> None:
    bridge = asked(client, GEMINI, stream=streamed)
    if streamed:
        found = events(bridge.streamed([chunk(None, SAID), chunk(reason)]))
    else:
        found = [bridge.answered(candidate(reason, SAID))]
    match client:
        case WireFormat.OPENAI_CHAT:
            finishes = [choice["finish_reason"] for each in found if each != "[DONE]" for choice in each["choices"]]
            assert finishes[-1] == "content_filter"
        case WireFormat.ANTHROPIC_MESSAGES:
            assert (found[-2]["delta"] if streamed else found[0])["stop_reason"] == "refusal"
        case WireFormat.OPENAI_RESPONSES:
            response = found[-1]["response"] if streamed else found[0]
            assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
        case WireFormat.GEMINI:
            assert found[-1]["candidates"][0]["finishReason"] == "SAFETY"
        case _:
            assert (found[-1]["delta"] if streamed else found[0])["finish_reason"] == "ERROR_TOXIC"


def test_passing_through_asks_another_only_before_the_first_token() -> None:
    """A Gemini client knows Google's reasons: once it has text, the stream goes on as it came."""
    passing = PASSTHROUGHS[GEMINI]
    with pytest.raises(MalformedReply, match="MALFORMED_FUNCTION_CALL"):
        passing.read_reply(orjson.dumps(candidate("MALFORMED_FUNCTION_CALL")))
    tap = passing.tap(hide_usage=False)
    with pytest.raises(MalformedReply, match="MALFORMED_FUNCTION_CALL"):
        tap.feed(chunk("MALFORMED_FUNCTION_CALL") + chunk(None))
        tap.close()
    tap = passing.tap(hide_usage=False)
    sent = chunk(None, SAID) + chunk("MALFORMED_FUNCTION_CALL")
    assert tap.feed(sent) + tap.close() == sent


@pytest.mark.parametrize("finish", ["error", "network_error", "insufficient_system_resource"])
def test_the_same_holds_for_openais_imitators(finish: str) -> None:
    """Z.ai's network_error, DeepSeek's insufficient_system_resource."""
    passing = PASSTHROUGHS[CHAT]
    whole = orjson.dumps({"choices": [{"message": {"content": ""}, "finish_reason": finish}]})
    with pytest.raises(MalformedReply, match=finish):
        passing.read_reply(whole)
    with pytest.raises(MalformedReply, match=finish):
        asked(MESSAGES, CHAT, stream=False).answered(orjson.loads(whole))
    with pytest.raises(MalformedReply, match=finish):
        passing.tap(hide_usage=False).feed(chat_stream(finish=finish))
    with pytest.raises(MalformedReply, match=finish):
        asked(MESSAGES, CHAT, stream=True).streamed([chat_stream(finish=finish)])
    late = chat_stream({"content": "so"}, finish=finish)
    assert passing.tap(hide_usage=False).feed(late) == late
    assert events(asked(MESSAGES, CHAT, stream=True).streamed([late]))[-1]["type"] == "error"

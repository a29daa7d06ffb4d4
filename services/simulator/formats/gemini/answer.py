"""Answers of Google's generateContent, whole and streamed, and its errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from services.simulator.answer import Choice, Reply, ToolCall
from services.simulator.behaviour import Behaviour, Reporting
from services.simulator.call import Call
from services.simulator.formats.base import (
    Failure,
    Step,
    sign,
)

STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED",
    429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}  # fmt: skip
REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}


def encode_reply(reply: Reply, behaviour: Behaviour) -> bytes:
    candidates = []
    for choice in reply.choices:
        parts = list(_thoughts(reply, choice, whole_text=True))
        if choice.content:
            parts.append({"text": "".join(choice.content)})
        parts += [_called(call, at) for at, call in enumerate(choice.tool_calls)]
        candidates.append(_candidate(choice.index, parts, choice.finish_reason))
    made = _chunk(reply, candidates, _usage(reply, behaviour))
    if behaviour.padding_kib:
        made["padding"] = "x" * (behaviour.padding_kib * 1024)
    return orjson.dumps(made)


def _thoughts(reply: Reply, choice: Choice, *, whole_text: bool) -> Iterator[dict[str, Any]]:
    if reply.show_thoughts and choice.reasoning:
        for piece in ["".join(choice.reasoning)] if whole_text else choice.reasoning:
            yield {"text": piece, "thought": True}


def _called(call: ToolCall, at: int) -> dict[str, Any]:
    """Whole calls, without ids; only the first of a turn is signed."""
    try:
        arguments = orjson.loads("".join(call.arguments))
    except orjson.JSONDecodeError:
        arguments = {}
    signed = {"thoughtSignature": sign(call.name)} if at == 0 else {}
    return {"functionCall": {"name": call.name, "args": arguments}, **signed}


def _candidate(index: int, parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
    made: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": index}
    return made | ({"finishReason": REASONS[finish]} if finish is not None else {})


def _chunk(reply: Reply, candidates: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
    made: dict[str, Any] = {"candidates": candidates}
    if usage is not None:
        made["usageMetadata"] = usage
    return made | {"modelVersion": reply.model, "responseId": reply.reply_id}


def _usage(reply: Reply, behaviour: Behaviour) -> dict[str, Any] | None:
    """Thoughts are not among the candidates' tokens."""
    if behaviour.reporting is Reporting.NONE:
        return None
    if behaviour.reporting is Reporting.WRONG:
        return {"promptTokenCount": -5, "candidatesTokenCount": 10**15, "totalTokenCount": "many"}
    usage = reply.usage
    thoughts = usage["completion_tokens_details"]["reasoning_tokens"]
    made = {
        "promptTokenCount": usage["prompt_tokens"],
        "candidatesTokenCount": usage["completion_tokens"] - thoughts,
        "totalTokenCount": usage["total_tokens"],
    }
    if thoughts:
        made["thoughtsTokenCount"] = thoughts
    if cached := usage["prompt_tokens_details"]["cached_tokens"]:
        made["cachedContentTokenCount"] = cached
    return made


def encode_events(reply: Reply, behaviour: Behaviour, call: Call) -> Iterator[tuple[Step, bytes]]:
    """`alt=sse`: events; otherwise one JSON array that grows."""
    first = True
    for step, chunk in _chunks(reply, behaviour):
        if call.sse:
            yield step, b"data: " + orjson.dumps(chunk) + b"\r\n\r\n"
        else:
            yield step, (b"[" if first else b",\r\n") + orjson.dumps(chunk)
        first = False
    if not call.sse:
        yield Step.CLOSING, b"]"


def _chunks(reply: Reply, behaviour: Behaviour) -> Iterator[tuple[Step, dict[str, Any]]]:
    if behaviour.padding_kib:
        yield Step.OPENING, _chunk(reply, [], None) | {"padding": "x" * (behaviour.padding_kib * 1024)}
    for choice in reply.choices:
        for part in _thoughts(reply, choice, whole_text=False):
            yield Step.TOKEN, _chunk(reply, [_candidate(choice.index, [part], None)], None)
        for piece in choice.content or ():
            yield Step.TOKEN, _chunk(reply, [_candidate(choice.index, [{"text": piece}], None)], None)
        for at, call in enumerate(choice.tool_calls):
            yield Step.TOKEN, _chunk(reply, [_candidate(choice.index, [_called(call, at)], None)], None)
    last = [_candidate(choice.index, [{"text": ""}], choice.finish_reason) for choice in reply.choices]
    yield Step.CLOSING, _chunk(reply, last, _usage(reply, behaviour))


def _error(status: int, message: str) -> dict[str, Any]:
    named = STATUSES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
    return {"error": {"code": status, "message": message, "status": named}}


def encode_error(failure: Failure) -> tuple[bytes, dict[str, str]]:
    message = failure.message
    if failure.code == "context_length_exceeded":
        message = "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."
    return orjson.dumps(_error(failure.status, message)), {}


def error_event(message: str) -> bytes:
    return b"data: " + orjson.dumps(_error(500, message)) + b"\r\n\r\n"

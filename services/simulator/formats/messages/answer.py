"""Answers of Anthropic's Messages API, whole and streamed, and its errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from services.simulator.answer import Choice, Reply
from services.simulator.behaviour import Behaviour, Reporting
from services.simulator.call import Call
from services.simulator.formats.base import (
    Failure,
    Step,
    event,
    sign,
)

KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def encode_reply(reply: Reply, behaviour: Behaviour) -> bytes:
    choice = reply.choices[0]
    made = _head(reply) | {"content": list(_blocks(choice)), "stop_reason": STOPS[choice.finish_reason]}
    made |= {"stop_sequence": None, "usage": _usage(reply, behaviour, reply.usage["completion_tokens"])}
    if behaviour.padding_kib:
        made["padding"] = "x" * (behaviour.padding_kib * 1024)
    return orjson.dumps({name: value for name, value in made.items() if name != "usage" or value is not None})


def _head(reply: Reply) -> dict[str, Any]:
    return {"id": f"msg_{reply.reply_id}", "type": "message", "role": "assistant", "model": reply.model}


def _blocks(choice: Choice) -> Iterator[dict[str, Any]]:
    if choice.reasoning:
        text = "".join(choice.reasoning)
        yield {"type": "thinking", "thinking": text, "signature": sign(text)}
    if choice.content:
        yield {"type": "text", "text": "".join(choice.content)}
    for call in choice.tool_calls:
        arguments = "".join(call.arguments)
        yield {"type": "tool_use", "id": f"toolu_{call.call_id}", "name": call.name, "input": _input(arguments)}


def _input(arguments: str) -> Any:
    """Cut arguments are no object any more: Claude then answers with what it has."""
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}


def _usage(reply: Reply, behaviour: Behaviour, output: int) -> dict[str, Any] | None:
    """The cached tokens are not among the input tokens."""
    if behaviour.reporting is Reporting.NONE:
        return None
    if behaviour.reporting is Reporting.WRONG:
        return {"input_tokens": -5, "output_tokens": 10**15, "cache_read_input_tokens": "many"}
    cached = reply.usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": reply.usage["prompt_tokens"] - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
    }


def encode_events(reply: Reply, behaviour: Behaviour, call: Call) -> Iterator[tuple[Step, bytes]]:
    choice = reply.choices[0]
    message = _head(reply) | {"content": [], "stop_reason": None, "stop_sequence": None}
    usage = _usage(reply, behaviour, 1)
    if usage is not None:
        message["usage"] = usage
    if behaviour.padding_kib:
        message["padding"] = "x" * (behaviour.padding_kib * 1024)
    yield Step.OPENING, event("message_start", {"type": "message_start", "message": message})
    yield Step.OPENING, event("ping", {"type": "ping"})
    for index, (empty, deltas) in enumerate(_streamed(choice)):
        begun = {"type": "content_block_start", "index": index, "content_block": empty}
        yield Step.OPENING, event("content_block_start", begun)
        for step, delta in deltas:
            yield step, event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})
        yield Step.OPENING, event("content_block_stop", {"type": "content_block_stop", "index": index})
    ended: dict[str, Any] = {"type": "message_delta"}
    ended["delta"] = {"stop_reason": STOPS[choice.finish_reason], "stop_sequence": None}
    final = _usage(reply, behaviour, reply.usage["completion_tokens"])
    if final is not None:
        ended["usage"] = final
    yield Step.CLOSING, event("message_delta", ended)
    if behaviour.done:
        yield Step.CLOSING, event("message_stop", {"type": "message_stop"})


def _streamed(choice: Choice) -> Iterator[tuple[dict[str, Any], Iterator[tuple[Step, dict[str, Any]]]]]:
    """Each block: as it begins, and its deltas."""
    if choice.reasoning:
        deltas = [(Step.TOKEN, {"type": "thinking_delta", "thinking": piece}) for piece in choice.reasoning]
        deltas.append((Step.OPENING, {"type": "signature_delta", "signature": sign("".join(choice.reasoning))}))
        yield {"type": "thinking", "thinking": "", "signature": ""}, iter(deltas)
    if choice.content:
        text = ((Step.TOKEN, {"type": "text_delta", "text": piece}) for piece in choice.content)
        yield {"type": "text", "text": ""}, text
    for call in choice.tool_calls:
        empty = {"type": "tool_use", "id": f"toolu_{call.call_id}", "name": call.name, "input": {}}
        pieces = ["", *call.arguments]  # Claude's first delta is always empty
        yield empty, ((Step.TOKEN, {"type": "input_json_delta", "partial_json": piece}) for piece in pieces)


def _error(status: int, message: str) -> dict[str, Any]:
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_simulated"}


def encode_error(failure: Failure) -> tuple[bytes, dict[str, str]]:
    message = failure.message
    if failure.code == "context_length_exceeded":
        message = "prompt is too long: 200001 tokens > 200000 maximum"
    return orjson.dumps(_error(failure.status, message)), {}


def error_event(message: str) -> bytes:
    return event("error", _error(500, message))

"""OpenAI's chat format: one JSON object, or the events of a stream. How a body is read stands in call.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import orjson

from services.simulator.answer import Choice, Reply, usage_object
from services.simulator.behaviour import Behaviour, Reporting
from services.simulator.call import Call, read_call
from services.simulator.formats.base import Asked, Failure, Format, Step, bearer

FINGERPRINT = "fp_simulator"
DONE = b"data: [DONE]\n\n"
MALFORMED = b'data: {"id":"broken","choices":[{"index":0,"delta":{"content":\n\n'
WRONG_USAGE = {"prompt_tokens": -5, "completion_tokens": 10**15, "total_tokens": "many"}


def read(raw: bytes, asked: Asked) -> tuple[dict[str, Any], Call]:
    return read_call(raw)


def encode_reply(reply: Reply, behaviour: Behaviour) -> bytes:
    """The body of a reply without a stream."""
    message: dict[str, Any] = {
        "id": reply.reply_id,
        "object": "chat.completion",
        "created": reply.created,
        "model": reply.model,
        "choices": [_whole_choice(choice) for choice in reply.choices],
    }
    usage = _reported(reply, behaviour)
    if usage is not None:
        message["usage"] = usage
    message["system_fingerprint"] = FINGERPRINT
    if behaviour.padding_kib:
        message["padding"] = "x" * (behaviour.padding_kib * 1024)
    return orjson.dumps(message)


def _whole_choice(choice: Choice) -> dict[str, Any]:
    content = None if choice.content is None else "".join(choice.content)
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": "".join(call.arguments)},
            }
            for call in choice.tool_calls
        ]
    return {"index": choice.index, "message": message, "logprobs": None, "finish_reason": choice.finish_reason}


def encode_error(failure: Failure) -> tuple[bytes, dict[str, str]]:
    error = {"message": failure.message, "type": failure.kind, "param": failure.param, "code": failure.code}
    return orjson.dumps({"error": error}), {}


def encode_events(reply: Reply, behaviour: Behaviour, call: Call) -> Iterator[tuple[Step, bytes]]:
    """The events of the stream in order: roles, one token each (choices in turn), finishes, usage, [DONE]."""
    include_usage = call.include_usage
    head = _head(reply)
    running = behaviour.reporting is Reporting.EVERY_CHUNK
    silent = running or behaviour.reporting is Reporting.NONE
    tail = b',"usage":null}\n\n' if include_usage and not silent else b"}\n\n"
    for choice in reply.choices:
        yield Step.OPENING, head + _opening(choice) + tail
    if behaviour.padding_kib:
        yield Step.OPENING, head + b'"choices":[],"padding":"' + b"x" * (behaviour.padding_kib * 1024) + b'"' + tail
    sent = 0
    for round_ in zip_longest(*(_deltas(choice) for choice in reply.choices)):
        for delta in round_:
            if delta is None:
                continue
            sent += 1
            yield Step.TOKEN, head + delta + (_usage_so_far(reply, sent) if running else tail)
    for choice in reply.choices:
        yield Step.CLOSING, head + _closing(choice, reply, behaviour) + tail
    usage = _reported(reply, behaviour)
    if include_usage and usage is not None and behaviour.reporting is not Reporting.IN_CHOICE:
        yield Step.CLOSING, head + b'"choices":[],"usage":' + orjson.dumps(usage) + b"}\n\n"
    if behaviour.done:
        yield Step.CLOSING, DONE


def error_event(message: str) -> bytes:
    return b"data: " + encode_error(Failure(status=500, message=message, code="server_error"))[0] + b"\n\n"


def _head(reply: Reply) -> bytes:
    chunk = {
        "id": reply.reply_id,
        "object": "chat.completion.chunk",
        "created": reply.created,
        "model": reply.model,
        "system_fingerprint": FINGERPRINT,
    }
    return b"data: " + orjson.dumps(chunk)[:-1] + b","


def _opening(choice: Choice) -> bytes:
    content = b"null" if choice.content is None else b'""'
    return (
        b'"choices":[{"index":%d,"delta":{"role":"assistant","content":%b,"refusal":null},"logprobs":null,"finish_reason":null}]'
        % (choice.index, content)
    )


def _deltas(choice: Choice) -> Iterator[bytes]:
    prefix = b'"choices":[{"index":%d,"delta":{' % choice.index
    suffix = b'},"logprobs":null,"finish_reason":null}]'
    for piece in choice.reasoning:
        yield prefix + b'"reasoning_content":' + orjson.dumps(piece) + suffix
    for piece in choice.content or ():
        yield prefix + b'"content":' + orjson.dumps(piece) + suffix
    for number, call in enumerate(choice.tool_calls):
        first = {
            "index": number,
            "id": call.call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        yield prefix + b'"tool_calls":[' + orjson.dumps(first) + b"]" + suffix
        for piece in call.arguments:
            part = b'{"index":%d,"function":{"arguments":%b}}' % (number, orjson.dumps(piece))
            yield prefix + b'"tool_calls":[' + part + b"]" + suffix


def _closing(choice: Choice, reply: Reply, behaviour: Behaviour) -> bytes:
    usage = b""
    if behaviour.reporting is Reporting.IN_CHOICE:
        usage = b',"usage":' + orjson.dumps(reply.usage)
    return b'"choices":[{"index":%d,"delta":{},"logprobs":null,"finish_reason":%b%b}]' % (
        choice.index,
        orjson.dumps(choice.finish_reason),
        usage,
    )


def _reported(reply: Reply, behaviour: Behaviour) -> dict[str, Any] | None:
    if behaviour.reporting is Reporting.NONE:
        return None
    return WRONG_USAGE if behaviour.reporting is Reporting.WRONG else reply.usage


def _usage_so_far(reply: Reply, sent: int) -> bytes:
    usage = usage_object(reply.usage["prompt_tokens"], sent, 0, 0)
    return b',"usage":' + orjson.dumps(usage) + b"}\n\n"


FORMAT = Format(
    read=read,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=encode_error,
    error_event=error_event,
    malformed=MALFORMED,
    key=bearer,
)

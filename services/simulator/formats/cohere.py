"""Cohere's v2 chat (https://docs.cohere.com/v2/reference/chat), as strict as it is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from services.simulator.answer import Choice, Reply, ToolCall
from services.simulator.behaviour import Behaviour, Reporting
from services.simulator.call import MAX_OUTPUT_TOKENS, Call
from services.simulator.formats.base import (
    Asked,
    Failure,
    Format,
    Step,
    a_number,
    a_string,
    an_object,
    bad,
    bearer,
    event,
    objects,
    parsed,
    strings,
    whole,
)
from services.simulator.tokens import count_prompt_tokens

STOPS = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL", "content_filter": "ERROR_TOXIC"}


def read(raw: bytes, asked: Asked) -> tuple[dict[str, Any], Call]:
    body = parsed(raw)
    tools = [_tool(tool, where) for where, tool in objects(body.get("tools") or [], "tools")]
    messages = _messages(body)
    for name, least, most in (
        ("p", 0.01, 0.99), ("k", 0, 500), ("temperature", 0, 2), ("frequency_penalty", 0, 1), ("presence_penalty", 0, 1)
    ):  # fmt: skip
        a_number(body.get(name), name, least, most)
    thinking = an_object(body.get("thinking") or {"type": "enabled"}, "thinking")
    if thinking.get("type") not in ("enabled", "disabled"):
        raise bad("thinking.type", "must be enabled or disabled")
    cap = body.get("max_tokens")
    call = Call(
        model=a_string(body.get("model"), "model"),
        messages=messages,
        stream=body.get("stream") is True,
        include_usage=True,
        max_tokens=MAX_OUTPUT_TOKENS if cap is None else min(MAX_OUTPUT_TOKENS, whole(cap, "max_tokens", 1)),
        choices=1,
        stop=strings(body.get("stop_sequences") or [], "stop_sequences", most=5),
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        parallel=False,
        response_format=_response_format(body, tools),
        think=thinking["type"] == "enabled",
        prompt_tokens=count_prompt_tokens(messages, tools),
    )
    return body, call


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    open_calls: set[str] = set()
    for where, message in objects(body.get("messages"), "messages"):
        role = message.get("role")
        if role not in ("user", "assistant", "system", "tool"):
            raise bad(f"{where}.role", "must be user, assistant, system or tool")
        if role == "tool":
            called = a_string(message.get("tool_call_id"), f"{where}.tool_call_id")
            if called not in open_calls:
                raise bad(where, f"tool_call_id {called!r} belongs to no tool call")
            open_calls.discard(called)
        elif open_calls:
            raise bad(where, f"tool call {min(open_calls)!r} has no result")
        for at, call in objects(message.get("tool_calls") or [], f"{where}.tool_calls"):
            open_calls.add(_tool_call(call, at))
        content = _content(message.get("content"), role, f"{where}.content")
        if content is None and not message.get("tool_calls"):
            raise bad(f"{where}.content", "must be provided")
        messages.append({**message, "content": content})
    if not messages:
        raise bad("messages", "must be at least 1 message")
    if open_calls:
        raise bad("messages", f"tool call {min(open_calls)!r} has no result")
    return messages


def _tool_call(call: Mapping[str, Any], where: str) -> str:
    function = an_object(call.get("function"), f"{where}.function")
    a_string(function.get("name"), f"{where}.function.name")
    try:
        arguments = orjson.loads(a_string(function.get("arguments"), f"{where}.function.arguments"))
    except orjson.JSONDecodeError:
        arguments = None
    an_object(arguments, f"{where}.function.arguments")
    return a_string(call.get("id"), f"{where}.id")


def _content(content: Any, role: str, where: str) -> Any:
    if content is None or isinstance(content, str):
        return content
    made: list[dict[str, Any]] = []
    for at, part in objects(content, where):
        match part.get("type"):
            case "text":
                made.append({"type": "text", "text": a_string(part.get("text"), f"{at}.text")})
            case "image_url" if role == "user":
                url = a_string(an_object(part.get("image_url"), at).get("url"), f"{at}.image_url.url")
                made.append({"type": "image_url", "image_url": {"url": url}})
            case "thinking" if role == "assistant":
                a_string(part.get("thinking"), f"{at}.thinking")
            case "document" if role == "tool":
                made.append({"type": "text", "text": orjson.dumps(part.get("document")).decode()})
            case kind:
                raise bad(f"{at}.type", f"{kind!r} is not allowed here")
    return made


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    function = an_object(tool.get("function"), f"{where}.function")
    name = a_string(function.get("name"), f"{where}.function.name", pattern="[a-zA-Z0-9_-]+")
    schema = an_object(function.get("parameters"), f"{where}.function.parameters")
    if tool.get("type") != "function":
        raise bad(f"{where}.type", "must be function")
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def _tool_choice(body: Mapping[str, Any], tools: list[dict[str, Any]]) -> str:
    choice = body.get("tool_choice")
    if choice is None:
        return "auto"
    if choice not in ("REQUIRED", "NONE"):
        raise bad("tool_choice", "must be REQUIRED or NONE")
    if not tools:
        raise bad("tool_choice", "needs tools")
    return "required" if choice == "REQUIRED" else "none"


def _response_format(body: Mapping[str, Any], tools: list[dict[str, Any]]) -> Mapping[str, Any] | None:
    wanted = body.get("response_format")
    if wanted is None or an_object(wanted, "response_format").get("type") == "text":
        return None
    if wanted.get("type") != "json_object":
        raise bad("response_format.type", "must be text or json_object")
    if tools:
        raise bad("response_format", "is not supported together with tools")
    schema = wanted.get("json_schema", wanted.get("schema"))
    if schema is None:
        return {"type": "json_object"}
    if not an_object(schema, "response_format.json_schema").get("required"):
        raise bad("response_format.json_schema", "must have at least one required field")
    return {"type": "json_schema", "json_schema": {"schema": schema}}


# -- the answer


def encode_reply(reply: Reply, behaviour: Behaviour) -> bytes:
    choice = reply.choices[0]
    message: dict[str, Any] = {"role": "assistant"}
    content: list[dict[str, Any]] = []
    if choice.reasoning:
        content.append({"type": "thinking", "thinking": "".join(choice.reasoning)})
    if choice.content:
        content.append({"type": "text", "text": "".join(choice.content)})
    if content:
        message["content"] = content
    if choice.tool_calls:
        message["tool_plan"] = _plan(choice)
        message["tool_calls"] = [_called(call, "".join(call.arguments)) for call in choice.tool_calls]
    made: dict[str, Any] = {"id": reply.reply_id, "finish_reason": STOPS[choice.finish_reason], "message": message}
    if (usage := _usage(reply, behaviour)) is not None:
        made["usage"] = usage
    if behaviour.padding_kib:
        made["padding"] = "x" * (behaviour.padding_kib * 1024)
    return orjson.dumps(made)


def _plan(choice: Choice) -> str:
    return f"I will call {choice.tool_calls[0].name}."


def _called(call: ToolCall, arguments: str) -> dict[str, Any]:
    return {"id": f"{call.name}_{call.call_id}", "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _usage(reply: Reply, behaviour: Behaviour) -> dict[str, Any] | None:
    if behaviour.reporting is Reporting.NONE:
        return None
    if behaviour.reporting is Reporting.WRONG:
        return {"billed_units": {"input_tokens": -5, "output_tokens": "many"}, "tokens": {"input_tokens": 10**15}}
    counts = {"input_tokens": reply.usage["prompt_tokens"], "output_tokens": reply.usage["completion_tokens"]}
    cached = reply.usage["prompt_tokens_details"]["cached_tokens"]
    return {"billed_units": counts, "tokens": counts, "cached_tokens": cached}


def encode_events(reply: Reply, behaviour: Behaviour, call: Call) -> Iterator[tuple[Step, bytes]]:
    choice = reply.choices[0]
    begun: dict[str, Any] = {"id": reply.reply_id, "type": "message-start"}
    begun["delta"] = {"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}}
    if behaviour.padding_kib:
        begun["padding"] = "x" * (behaviour.padding_kib * 1024)
    yield Step.OPENING, event("message-start", begun)
    index = 0
    for kind, pieces in (("thinking", choice.reasoning), ("text", choice.content or [])):
        if pieces:
            yield Step.OPENING, _event("content-start", index, {"content": {"type": kind, kind: ""}})
            for piece in pieces:
                yield Step.TOKEN, _event("content-delta", index, {"content": {kind: piece}})
            yield Step.OPENING, _event("content-end", index, None)
            index += 1
    if choice.tool_calls:
        plan = {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": _plan(choice)}}}
        yield Step.OPENING, event("tool-plan-delta", plan)
    for at, called in enumerate(choice.tool_calls):
        yield Step.OPENING, _event("tool-call-start", at, {"tool_calls": _called(called, "")})
        for piece in called.arguments:
            yield Step.TOKEN, _event("tool-call-delta", at, {"tool_calls": {"function": {"arguments": piece}}})
        yield Step.OPENING, _event("tool-call-end", at, None)
    if behaviour.done:
        delta: dict[str, Any] = {"finish_reason": STOPS[choice.finish_reason]}
        if (usage := _usage(reply, behaviour)) is not None:
            delta["usage"] = usage
        yield Step.CLOSING, event("message-end", {"type": "message-end", "delta": delta})


def _event(kind: str, index: int, message: dict[str, Any] | None) -> bytes:
    made: dict[str, Any] = {"type": kind, "index": index}
    return event(kind, made if message is None else made | {"delta": {"message": message}})


def encode_error(failure: Failure) -> tuple[bytes, dict[str, str]]:
    message = failure.message
    if failure.code == "context_length_exceeded":
        message = "too many tokens: total number of tokens in the prompt cannot exceed 128000"
    return orjson.dumps({"id": "simulated", "message": message}), {}


def error_event(message: str) -> bytes:
    return event("message-end", {"type": "message-end", "delta": {"finish_reason": "ERROR", "error": message}})


FORMAT = Format(
    read=read,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=encode_error,
    error_event=error_event,
    malformed=b'event: content-delta\ndata: {"type":"content-delta","index":0,"delta":\n\n',
    key=bearer,
)

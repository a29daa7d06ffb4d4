"""OpenAI's Responses API (https://platform.openai.com/docs/api-reference/responses), as strict as it is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from services.simulator.answer import Choice, Reply
from services.simulator.behaviour import Behaviour, Reporting
from services.simulator.call import MAX_OUTPUT_TOKENS, BadCall, Call
from services.simulator.formats import chat
from services.simulator.formats.base import (
    Asked,
    Failure,
    Format,
    Step,
    a_list,
    a_number,
    a_string,
    an_object,
    bad,
    bearer,
    check_signature,
    event,
    objects,
    only,
    parsed,
    sign,
    strict_schema,
    strings,
    whole,
)
from services.simulator.tokens import count_prompt_tokens

FIELDS = frozenset({
    "background", "client_metadata", "context_management", "conversation", "include", "input", "instructions",
    "max_output_tokens", "max_tool_calls", "metadata", "model", "parallel_tool_calls", "previous_response_id", "prompt",
    "prompt_cache_key", "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store", "stream",
    "stream_options", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "user",
})  # fmt: skip
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
LEAST_OUTPUT_TOKENS = 16
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
OUTPUTS = {"function_call_output": "function_call", "custom_tool_call_output": "custom_tool_call"}


def read(raw: bytes, asked: Asked) -> tuple[dict[str, Any], Call]:
    body = parsed(raw)
    only(body, FIELDS, "")
    messages = _instructions(body) + _input(body.get("input"))
    tools = [_tool(tool, where) for where, tool in objects(body.get("tools") or [], "tools")]
    reasoning = an_object(body.get("reasoning") or {}, "reasoning")
    if reasoning.get("effort") is not None and reasoning["effort"] not in EFFORTS:
        raise bad("reasoning.effort", f"must be one of {', '.join(EFFORTS)}", code="invalid_value")
    a_number(body.get("temperature"), "temperature", 0, 2)
    a_number(body.get("top_p"), "top_p", 0, 1)
    if body.get("previous_response_id") is not None:
        raise BadCall(400, "Previous response not found.", param="previous_response_id", code="previous_response_not_found")
    cap = body.get("max_output_tokens")
    call = Call(
        model=a_string(body.get("model"), "model"),
        messages=messages,
        stream=body.get("stream") is True,
        include_usage=True,
        max_tokens=MAX_OUTPUT_TOKENS
        if cap is None
        else min(MAX_OUTPUT_TOKENS, whole(cap, "max_output_tokens", LEAST_OUTPUT_TOKENS)),
        choices=1,
        stop=(),
        tools=tools,
        tool_choice=_tool_choice(body.get("tool_choice"), tools),
        parallel=body.get("parallel_tool_calls") is True,
        response_format=_text_format(body),
        think=reasoning.get("effort") != "none",
        show_thoughts=reasoning.get("summary") is not None,
        seal_thoughts="reasoning.encrypted_content" in (body.get("include") or ()),
        prompt_tokens=count_prompt_tokens(messages, tools),
    )
    return body, call


def _instructions(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    told = body.get("instructions")
    return [] if told is None else [{"role": "system", "content": a_string(told, "instructions")}]


def _input(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    called: dict[str, str] = {}
    answered: set[str] = set()
    for where, item in objects(given, "input"):
        kind = item.get("type", "message")
        if kind == "message":
            messages.append(_message(item, where))
        elif kind in CALLS:
            call_id = a_string(item.get("call_id"), f"{where}.call_id")
            called[call_id] = kind
            arguments = a_string(item.get(CALLS[kind]), f"{where}.{CALLS[kind]}")
            messages.append(_called(call_id, a_string(item.get("name"), f"{where}.name"), arguments))
        elif kind in OUTPUTS:
            call_id = a_string(item.get("call_id"), f"{where}.call_id")
            if called.get(call_id) != OUTPUTS[kind]:
                raise bad(where, f"No tool call found for function call output with call_id {call_id}.")
            answered.add(call_id)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": _output(item.get("output"), where)})
        elif kind == "reasoning":
            _reasoning(item, where)
        else:
            raise bad(f"{where}.type", f"Invalid value: {kind!r}.", code="invalid_value")
    if missing := set(called) - answered:
        raise bad("input", f"No tool output found for function call {min(missing)}.")
    if not messages:
        raise bad("input", "must not be empty")
    return messages


def _message(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    only(item, ("type", "role", "content", "id", "status", "phase"), where)
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise bad(f"{where}.role", f"Invalid value: {role!r}.", code="invalid_value")
    content = item.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    parts = [_content(part, role, at) for at, part in objects(content, f"{where}.content")]
    return {"role": role, "content": parts}


def _content(part: Mapping[str, Any], role: str, where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind == ("output_text" if role == "assistant" else "input_text"):
        only(part, ("type", "text", "annotations", "logprobs"), where)
        return {"type": "text", "text": a_string(part.get("text"), f"{where}.text")}
    if kind == "refusal" and role == "assistant":
        return {"type": "text", "text": a_string(part.get("refusal"), f"{where}.refusal")}
    if role == "assistant":
        raise bad(f"{where}.type", f"Invalid value: {kind!r}. Supported values are: 'output_text' and 'refusal'.")
    if kind == "input_image":
        only(part, ("type", "detail", "image_url", "file_id"), where)
        return {"type": "image_url", "image_url": {"url": a_string(part.get("image_url"), f"{where}.image_url")}}
    if kind == "input_file":
        only(part, ("type", "filename", "file_data", "file_url", "file_id", "detail"), where)
        return {"type": "file", "file": {name: part[name] for name in ("file_data", "file_id", "file_url") if name in part}}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": an_object(part.get("input_audio"), f"{where}.input_audio")}
    raise bad(f"{where}.type", f"Invalid value: {kind!r}.", code="invalid_value")


def _output(output: Any, where: str) -> Any:
    if isinstance(output, str):
        return output
    return [_content(part, "user", at) for at, part in objects(output, f"{where}.output")]


def _called(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": call_id, "type": "function", "function": function}]}


def _reasoning(item: Mapping[str, Any], where: str) -> None:
    summary = objects(item.get("summary"), f"{where}.summary")
    sealed = item.get("encrypted_content")
    if sealed is None:
        raise bad(where, "Items are not persisted when `store` is set to false: encrypted_content is needed")
    if summary:
        text = "".join(a_string(part.get("text"), f"{at}.text") for at, part in summary)
        check_signature(text, sealed, f"{where}.encrypted_content")


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind not in ("function", "custom"):
        raise bad(f"{where}.type", f"Invalid value: {kind!r}.", code="invalid_value")
    name = a_string(tool.get("name"), f"{where}.name", pattern="[a-zA-Z0-9_-]{1,64}")
    if kind == "custom":
        only(tool, ("type", "name", "description", "format"), where)
        return {"type": "function", "function": {"name": name, "parameters": {"type": "string"}}}
    only(tool, ("type", "name", "description", "parameters", "strict"), where)
    schema = an_object(tool.get("parameters"), f"{where}.parameters")
    if tool.get("strict", True) is True:
        strict_schema(schema, f"{where}.parameters")
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def _tool_choice(choice: Any, tools: list[dict[str, Any]]) -> str:
    if choice is None or choice in ("auto", "none", "required"):
        return choice or "auto"
    choice = an_object(choice, "tool_choice")
    if choice.get("type") == "allowed_tools":
        a_list(choice.get("tools"), "tool_choice.tools")
        return "required" if choice.get("mode") == "required" else "auto"
    name = choice.get("name")
    if choice.get("type") in ("function", "custom") and any(tool["function"]["name"] == name for tool in tools):
        return f"={name}"
    raise bad("tool_choice", f"Tool choice {name!r} not found in 'tools' parameter.")


def _text_format(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    text = an_object(body.get("text") or {}, "text")
    only(text, ("format", "verbosity"), "text")
    wanted = an_object(text.get("format") or {"type": "text"}, "text.format")
    if wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_object":
        return {"type": "json_object"}
    if wanted.get("type") != "json_schema":
        raise bad("text.format.type", "Invalid value.", code="invalid_value")
    only(wanted, ("type", "name", "schema", "strict", "description"), "text.format")
    a_string(wanted.get("name"), "text.format.name", pattern="[a-zA-Z0-9_-]{1,64}")
    schema = an_object(wanted.get("schema"), "text.format.schema")
    if wanted.get("strict") is True:
        strict_schema(schema, "text.format.schema")
    strings(body.get("include") or [], "include")
    return {"type": "json_schema", "json_schema": {"schema": schema}}


# -- the answer


def encode_reply(reply: Reply, behaviour: Behaviour) -> bytes:
    choice = reply.choices[0]
    items = list(_items(reply, choice))
    return orjson.dumps(_response(reply, behaviour, items, choice.finish_reason, padding=True))


def _response(
    reply: Reply, behaviour: Behaviour, items: list[dict[str, Any]], finish: str | None, *, padding: bool = False
) -> dict[str, Any]:
    incomplete = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish or "")
    status = "in_progress" if finish is None else "incomplete" if incomplete else "completed"
    made: dict[str, Any] = {
        "id": f"resp_{reply.reply_id}",
        "object": "response",
        "created_at": reply.created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "model": reply.model,
        "output": items,
        "parallel_tool_calls": True,
        "store": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": None if finish is None else _usage(reply, behaviour),
    }
    if padding and behaviour.padding_kib:
        made["padding"] = "x" * (behaviour.padding_kib * 1024)
    return made


def _usage(reply: Reply, behaviour: Behaviour) -> dict[str, Any] | None:
    if behaviour.reporting is Reporting.NONE:
        return None
    if behaviour.reporting is Reporting.WRONG:
        return {"input_tokens": -5, "output_tokens": 10**15, "total_tokens": "many"}
    usage = reply.usage
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": usage["prompt_tokens_details"]["cached_tokens"]},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"]},
        "total_tokens": usage["total_tokens"],
    }


def _items(reply: Reply, choice: Choice) -> Iterator[dict[str, Any]]:
    """The output items. A thought is shown as a summary only when one was asked for."""
    if choice.reasoning:
        text = "".join(choice.reasoning)
        summary = [{"type": "summary_text", "text": text}] if reply.show_thoughts else []
        item = {"id": f"rs_{reply.reply_id}", "type": "reasoning", "summary": summary}
        yield item | ({"encrypted_content": sign(text)} if reply.seal_thoughts else {})
    if choice.content is not None:
        yield _text_item(reply, "".join(choice.content), "completed")
    for at, call in enumerate(choice.tool_calls):
        yield {
            "id": f"fc_{reply.reply_id}_{at}",
            "type": "function_call",
            "status": "completed",
            "call_id": call.call_id,
            "name": call.name,
            "arguments": "".join(call.arguments),
        }


def _text_item(reply: Reply, text: str, status: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}] if status == "completed" else []
    return {"id": f"msg_{reply.reply_id}", "type": "message", "role": "assistant", "status": status, "content": content}


def encode_events(reply: Reply, behaviour: Behaviour, call: Call) -> Iterator[tuple[Step, bytes]]:
    """Named, numbered events. The terminal one carries the whole response."""
    return _Stream(reply, behaviour).events()


class _Stream:
    def __init__(self, reply: Reply, behaviour: Behaviour) -> None:
        self.reply, self.behaviour = reply, behaviour
        self.number = 0

    def made(self, kind: str, **fields: Any) -> bytes:
        self.number += 1
        return event(kind, {"type": kind, "sequence_number": self.number - 1, **fields})

    def events(self) -> Iterator[tuple[Step, bytes]]:
        choice = self.reply.choices[0]
        begun = _response(self.reply, self.behaviour, [], None, padding=True)
        yield Step.OPENING, self.made("response.created", response=begun)
        yield Step.OPENING, self.made("response.in_progress", response=begun)
        items = list(_items(self.reply, choice))
        for at, item in enumerate(items):
            yield Step.OPENING, self.made("response.output_item.added", output_index=at, item=_empty(item))
            if item["type"] == "message":
                yield from self.message(at, item, choice.content or [])
            elif item["type"] == "reasoning":
                yield from self.reasoning(at, item, choice.reasoning)
            else:
                yield from self.function_call(at, item, choice.tool_calls[at - (len(items) - len(choice.tool_calls))].arguments)
            yield Step.OPENING, self.made("response.output_item.done", output_index=at, item=item)
        response = _response(self.reply, self.behaviour, items, choice.finish_reason)
        if self.behaviour.done:
            yield Step.CLOSING, self.made(f"response.{response['status']}", response=response)

    def message(self, at: int, item: dict[str, Any], pieces: list[str]) -> Iterator[tuple[Step, bytes]]:
        place = {"item_id": item["id"], "output_index": at, "content_index": 0}
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield Step.OPENING, self.made("response.content_part.added", **place, part=empty)
        for piece in pieces:
            yield Step.TOKEN, self.made("response.output_text.delta", **place, delta=piece, logprobs=[])
        whole_text = item["content"][0]
        yield Step.OPENING, self.made("response.output_text.done", **place, text=whole_text["text"], logprobs=[])
        yield Step.OPENING, self.made("response.content_part.done", **place, part=whole_text)

    def reasoning(self, at: int, item: dict[str, Any], pieces: list[str]) -> Iterator[tuple[Step, bytes]]:
        if not item["summary"]:
            return
        place = {"item_id": item["id"], "output_index": at, "summary_index": 0}
        empty = {"type": "summary_text", "text": ""}
        yield Step.OPENING, self.made("response.reasoning_summary_part.added", **place, part=empty)
        for piece in pieces:
            yield Step.TOKEN, self.made("response.reasoning_summary_text.delta", **place, delta=piece)
        text = item["summary"][0]["text"]
        yield Step.OPENING, self.made("response.reasoning_summary_text.done", **place, text=text)
        yield Step.OPENING, self.made("response.reasoning_summary_part.done", **place, part=item["summary"][0])

    def function_call(self, at: int, item: dict[str, Any], pieces: list[str]) -> Iterator[tuple[Step, bytes]]:
        place = {"item_id": item["id"], "output_index": at}
        for piece in pieces:
            yield Step.TOKEN, self.made("response.function_call_arguments.delta", **place, delta=piece)
        name, arguments = item["name"], item["arguments"]
        yield Step.OPENING, self.made("response.function_call_arguments.done", **place, name=name, arguments=arguments)


def _empty(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as it begins."""
    match item["type"]:
        case "message":
            return {**item, "status": "in_progress", "content": []}
        case "reasoning":
            return {**item, "summary": []}
        case _:
            return {**item, "status": "in_progress", "arguments": ""}


def error_event(message: str) -> bytes:
    failed = {"type": "error", "sequence_number": 0, "code": "server_error", "message": message, "param": None}
    return event("error", failed)


def encode_error(failure: Failure) -> tuple[bytes, dict[str, str]]:
    return chat.encode_error(failure)


FORMAT = Format(
    read=read,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=encode_error,
    error_event=error_event,
    malformed=b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":\n\n',
    key=bearer,
)

"""Calls of Anthropic's Messages API, checked as strictly as they are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from services.simulator.call import MAX_OUTPUT_TOKENS, Call
from services.simulator.formats.base import (
    Asked,
    a_number,
    a_string,
    an_object,
    bad,
    check_signature,
    media_part,
    objects,
    only,
    parsed,
    strict_schema,
    strings,
    whole,
)
from services.simulator.tokens import count_prompt_tokens

FIELDS = frozenset({
    "model", "messages", "max_tokens", "system", "tools", "tool_choice", "stream", "temperature", "top_p", "top_k",
    "stop_sequences", "metadata", "thinking", "output_config", "service_tier", "container", "mcp_servers",
    "context_management", "cache_control", "inference_geo", "speed",
})  # fmt: skip
COUNTED = FIELDS - {"max_tokens", "stream", "temperature", "top_p", "top_k", "stop_sequences", "metadata", "service_tier"}
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
ID = "[a-zA-Z0-9_-]+"
LEAST_BUDGET = 1024
MOST_BREAKPOINTS = 4


def read(raw: bytes, asked: Asked) -> tuple[dict[str, Any], Call]:
    body = parsed(raw)
    _check_version(asked)
    only(body, FIELDS, "")
    cap = whole(body.get("max_tokens"), "max_tokens", 1)
    tools = _tools(body)
    choice, parallel = _tool_choice(body, tools)
    think = _thinking(body, cap, choice)
    messages = _system(body) + _Conversation(body, think=think).messages()
    a_number(body.get("temperature"), "temperature", 1 if think else 0, 1)
    a_number(body.get("top_p"), "top_p", 0.95 if think else 0, 1)
    stops = strings(body.get("stop_sequences") or [], "stop_sequences")
    if any(not stop.strip() for stop in stops):
        raise bad("stop_sequences", "each stop sequence must contain non-whitespace")
    if _breakpoints(body) > MOST_BREAKPOINTS:
        raise bad("cache_control", f"A maximum of {MOST_BREAKPOINTS} blocks with cache_control may be provided")
    call = Call(
        model=a_string(body.get("model"), "model"),
        messages=messages,
        stream=body.get("stream") is True,
        include_usage=True,
        max_tokens=min(cap, MAX_OUTPUT_TOKENS),
        choices=1,
        stop=stops,
        tools=tools,
        tool_choice=choice,
        parallel=parallel,
        response_format=_output_format(body),
        think=think,
        prompt_tokens=count_prompt_tokens(messages, tools),
        begun=(messages[-1]["content"] or "") if messages[-1]["role"] == "assistant" else "",
    )
    return body, call


def read_count(raw: bytes, asked: Asked) -> tuple[dict[str, Any], int]:
    """A count_tokens body and what it comes to."""
    body = parsed(raw)
    _check_version(asked)
    only(body, COUNTED, "")
    a_string(body.get("model"), "model")
    messages = _system(body) + _Conversation(body, think=False).messages()
    return body, count_prompt_tokens(messages, _tools(body))


def _check_version(asked: Asked) -> None:
    if "anthropic-version" not in asked.headers:
        raise bad("anthropic-version", "header is required")


def _system(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    system = body.get("system")
    if system is None:
        return []
    if isinstance(system, str):
        return [{"role": "system", "content": system}]
    return [{"role": "system", "content": _text(block, where)} for where, block in objects(system, "system")]


def _text(block: Mapping[str, Any], where: str) -> str:
    only(block, ("type", "text", "cache_control", "citations"), where)
    if block.get("type") != "text":
        raise bad(f"{where}.type", "Input should be 'text'")
    text = a_string(block.get("text"), f"{where}.text")
    if not text.strip():
        raise bad(f"{where}.text", "text content blocks must contain non-whitespace text")
    return text


class _Conversation:
    """The turns, where every tool_use is answered in the very next message."""

    def __init__(self, body: Mapping[str, Any], *, think: bool) -> None:
        self.given = objects(body.get("messages"), "messages")
        self.think = think
        self.open: list[str] = []
        self.used: set[str] = set()

    def messages(self) -> list[dict[str, Any]]:
        if not self.given:
            raise bad("messages", "at least one message is required")
        made: list[dict[str, Any]] = []
        for where, message in self.given:
            only(message, ("role", "content"), where)
            role, content = message.get("role"), message.get("content")
            if role not in ("user", "assistant"):
                raise bad(f"{where}.role", "Input should be 'user' or 'assistant'")
            if not made and role != "user":
                raise bad(where, "first message must use the user role")
            if isinstance(content, str):
                content = [{"type": "text", "text": content}]
            blocks = objects(content, f"{where}.content")
            if not blocks:
                raise bad(f"{where}.content", "all messages must have non-empty content")
            made += self.user(blocks, where) if role == "user" else [self.assistant(blocks, where)]
        if self.open:
            raise bad("messages", f"`tool_use` ids were found without `tool_result` blocks: {self.open[0]}")
        last = self.given[-1][1]
        if last["role"] == "assistant" and self.ends_blank(last["content"]):
            raise bad("messages", "final assistant content cannot end with trailing whitespace")
        return made

    @staticmethod
    def ends_blank(content: Any) -> bool:
        text = content if isinstance(content, str) else content[-1].get("text", "")
        return text != text.rstrip()

    def user(self, blocks: list[tuple[str, dict[str, Any]]], where: str) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        parts: list[dict[str, Any]] = []
        for at, block in blocks:
            if block.get("type") == "tool_result":
                if parts:
                    raise bad(at, "`tool_result` blocks must come first in their message")
                results.append(self.result(block, at))
            else:
                parts.append(_part(block, at))
        if self.open:
            raise bad(where, f"`tool_use` ids were found without `tool_result` blocks immediately after: {self.open[0]}")
        return results + ([{"role": "user", "content": parts}] if parts else [])

    def result(self, block: Mapping[str, Any], where: str) -> dict[str, Any]:
        only(block, ("type", "tool_use_id", "content", "is_error", "cache_control"), where)
        called = block.get("tool_use_id")
        if called not in self.open:
            raise bad(where, f"unexpected `tool_use_id` found in `tool_result` blocks: {called}")
        self.open.remove(called)
        content = block.get("content", "")
        if not isinstance(content, str):
            content = [_part(part, at) for at, part in objects(content, f"{where}.content")]
        return {"role": "tool", "tool_call_id": called, "content": content}

    def assistant(self, blocks: list[tuple[str, dict[str, Any]]], where: str) -> dict[str, Any]:
        if self.open:
            raise bad(where, f"`tool_use` ids were found without `tool_result` blocks immediately after: {self.open[0]}")
        text: list[str] = []
        calls: list[dict[str, Any]] = []
        for at, block in blocks:
            match block.get("type"):
                case "text":
                    text.append(_text(block, at))
                case "thinking":
                    only(block, ("type", "thinking", "signature"), at)
                    check_signature(a_string(block.get("thinking"), at), block.get("signature"), f"{at}.signature")
                case "redacted_thinking":
                    a_string(block.get("data"), f"{at}.data")
                case "tool_use":
                    calls.append(self.tool_use(block, at))
                case kind:
                    raise bad(f"{at}.type", f"{kind!r} is no content block of the assistant")
        if self.think and calls and blocks[0][1]["type"] not in ("thinking", "redacted_thinking"):
            raise bad(blocks[0][0], "Expected `thinking` or `redacted_thinking`, but found another block")
        made: dict[str, Any] = {"role": "assistant", "content": "".join(text) or None}
        return made | ({"tool_calls": calls} if calls else {})

    def tool_use(self, block: Mapping[str, Any], where: str) -> dict[str, Any]:
        only(block, ("type", "id", "name", "input", "cache_control", "caller"), where)
        called = a_string(block.get("id"), f"{where}.id", pattern=ID)
        if called in self.used:
            raise bad(f"{where}.id", "`tool_use` ids must be unique")
        self.used.add(called)
        self.open.append(called)
        name = a_string(block.get("name"), f"{where}.name", pattern="[a-zA-Z0-9_-]{1,200}")
        arguments = orjson.dumps(an_object(block.get("input"), f"{where}.input")).decode()
        return {"id": called, "type": "function", "function": {"name": name, "arguments": arguments}}


def _part(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "text": _text(block, where)}
    if kind not in ("image", "document"):
        raise bad(f"{where}.type", f"{kind!r} is no content block of the user")
    only(block, ("type", "source", "title", "context", "citations", "cache_control"), where)
    source = an_object(block.get("source"), f"{where}.source")
    match source.get("type"):
        case "base64":
            media_type = source.get("media_type")
            if media_type not in (IMAGES if kind == "image" else ("application/pdf",)):
                raise bad(f"{where}.source.media_type", f"{media_type!r} is not supported")
            return media_part(str(media_type), source.get("data"), f"{where}.source.data")
        case "url":
            return {"type": "image_url", "image_url": {"url": a_string(source.get("url"), f"{where}.source.url")}}
        case "text" if kind == "document":
            return {"type": "text", "text": a_string(source.get("data"), f"{where}.source.data")}
    raise bad(f"{where}.source.type", "must be base64 or url")


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for where, tool in objects(body.get("tools") or [], "tools"):
        only(tool, ("type", "name", "description", "input_schema", "cache_control", "strict", "defer_loading"), where)
        name = a_string(tool.get("name"), f"{where}.name", pattern="[a-zA-Z0-9_-]{1,128}")
        schema = an_object(tool.get("input_schema"), f"{where}.input_schema")
        if schema.get("type") != "object":
            raise bad(f"{where}.input_schema.type", "Input should be 'object'")
        made.append({"type": "function", "function": {"name": name, "parameters": schema}})
    if len({tool["function"]["name"] for tool in made}) < len(made):
        raise bad("tools", "Tool names must be unique.")
    return made


def _tool_choice(body: Mapping[str, Any], tools: list[dict[str, Any]]) -> tuple[str, bool]:
    """The choice, and whether several calls at once are wanted."""
    choice = body.get("tool_choice")
    if choice is None:
        return "auto", False
    choice = an_object(choice, "tool_choice")
    if not tools:
        raise bad("tool_choice", "may only be specified while providing tools")
    only(choice, ("type", "name", "disable_parallel_tool_use"), "tool_choice")
    parallel = choice.get("disable_parallel_tool_use") is False
    match choice.get("type"):
        case "auto" | "none" as kind:
            return kind, parallel
        case "any":
            return "required", parallel
        case "tool" if any(tool["function"]["name"] == choice.get("name") for tool in tools):
            return f"={choice['name']}", parallel
    raise bad("tool_choice", "Tool not found in provided tools")


def _thinking(body: Mapping[str, Any], cap: int, choice: str) -> bool:
    thinking = an_object(body.get("thinking") or {"type": "disabled"}, "thinking")
    kind = thinking.get("type")
    if kind == "disabled":
        return False
    if kind == "enabled":
        budget = whole(thinking.get("budget_tokens"), "thinking.budget_tokens", LEAST_BUDGET)
        if budget >= cap:
            raise bad("max_tokens", "must be greater than `thinking.budget_tokens`")
    elif kind != "adaptive":
        raise bad("thinking.type", "must be enabled, disabled or adaptive")
    if choice not in ("auto", "none"):
        raise bad("tool_choice", "Thinking may not be enabled when tool_choice forces tool use.")
    return True


def _output_format(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    config = an_object(body.get("output_config") or {}, "output_config")
    only(config, ("effort", "format"), "output_config")
    wanted = config.get("format")
    if wanted is None:
        return None
    wanted = an_object(wanted, "output_config.format")
    if wanted.get("type") != "json_schema":
        raise bad("output_config.format.type", "Input should be 'json_schema'")
    schema = an_object(wanted.get("schema"), "output_config.format.schema")
    strict_schema(schema, "output_config.format.schema")
    return {"type": "json_schema", "json_schema": {"schema": schema}}


def _breakpoints(value: Any) -> int:
    if isinstance(value, list):
        return sum(_breakpoints(entry) for entry in value)
    if not isinstance(value, dict):
        return 0
    below = sum(_breakpoints(entry) for name, entry in value.items() if name not in ("input", "input_schema"))
    return below + ("cache_control" in value and value["cache_control"] is not None)


# -- the answer

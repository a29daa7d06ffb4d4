"""A Cohere v2 body → a canonical Call. `documents` are said as text: elsewhere there is no field for them."""

from __future__ import annotations

import orjson

from shared.domain.usage import MAX_TOKENS
from shared.wire import datauri, fields
from shared.wire.canonical import (
    Call,
    Media,
    OutputFormat,
    Part,
    Reasoning,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from shared.wire.envelope import invalid_field
from shared.wire.fields import Values
from shared.wire.turns import lead, merged

HUB = frozenset(
    {
        "model", "messages", "tools", "tool_choice", "max_tokens", "temperature", "p", "k", "seed", "frequency_penalty",
        "presence_penalty", "stop_sequences", "logprobs", "response_format", "thinking", "stream", "documents",
    }
)  # fmt: skip
NATIVE = frozenset({"citation_options", "safety_mode", "strict_tools", "raw_prompting", "priority"})
NAMES = {
    "turns": "messages", "system": "messages", "top_p": "p", "top_k": "k", "stop": "stop_sequences",
    "output": "response_format", "reasoning": "thinking", "choices": "n",
    "thoughts": "messages[].content[]:thinking",
}  # fmt: skip


def decode_call(values: Values, *, model: str | None = None, stream: bool | None = None) -> Call:
    """Raises Refused, naming the field."""
    messages = fields.tables(values, "messages")
    turns = [turn for path, message in messages for turn in _turn(message, path)]
    system, rest = lead(turns)
    documents = fields.array(values, "documents")
    if documents:
        system += (Text(f"Documents to answer from:\n{orjson.dumps(documents).decode()}"),)
    return Call(
        model=fields.text(values, "model") or model or "",
        system=system,
        turns=tuple(merged(rest)),
        tools=tuple(_tool(tool, path) for path, tool in fields.tables(values, "tools")),
        tool_choice=_tool_choice(values),
        max_tokens=fields.integer(values, "max_tokens", "", 1, MAX_TOKENS),
        temperature=fields.number(values, "temperature"),
        top_p=fields.number(values, "p"),
        top_k=fields.integer(values, "k", "", 0),
        seed=fields.integer(values, "seed"),
        frequency_penalty=fields.number(values, "frequency_penalty"),
        presence_penalty=fields.number(values, "presence_penalty"),
        stop=tuple(fields.texts(values, "stop_sequences")),
        logprobs=0 if fields.flag(values, "logprobs") else None,
        output=_output(values),
        reasoning=_reasoning(values),
        stream=bool(fields.flag(values, "stream") if stream is None else stream),
        include_usage=True,
        format="cohere",
        native={name: value for name, value in values.items() if name in NATIVE and value is not None},
        extra={name: value for name, value in values.items() if name not in HUB and name not in NATIVE},
        names=NAMES | ({"thoughts": "messages[].tool_plan"} if any(raw.get("tool_plan") for _, raw in messages) else {}),
    )


def _turn(message: Values, path: str) -> list[Turn]:
    role = fields.needed_text(message, "role", path)
    match role:
        case "system":
            return [Turn(role="system", parts=tuple(_content(message, path)))]
        case "user":
            return [Turn(role="user", parts=tuple(_content(message, path)))]
        case "tool":
            told = tuple(part for part in _content(message, path) if isinstance(part, (Text, Media)))
            called = fields.needed_text(message, "tool_call_id", path)
            return [Turn(role="user", parts=(ToolResult(call_id=called, parts=told),))]
        case "assistant":
            plan = fields.text(message, "tool_plan", path)
            parts: list[Part] = [Thinking(text=plan)] if plan else []
            parts += _content(message, path)
            parts += [_called(call, at) for at, call in fields.tables(message, "tool_calls", path)]
            return [Turn(role="assistant", parts=tuple(parts))]
    raise invalid_field(f"{path}role", f"Invalid value for '{path}role': {role[:64]!r} is no role.")


def _content(message: Values, path: str) -> list[Part]:
    content = message.get("content")
    if type(content) is str:
        return [Text(content)] if content else []
    return [part for at, block in fields.tables(message, "content", path) for part in _block(block, at)]


def _block(block: Values, path: str) -> list[Part]:
    kind = fields.needed_text(block, "type", path)
    match kind:
        case "text":
            return [Text(fields.needed_text(block, "text", path))]
        case "thinking":
            return [Thinking(text=fields.text(block, "thinking", path) or "")]
        case "image_url":
            image = fields.table(block, "image_url", path) or {}
            url = fields.needed_text(image, "url", f"{path}image_url.")
            held = datauri.split(url)
            if held is None:
                return [Media(kind="image", url=url)]
            return [Media(kind="image", media_type=datauri.sniffed(held[0], held[1]), data=held[1])]
        case "document":
            return [Text(orjson.dumps(block.get("document")).decode())]
    raise invalid_field(f"{path}type", f"Invalid value for '{path}type': {kind[:64]!r} is no kind of content.")


def _called(call: Values, path: str) -> ToolCall:
    function = fields.table(call, "function", path) or {}
    name = fields.needed_text(function, "name", f"{path}function.")
    arguments = fields.text(function, "arguments", f"{path}function.") or ""
    return ToolCall(id=fields.text(call, "id", path) or "", name=name, arguments=arguments)


def _tool(tool: Values, path: str) -> Tool:
    function = fields.table(tool, "function", path) or {}
    at = f"{path}function."
    return Tool(
        name=fields.needed_text(function, "name", at),
        description=fields.text(function, "description", at),
        schema=fields.table(function, "parameters", at),
    )


def _tool_choice(values: Values) -> ToolChoice | None:
    choice = fields.one_of(values, "tool_choice", ("REQUIRED", "NONE"))
    return None if choice is None else ToolChoice(mode="any" if choice == "REQUIRED" else "none")


def _output(values: Values) -> OutputFormat | None:
    given = fields.table(values, "response_format")
    if given is None or fields.one_of(given, "type", ("text", "json_object"), "response_format.") != "json_object":
        return None
    at = "response_format."
    schema = fields.table(given, "json_schema", at) or fields.table(given, "schema", at)
    return OutputFormat(kind="json") if schema is None else OutputFormat(kind="schema", schema=schema)


def _reasoning(values: Values) -> Reasoning | None:
    given = fields.table(values, "thinking")
    if given is None:
        return None
    if fields.one_of(given, "type", ("enabled", "disabled"), "thinking.") == "disabled":
        return Reasoning(effort="none")
    budget = fields.integer(given, "token_budget", "thinking.", 1, MAX_TOKENS)
    return Reasoning(budget_tokens=budget) if budget is not None else Reasoning(effort="medium")

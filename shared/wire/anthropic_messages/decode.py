"""An Anthropic Messages body → a canonical Call. Source: Anthropic's API reference and the GA SDKs' types."""

from __future__ import annotations

import base64
from typing import Any

import orjson
from msgspec.structs import replace

from shared.domain.usage import MAX_TOKENS
from shared.wire import datauri, fields
from shared.wire.canonical import (
    Cache,
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
    unpack_signature,
)
from shared.wire.envelope import invalid_field, wrong_type
from shared.wire.fields import Values

HUB = frozenset(
    {
        "model", "messages", "system", "max_tokens", "tools", "tool_choice", "temperature", "top_p", "top_k", "stop_sequences",
        "stream", "thinking", "output_config", "metadata", "service_tier",
    }
)  # fmt: skip
NATIVE = frozenset(
    {
        "cache_control", "container", "context_management", "diagnostics", "inference_geo", "mcp_servers", "speed", "betas",
        "safeguards", "models", "fallbacks", "provider", "plugins", "session_id", "user", "route", "trace",
    }
)  # fmt: skip
BILLING = "x-anthropic-billing-header:"
"""Claude Code's first system block, meant for Anthropic alone; it changes from call to call and breaks others' caches."""
NAMES = {
    "stop": "stop_sequences", "turns": "messages", "reasoning": "thinking", "output": "output_config", "user": "metadata",
    "thoughts": "messages[].content[]:thinking",
}  # fmt: skip


def decode_call(values: Values, *, model: str | None = None, stream: bool | None = None) -> Call:
    """Raises Refused, naming the field."""
    config = fields.table(values, "output_config") or {}
    metadata = fields.table(values, "metadata") or {}
    choice = fields.table(values, "tool_choice")
    one_at_a_time = fields.flag(choice, "disable_parallel_tool_use", "tool_choice.") if choice else None
    hosted = [(path[:-1], raw.get("name")) for path, raw in fields.tables(values, "tools") if _hosted(raw)]
    left_out = [path for path, _ in hosted]
    chosen = _tool_choice(choice) if choice else None
    if chosen is not None and chosen.mode == "tool" and chosen.name in [name for _, name in hosted]:
        chosen = ToolChoice(mode="auto")  # a tool that is left out cannot be forced
        left_out.append("tool_choice")
    return Call(
        model=fields.text(values, "model") or model or "",
        system=tuple(text for text in _system(values) if not text.text.startswith(BILLING)),
        turns=_turns(values),
        tools=_tools(values),
        tool_choice=chosen,
        parallel_tool_calls=None if one_at_a_time is None else not one_at_a_time,
        max_tokens=fields.integer(values, "max_tokens", "", 0, MAX_TOKENS),
        temperature=fields.number(values, "temperature"),
        top_p=fields.number(values, "top_p"),
        top_k=fields.integer(values, "top_k", "", 0),
        stop=tuple(fields.texts(values, "stop_sequences")),
        output=_output(config),
        reasoning=_reasoning(values, config),
        left_out=tuple(left_out),
        user=fields.text(metadata, "user_id", "metadata."),
        service_tier={"standard_only": "default"}.get(tier := fields.text(values, "service_tier") or "", tier) or None,
        stream=bool(fields.flag(values, "stream") if stream is None else stream),
        include_usage=True,
        format="anthropic-messages",
        native={name: value for name, value in values.items() if name in NATIVE and value is not None},
        extra={name: value for name, value in values.items() if name not in HUB and name not in NATIVE},
        names=NAMES,
    )


def _system(values: Values) -> tuple[Text, ...]:
    system = values.get("system")
    if type(system) is str:
        return (Text(system),) if system else ()
    return tuple(
        Text(text, _cache(block))
        for path, block in fields.tables(values, "system")
        if (text := fields.text(block, "text", path))
    )


def _turns(values: Values) -> tuple[Turn, ...]:
    if values.get("messages") is None:
        raise invalid_field("messages", "Missing required field 'messages': it must be an array of messages.")
    turns = []
    for path, message in fields.tables(values, "messages"):
        role = fields.needed_text(message, "role", path)
        if role not in ("user", "assistant", "system"):
            raise invalid_field(
                f"{path}role", f"Invalid value for '{path}role': {role[:64]!r} is no role (user, assistant, system)."
            )
        turns.append(Turn(role=role, parts=tuple(_signed(_content(message, path)))))  # type: ignore[arg-type]
    return tuple(turns)


def _signed(parts: list[Part]) -> list[Part]:
    """Gemini's signature of a tool call travelled as a redacted block before it (stream.py): give it back to the call."""
    out: list[Part] = []
    waiting: str | None = None
    for part in parts:
        if isinstance(part, Thinking) and part.redacted and part.origin == "gemini":
            waiting = part.signature
        elif isinstance(part, ToolCall) and waiting is not None:
            out.append(replace(part, signature=waiting))
            waiting = None
        else:
            out.append(part)
    return out


def _content(message: Values, path: str) -> list[Part]:
    content = message.get("content")
    if type(content) is str:
        return [Text(content)] if content else []
    if type(content) is not list:
        raise wrong_type(f"{path}content", "a string or an array of blocks", content)
    parts = []
    for at, block in fields.tables(message, "content", path):
        parts += _block(block, at)
    return parts


def _block(block: Values, path: str) -> list[Part]:
    kind = fields.needed_text(block, "type", path)
    match kind:
        case "text":
            text = fields.text(block, "text", path)
            return [Text(text, _cache(block))] if text else []
        case "image" | "document":
            return [_media(block, path, kind)]
        case "tool_use":
            given = block.get("input")
            return [
                ToolCall(
                    id=fields.needed_text(block, "id", path),
                    name=fields.needed_text(block, "name", path),
                    arguments=orjson.dumps(given if type(given) is dict else {}).decode(),
                    cache=_cache(block),
                )
            ]
        case "tool_result":
            return [_result(block, path)]
        case "thinking":
            signature, origin = unpack_signature(fields.text(block, "signature", path) or "", "anthropic")
            return [
                Thinking(
                    text=fields.text(block, "thinking", path) or "",
                    signature=signature or None,
                    origin=origin if signature else None,
                )
            ]
        case "redacted_thinking":
            data, origin = unpack_signature(fields.text(block, "data", path) or "", "anthropic")
            return [Thinking(signature=data, origin=origin, redacted=True)]
    return _foreign(block, kind)


def _foreign(block: Values, kind: str) -> list[Part]:
    """Blocks of Anthropic's server tools: what they found is said as text, so that the conversation keeps its sense."""
    if kind == "search_result":
        content = block.get("content")
        inner = [part.get("text", "") for part in (content if type(content) is list else ()) if type(part) is dict]
        return [Text(f"{block.get('title') or ''}\n{block.get('source') or ''}\n" + "\n".join(map(str, inner)))]
    if kind in ("server_tool_use", "mcp_tool_use"):
        return []
    content = block.get("content")
    return [Text(orjson.dumps(content).decode())] if content else []


def _media(block: Values, path: str, kind: str) -> Media:
    source = fields.table(block, "source", path)
    if source is None:
        raise invalid_field(f"{path}source", f"Missing required field '{path}source': it must be an object.")
    at = f"{path}source."
    made = {"name": fields.text(block, "title", path), "cache": _cache(block)}
    found: datauri.Kind = "image" if kind == "image" else "document"
    match fields.needed_text(source, "type", at):
        case "base64":
            data = fields.needed_text(source, "data", at)
            media_type = datauri.sniffed(fields.text(source, "media_type", at), data)
            return Media(kind=found, media_type=media_type, data=data, **made)  # type: ignore[arg-type]
        case "url":
            return Media(kind=found, url=fields.needed_text(source, "url", at), **made)  # type: ignore[arg-type]
        case "file":
            return Media(kind=found, file_id=fields.needed_text(source, "file_id", at), **made)  # type: ignore[arg-type]
        case "text":
            data = _base64(fields.needed_text(source, "data", at))
            return Media(kind=found, media_type="text/plain", data=data, **made)  # type: ignore[arg-type]
    raise invalid_field(f"{at}type", f"Invalid value for '{at}type': expected 'base64', 'url', 'file' or 'text'.")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _result(block: Values, path: str) -> ToolResult:
    content = block.get("content")
    parts: list[Part] = []
    if type(content) is str:
        parts = [Text(content)] if content else []
    elif content is not None:
        parts = [part for at, inner in fields.tables(block, "content", path) for part in _block(inner, at)]
    return ToolResult(
        call_id=fields.needed_text(block, "tool_use_id", path),
        parts=tuple(part for part in parts if isinstance(part, (Text, Media))),
        is_error=fields.flag(block, "is_error", path) is True,
        cache=_cache(block),
    )


def _cache(block: Values) -> Cache | None:
    mark = block.get("cache_control")
    return Cache(mark.get("ttl")) if type(mark) is dict else None


def _tools(values: Values) -> tuple[Tool, ...]:
    """Client tools. Server tools (with a dated type) and placeholders of deferred ones exist at Anthropic only."""
    tools = []
    for path, raw in fields.tables(values, "tools"):
        if _hosted(raw):
            continue
        tools.append(
            Tool(
                name=fields.needed_text(raw, "name", path),
                description=fields.text(raw, "description", path),
                schema=fields.table(raw, "input_schema", path),
                strict=fields.flag(raw, "strict", path),
                cache=_cache(raw),
            )
        )
    return tuple(tools)


def _hosted(raw: Values) -> bool:
    return raw.get("type") not in (None, "custom") or raw.get("defer_loading") is True


def _tool_choice(choice: Values) -> ToolChoice:
    match fields.one_of(choice, "type", ("auto", "any", "tool", "none"), "tool_choice."):
        case "any":
            return ToolChoice(mode="any")
        case "tool":
            return ToolChoice(mode="tool", name=fields.needed_text(choice, "name", "tool_choice."))
        case "none":
            return ToolChoice(mode="none")
    return ToolChoice(mode="auto")


def _output(config: Values) -> OutputFormat | None:
    wanted = fields.table(config, "format", "output_config.")
    if wanted is None or wanted.get("type") != "json_schema":
        return None
    schema = fields.table(wanted, "schema", "output_config.format.") or {}
    return OutputFormat(kind="schema", name=fields.text(wanted, "name"), schema=schema, strict=True)


def _reasoning(values: Values, config: Values) -> Reasoning | None:
    thinking: dict[str, Any] = fields.table(values, "thinking") or {}
    effort = fields.text(config, "effort", "output_config.")
    kind = fields.text(thinking, "type", "thinking.")
    if kind is None and effort is None:
        return None
    if kind == "disabled":
        return Reasoning(effort="none")
    budget = fields.integer(thinking, "budget_tokens", "thinking.", 0) if kind == "enabled" else None
    if effort is None and budget is None:
        effort = "medium"
    return Reasoning(effort=effort, budget_tokens=budget, show=thinking.get("display") != "omitted")

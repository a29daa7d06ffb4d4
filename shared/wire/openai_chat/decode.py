"""A Chat Completions body → a canonical Call. Source: OpenAI's API reference, and OpenRouter's for its extensions."""

from __future__ import annotations

import json
from typing import Any

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
from shared.wire.envelope import invalid_field
from shared.wire.fields import Values
from shared.wire.turns import lead

MAX_CHOICES = 128
HUB = frozenset(
    {
        "model", "messages", "tools", "functions", "tool_choice", "function_call", "parallel_tool_calls", "max_tokens",
        "max_completion_tokens", "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed", "stop", "n",
        "logprobs", "top_logprobs", "logit_bias", "response_format", "reasoning", "reasoning_effort", "include_reasoning",
        "verbosity", "user", "service_tier", "metadata", "prompt_cache_key", "stream", "stream_options",
    }
)  # fmt: skip
NATIVE = frozenset(
    {
        "audio", "modalities", "prediction", "store", "web_search_options", "prompt_cache_options", "prompt_cache_retention",
        "safety_identifier", "moderation", "models", "route", "provider", "transforms", "plugins", "usage", "session_id",
        "cache_control", "image_config", "trace", "debug", "preset", "stop_server_tools_when",
    }
)  # fmt: skip
"""OpenAI's and OpenRouter's fields that only their own kind can make sense of."""

FORMATS = {"anthropic-claude-v1": "anthropic", "google-gemini-v1": "gemini", "openai-responses-v1": "openai"}
"""OpenRouter's names in `reasoning_details[].format` → whose signature it is."""


REPLAYED = ("reasoning_details", "reasoning_content", "reasoning")
"""Where clients send reasoning back, in the order in which it is read."""


def decode_call(values: Values, *, model: str | None = None, stream: bool | None = None) -> Call:
    """Raises Refused, naming the field."""
    messages = fields.tables(values, "messages")
    replayed = [name for name in REPLAYED if any(raw.get(name) for _, raw in messages)]
    turns = _turns(messages)
    system, rest = lead(turns)
    options = fields.table(values, "stream_options") or {}
    asked = fields.text(values, "model") or model or ""
    caps = [fields.integer(values, name, "", 1, MAX_TOKENS) for name in ("max_completion_tokens", "max_tokens")]
    return Call(
        model=asked,
        system=system,
        turns=rest,
        tools=_tools(values),
        tool_choice=_tool_choice(values),
        parallel_tool_calls=fields.flag(values, "parallel_tool_calls"),
        max_tokens=max((cap for cap in caps if cap is not None), default=None),
        temperature=fields.number(values, "temperature"),
        top_p=fields.number(values, "top_p"),
        top_k=fields.integer(values, "top_k", "", 0),
        frequency_penalty=fields.number(values, "frequency_penalty"),
        presence_penalty=fields.number(values, "presence_penalty"),
        seed=fields.integer(values, "seed"),
        stop=tuple(fields.texts(values, "stop")),
        choices=fields.integer(values, "n", "", 1, MAX_CHOICES) or 1,
        logprobs=(fields.integer(values, "top_logprobs", "", 0) or 0) if fields.flag(values, "logprobs") else None,
        logit_bias=fields.table(values, "logit_bias"),
        output=_output(values),
        reasoning=_reasoning(values),
        verbosity=fields.text(values, "verbosity"),
        user=fields.text(values, "user"),
        service_tier=fields.text(values, "service_tier"),
        metadata=fields.table(values, "metadata"),
        prompt_cache_key=fields.text(values, "prompt_cache_key"),
        stream=bool(fields.flag(values, "stream") if stream is None else stream),
        include_usage=bool(fields.flag(options, "include_usage", "stream_options.")),
        format="openai-chat",
        native={name: value for name, value in values.items() if name in NATIVE and value is not None},
        extra={name: value for name, value in values.items() if name not in HUB and name not in NATIVE},
        names={
            "max_tokens": "max_completion_tokens" if "max_completion_tokens" in values else "max_tokens",
            "choices": "n",
            "output": "response_format",
            "reasoning": "reasoning" if "reasoning" in values else "reasoning_effort",
            "turns": "messages",
            "system": "messages",
            "thoughts": f"messages[].{replayed[0] if replayed else 'content[]:thinking'}",
        },
    )


def _turns(messages: list[tuple[str, Values]]) -> list[Turn]:
    turns: list[Turn] = []
    for path, message in messages:
        role = fields.needed_text(message, "role", path)
        match role:
            case "system" | "developer":
                turns.append(Turn(role="system", parts=_content(message, path), name=fields.text(message, "name", path)))
            case "user":
                turns.append(Turn(role="user", parts=_content(message, path), name=fields.text(message, "name", path)))
            case "assistant":
                turns.append(Turn(role="assistant", parts=_assistant(message, path), name=fields.text(message, "name", path)))
            case "tool" | "function":
                result = _tool_result(message, path, role)
                last = turns[-1] if turns else None
                if last is not None and last.role == "user" and all(isinstance(part, ToolResult) for part in last.parts):
                    turns[-1] = Turn(role="user", parts=(*last.parts, result))
                else:
                    turns.append(Turn(role="user", parts=(result,)))
            case _:
                raise invalid_field(
                    f"{path}role",
                    f"Invalid value for '{path}role': {role[:64]!r} is no role (system, developer, user, assistant, tool).",
                )
    return turns


def _content(message: Values, path: str) -> tuple[Part, ...]:
    """Content as a string or parts; no text at all is no part."""
    content = message.get("content")
    if content is None:
        return ()
    if type(content) is str:
        return (Text(content),) if content else ()
    return tuple(part for at, raw in fields.tables(message, "content", path) if (part := _part(raw, at)) is not None)


def _part(raw: Values, path: str) -> Part | None:
    kind = fields.needed_text(raw, "type", path)
    cache = _cache(raw)
    match kind:
        case "text":
            text = fields.text(raw, "text", path) or ""
            return Text(text, cache) if text else None
        case "refusal":
            return Text(fields.text(raw, "refusal", path) or "", refusal=True)
        case "image_url":
            return _image(raw, path, cache)
        case "input_audio":
            audio = fields.table(raw, "input_audio", path) or {}
            sound = fields.text(audio, "format", f"{path}input_audio.") or "wav"
            data = fields.needed_text(audio, "data", f"{path}input_audio.")
            return Media(kind="audio", media_type=f"audio/{sound}", data=data, cache=cache)
        case "video_url" | "input_video":
            video = fields.table(raw, kind, path) or {}
            return _by_url("video", fields.needed_text(video, "url", f"{path}{kind}."), cache)
        case "file":
            return _file(raw, path, cache)
        case "thinking":  # Mistral's own shape, replayed
            inner = [fields.text(item, "text", at) or "" for at, item in fields.tables(raw, "thinking", path)]
            return Thinking(text="".join(inner))
    raise invalid_field(
        f"{path}type", f"Invalid value for '{path}type': {kind[:64]!r} is no kind of content that is known here."
    )


def _image(raw: Values, path: str, cache: Cache | None) -> Media:
    source = raw.get("image_url")
    if type(source) is str:
        return _by_url("image", source, cache)
    image = fields.table(raw, "image_url", path) or {}
    url = fields.needed_text(image, "url", f"{path}image_url.")
    return _by_url("image", url, cache, fields.text(image, "detail", f"{path}image_url."))


def _by_url(kind: datauri.Kind, url: str, cache: Cache | None, detail: str | None = None) -> Media:
    inline = datauri.split(url)
    if inline is None:
        return Media(kind=kind, url=url, detail=detail, cache=cache)
    media_type, data = inline
    return Media(kind=kind, media_type=datauri.sniffed(media_type, data), data=data, detail=detail, cache=cache)


def _file(raw: Values, path: str, cache: Cache | None) -> Media:
    file = fields.table(raw, "file", path) or {}
    at = f"{path}file."
    name, file_id = fields.text(file, "filename", at), fields.text(file, "file_id", at)
    data = fields.text(file, "file_data", at)
    if data is None:
        if file_id is None:
            raise invalid_field(f"{at}file_data", f"'{at}file_data' or '{at}file_id' is missing.")
        return Media(kind="document", file_id=file_id, name=name, cache=cache)
    inline = datauri.split(data)
    if inline is None and data.startswith(("http://", "https://")):
        return Media(kind="document", url=data, name=name, cache=cache)
    media_type, encoded = inline or (None, data)
    media_type = datauri.sniffed(media_type, encoded)
    return Media(kind=datauri.kind_of(media_type), media_type=media_type, data=encoded, name=name, cache=cache)


def _cache(raw: Values) -> Cache | None:
    mark = raw.get("cache_control")
    return Cache(mark.get("ttl")) if type(mark) is dict else None


def _assistant(message: Values, path: str) -> tuple[Part, ...]:
    details = [item for _, item in fields.tables(message, "reasoning_details", path)]
    parts: list[Part] = _thinking(message, details)
    parts += _content(message, path)
    refusal = fields.text(message, "refusal", path)
    if refusal:
        parts.append(Text(refusal, refusal=True))
    signatures = {
        item["id"]: item.get("data")
        for item in details
        if type(item.get("id")) is str
        and item.get("type") == "reasoning.encrypted"
        and item.get("format") == "google-gemini-v1"
    }
    for at, call in fields.tables(message, "tool_calls", path):
        parts.append(_tool_call(call, at, signatures))
    legacy = fields.table(message, "function_call", path)
    if legacy is not None:
        name = fields.needed_text(legacy, "name", f"{path}function_call.")
        parts.append(ToolCall(id=f"call_{name}", name=name, arguments=fields.text(legacy, "arguments") or ""))
    return tuple(parts)


def _thinking(message: Values, details: list[Values]) -> list[Part]:
    """Reasoning that the client sends back: OpenRouter's signed details first, else the bare text of it."""
    parts: list[Part] = []
    for item in details:
        origin = FORMATS.get(str(item.get("format") or "anthropic-claude-v1"))
        kind, text = item.get("type"), item.get("text") or item.get("summary")
        if kind == "reasoning.encrypted":
            if origin in ("anthropic", "openai") and type(item.get("data")) is str:
                parts.append(Thinking(signature=item["data"], origin=origin, redacted=True, item_id=item.get("id")))
        elif type(text) is str:
            signature = item.get("signature")
            if type(signature) is str and signature:
                signature, origin = unpack_signature(signature, origin or "anthropic")
                parts.append(Thinking(text=text, signature=signature, origin=origin))
            else:
                parts.append(Thinking(text=text))
    if not parts:
        text = message.get("reasoning_content") or message.get("reasoning")
        if type(text) is str and text:
            parts.append(Thinking(text=text))
    return parts


def _tool_call(call: Values, path: str, signatures: dict[Any, Any]) -> ToolCall:
    tool_id = fields.text(call, "id", path) or ""
    if call.get("type") == "custom":
        custom = fields.table(call, "custom", path) or {}
        name = fields.needed_text(custom, "name", f"{path}custom.")
        return ToolCall(id=tool_id, name=name, arguments=fields.text(custom, "input", f"{path}custom.") or "", custom=True)
    function = fields.table(call, "function", path) or {}
    name = fields.needed_text(function, "name", f"{path}function.")
    arguments = function.get("arguments")
    if type(arguments) is dict:  # some clients send the object itself
        arguments = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    signature = signatures.get(tool_id)
    return ToolCall(
        id=tool_id,
        name=name,
        arguments=arguments if type(arguments) is str else "",
        signature=signature if type(signature) is str else None,
    )


def _tool_result(message: Values, path: str, role: str) -> ToolResult:
    name = fields.text(message, "name", path)
    call_id = f"call_{name or ''}" if role == "function" else fields.needed_text(message, "tool_call_id", path)
    parts = tuple(part for part in _content(message, path) if isinstance(part, (Text, Media)))
    return ToolResult(call_id=call_id, name=name, parts=parts, cache=_cache(message))


def _tools(values: Values) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for path, raw in fields.tables(values, "tools"):
        if raw.get("type") == "custom":
            custom = fields.table(raw, "custom", path) or {}
            at = f"{path}custom."
            tools.append(
                Tool(
                    name=fields.needed_text(custom, "name", at),
                    description=fields.text(custom, "description", at),
                    custom=True,
                    grammar=fields.table(custom, "format", at),
                )
            )
        elif raw.get("type", "function") == "function":
            tools.append(_function(fields.table(raw, "function", path) or {}, f"{path}function.", _cache(raw)))
        else:
            raise invalid_field(f"{path}type", f"Invalid value for '{path}type': expected 'function' or 'custom'.")
    for path, raw in fields.tables(values, "functions"):
        tools.append(_function(raw, path, None))
    return tuple(tools)


def _function(raw: Values, path: str, cache: Cache | None) -> Tool:
    return Tool(
        name=fields.needed_text(raw, "name", path),
        description=fields.text(raw, "description", path),
        schema=fields.table(raw, "parameters", path),
        strict=fields.flag(raw, "strict", path),
        cache=cache or _cache(raw),
    )


def _tool_choice(values: Values) -> ToolChoice | None:
    choice = values.get("tool_choice")
    if choice is None:
        choice = values.get("function_call")
        if type(choice) is dict:
            return ToolChoice(mode="tool", name=fields.needed_text(choice, "name", "function_call."))
    if choice is None:
        return None
    if type(choice) is str:
        mode = {"auto": "auto", "none": "none", "required": "any", "any": "any"}.get(choice)
        if mode is None:
            raise invalid_field(
                "tool_choice", "Invalid value for 'tool_choice': expected 'none', 'auto', 'required' or an object."
            )
        return ToolChoice(mode=mode)  # type: ignore[arg-type]
    if type(choice) is not dict:
        raise invalid_field("tool_choice", "Invalid type for 'tool_choice': expected a string or an object.")
    if choice.get("type") == "allowed_tools":
        allowed = fields.table(choice, "allowed_tools", "tool_choice.") or {}
        tools = fields.tables(allowed, "tools", "tool_choice.allowed_tools.")
        names = [(fields.table(tool, "function", path) or {}).get("name") for path, tool in tools]
        mode = "any" if allowed.get("mode") == "required" else "auto"
        return ToolChoice(mode=mode, allowed=tuple(name for name in names if type(name) is str))  # type: ignore[arg-type]
    kind = fields.text(choice, "type", "tool_choice.") or "function"
    named = fields.table(choice, kind, "tool_choice.") or {}
    return ToolChoice(mode="tool", name=fields.needed_text(named, "name", f"tool_choice.{kind}."))


def _output(values: Values) -> OutputFormat | None:
    given = fields.table(values, "response_format")
    if given is None:
        return None
    match fields.one_of(given, "type", ("text", "json_object", "json_schema"), "response_format."):
        case "json_object":
            return OutputFormat(kind="json")
        case "json_schema":
            wanted = fields.table(given, "json_schema", "response_format.") or {}
            at = "response_format.json_schema."
            return OutputFormat(
                kind="schema",
                name=fields.text(wanted, "name", at),
                schema=fields.table(wanted, "schema", at) or {},
                strict=fields.flag(wanted, "strict", at),
                description=fields.text(wanted, "description", at),
            )
    return OutputFormat(kind="text")


def _reasoning(values: Values) -> Reasoning | None:
    """OpenAI's reasoning_effort, OpenRouter's reasoning object and its older include_reasoning."""
    effort = fields.text(values, "reasoning_effort")
    given = fields.table(values, "reasoning")
    shown = fields.flag(values, "include_reasoning")
    if given is None:
        return Reasoning(effort=effort, show=shown) if effort is not None or shown is not None else None
    within = fields.text(given, "effort", "reasoning.")
    if effort is not None and within is not None and effort != within:
        raise invalid_field("reasoning_effort", "'reasoning_effort' and 'reasoning.effort' differ: send one of them.")
    budget = fields.integer(given, "max_tokens", "reasoning.", 0)
    enabled = fields.flag(given, "enabled", "reasoning.")
    effort = within or effort
    if effort is None and budget is None and enabled is not None:
        effort = "medium" if enabled else "none"
    hidden = fields.flag(given, "exclude", "reasoning.")
    return Reasoning(
        effort=effort,
        budget_tokens=budget,
        show=(not hidden) if hidden is not None else shown,
        summary=fields.text(given, "summary", "reasoning."),
    )

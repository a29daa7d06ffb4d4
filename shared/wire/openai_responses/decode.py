"""An OpenAI Responses body → a canonical Call. Source: OpenAI's API reference; Codex' requests for its own items.

Items become turns: neighbours of one side are one turn, so parallel calls and their outputs, in whatever order they came, are
one assistant's turn and one user's.
"""

from __future__ import annotations

from typing import Any

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
    unpack_signature,
)
from shared.wire.envelope import invalid_field, wrong_type
from shared.wire.fields import Values
from shared.wire.turns import lead, merged

HUB = frozenset(
    {
        "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens", "temperature",
        "top_p", "top_k", "top_logprobs", "reasoning", "text", "user", "service_tier", "metadata", "prompt_cache_key", "stream",
    }
)  # fmt: skip
NATIVE = frozenset(
    {
        "background", "client_metadata", "context_management", "conversation", "include", "max_tool_calls",
        "previous_response_id", "prompt", "prompt_cache_options", "prompt_cache_retention", "safety_identifier", "store",
        "stream_options", "truncation", "models", "route", "provider", "plugins", "session_id", "cache_control", "trace",
    }
)  # fmt: skip
HARMLESS = frozenset({"store", "include", "client_metadata", "stream_options", "background"})
"""Housekeeping: nothing of the answer is lost without it, so it is not listed as dropped. `_unserved` lists what is."""
SERVED = frozenset({"reasoning.encrypted_content", "message.output_text.logprobs"})
"""Of `include`: what answers hold."""
NAMES = {
    "max_tokens": "max_output_tokens", "turns": "input", "system": "instructions", "output": "text.format", "choices": "n",
    "thoughts": "input[]:reasoning",
}  # fmt: skip


def decode_call(values: Values, *, model: str | None = None, stream: bool | None = None) -> Call:
    """Raises Refused, naming the field."""
    if values.get("conversation") is not None:  # never a silently fresh context
        raise invalid_field("conversation", "No conversations are stored here: use 'previous_response_id', or send the input.")
    items = _items(values)
    turns: list[Turn] = []
    more_tools: list[tuple[str, Values]] = []
    for path, item in items:
        if item.get("type") == "additional_tools":  # Codex: the tools travel as an item
            more_tools += fields.tables(item, "tools", path)
            continue
        turns += _turn(item, path)
    instructions = fields.text(values, "instructions")
    system, rest = lead(turns)
    if instructions:
        system = (Text(instructions), *system)
    tools, left_out = _tools([*fields.tables(values, "tools"), *more_tools])
    options = fields.table(values, "text") or {}
    return Call(
        model=fields.text(values, "model") or model or "",
        system=system,
        turns=tuple(merged(rest)),
        tools=tools,
        tool_choice=_tool_choice(values) if tools else None,
        parallel_tool_calls=fields.flag(values, "parallel_tool_calls") if tools else None,
        max_tokens=fields.integer(values, "max_output_tokens", "", 1, MAX_TOKENS),
        temperature=fields.number(values, "temperature"),
        top_p=fields.number(values, "top_p"),
        top_k=fields.integer(values, "top_k", "", 0),
        logprobs=fields.integer(values, "top_logprobs", "", 0),
        output=_output(options),
        verbosity=fields.text(options, "verbosity", "text."),
        reasoning=_reasoning(values),
        user=fields.text(values, "user"),
        service_tier=fields.text(values, "service_tier"),
        metadata=fields.table(values, "metadata"),
        prompt_cache_key=fields.text(values, "prompt_cache_key"),
        stream=bool(fields.flag(values, "stream") if stream is None else stream),
        include_usage=True,
        format="openai-responses",
        native={
            name: v
            for name, v in values.items()
            if name in NATIVE and name not in HARMLESS and v is not None and (name, v) != ("truncation", "disabled")
        },
        extra={name: value for name, value in values.items() if name not in HUB and name not in NATIVE},
        left_out=(*left_out, *_unserved(values)),
        names=NAMES,
    )


def _unserved(values: Values) -> list[str]:
    """A call in the background is answered at once, and what only hosted tools could tell is not told."""
    told = ["background"] if values.get("background") is True else []
    include = values.get("include")
    return told + [f"include[{at}]" for at, name in enumerate(include if type(include) is list else ()) if not _served(name)]


def _served(name: Any) -> bool:
    return type(name) is str and name in SERVED


def _items(values: Values) -> list[tuple[str, Values]]:
    given = values.get("input")
    if given is None:
        return []
    if type(given) is str:
        return [("input.", {"type": "message", "role": "user", "content": given})]
    if type(given) is not list:
        raise wrong_type("input", "a string or an array of items", given)
    return fields.tables(values, "input")


def _turn(item: Values, path: str) -> list[Turn]:
    kind = fields.text(item, "type", path) or "message"
    match kind:
        case "message":
            return [_message(item, path)]
        case "function_call" | "custom_tool_call":
            return [Turn(role="assistant", parts=(_call(item, path, kind),))]
        case "function_call_output" | "custom_tool_call_output":
            return [Turn(role="user", parts=(_output_of(item, path, kind),))]
        case "reasoning":
            thinking = _thinking(item, path)
            return [Turn(role="assistant", parts=(thinking,))] if thinking is not None else []
        case "item_reference":
            raise invalid_field(
                f"{path}id", "Items can be referred to only where the gateway stored them: send the item itself."
            )
    return []  # calls of OpenAI's hosted tools: their results are in the text that followed


def _message(item: Values, path: str) -> Turn:
    role = fields.needed_text(item, "role", path)
    sides = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
    if role not in sides:
        raise invalid_field(f"{path}role", f"Invalid value for '{path}role': {role[:64]!r} is no role.")
    content = item.get("content")
    parts: tuple[Part, ...]
    if type(content) is str:
        parts = (Text(content),) if content else ()
    else:
        parts = tuple(part for at, raw in fields.tables(item, "content", path) if (part := _part(raw, at)) is not None)
    return Turn(role=sides[role], parts=parts)  # type: ignore[arg-type]


def _part(raw: Values, path: str) -> Text | Media | None:
    kind = fields.needed_text(raw, "type", path)
    match kind:
        case "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text":
            text = fields.text(raw, "text", path)
            return Text(text) if text else None
        case "refusal":
            return Text(fields.text(raw, "refusal", path) or "", refusal=True)
        case "input_image":
            return _image(raw, path)
        case "input_file":
            return _file(raw, path)
        case "input_audio":
            audio = fields.table(raw, "input_audio", path) or {}
            sound = fields.text(audio, "format", f"{path}input_audio.") or "wav"
            return Media(
                kind="audio", media_type=f"audio/{sound}", data=fields.needed_text(audio, "data", f"{path}input_audio.")
            )
    raise invalid_field(
        f"{path}type", f"Invalid value for '{path}type': {kind[:64]!r} is no kind of content that is known here."
    )


def _image(raw: Values, path: str) -> Media:
    detail, file_id = fields.text(raw, "detail", path), fields.text(raw, "file_id", path)
    if file_id is not None:
        return Media(kind="image", file_id=file_id, detail=detail)
    url = fields.needed_text(raw, "image_url", path)
    inline = datauri.split(url)
    if inline is None:
        return Media(kind="image", url=url, detail=detail)
    return Media(kind="image", media_type=datauri.sniffed(*inline), data=inline[1], detail=detail)


def _file(raw: Values, path: str) -> Media:
    name, url = fields.text(raw, "filename", path), fields.text(raw, "file_url", path)
    data, file_id = fields.text(raw, "file_data", path), fields.text(raw, "file_id", path)
    if data is not None:
        media_type, encoded = datauri.split(data) or (None, data)
        media_type = datauri.sniffed(media_type, encoded)
        return Media(kind=datauri.kind_of(media_type), media_type=media_type, data=encoded, name=name)
    if url is None and file_id is None:
        raise invalid_field(f"{path}file_data", f"'{path}file_data', '{path}file_url' or '{path}file_id' is missing.")
    return Media(kind="document", url=url, file_id=file_id, name=name)


def _call(item: Values, path: str, kind: str) -> ToolCall:
    custom = kind == "custom_tool_call"
    return ToolCall(
        id=fields.needed_text(item, "call_id", path),
        name=fields.needed_text(item, "name", path),
        arguments=fields.text(item, "input" if custom else "arguments", path) or "",
        custom=custom,
        namespace=fields.text(item, "namespace", path),
    )


def _output_of(item: Values, path: str, kind: str) -> ToolResult:
    output = item.get("output")
    parts: tuple[Text | Media, ...]
    if output is None or type(output) is str:
        parts = (Text(output),) if output else ()
    else:
        parts = tuple(part for at, raw in fields.tables(item, "output", path) if (part := _part(raw, at)) is not None)
    return ToolResult(call_id=fields.needed_text(item, "call_id", path), parts=parts, custom=kind.startswith("custom"))


def _thinking(item: Values, path: str) -> Thinking | None:
    told = [*fields.tables(item, "summary", path), *fields.tables(item, "content", path)]
    text = "\n\n".join(str(raw.get("text") or "") for _, raw in told)
    packed = fields.text(item, "encrypted_content", path)
    if not packed:
        return Thinking(text=text) if text else None
    signature, origin = unpack_signature(packed, "openai")
    return Thinking(text=text, signature=signature, origin=origin, redacted=not text, item_id=fields.text(item, "id", path))


def _tools(raws: list[tuple[str, Values]]) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The client's own tools, those within namespaces too; and where the hosted ones stood, which only OpenAI has."""
    tools: list[Tool] = []
    left_out: list[str] = []
    for path, raw in raws:
        kind = fields.text(raw, "type", path) or "function"
        if kind == "namespace":
            within = fields.needed_text(raw, "name", path)
            tools += [_tool(inner, at, within) for at, inner in fields.tables(raw, "tools", path)]
        elif kind in ("function", "custom"):
            tools.append(_tool(raw, path, None))
        else:
            left_out.append(path[:-1])
    return tuple(tools), tuple(left_out)


def _tool(raw: Values, path: str, namespace: str | None) -> Tool:
    custom = raw.get("type") == "custom"
    return Tool(
        name=fields.needed_text(raw, "name", path),
        description=fields.text(raw, "description", path),
        schema=None if custom else fields.table(raw, "parameters", path),
        strict=fields.flag(raw, "strict", path),
        custom=custom,
        grammar=fields.table(raw, "format", path) if custom else None,
        namespace=namespace,
    )


def _tool_choice(values: Values) -> ToolChoice | None:
    choice = values.get("tool_choice")
    if choice is None:
        return None
    if type(choice) is str:
        modes: dict[str, Any] = {"auto": "auto", "none": "none", "required": "any"}
        if choice not in modes:
            raise invalid_field(
                "tool_choice", "Invalid value for 'tool_choice': expected 'none', 'auto', 'required' or an object."
            )
        return ToolChoice(mode=modes[choice])
    if type(choice) is not dict:
        raise wrong_type("tool_choice", "a string or an object", choice)
    if choice.get("type") == "allowed_tools":
        names = [str(tool.get("name") or "") for _, tool in fields.tables(choice, "tools", "tool_choice.")]
        return ToolChoice(mode="any" if choice.get("mode") == "required" else "auto", allowed=tuple(filter(None, names)))
    name = fields.text(choice, "name", "tool_choice.")
    return ToolChoice(mode="tool", name=name) if name else ToolChoice(mode="auto")


def _output(options: Values) -> OutputFormat | None:
    wanted = fields.table(options, "format", "text.")
    if wanted is None:
        return None
    match fields.one_of(wanted, "type", ("text", "json_object", "json_schema"), "text.format."):
        case "json_object":
            return OutputFormat(kind="json")
        case "json_schema":
            at = "text.format."
            return OutputFormat(
                kind="schema",
                name=fields.text(wanted, "name", at),
                schema=fields.table(wanted, "schema", at) or {},
                strict=fields.flag(wanted, "strict", at),
                description=fields.text(wanted, "description", at),
            )
    return OutputFormat(kind="text")


def _reasoning(values: Values) -> Reasoning | None:
    given = fields.table(values, "reasoning")
    if given is None:
        return None
    effort, summary = fields.text(given, "effort", "reasoning."), fields.text(given, "summary", "reasoning.")
    if effort is None and summary is None:
        return None
    return Reasoning(effort=effort, summary=summary)

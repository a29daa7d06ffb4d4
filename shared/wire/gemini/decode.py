"""A Gemini body → a canonical Call. Source: Google's API reference, and what its SDKs and CLI send.

Keys come in camelCase and in snake_case, even within one body, as proto-JSON allows. Names in schemas, arguments and results
are the client's own and stay as they are.
"""

from __future__ import annotations

import json
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
)
from shared.wire.envelope import invalid_field, wrong_type
from shared.wire.fields import Values, camel
from shared.wire.schema import lower_types

MAX_CHOICES = 128
HUB = frozenset({"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "model"})
NATIVE = frozenset({"safetySettings", "cachedContent", "labels", "serviceTier", "store"})
CONFIGURED = frozenset(
    {
        "temperature", "topP", "topK", "maxOutputTokens", "stopSequences", "candidateCount", "seed", "presencePenalty",
        "frequencyPenalty", "responseLogprobs", "logprobs", "responseMimeType", "responseSchema", "responseJsonSchema",
        "thinkingConfig",
    }
)  # fmt: skip
AT = "generationConfig."
NAMES = {
    "turns": "contents", "system": "systemInstruction", "max_tokens": f"{AT}maxOutputTokens", "stop": f"{AT}stopSequences",
    "choices": f"{AT}candidateCount", "temperature": f"{AT}temperature", "top_p": f"{AT}topP", "top_k": f"{AT}topK",
    "seed": f"{AT}seed", "presence_penalty": f"{AT}presencePenalty", "frequency_penalty": f"{AT}frequencyPenalty",
    "logprobs": f"{AT}responseLogprobs", "output": f"{AT}responseSchema", "reasoning": f"{AT}thinkingConfig",
    "tool_choice": "toolConfig", "thoughts": "contents[].parts[].thought",
}  # fmt: skip


def decode_call(values: Values, *, model: str | None = None, stream: bool | None = None) -> Call:
    """Raises Refused, naming the field. Model and stream are in the URL."""
    values = camel(values)
    config = camel(fields.table(values, "generationConfig") or {})
    tools, left_out = _tools(values)
    unknown = {f"{AT}{name}": value for name, value in config.items() if name not in CONFIGURED and value is not None}
    if unspoken_type(config):
        unknown[f"{AT}responseMimeType"] = config["responseMimeType"]
    native = {name: v for name, v in values.items() if name in NATIVE and v not in (None, [], {}, "", False)}
    return Call(
        model=model or "",
        system=_system(values),
        turns=tuple(_Turns(values).turns),
        tools=tools,
        tool_choice=_tool_choice(values) if tools else None,
        max_tokens=fields.integer(config, "maxOutputTokens", AT, 1, MAX_TOKENS),
        temperature=fields.number(config, "temperature", AT),
        top_p=fields.number(config, "topP", AT),
        top_k=_whole(fields.number(config, "topK", AT)),
        frequency_penalty=fields.number(config, "frequencyPenalty", AT),
        presence_penalty=fields.number(config, "presencePenalty", AT),
        seed=fields.integer(config, "seed", AT),
        stop=tuple(fields.texts(config, "stopSequences", AT)),
        choices=fields.integer(config, "candidateCount", AT, 1, MAX_CHOICES) or 1,
        logprobs=(fields.integer(config, "logprobs", AT, 0) or 0) if fields.flag(config, "responseLogprobs", AT) else None,
        output=_output(config),
        reasoning=_reasoning(config),
        stream=bool(stream),
        include_usage=True,
        format="gemini",
        native=native | unknown,
        extra={name: value for name, value in values.items() if name not in HUB and name not in NATIVE},
        left_out=left_out,
        names=NAMES,
    )


def unspoken_type(config: Values) -> bool:
    """`text/x.enum`: neither text nor JSON, and nobody else's."""
    return config.get("responseMimeType") not in (None, "", "text/plain", "application/json")


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _system(values: Values) -> tuple[Text, ...]:
    given = values.get("systemInstruction")
    if given is None:
        return ()
    if type(given) is str:
        return (Text(given),) if given else ()
    if type(given) is not dict:
        raise wrong_type("systemInstruction", "a content object", given)
    parts = [given] if "text" in given else [raw for _, raw in fields.tables(given, "parts", "systemInstruction.")]
    return tuple(Text(text) for raw in parts if type(text := raw.get("text")) is str and text)


class _Turns:
    """Contents as turns. Calls and results without ids are paired by their order and names."""

    def __init__(self, values: Values) -> None:
        self._waiting: list[ToolCall] = []
        self._count = 0
        contents = values.get("contents")
        if type(contents) is dict:
            contents = [contents]
        if type(contents) is str:
            contents = [{"role": "user", "parts": [{"text": contents}]}]
        self.turns = [self._turn(raw, path) for path, raw in fields.tables({"contents": contents}, "contents")]

    def _turn(self, raw: Values, path: str) -> Turn:
        role = fields.text(raw, "role", path) or "user"
        if role not in ("user", "model", "function", "system"):
            raise invalid_field(f"{path}role", f"Invalid value for '{path}role': {role[:64]!r} is no role (user, model).")
        parts = [part for at, each in fields.tables(raw, "parts", path) if (part := self._part(camel(each), at)) is not None]
        side = {"model": "assistant", "function": "user"}.get(role, role)
        return Turn(role=side, parts=tuple(parts))  # type: ignore[arg-type]

    def _part(self, raw: Values, path: str) -> Part | None:
        signature = fields.text(raw, "thoughtSignature", path)
        if raw.get("functionCall") is not None:
            return self._call(fields.table(raw, "functionCall", path) or {}, f"{path}functionCall.", signature)
        if raw.get("functionResponse") is not None:
            return self._result(fields.table(raw, "functionResponse", path) or {}, f"{path}functionResponse.")
        text = fields.text(raw, "text", path)
        if text is not None:
            if raw.get("thought") is True:
                origin = "gemini" if signature else None
                return Thinking(text=text, signature=signature, origin=origin) if text or signature else None
            return Text(text) if text else None
        for name in ("inlineData", "fileData"):
            blob = fields.table(raw, name, path)
            if blob is not None:
                return _media(camel(blob), f"{path}{name}.")
        for name in ("executableCode", "codeExecutionResult"):
            code = fields.table(raw, name, path)
            if code is not None:
                return Text(str(code.get("code") or code.get("output") or ""))
        return None

    def _call(self, raw: Values, path: str, signature: str | None) -> ToolCall:
        name = fields.needed_text(raw, "name", path)
        given = fields.table(raw, "args", path) or {}
        self._count += 1
        call = ToolCall(
            id=fields.text(raw, "id", path) or f"call_{self._count}",
            name=name,
            arguments=json.dumps(given, ensure_ascii=False, separators=(",", ":")),
            signature=signature,
        )
        self._waiting.append(call)
        return call

    def _result(self, raw: Values, path: str) -> ToolResult:
        name, told = fields.needed_text(raw, "name", path), fields.text(raw, "id", path)
        known = next((call for call in self._waiting if (call.id == told if told else call.name == name)), None)
        if known is not None:
            self._waiting.remove(known)
        response = raw.get("response")
        failed = type(response) is dict and "error" in response and len(response) == 1
        return ToolResult(
            call_id=told or (known.id if known is not None else f"call_{name}"),
            name=name,
            parts=(Text(_told(response)),),
            is_error=failed,
        )


def _told(response: Any) -> str:
    """A result's text: Google's clients wrap it as `{"result": …}`, `{"output": …}` or `{"error": …}`."""
    if type(response) is dict and len(response) == 1:
        name, value = next(iter(response.items()))
        if name in ("result", "output", "error", "content") and type(value) is str:
            return value
    return response if type(response) is str else json.dumps(response, ensure_ascii=False)


def _media(blob: Values, path: str) -> Media:
    media_type = fields.text(blob, "mimeType", path)
    kind = datauri.kind_of(media_type)
    data, uri = fields.text(blob, "data", path), fields.text(blob, "fileUri", path)
    if data is not None:
        data = data.replace("-", "+").replace("_", "/")  # Google's SDKs may write base64url
        return Media(
            kind=kind, media_type=datauri.sniffed(media_type, data), data=data, name=fields.text(blob, "displayName", path)
        )
    if uri is None:
        raise invalid_field(f"{path}data", f"'{path}data' is missing.")
    if uri.startswith("https://generativelanguage.googleapis.com/"):
        return Media(kind=kind, media_type=media_type, file_id=uri)
    return Media(kind=kind, media_type=media_type, url=uri)


def _tools(values: Values) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    tools: list[Tool] = []
    left_out: list[str] = []
    for path, raw in fields.tables(values, "tools"):
        raw = camel(raw)
        for at, each in fields.tables(raw, "functionDeclarations", path):
            tools.append(_tool(camel(each), at))
        left_out += [f"{path}{name}" for name, value in raw.items() if name != "functionDeclarations" and value is not None]
    return tuple(tools), tuple(left_out)


def _tool(raw: Values, path: str) -> Tool:
    schema = fields.table(raw, "parametersJsonSchema", path) or fields.table(raw, "parameters", path)
    return Tool(
        name=fields.needed_text(raw, "name", path),
        description=fields.text(raw, "description", path),
        schema=None if schema is None else lower_types(schema),
    )


def _tool_choice(values: Values) -> ToolChoice | None:
    config = camel(fields.table(values, "toolConfig") or {})
    calling = camel(fields.table(config, "functionCallingConfig", "toolConfig.") or {})
    mode = fields.text(calling, "mode", "toolConfig.functionCallingConfig.")
    allowed = tuple(fields.texts(calling, "allowedFunctionNames", "toolConfig.functionCallingConfig."))
    match (mode or "").upper():
        case "ANY":
            return ToolChoice(mode="tool", name=allowed[0]) if len(allowed) == 1 else ToolChoice(mode="any", allowed=allowed)
        case "NONE":
            return ToolChoice(mode="none")
        case "AUTO" | "VALIDATED":
            return ToolChoice(mode="auto")
    return None


def _output(config: Values) -> OutputFormat | None:
    schema = fields.table(config, "responseJsonSchema", AT) or fields.table(config, "responseSchema", AT)
    if schema is not None:
        return OutputFormat(kind="schema", name="answer", schema=lower_types(schema))
    if fields.text(config, "responseMimeType", AT) == "application/json":
        return OutputFormat(kind="json")
    return None


def _reasoning(config: Values) -> Reasoning | None:
    thinking = fields.table(config, "thinkingConfig", AT)
    if thinking is None:
        return Reasoning(show=False)  # thoughts are shown to those who ask
    thinking = camel(thinking)
    at = f"{AT}thinkingConfig."
    budget, level = fields.integer(thinking, "thinkingBudget", at, -1), fields.text(thinking, "thinkingLevel", at)
    shown = fields.flag(thinking, "includeThoughts", at) is True
    effort = None if level is None or level.endswith("UNSPECIFIED") else level.lower()
    if budget == -1:
        budget, effort = None, effort or "medium"
    if effort is None and budget is None:
        return Reasoning(show=shown)
    return Reasoning(effort=effort, budget_tokens=budget, show=shown)

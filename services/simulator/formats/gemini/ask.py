"""Calls of Google's generateContent, checked as strictly as they are there: no unknown name passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from services.simulator.call import MAX_OUTPUT_TOKENS, BadCall, Call
from services.simulator.formats.base import (
    Asked,
    a_number,
    a_string,
    an_object,
    bad,
    media_part,
    objects,
    parsed,
    sign,
    strings,
    whole,
)
from services.simulator.tokens import count_prompt_tokens

FIELDS = frozenset({
    "model", "contents", "systemInstruction", "tools", "toolConfig", "safetySettings", "generationConfig", "cachedContent",
    "labels", "store",
})  # fmt: skip
CONFIG = frozenset({
    "stopSequences", "responseMimeType", "responseSchema", "responseJsonSchema", "_responseJsonSchema", "responseModalities",
    "candidateCount", "maxOutputTokens", "temperature", "topP", "topK", "seed", "presencePenalty", "frequencyPenalty",
    "responseLogprobs", "logprobs", "enableEnhancedCivicAnswers", "speechConfig", "thinkingConfig", "mediaResolution",
    "imageConfig", "audioTimestamp",
})  # fmt: skip
DATA = ("text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult")
BESIDE = ("thought", "thoughtSignature", "videoMetadata", "mediaResolution")
SCHEMA = frozenset({
    "type", "format", "title", "description", "nullable", "enum", "items", "minItems", "maxItems", "properties",
    "propertyOrdering", "required", "minProperties", "maxProperties", "minimum", "maximum", "minLength", "maxLength", "pattern",
    "example", "anyOf", "default",
})  # fmt: skip
OPAQUE = ("args", "response", "parametersJsonSchema", "responseJsonSchema", "_responseJsonSchema", "properties", "labels")
FOREIGN = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")


def read(raw: bytes, asked: Asked) -> tuple[dict[str, Any], Call]:
    body = _camel(parsed(raw))
    only(body, FIELDS, "")
    config = an_object(body.get("generationConfig") or {}, "generationConfig")
    only(config, CONFIG, "generationConfig")
    tools = _tools(body)
    messages = _system(body) + _contents(body)
    a_number(config.get("temperature"), "generationConfig.temperature", 0, 2)
    a_number(config.get("topP"), "generationConfig.topP", 0, 1)
    cap = config.get("maxOutputTokens")
    thinking = an_object(config.get("thinkingConfig") or {}, "generationConfig.thinkingConfig")
    only(thinking, ("thinkingBudget", "includeThoughts", "thinkingLevel"), "generationConfig.thinkingConfig")
    call = Call(
        model=asked.model or "",
        messages=messages,
        stream=asked.stream is True,
        include_usage=True,
        max_tokens=MAX_OUTPUT_TOKENS
        if cap is None
        else min(MAX_OUTPUT_TOKENS, whole(cap, "generationConfig.maxOutputTokens", 1)),
        choices=whole(config.get("candidateCount", 1), "generationConfig.candidateCount", 1, 8),
        stop=strings(config.get("stopSequences") or [], "generationConfig.stopSequences", most=5),
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        parallel=False,
        response_format=_response_format(config),
        think=thinking.get("thinkingBudget") != 0,
        show_thoughts=thinking.get("includeThoughts") is True,
        sse=asked.query.get("alt") == "sse",
        prompt_tokens=count_prompt_tokens(messages, tools),
    )
    return body, call


def read_count(raw: bytes, asked: Asked) -> tuple[dict[str, Any], int]:
    """A countTokens body and what it comes to."""
    body = _camel(parsed(raw))
    only(body, ("contents", "generateContentRequest"), "")
    told = an_object(body.get("generateContentRequest") or body, "generateContentRequest")
    only(told, FIELDS, "generateContentRequest")
    return body, count_prompt_tokens(_system(told) + _contents(told), _tools(told))


def _camel(value: Any) -> Any:
    """Protobuf's JSON takes both `systemInstruction` and `system_instruction`; what is under OPAQUE is the caller's own."""
    if isinstance(value, list):
        return [_camel(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    made = {}
    for name, inner in value.items():
        head, *rest = name.split("_") if not name.startswith("_") else [name]
        known = head + "".join(word.capitalize() for word in rest)
        made[known] = inner if known in OPAQUE else _camel(inner)
    return made


def only(value: Mapping[str, Any], allowed: Any, where: str) -> None:
    for name in value:
        if name not in allowed:
            raise BadCall(400, f"Invalid JSON payload received. Unknown name \"{name}\" at '{where}': Cannot find field.")


def _system(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    told = body.get("systemInstruction")
    if told is None:
        return []
    parts = objects(an_object(told, "systemInstruction").get("parts"), "systemInstruction.parts")
    return [{"role": "system", "content": a_string(part.get("text"), f"{where}.text")} for where, part in parts]


def _contents(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Chat messages. As many functionResponse parts must follow a turn as it had functionCall parts."""
    contents = objects(body.get("contents"), "contents")
    if not contents:
        raise bad("contents", "contents is not specified")
    messages: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []
    for where, content in contents:
        only(content, ("role", "parts"), where)
        role = content.get("role", "user")
        if role not in ("user", "model"):
            raise bad(f"{where}.role", "Please use a valid role: user, model.")
        parts = objects(content.get("parts"), f"{where}.parts")
        if not parts:
            raise bad(f"{where}.parts", "must not be empty")
        for at, part in parts:
            only(part, (*DATA, *BESIDE), at)
            if sum(name in part for name in DATA) != 1:
                raise bad(at, "required oneof field 'data' must have one initialized field")
        answers = [part["functionResponse"] for _, part in parts if "functionResponse" in part]
        if len(answers) != len(open_calls):
            raise bad(
                where,
                "Please ensure that the number of function response parts is equal to the number of function call parts of"
                " the function call turn.",
            )
        if role == "user":
            messages += _user(parts, open_calls)
            open_calls = []
        else:
            message, open_calls = _model(parts, len(messages))
            messages.append(message)
    if open_calls:
        raise bad("contents", "a function call turn must be followed by a function response turn")
    return messages


def _user(parts: list[tuple[str, dict[str, Any]]], open_calls: list[tuple[str, str]]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    waiting = list(open_calls)
    for at, part in parts:
        if "functionResponse" not in part:
            said.append(_part(part, at))
            continue
        answer = an_object(part["functionResponse"], at)
        only(answer, ("id", "name", "response", "parts", "willContinue", "scheduling"), f"{at}.functionResponse")
        name = a_string(answer.get("name"), f"{at}.functionResponse.name")
        found = next((entry for entry in waiting if entry[1] == name), None)
        if found is None:
            raise bad(at, f"no function call named {name!r} waits for a response")
        waiting.remove(found)
        response = an_object(answer.get("response"), f"{at}.functionResponse.response")
        told = response.get("result", response.get("output", response))
        results.append(
            {
                "role": "tool",
                "tool_call_id": found[0],
                "content": told if isinstance(told, str) else orjson.dumps(told).decode(),
            }
        )
    return results + ([{"role": "user", "content": said}] if said else [])


def _model(parts: list[tuple[str, dict[str, Any]]], number: int) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    text: list[str] = []
    calls: list[dict[str, Any]] = []
    for at, part in parts:
        if "functionCall" in part:
            called = an_object(part["functionCall"], at)
            only(called, ("id", "name", "args", "partialArgs", "willContinue"), f"{at}.functionCall")
            arguments = orjson.dumps(an_object(called.get("args") or {}, f"{at}.functionCall.args")).decode()
            name = a_string(called.get("name"), f"{at}.functionCall.name")
            _check_call_signature(part, name, at)
            function = {"name": name, "arguments": arguments}
            calls.append({"id": f"call_{number}_{len(calls)}", "type": "function", "function": function})
        elif "text" in part and part.get("thought") is not True:
            text.append(a_string(part["text"], f"{at}.text"))
    message = {"role": "assistant", "content": "".join(text) or None, **({"tool_calls": calls} if calls else {})}
    return message, [(call["id"], call["function"]["name"]) for call in calls]


def _check_call_signature(part: Mapping[str, Any], name: str, where: str) -> None:
    signature = part.get("thoughtSignature")
    if signature is not None and signature not in (*FOREIGN, sign(name)):
        raise bad(f"{where}.thoughtSignature", "Corrupted thought signature.")


def _part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    if "text" in part:
        return {"type": "text", "text": a_string(part["text"], f"{where}.text")}
    if "inlineData" in part:
        blob = an_object(part["inlineData"], f"{where}.inlineData")
        only(blob, ("mimeType", "data", "displayName"), f"{where}.inlineData")
        media_type = a_string(blob.get("mimeType"), f"{where}.inlineData.mimeType")
        return media_part(media_type, blob.get("data"), f"{where}.inlineData.data")
    if "fileData" in part:
        uri = a_string(an_object(part["fileData"], where).get("fileUri"), f"{where}.fileData.fileUri")
        return {"type": "image_url", "image_url": {"url": uri}}
    raise bad(where, "is no part of the user's")


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for where, tool in objects(body.get("tools") or [], "tools"):
        only(tool, ("functionDeclarations", "googleSearch", "codeExecution", "urlContext"), where)
        for at, declared in objects(tool.get("functionDeclarations") or [], f"{where}.functionDeclarations"):
            only(declared, ("name", "description", "behavior", "parameters", "parametersJsonSchema", "response"), at)
            name = a_string(declared.get("name"), f"{at}.name", pattern="[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")
            schema = declared.get("parametersJsonSchema", declared.get("parameters"))
            if "parameters" in declared:
                _schema(declared["parameters"], f"{at}.parameters")
            made.append({"type": "function", "function": {"name": name, "parameters": _small(schema or {"type": "object"})}})
    return made


def _schema(schema: Any, where: str) -> None:
    """Google's subset of OpenAPI 3.0."""
    schema = an_object(schema, where)
    only(schema, SCHEMA, where)
    if isinstance(schema.get("type"), list):
        raise BadCall(400, f"Proto field is not repeating, cannot start list. ({where}.type)")
    if any(not isinstance(entry, str) or not entry for entry in schema.get("enum", ())):
        raise bad(f"{where}.enum", "must hold non-empty strings")
    if str(schema.get("type", "")).upper() == "OBJECT" and schema.get("properties") == {}:
        raise bad(f"{where}.properties", "should be non-empty for OBJECT type")
    if str(schema.get("type", "")).upper() == "ARRAY" and "items" not in schema:
        raise bad(f"{where}.items", "missing field.")
    for name, entry in (schema.get("properties") or {}).items():
        _schema(entry, f"{where}.properties[{name}]")
    if "items" in schema:
        _schema(schema["items"], f"{where}.items")
    for at, entry in enumerate(schema.get("anyOf") or ()):
        _schema(entry, f"{where}.anyOf[{at}]")


def _small(schema: Any) -> Any:
    """Types in small letters, as the rest of the simulator reads them."""
    if isinstance(schema, list):
        return [_small(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value.lower() if name == "type" and isinstance(value, str) else _small(value) for name, value in schema.items()
    }


def _tool_choice(body: Mapping[str, Any], tools: list[dict[str, Any]]) -> str:
    config = an_object(body.get("toolConfig") or {}, "toolConfig")
    only(config, ("functionCallingConfig", "retrievalConfig"), "toolConfig")
    calling = an_object(config.get("functionCallingConfig") or {}, "toolConfig.functionCallingConfig")
    only(calling, ("mode", "allowedFunctionNames"), "toolConfig.functionCallingConfig")
    mode, allowed = calling.get("mode", "AUTO"), calling.get("allowedFunctionNames") or []
    if allowed and mode not in ("ANY", "VALIDATED"):
        raise bad("toolConfig", "allowed_function_names should only be set when the mode is ANY")
    known = {tool["function"]["name"] for tool in tools}
    if unknown := set(allowed) - known:
        raise bad("toolConfig", f"allowed_function_names holds {min(unknown)!r}, which is not declared")
    if mode == "ANY":
        return f"={allowed[0]}" if len(allowed) == 1 else "required"
    return "none" if mode == "NONE" else "auto"


def _response_format(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    kind = config.get("responseMimeType", "text/plain")
    schema = config.get("responseJsonSchema", config.get("_responseJsonSchema", config.get("responseSchema")))
    if "responseSchema" in config:
        _schema(config["responseSchema"], "generationConfig.responseSchema")
    if kind != "application/json":
        if schema is not None:
            raise bad("generationConfig.responseSchema", "response_mime_type must be application/json")
        return None
    if schema is None:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"schema": _small(schema)}}


# -- the answer

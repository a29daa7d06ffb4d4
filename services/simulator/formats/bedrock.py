"""Amazon Bedrock's Converse (https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html), as strict as
it is there. A model id has its vendor before a dot: `anthropic.chat` is `chat`. Signatures are not checked, API keys are.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from services.simulator.answer import Choice, Reply
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
    check_signature,
    media_part,
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
    "messages", "system", "inferenceConfig", "toolConfig", "guardrailConfig", "additionalModelRequestFields", "promptVariables",
    "additionalModelResponseFieldPaths", "requestMetadata", "performanceConfig", "serviceTier", "outputConfig",
})  # fmt: skip
ID = "[a-zA-Z0-9_-]{1,64}"
MEDIA = {
    "image": {"png": "image/png", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"},
    "document": {
        "pdf": "application/pdf", "csv": "text/csv", "html": "text/html", "txt": "text/plain", "md": "text/markdown",
        "doc": "application/msword", "docx": "application/docx", "xls": "application/vnd.ms-excel", "xlsx": "application/xlsx",
    },
    "video": {"mp4": "video/mp4", "mov": "video/quicktime", "webm": "video/webm", "mkv": "video/x-matroska"},
}  # fmt: skip
EXCEPTIONS = {
    400: "ValidationException", 401: "UnrecognizedClientException", 403: "AccessDeniedException",
    404: "ResourceNotFoundException", 408: "ModelTimeoutException", 424: "ModelErrorException", 429: "ThrottlingException",
    500: "InternalServerException", 503: "ServiceUnavailableException",
}  # fmt: skip
STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "content_filtered"}


def read(raw: bytes, asked: Asked) -> tuple[dict[str, Any], Call]:
    body = parsed(raw)
    only(body, FIELDS, "")
    config = an_object(body.get("inferenceConfig") or {}, "inferenceConfig")
    only(config, ("maxTokens", "temperature", "topP", "stopSequences"), "inferenceConfig")
    a_number(config.get("temperature"), "inferenceConfig.temperature", 0, 1)
    a_number(config.get("topP"), "inferenceConfig.topP", 0, 1)
    cap = MAX_OUTPUT_TOKENS if "maxTokens" not in config else whole(config["maxTokens"], "inferenceConfig.maxTokens", 1)
    tools, choice = _tool_config(body)
    messages = _system(body) + _Conversation(body, has_tools=bool(tools)).messages()
    model = (asked.model or "").rpartition(".")[2]
    call = Call(
        model=model,
        messages=messages,
        stream=asked.stream is True,
        include_usage=True,
        max_tokens=min(MAX_OUTPUT_TOKENS, cap),
        choices=1,
        stop=strings(config.get("stopSequences") or [], "inferenceConfig.stopSequences", most=2500),
        tools=tools,
        tool_choice=choice,
        parallel=False,
        response_format=_output_format(body),
        think=_thinks(body, cap),
        prompt_tokens=count_prompt_tokens(messages, tools),
    )
    return body, call


def _system(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    blocks = objects(body.get("system") or [], "system")
    return [{"role": "system", "content": _text(block, at)} for at, block in blocks if _kind(block, at) == "text"]


def _kind(block: Mapping[str, Any], where: str) -> str:
    if len(block) != 1:
        raise bad(where, f"must set exactly one member of the union, not {sorted(block)}")
    return next(iter(block))


def _text(block: Mapping[str, Any], where: str) -> str:
    text = a_string(block["text"], f"{where}.text")
    if not text.strip():
        raise bad(where, "The text field in the ContentBlock object is blank. Add text to the text field, and try again.")
    return text


class _Conversation:
    """The turns: they alternate, and each toolUse is answered in the next one."""

    def __init__(self, body: Mapping[str, Any], *, has_tools: bool) -> None:
        self.given = objects(body.get("messages"), "messages")
        self.has_tools = has_tools
        self.open: list[str] = []

    def messages(self) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for number, (where, message) in enumerate(self.given):
            only(message, ("role", "content"), where)
            if message.get("role") != ("assistant" if number % 2 else "user"):
                raise bad(where, "A conversation must start with a user message and alternate between user and assistant.")
            blocks = objects(message.get("content"), f"{where}.content")
            if not blocks:
                raise bad(where, "The content field in the Message object is empty.")
            made += [self.assistant(blocks)] if number % 2 else self.user(blocks, where)
        if not made:
            raise bad("messages", "must not be empty")
        if self.open:
            raise bad("messages", f"Expected toolResult blocks for the following Ids: {self.open[0]}")
        return made

    def user(self, blocks: list[tuple[str, dict[str, Any]]], where: str) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        parts: list[dict[str, Any]] = []
        for at, block in blocks:
            kind = _kind(block, at)
            if kind == "toolResult":
                results.append(self.result(an_object(block[kind], at), at))
            elif kind != "cachePoint":
                parts.append(_part(block, kind, at))
        if self.open:
            raise bad(where, f"Expected toolResult blocks for the following Ids: {self.open[0]}")
        documents = any("document" in block for _, block in blocks)
        if documents and not any("text" in block for _, block in blocks):
            raise bad(where, "Documents need a text block beside them.")
        return results + ([{"role": "user", "content": parts}] if parts else [])

    def result(self, result: Mapping[str, Any], where: str) -> dict[str, Any]:
        only(result, ("toolUseId", "content", "status", "type"), f"{where}.toolResult")
        called = result.get("toolUseId")
        if called not in self.open:
            raise bad(where, f"The number of toolResult blocks exceeds the toolUse blocks of the previous turn ({called}).")
        self.open.remove(called)
        content = []
        for at, part in objects(result.get("content"), f"{where}.toolResult.content"):
            kind = _kind(part, at)
            if kind == "json":
                content.append({"type": "text", "text": orjson.dumps(part["json"]).decode()})
            else:
                content.append(_part(part, kind, at))
        return {"role": "tool", "tool_call_id": called, "content": content}

    def assistant(self, blocks: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        text: list[str] = []
        calls: list[dict[str, Any]] = []
        for at, block in blocks:
            match _kind(block, at):
                case "text":
                    text.append(_text(block, at))
                case "toolUse":
                    calls.append(self.tool_use(an_object(block["toolUse"], at), at))
                case "reasoningContent":
                    thought = an_object(block["reasoningContent"], at).get("reasoningText")
                    if thought is not None:
                        check_signature(thought.get("text", ""), thought.get("signature"), f"{at}.signature")
                case "cachePoint":
                    continue
                case kind:
                    raise bad(at, f"{kind} is no content of the assistant")
        made: dict[str, Any] = {"role": "assistant", "content": "".join(text) or None}
        return made | ({"tool_calls": calls} if calls else {})

    def tool_use(self, use: Mapping[str, Any], where: str) -> dict[str, Any]:
        if not self.has_tools:
            raise bad(where, "The toolConfig field must be defined when using toolUse and toolResult content blocks.")
        only(use, ("toolUseId", "name", "input", "type"), f"{where}.toolUse")
        called = a_string(use.get("toolUseId"), f"{where}.toolUse.toolUseId", pattern=ID)
        self.open.append(called)
        arguments = orjson.dumps(an_object(use.get("input"), f"{where}.toolUse.input")).decode()
        name = a_string(use.get("name"), f"{where}.toolUse.name", pattern=ID)
        return {"id": called, "type": "function", "function": {"name": name, "arguments": arguments}}


def _part(block: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    if kind == "text":
        return {"type": "text", "text": _text(block, where)}
    if kind not in MEDIA:
        raise bad(where, f"{kind} is no content of the user")
    media = an_object(block[kind], f"{where}.{kind}")
    media_type = MEDIA[kind].get(str(media.get("format")))
    if media_type is None:
        raise bad(f"{where}.{kind}.format", f"{media.get('format')!r} is not supported")
    if kind == "document":
        a_string(media.get("name"), f"{where}.document.name", pattern=r"(?:[a-zA-Z0-9()\[\]-]|\s(?!\s)){1,200}")
    source = an_object(media.get("source"), f"{where}.{kind}.source")
    return media_part(media_type, source.get("bytes"), f"{where}.{kind}.source.bytes")


def _tool_config(body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    config = body.get("toolConfig")
    if config is None:
        return [], "auto"
    only(an_object(config, "toolConfig"), ("tools", "toolChoice"), "toolConfig")
    tools: list[dict[str, Any]] = []
    for where, tool in objects(config.get("tools"), "toolConfig.tools"):
        if _kind(tool, where) == "cachePoint":
            continue
        spec = an_object(tool.get("toolSpec"), f"{where}.toolSpec")
        only(spec, ("name", "description", "inputSchema", "strict"), f"{where}.toolSpec")
        name = a_string(spec.get("name"), f"{where}.toolSpec.name", pattern=ID)
        schema = an_object(an_object(spec.get("inputSchema"), where).get("json"), f"{where}.toolSpec.inputSchema.json")
        if schema.get("type") != "object":
            raise bad(f"{where}.toolSpec.inputSchema.json.type", "must be one of the following: object.")
        tools.append({"type": "function", "function": {"name": name, "parameters": schema}})
    if not tools:
        raise bad("toolConfig.tools", "must have at least one tool")
    choice = an_object(config.get("toolChoice") or {"auto": {}}, "toolConfig.toolChoice")
    match _kind(choice, "toolConfig.toolChoice"):
        case "auto":
            return tools, "auto"
        case "any":
            return tools, "required"
        case "tool" if any(tool["function"]["name"] == choice["tool"].get("name") for tool in tools):
            return tools, f"={choice['tool']['name']}"
    raise bad("toolConfig.toolChoice", "must be auto, any or one of the tools")


def _thinks(body: Mapping[str, Any], cap: int) -> bool:
    """Claude's own field; the others are refused by Claude as extra inputs, as here."""
    extra = an_object(body.get("additionalModelRequestFields") or {}, "additionalModelRequestFields")
    only(extra, ("thinking", "output_config", "top_k", "anthropic_beta", "reasoning_config"), "additionalModelRequestFields")
    thinking = an_object(extra.get("thinking") or {"type": "disabled"}, "additionalModelRequestFields.thinking")
    if thinking.get("type") == "enabled" and whole(thinking.get("budget_tokens"), "thinking.budget_tokens", 1024) >= cap:
        raise bad("inferenceConfig.maxTokens", "must be greater than thinking.budget_tokens")
    return thinking.get("type") in ("enabled", "adaptive")


def _output_format(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    config = body.get("outputConfig")
    if config is None:
        return None
    wanted = an_object(an_object(config, "outputConfig").get("textFormat"), "outputConfig.textFormat")
    only(wanted, ("type", "structure"), "outputConfig.textFormat")
    described = an_object(an_object(wanted.get("structure"), "outputConfig").get("jsonSchema"), "outputConfig.jsonSchema")
    only(described, ("schema", "name", "description"), "outputConfig.jsonSchema")
    try:
        schema = an_object(orjson.loads(a_string(described.get("schema"), "outputConfig.schema")), "outputConfig.schema")
    except orjson.JSONDecodeError:
        raise bad("outputConfig.schema", "must be JSON in a string") from None
    strict_schema(schema, "outputConfig.schema")
    return {"type": "json_schema", "json_schema": {"schema": schema}}


# -- the answer


def encode_reply(reply: Reply, behaviour: Behaviour) -> bytes:
    choice = reply.choices[0]
    made: dict[str, Any] = {"output": {"message": {"role": "assistant", "content": list(_blocks(choice))}}}
    made |= {"stopReason": STOPS[choice.finish_reason], "metrics": {"latencyMs": 12}}
    if (usage := _usage(reply, behaviour)) is not None:
        made["usage"] = usage
    if behaviour.padding_kib:
        made["padding"] = "x" * (behaviour.padding_kib * 1024)
    return orjson.dumps(made)


def _blocks(choice: Choice) -> Iterator[dict[str, Any]]:
    if choice.reasoning:
        text = "".join(choice.reasoning)
        yield {"reasoningContent": {"reasoningText": {"text": text, "signature": sign(text)}}}
    if choice.content:
        yield {"text": "".join(choice.content)}
    for call in choice.tool_calls:
        try:
            given = orjson.loads("".join(call.arguments))
        except orjson.JSONDecodeError:
            given = {}
        yield {"toolUse": {"toolUseId": f"tooluse_{call.call_id}", "name": call.name, "input": given}}


def _usage(reply: Reply, behaviour: Behaviour) -> dict[str, Any] | None:
    """The cached tokens are not among the input tokens."""
    if behaviour.reporting is Reporting.NONE:
        return None
    if behaviour.reporting is Reporting.WRONG:
        return {"inputTokens": -5, "outputTokens": 10**15, "totalTokens": "many"}
    usage = reply.usage
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "inputTokens": usage["prompt_tokens"] - cached,
        "outputTokens": usage["completion_tokens"],
        "totalTokens": usage["total_tokens"],
        "cacheReadInputTokens": cached,
        "cacheWriteInputTokens": 0,
    }


def encode_events(reply: Reply, behaviour: Behaviour, call: Call) -> Iterator[tuple[Step, bytes]]:
    choice = reply.choices[0]
    yield Step.OPENING, _message("messageStart", {"role": "assistant"})
    if behaviour.padding_kib:
        yield Step.OPENING, _message("padding", {"p": "x" * (behaviour.padding_kib * 1024)})
    for index, (start, deltas) in enumerate(_streamed(choice)):
        if start is not None:
            yield Step.OPENING, _message("contentBlockStart", {"contentBlockIndex": index, "start": start})
        for step, delta in deltas:
            yield step, _message("contentBlockDelta", {"contentBlockIndex": index, "delta": delta})
        yield Step.OPENING, _message("contentBlockStop", {"contentBlockIndex": index})
    if behaviour.done:
        yield Step.CLOSING, _message("messageStop", {"stopReason": STOPS[choice.finish_reason]})
    metadata: dict[str, Any] = {"metrics": {"latencyMs": 12}}
    if (usage := _usage(reply, behaviour)) is not None:
        metadata["usage"] = usage
    yield Step.CLOSING, _message("metadata", metadata)


def _streamed(choice: Choice) -> Iterator[tuple[dict[str, Any] | None, list[tuple[Step, dict[str, Any]]]]]:
    """Each block: its start (only tool use has one) and its deltas."""
    if choice.reasoning:
        thoughts = [(Step.TOKEN, {"reasoningContent": {"text": piece}}) for piece in choice.reasoning]
        thoughts.append((Step.OPENING, {"reasoningContent": {"signature": sign("".join(choice.reasoning))}}))
        yield None, thoughts
    if choice.content:
        yield None, [(Step.TOKEN, {"text": piece}) for piece in choice.content]
    for call in choice.tool_calls:
        start = {"toolUse": {"toolUseId": f"tooluse_{call.call_id}", "name": call.name}}
        yield start, [(Step.TOKEN, {"toolUse": {"input": piece}}) for piece in call.arguments]


def _message(kind: str, payload: Mapping[str, Any]) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, orjson.dumps(payload))


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message of application/vnd.amazon.eventstream: lengths, their CRC, headers, payload, the CRC of it all."""
    packed = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    prelude += struct.pack("!I", zlib.crc32(prelude))
    whole_message = prelude + packed + payload
    return whole_message + struct.pack("!I", zlib.crc32(whole_message))


def encode_error(failure: Failure) -> tuple[bytes, dict[str, str]]:
    message = failure.message
    if failure.code == "context_length_exceeded":
        message = "Input is too long for requested model."
    named = EXCEPTIONS.get(failure.status, "ValidationException" if failure.status < 500 else "InternalServerException")
    return orjson.dumps({"message": message}), {"x-amzn-ErrorType": named}


def error_event(message: str) -> bytes:
    headers = {":exception-type": "modelStreamErrorException", ":content-type": "application/json"}
    return frame({**headers, ":message-type": "exception"}, orjson.dumps({"message": message}))


FORMAT = Format(
    read=read,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=encode_error,
    error_event=error_event,
    malformed=_message("contentBlockDelta", {})[:-4] + b"\0\0\0\0",
    key=bearer,
    stream_type="application/vnd.amazon.eventstream",
    lines=False,
)

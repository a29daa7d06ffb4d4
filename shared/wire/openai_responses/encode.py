"""A canonical Call → an OpenAI Responses body. Nothing is stored at the provider: the history travels in `input`."""

from __future__ import annotations

import json
from typing import Any

import orjson

from shared.domain.catalogue import Model, Quirks
from shared.wire import datauri
from shared.wire.canonical import Call, Encoded, Media, Text, Thinking, Tool, ToolCall, ToolResult, Turn
from shared.wire.openai_chat.encode import one_choice_only
from shared.wire.turns import Ids, Names, paired, result_text

UNSPEAKABLE = ("top_k", "frequency_penalty", "presence_penalty", "seed", "logit_bias")


def encode_call(call: Call, model: Model, quirks: Quirks) -> Encoded:
    """Raises Refused, naming the client's field."""
    return _Encoder(call, model, quirks).encoded()


class _Encoder:
    def __init__(self, call: Call, model: Model, quirks: Quirks) -> None:
        self.call, self.model, self.quirks = call, model, quirks
        self.names, self.ids = Names(), Ids("a-zA-Z0-9_-", 64)
        self.dropped: list[str] = []

    def encoded(self) -> Encoded:
        call = self.call
        if call.choices > 1:
            raise one_choice_only(call)
        body: dict[str, Any] = {"model": self.model.sent_id, "store": False}
        instructions = "\n\n".join(part.text for part in call.system)
        if instructions:
            body["instructions"] = instructions
        body["input"] = [item for turn in paired(call.turns) for item in self.items(turn)]
        self.dropped += call.unheard(lambda part: part.proves("openai"))
        self.tools(body)
        self.rest(body)
        for name in self.quirks.drop:
            if body.pop(name, None) is not None and name != "include":  # that is ours
                self.dropped.append(call.named(name))
        return Encoded(body=orjson.dumps(body), dropped=tuple(dict.fromkeys(self.dropped)), names=self.names.back)

    def items(self, turn: Turn) -> list[dict[str, Any]]:
        role = {"system": "developer"}.get(turn.role, turn.role)
        items: list[dict[str, Any]] = []
        content: list[dict[str, Any]] = []

        def flush() -> None:
            if content:
                items.append({"type": "message", "role": role, "content": list(content)})
                content.clear()

        for part in turn.parts:
            if isinstance(part, (Text, Media)):
                content.append(self.content(part, role))
                continue
            flush()
            match part:
                case ToolCall():
                    items.append(self.tool_call(part))
                case ToolResult():
                    items.append(self.result(part))
                case Thinking() if part.proves("openai"):
                    summary = [{"type": "summary_text", "text": part.text}] if part.text else []
                    item = {"type": "reasoning", "summary": summary, "encrypted_content": part.signature}
                    items.append(item | ({"id": part.item_id} if part.item_id else {}))
        flush()
        return items

    def content(self, part: Text | Media, role: str) -> dict[str, Any]:
        if isinstance(part, Text):
            if part.refusal and role == "assistant":
                return {"type": "refusal", "refusal": part.text}
            return {"type": "output_text" if role == "assistant" else "input_text", "text": part.text}
        url = part.url or datauri.join(part.media_type, part.data or "")
        if part.kind == "image":
            source = {"file_id": part.file_id} if part.file_id else {"image_url": url}
            detail = {} if "detail" in self.quirks.message_drop else {"detail": part.detail or "auto"}
            if part.detail is not None and not detail:
                self.dropped.append("messages[].detail")
            return {"type": "input_image"} | detail | source
        if part.kind == "audio":
            sound = (part.media_type or "audio/wav").partition("/")[2]
            return {
                "type": "input_audio",
                "input_audio": {"data": part.data or "", "format": {"mpeg": "mp3"}.get(sound, sound)},
            }
        if part.file_id is not None:
            return {"type": "input_file", "file_id": part.file_id}
        if part.url is not None:
            return {"type": "input_file", "file_url": part.url}
        return {"type": "input_file", "filename": part.name or "document.pdf", "file_data": url}

    def tool_call(self, part: ToolCall) -> dict[str, Any]:
        name = self.names.sent(part.full_name)
        item = {"call_id": self.ids.call(part.id), "name": name}
        if part.custom:
            return {"type": "custom_tool_call", "input": part.arguments} | item
        return {"type": "function_call", "arguments": part.arguments if _is_json(part.arguments) else "{}"} | item

    def result(self, part: ToolResult) -> dict[str, Any]:
        kind = "custom_tool_call_output" if part.custom else "function_call_output"
        media = [inner for inner in part.parts if isinstance(inner, Media)]
        output: Any = result_text(part)
        if media:
            output = [{"type": "input_text", "text": output}, *(self.content(inner, "user") for inner in media)]
        return {"type": kind, "call_id": self.ids.result(part.call_id), "output": output}

    def tools(self, body: dict[str, Any]) -> None:
        call = self.call
        if not call.tools:
            return
        body["tools"] = [self.tool(tool) for tool in call.tools]
        if call.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = call.parallel_tool_calls
        choice = call.tool_choice
        if choice is None:
            return
        if choice.mode == "tool":
            name = self.names.sent(choice.name or "")
            kind = next((tool["type"] for tool in body["tools"] if tool["name"] == name), "function")
            body["tool_choice"] = {"type": kind, "name": name}
        elif choice.allowed:
            allowed = [{"type": "function", "name": self.names.sent(name)} for name in choice.allowed]
            mode = "required" if choice.mode == "any" else "auto"
            body["tool_choice"] = {"type": "allowed_tools", "mode": mode, "tools": allowed}
        else:
            body["tool_choice"] = "required" if choice.mode == "any" else choice.mode

    def tool(self, tool: Tool) -> dict[str, Any]:
        name = self.names.sent(tool.full_name)
        made: dict[str, Any] = {"type": "custom" if tool.custom else "function", "name": name}
        if tool.description is not None:
            made["description"] = tool.description
        if tool.custom:
            return made | ({"format": tool.grammar} if tool.grammar is not None else {})
        return made | {"parameters": tool.schema or {"type": "object", "properties": {}}, "strict": tool.strict is True}

    def rest(self, body: dict[str, Any]) -> None:
        call = self.call
        if call.max_tokens is not None:
            body["max_output_tokens"] = call.max_tokens  # OpenAI refuses less than 16; more would not be what was reserved
        for name in ("temperature", "top_p", "user", "service_tier", "metadata", "prompt_cache_key"):
            value = getattr(call, name)
            if value is not None:
                body[name] = value
        if call.logprobs is not None:
            body["top_logprobs"] = call.logprobs
            body["include"] = ["message.output_text.logprobs"]
        self.output(body)
        asked = call.reasoning
        if asked is not None and (asked.asked or asked.summary):
            effort = asked.as_effort(call.max_tokens or self.model.max_output_tokens)
            wanted = {"effort": effort, "summary": asked.summary or (None if asked.show is False or asked.off else "auto")}
            body["reasoning"] = {name: value for name, value in wanted.items() if value is not None}
            body["include"] = [*body.get("include", []), "reasoning.encrypted_content"]
        if call.stream:
            body["stream"] = True
        self.dropped += [call.named(name) for name in UNSPEAKABLE if getattr(call, name) is not None]
        if call.stop:
            self.dropped.append(call.named("stop"))
        if call.format == "openai-responses":
            body.update(call.native)
        else:
            self.dropped += call.native
        for name, value in call.extra.items():
            body.setdefault(name, value)

    def output(self, body: dict[str, Any]) -> None:
        output, text = self.call.output, {}
        if output is not None and output.kind == "json":
            text["format"] = {"type": "json_object"}
        elif output is not None and output.kind == "schema":
            made: dict[str, Any] = {"type": "json_schema", "name": output.name or "answer", "schema": output.schema or {}}
            if output.strict is not None:
                made["strict"] = output.strict
            if output.description is not None:
                made["description"] = output.description
            text["format"] = made
        if self.call.verbosity is not None:
            text["verbosity"] = self.call.verbosity  # type: ignore[assignment]
        if text and self.quirks.response_format:
            wanted, lost = as_response_format(text)
            body.update(wanted)
            self.dropped += [self.call.named("output" if name == "format" else name) for name in lost]
        elif text:
            body["text"] = text


def as_response_format(text: Any) -> tuple[dict[str, Any], list[str]]:
    """The field for a schema that a Responses body's `text` asks for, in Chat's words; and what of `text` it does not say."""
    text = text if type(text) is dict else {}
    wanted = text.get("format")
    kind = wanted.get("type") if type(wanted) is dict else "text"
    lost = [name for name in text if name != "format" or kind not in ("text", "json_schema")]
    if kind != "json_schema":
        return {}, lost
    return {"response_format": {"type": kind, kind: {name: value for name, value in wanted.items() if name != "type"}}}, lost


def _is_json(text: str) -> bool:
    try:
        return type(json.loads(text)) is dict
    except (ValueError, RecursionError):
        return False

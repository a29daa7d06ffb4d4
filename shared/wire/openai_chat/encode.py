"""A canonical Call → a Chat Completions body for a provider, within its quirks (domain/catalogue.py Quirks)."""

from __future__ import annotations

import json
from typing import Any

import orjson

from shared.domain.catalogue import Capability, Model, Quirks
from shared.domain.refusal import Refused
from shared.wire import datauri
from shared.wire.canonical import (
    EFFORTS,
    Call,
    Encoded,
    Media,
    Part,
    Reasoning,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from shared.wire.envelope import invalid_field
from shared.wire.openai_chat.tidy import tidied
from shared.wire.turns import Ids, Names, paired, result_media, result_text

LEAST_THINKING_TOKENS = 128
"""SiliconFlow's least thinking_budget."""


def encode_call(call: Call, model: Model, quirks: Quirks) -> Encoded:
    """Raises Refused, naming the client's field, for what the provider cannot do and the client must know of."""
    return _Encoder(call, model, quirks).encoded()


class _Encoder:
    def __init__(self, call: Call, model: Model, quirks: Quirks) -> None:
        self.call, self.model, self.quirks = call, model, quirks
        self.dropped: list[str] = []
        self.names = Names()
        self.ids = Ids("a-zA-Z0-9", 9, exact=True) if quirks.tool_ids == "nine" else Ids("\x21-\x7e", 256)

    def encoded(self) -> Encoded:
        body: dict[str, Any] = {"model": self.model.sent_id, "messages": self.messages()}
        if self.call.goes_on:
            self.going_on(body)
        self.sampling(body)
        self.tools(body)
        self.output(body)
        self.reasoning(body)
        if self.call.stream:
            body["stream"] = True
            if self.quirks.stream_usage:
                body["stream_options"] = {"include_usage": True}
        self.native(body)
        self.quirky(body)
        if self.quirks.tidied:
            self.tidy(body)
        replayed = self.quirks.replay_reasoning
        self.dropped += self.call.unheard(lambda part: replayed == "reasoning_details" or (replayed and part.text))
        dropped = tuple(dict.fromkeys(self.dropped))
        return Encoded(body=orjson.dumps(body), dropped=dropped, names=self.names.back)

    # -- messages

    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        system = "\n\n".join(part.text for part in self.call.system)
        role = "developer" if self.quirks.developer_role else "system"
        if system:
            messages.append({"role": role, "content": system})
        for turn in paired(self.call.turns):
            match turn.role:
                case "system":
                    text = "\n\n".join(part.text for part in turn.parts if isinstance(part, Text))
                    messages.append({"role": role, "content": text})
                case "assistant":
                    messages.append(self.assistant(turn))
                case _:
                    messages += self.user(turn)
        return messages

    def going_on(self, body: dict[str, Any]) -> None:
        """The last message is the answer's beginning: how the provider is told so."""
        match self.quirks.continues:
            case "prefix" | "partial" as name:
                body["messages"][-1][name] = True
            case "continue_final_message" as name:
                body |= {name: True, "add_generation_prompt": False}

    def user(self, turn: Turn) -> list[dict[str, Any]]:
        """Tool messages first; what they cannot carry (images) follows in the user's message."""
        messages: list[dict[str, Any]] = []
        rest: list[Part] = []
        for part in turn.parts:
            if isinstance(part, ToolResult):
                tool_id = self.ids.result(part.call_id)
                messages.append({"role": "tool", "tool_call_id": tool_id, "content": result_text(part)})
                media = result_media(part)
                if media:
                    rest += [Text(f"[Media of tool result {tool_id}]"), *media]
        rest += [part for part in turn.parts if not isinstance(part, ToolResult)]
        if rest:
            message: dict[str, Any] = {"role": "user", "content": self.content(rest)}
            if turn.name:
                message["name"] = turn.name
            messages.append(message)
        return messages

    def content(self, parts: list[Part]) -> str | list[dict[str, Any]]:
        texts = [part.text for part in parts if isinstance(part, Text)]
        if len(texts) == len(parts) and (len(parts) == 1 or self.quirks.text_only_content):
            return "\n\n".join(texts)
        return [self.part(part) for part in parts if isinstance(part, (Text, Media))]

    def part(self, part: Text | Media) -> dict[str, Any]:
        if isinstance(part, Text):
            return {"type": "text", "text": part.text}
        if part.kind == "image":
            image = {"url": part.url or datauri.join(part.media_type, part.data or "")}
            return {"type": "image_url", "image_url": image | ({"detail": part.detail} if part.detail else {})}
        if part.kind == "audio" and part.data is not None:
            sound = (part.media_type or "audio/wav").partition("/")[2]
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": {"mpeg": "mp3"}.get(sound, sound)}}
        if part.kind == "video":
            return {"type": "video_url", "video_url": {"url": part.url or datauri.join(part.media_type, part.data or "")}}
        if part.file_id is not None:
            return {"type": "file", "file": {"file_id": part.file_id}}
        file = part.url or datauri.join(part.media_type, part.data or "")
        return {"type": "file", "file": {"filename": part.name or "document.pdf", "file_data": file}}

    def assistant(self, turn: Turn) -> dict[str, Any]:
        text = "".join(part.text for part in turn.parts if isinstance(part, Text) and not part.refusal)
        calls = [part for part in turn.parts if isinstance(part, ToolCall)]
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
        refusal = "".join(part.text for part in turn.parts if isinstance(part, Text) and part.refusal)
        if refusal:
            message["content"] = text + refusal
        if calls:
            message["tool_calls"] = [self.tool_call(part) for part in calls]
        field = self.quirks.replay_reasoning
        if field == "reasoning_details":
            details = [detail for part in turn.parts if isinstance(part, Thinking) for detail in _details(part)]
            if details:
                message[field] = details
        elif field:
            thought = "".join(part.text for part in turn.parts if isinstance(part, Thinking))
            if thought or (calls and self.quirks.replay_needed):
                message[field] = thought or " "
        if turn.name:
            message["name"] = turn.name
        return message

    def tool_call(self, part: ToolCall) -> dict[str, Any]:
        tool_id, name = self.ids.call(part.id), self.names.sent(part.full_name)
        if part.custom and self.quirks.custom_tools:
            return {"id": tool_id, "type": "custom", "custom": {"name": name, "input": part.arguments}}
        arguments = json.dumps({"input": part.arguments}) if part.custom else _an_object(part.arguments)
        return {"id": tool_id, "type": "function", "function": {"name": name, "arguments": arguments}}

    # -- everything else

    def sampling(self, body: dict[str, Any]) -> None:
        call = self.call
        if call.max_tokens is not None:
            body[self.quirks.output_cap_field] = call.max_tokens
        plain = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed", "logit_bias", "verbosity",
                 "user", "service_tier", "metadata", "prompt_cache_key")  # fmt: skip
        for name in plain:
            value = getattr(call, name)
            if value is not None:
                body[name] = value
        if call.stop:
            body["stop"] = list(call.stop[: self.quirks.most_stops])
            if len(call.stop) > self.quirks.most_stops:
                self.dropped.append(f"{call.named('stop')}[{self.quirks.most_stops}:]")
        if call.choices > 1:
            body["n"] = call.choices
        if call.logprobs is not None:
            body["logprobs"] = True
            if call.logprobs:
                body["top_logprobs"] = call.logprobs

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
        if choice.mode == "tool" and "named" in self.quirks.forced_tools:
            body["tool_choice"] = {"type": "function", "function": {"name": self.names.sent(choice.name or "")}}
        elif choice.mode in ("any", "tool"):
            if choice.mode == "tool" or choice.allowed:  # leave only what may be called, and force a call
                allowed = {self.names.sent(name) for name in (choice.name, *choice.allowed) if name}
                body["tools"] = [tool for tool in body["tools"] if tool.get("function", {}).get("name") in allowed] or body[
                    "tools"
                ]
            if "required" in self.quirks.forced_tools:
                body["tool_choice"] = "required"
            elif "any" in self.quirks.forced_tools:
                body["tool_choice"] = "any"
            else:
                self.dropped.append(call.named("tool_choice"))
        else:
            body["tool_choice"] = choice.mode

    def tool(self, tool: Tool) -> dict[str, Any]:
        name = self.names.sent(tool.full_name)
        if tool.custom and self.quirks.custom_tools:
            custom = {"name": name, "description": tool.description, "format": tool.grammar}
            return {"type": "custom", "custom": {key: value for key, value in custom.items() if value is not None}}
        schema = tool.input_schema
        if self.quirks.schema_drop:
            schema = _without(schema, frozenset(self.quirks.schema_drop))
        function: dict[str, Any] = {"name": name, "parameters": schema}
        if tool.description is not None:
            function["description"] = tool.description
        if tool.strict is not None and "strict" not in self.quirks.schema_drop:
            function["strict"] = tool.strict
        return {"type": "function", "function": function}

    def output(self, body: dict[str, Any]) -> None:
        output = self.call.output
        if output is None or output.kind == "text":
            return
        if output.kind == "json":
            body["response_format"] = {"type": "json_object"}
            return
        wanted: dict[str, Any] = {"name": output.name or "answer", "schema": output.schema or {}}
        if output.strict is not None:
            wanted["strict"] = output.strict
        if output.description is not None:
            wanted["description"] = output.description
        body["response_format"] = {"type": "json_schema", "json_schema": wanted}

    def reasoning(self, body: dict[str, Any]) -> None:
        asked = self.call.reasoning
        if asked is None:
            return
        known = bool(self.model.capabilities - {Capability.TEXT})
        if known and Capability.REASONING not in self.model.capabilities:
            if asked.asked and not asked.off:
                self.dropped.append(self.call.named("reasoning"))
            return
        body.update(self.thinking(asked))

    def thinking(self, asked: Reasoning) -> dict[str, Any]:
        cap = self.call.max_tokens or self.model.max_output_tokens
        effort = asked.as_effort(cap)
        match self.quirks.reasoning:
            case "none":
                if asked.asked and not asked.off:
                    self.dropped.append(self.call.named("reasoning"))
                return {}
            case "object":
                wanted: dict[str, Any] = {}
                if asked.budget_tokens is not None and asked.budget_tokens > 0:
                    wanted["max_tokens"] = asked.budget_tokens
                elif effort is not None:
                    wanted["effort"] = effort
                if asked.show is False:
                    wanted["exclude"] = True
                return {"reasoning": wanted} if wanted else {}
            case "thinking":
                return {"thinking": {"type": "disabled" if asked.off else "enabled"}} if effort is not None else {}
            case "enable_thinking":
                if effort is None:
                    return {}
                budget = None if asked.off else asked.as_budget(cap or 32_768, LEAST_THINKING_TOKENS)
                return {"enable_thinking": not asked.off} | ({"thinking_budget": budget} if budget else {})
        return {"reasoning_effort": effort} if effort in EFFORTS else {}

    def native(self, body: dict[str, Any]) -> None:
        """What only Chat has a word for goes on from Chat clients; what is nobody's goes to the provider."""
        if self.call.format == "openai-chat":
            body.update(self.call.native)
        else:
            self.dropped += self.call.native
        for name, value in self.call.extra.items():
            body.setdefault(name, value)

    def quirky(self, body: dict[str, Any]) -> None:
        """The provider's refused and renamed fields."""
        inverse = {self.quirks.output_cap_field: "max_tokens", "n": "choices", "response_format": "output"}
        for name in self.quirks.drop:
            if name not in body:
                continue
            if name == "n":
                raise one_choice_only(self.call)
            del body[name]
            if name not in ("stream_options", "model", "messages"):
                self.dropped.append(self.call.named(inverse.get(name, name)))
        for name, target in self.quirks.rename.items():
            if name in body:
                body.setdefault(target, body.pop(name))

    def tidy(self, body: dict[str, Any]) -> None:
        """What is refused within messages, and null."""
        if self.quirks.no_nulls:
            for name in [name for name, value in body.items() if value is None]:
                del body[name]
        messages, without = tidied(orjson.dumps(body["messages"]), self.quirks)
        body["messages"] = orjson.Fragment(messages)
        self.dropped += without


def one_choice_only(call: Call) -> Refused:
    field = call.named("choices")
    return invalid_field(field, f"This model gives one answer a call: '{field}' must be 1.")


def _an_object(arguments: str) -> str:
    """Arguments that are no JSON object would be refused, or read as something else, by strict providers."""
    text = arguments.strip()
    if not text:
        return "{}"
    try:
        return arguments if type(json.loads(text)) is dict else json.dumps({"_raw": arguments})
    except (ValueError, RecursionError):
        return json.dumps({"_raw": arguments})


def _details(part: Thinking) -> list[dict[str, Any]]:
    """OpenRouter's reasoning_details."""
    family = {"anthropic": "anthropic-claude-v1", "gemini": "google-gemini-v1", "openai": "openai-responses-v1"}
    form = family.get(part.origin or "", "unknown")
    if part.redacted:
        return [{"type": "reasoning.encrypted", "data": part.signature, "format": form}]
    detail = {"type": "reasoning.text", "text": part.text, "format": form}
    return [detail | ({"signature": part.signature} if part.signature else {})]


def _without(schema: Any, keys: frozenset[str]) -> Any:
    """A schema without some keywords, at every level; properties that are named like them stay."""
    if isinstance(schema, list):
        return [_without(item, keys) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: {key: _without(inner, keys) for key, inner in value.items()}
        if name in ("properties", "$defs", "definitions") and isinstance(value, dict)
        else _without(value, keys)
        for name, value in schema.items()
        if name not in keys
    }

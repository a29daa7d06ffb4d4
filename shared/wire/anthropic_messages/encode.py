"""A canonical Call → an Anthropic Messages body, for version 2023-06-01: later ones refuse temperature."""

from __future__ import annotations

import json
from typing import Any

import orjson
from msgspec.structs import replace

from shared.domain.catalogue import Model, Quirks
from shared.wire.anthropic_messages.claude import is_modern, quiet, require_unforced, takes_prefill, thinks_unasked
from shared.wire.canonical import (
    Cache,
    Call,
    Encoded,
    Media,
    Part,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from shared.wire.envelope import invalid_field
from shared.wire.openai_chat.encode import one_choice_only
from shared.wire.schema import closed
from shared.wire.turns import Ids, Names, merged, paired

DEFAULT_MAX_TOKENS = 4096
LEAST_BUDGET = 1024
MOST_BREAKPOINTS = 4
JSON_ONLY = "Answer with one JSON object and nothing else."
UNSPEAKABLE = (
    "seed", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "verbosity", "metadata", "prompt_cache_key",
)  # fmt: skip
"""What Messages has no word for; its own convention for sampling hints is to do without (OpenRouter drops them, too)."""


def encode_call(call: Call, model: Model, quirks: Quirks) -> Encoded:
    """Raises Refused, naming the client's field, for what Claude cannot do and the client must know of."""
    return _Encoder(call, model).encoded()


class _Encoder:
    def __init__(self, call: Call, model: Model) -> None:
        self.call, self.model = call, model
        self.dropped: list[str] = []
        self.names = Names(length=128)
        self.ids = Ids("a-zA-Z0-9_-", 64)
        self.modern = is_modern(model)

    def encoded(self) -> Encoded:
        call = self.call
        if call.choices > 1:
            raise one_choice_only(call)
        most = self.model.max_output_tokens
        max_tokens = call.max_tokens if call.max_tokens is not None else most or DEFAULT_MAX_TOKENS
        self.max_tokens = min(max_tokens, most) if most is not None else max_tokens
        thinking = self.thinking()
        body: dict[str, Any] = {"model": self.model.sent_id, "max_tokens": self.max_tokens}
        system = [self.text(part) for part in call.system if part.text]
        if call.output is not None and call.output.kind == "json":
            system.append({"type": "text", "text": JSON_ONLY})
        if system:
            body["system"] = system
        body["messages"] = self.messages(thinking)
        self.dropped += call.unheard(lambda part: thinking and part.proves("anthropic"))
        self.tools(body)
        self.sampling(body, thinking)
        self.config(body, thinking)
        if call.stream:
            body["stream"] = True
        self.rest(body)
        _bound_breakpoints(body)
        return Encoded(body=orjson.dumps(body), dropped=tuple(dict.fromkeys(self.dropped)), names=self.names.back)

    # -- messages

    def messages(self, thinking: bool) -> list[dict[str, Any]]:
        told = [replace(turn, role="user") if turn.role == "system" else turn for turn in self.call.turns]
        turns = paired(merged(told))
        if not turns or turns[0].role != "user":
            turns.insert(0, Turn(role="user", parts=(Text("(The conversation continues.)"),)))
        if turns[-1].role == "assistant":
            turns[-1] = self.prefill(turns[-1])
        messages = []
        for turn in turns:
            blocks = [block for part in turn.parts if (block := self.block(part, thinking)) is not None]
            if blocks:
                messages.append({"role": turn.role, "content": blocks})
        return messages

    def prefill(self, turn: Turn) -> Turn:
        if not takes_prefill(self.model):
            field = self.call.named("turns")
            raise invalid_field(
                field, f"{self.model.model_id} takes no prefilled answer: '{field}' must not end with the assistant."
            )
        last = turn.parts[-1]
        if isinstance(last, Text):  # final whitespace is refused
            return replace(turn, parts=(*turn.parts[:-1], replace(last, text=last.text.rstrip())))
        return turn

    def block(self, part: Part, thinking: bool) -> dict[str, Any] | None:
        match part:
            case Text():
                return self.text(part) if part.text.strip() else None
            case Media():
                return self.media(part)
            case ToolCall():
                block: dict[str, Any] = {"type": "tool_use", "id": self.ids.call(part.id), "name": self.sent(part)}
                return block | {"input": arguments_object(part)} | _mark(part.cache)
            case ToolResult():
                return self.result(part)
            case Thinking():
                if not thinking or not part.proves("anthropic"):
                    return None
                if part.redacted:
                    return {"type": "redacted_thinking", "data": part.signature}
                return {"type": "thinking", "thinking": part.text, "signature": part.signature}
        return None

    def text(self, part: Text) -> dict[str, Any]:
        return {"type": "text", "text": part.text} | _mark(part.cache)

    def result(self, part: ToolResult) -> dict[str, Any]:
        blocks = [
            self.media(inner) if isinstance(inner, Media) else {"type": "text", "text": inner.text} for inner in part.parts
        ]
        blocks = [block for block in blocks if block.get("text", "x")]
        made: dict[str, Any] = {"type": "tool_result", "tool_use_id": self.ids.result(part.call_id)}
        made["content"] = blocks[0]["text"] if len(blocks) == 1 and blocks[0]["type"] == "text" else blocks
        if part.is_error:
            made["is_error"] = True
        return made | _mark(part.cache)

    def media(self, part: Media) -> dict[str, Any]:
        if part.kind in ("audio", "video"):
            field = self.call.named("turns")
            raise invalid_field(field, f"{self.model.model_id} takes no {part.kind}: '{field}' holds some.")
        kind = "image" if part.kind == "image" else "document"
        if part.file_id is not None:
            source = {"type": "file", "file_id": part.file_id}
        elif part.data is not None:
            source = {"type": "base64", "media_type": part.media_type or _assumed(kind), "data": part.data}
        else:
            source = {"type": "url", "url": part.url or ""}
        block: dict[str, Any] = {"type": kind, "source": source}
        if kind == "document" and part.name:
            block["title"] = part.name
        return block | _mark(part.cache)

    # -- everything else

    def sent(self, part: ToolCall) -> str:
        return self.names.sent(part.full_name)

    def tools(self, body: dict[str, Any]) -> None:
        call = self.call
        if not call.tools:
            return
        require_unforced(call, self.model)
        body["tools"] = [self.tool(tool) for tool in call.tools]
        choice = call.tool_choice
        made: dict[str, Any] = {}
        if choice is not None:
            made = {"type": choice.mode}
            if choice.mode == "tool":
                made["name"] = self.names.sent(choice.name or "")
            if choice.allowed:
                allowed = {self.names.sent(name) for name in choice.allowed}
                body["tools"] = [tool for tool in body["tools"] if tool["name"] in allowed] or body["tools"]
        if call.parallel_tool_calls is False and made.get("type") != "none":
            made = {"type": "auto"} | made | {"disable_parallel_tool_use": True}
        if made:
            body["tool_choice"] = made

    def tool(self, tool: Tool) -> dict[str, Any]:
        schema = tool.input_schema
        name = self.names.sent(tool.full_name)
        made: dict[str, Any] = {"name": name, "input_schema": schema if "type" in schema else {"type": "object"} | schema}
        if tool.description:
            made["description"] = tool.description
        return made | _mark(tool.cache)

    def thinking(self) -> bool:
        """Whether this call may think. Not while a tool is forced, nor over a tool call whose own thinking is lost."""
        asked = self.call.reasoning
        if asked is None or asked.off or not asked.asked:
            return False
        forced = self.call.tool_choice is not None and self.call.tool_choice.mode in ("any", "tool")
        room = self.modern or self.max_tokens > LEAST_BUDGET
        if forced or not room or self.lost_thinking():
            self.dropped.append(self.call.named("reasoning"))
            return False
        return True

    def lost_thinking(self) -> bool:
        last = next((turn for turn in reversed(self.call.turns) if turn.role == "assistant"), None)
        if last is None or not any(isinstance(part, ToolCall) for part in last.parts):
            return False
        return not any(isinstance(part, Thinking) and part.origin == "anthropic" for part in last.parts)

    def sampling(self, body: dict[str, Any], thinking: bool) -> None:
        call = self.call
        given = [name for name in ("temperature", "top_p", "top_k") if getattr(call, name) is not None]
        if self.modern or thinking:
            self.dropped += [call.named(name) for name in given]
        else:
            if call.temperature is not None:
                body["temperature"] = min(max(call.temperature, 0), 1)
            if call.top_p is not None and call.temperature is None:
                body["top_p"] = call.top_p
            elif call.top_p is not None:
                self.dropped.append(call.named("top_p"))
            if call.top_k is not None:
                body["top_k"] = call.top_k
        stops = [stop for stop in call.stop if stop.strip()]
        if stops:
            body["stop_sequences"] = stops

    def config(self, body: dict[str, Any], thinking: bool) -> None:
        call = self.call
        config: dict[str, Any] = {}
        asked = call.reasoning
        if thinking and asked is not None:
            if self.modern:
                body["thinking"] = {"type": "adaptive"}
                effort = asked.as_effort(self.max_tokens)
                if effort is not None:
                    config["effort"] = {"minimal": "low"}.get(effort, effort)
            else:
                budget = asked.as_budget(self.max_tokens, LEAST_BUDGET) or LEAST_BUDGET
                body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        elif asked is not None and asked.off and thinks_unasked(self.model):
            if (kind := quiet(self.model)) is not None:
                body["thinking"] = {"type": kind}
            else:
                self.dropped.append(call.named("reasoning"))
        if call.output is not None and call.output.kind == "schema":
            config["format"] = {"type": "json_schema", "schema": closed(call.output.schema or {"type": "object"})}
        if config:
            body["output_config"] = config

    def rest(self, body: dict[str, Any]) -> None:
        call = self.call
        self.dropped += [call.named(name) for name in UNSPEAKABLE if getattr(call, name) is not None]
        if call.user is not None:
            body["metadata"] = {"user_id": call.user}
        if call.service_tier in ("auto", "default"):
            body["service_tier"] = "auto" if call.service_tier == "auto" else "standard_only"
        elif call.service_tier is not None:
            self.dropped.append(call.named("service_tier"))
        if call.format == "anthropic-messages":
            body.update(call.native)
        else:
            self.dropped += call.native
        for name, value in call.extra.items():
            body.setdefault(name, value)


def arguments_object(part: ToolCall) -> dict[str, Any]:
    """A call's arguments as the object that they must be; what is none goes under `_raw`."""
    if part.custom:
        return {"input": part.arguments}
    try:
        given = json.loads(part.arguments) if part.arguments.strip() else {}
    except (ValueError, RecursionError):
        given = None
    return given if type(given) is dict else {"_raw": part.arguments}


def _assumed(kind: str) -> str:
    return "image/png" if kind == "image" else "application/pdf"


def _mark(cache: Cache | None) -> dict[str, Any]:
    if cache is None:
        return {}
    return {"cache_control": {"type": "ephemeral"} | ({"ttl": cache.ttl} if cache.ttl else {})}


def _bound_breakpoints(body: dict[str, Any]) -> None:
    """At most four: the system's last one and the latest ones stay (wire.md §5 #46)."""
    blocks = [
        block
        for group in (body.get("tools", ()), body.get("system", ()), *(message["content"] for message in body["messages"]))
        for block in group
        if "cache_control" in block
    ]
    if len(blocks) <= MOST_BREAKPOINTS:
        return
    kept = blocks[-MOST_BREAKPOINTS:]
    system = [block for block in body.get("system", ()) if "cache_control" in block]
    if system and not any(block is system[-1] for block in kept):
        kept[0] = system[-1]
    for block in blocks:
        if not any(block is each for each in kept):
            del block["cache_control"]

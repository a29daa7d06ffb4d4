"""A canonical Call → a Converse body. The model is in the URL; streaming is another URL.

What only Claude knows (thinking, top_k) travels in `additionalModelRequestFields`, as Bedrock's guide to each model says.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from shared.domain.catalogue import Model, Quirks
from shared.wire.anthropic_messages.claude import is_modern, require_unforced
from shared.wire.anthropic_messages.encode import LEAST_BUDGET, arguments_object
from shared.wire.canonical import Cache, Call, Encoded, Media, Part, Text, Thinking, Tool, ToolCall, ToolResult, Turn
from shared.wire.envelope import invalid_field
from shared.wire.openai_chat.encode import one_choice_only
from shared.wire.schema import closed
from shared.wire.turns import Ids, Names, merged, paired

JSON_ONLY = "Answer with one JSON object and nothing else."
DEFAULT_MAX_TOKENS = 4096
IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
DOCUMENTS = {
    "application/pdf": "pdf", "text/csv": "csv", "application/msword": "doc", "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html", "text/plain": "txt", "text/markdown": "md",
}  # fmt: skip
VIDEOS = {"video/mp4": "mp4", "video/quicktime": "mov", "video/webm": "webm", "video/x-matroska": "mkv"}
UNSPEAKABLE = (
    "seed", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "verbosity", "user", "prompt_cache_key",
    "parallel_tool_calls",
)  # fmt: skip


def encode_call(call: Call, model: Model, quirks: Quirks) -> Encoded:
    """Raises Refused, naming the client's field."""
    return _Encoder(call, model).encoded()


class _Encoder:
    def __init__(self, call: Call, model: Model) -> None:
        self.call, self.model = call, model
        self.claude = "anthropic" in model.sent_id or "claude" in model.sent_id
        self.modern = is_modern(model)
        self.dropped: list[str] = []
        self.names = Names()
        self.ids = Ids("a-zA-Z0-9_-", 64)
        self.documents = 0
        self.max_tokens = call.max_tokens or model.max_output_tokens or DEFAULT_MAX_TOKENS

    def encoded(self) -> Encoded:
        call = self.call
        if call.choices > 1:
            raise one_choice_only(call)
        body: dict[str, Any] = {"messages": self.messages()}
        self.dropped += call.unheard(lambda part: self.claude and part.proves("anthropic"))
        system = [block for part in call.system if part.text.strip() for block in _marked({"text": part.text}, part.cache)]
        if call.output is not None and call.output.kind == "json":
            system.append({"text": JSON_ONLY})
        if system:
            body["system"] = system
        self.tools(body)
        extra = self.thinking()
        self.sampling(body, extra, thinking="thinking" in extra)
        if call.output is not None and call.output.kind == "schema":
            body["outputConfig"] = {"textFormat": self.schema()}
        self.rest(body, extra)
        if extra:
            body["additionalModelRequestFields"] = extra
        return Encoded(body=orjson.dumps(body), dropped=tuple(dict.fromkeys(self.dropped)), names=self.names.back)

    # -- messages

    def messages(self) -> list[dict[str, Any]]:
        told = [Turn(role="user", parts=turn.parts) if turn.role == "system" else turn for turn in self.call.turns]
        turns = paired(merged(told))
        if not turns or turns[0].role != "user":
            turns.insert(0, Turn(role="user", parts=(Text("(The conversation continues.)"),)))
        messages = []
        for turn in turns:
            blocks = [block for part in turn.parts for block in self.blocks(part)]
            if any("document" in block for block in blocks) and not any("text" in block for block in blocks):
                blocks.append({"text": "See the document."})  # refused without a text beside it
            if blocks:
                messages.append({"role": turn.role, "content": blocks})
        return messages

    def blocks(self, part: Part) -> list[dict[str, Any]]:
        match part:
            case Text():
                return _marked({"text": part.text}, part.cache) if part.text.strip() else []
            case Media():
                return _marked(self.media(part), part.cache)
            case ToolCall():
                name = self.names.sent(part.full_name)
                called = {"toolUseId": self.ids.call(part.id), "name": name, "input": arguments_object(part)}
                return _marked({"toolUse": called}, part.cache)
            case ToolResult():
                return _marked({"toolResult": self.result(part)}, part.cache)
            case Thinking():
                if not self.claude or not part.proves("anthropic"):
                    return []
                if part.redacted:
                    return [{"reasoningContent": {"redactedContent": part.signature}}]
                return [{"reasoningContent": {"reasoningText": {"text": part.text, "signature": part.signature}}}]
        return []

    def result(self, part: ToolResult) -> dict[str, Any]:
        content = [{"text": inner.text} if isinstance(inner, Text) else self.media(inner) for inner in part.parts]
        content = [block for block in content if block.get("text", "x")] or [{"text": "(no output)"}]
        made: dict[str, Any] = {"toolUseId": self.ids.result(part.call_id), "content": content}
        if part.is_error:
            made["status"] = "error"
        return made

    def media(self, part: Media) -> dict[str, Any]:
        field = self.call.named("turns")
        if part.data is None:
            raise invalid_field(field, f"Bedrock takes media inline, as base64: '{field}' holds {part.kind} by reference.")
        known = {"image": IMAGES, "document": DOCUMENTS, "video": VIDEOS}.get(part.kind, {})
        kind = (part.media_type or ("image/png" if part.kind == "image" else "application/pdf")).partition(";")[0]
        if kind not in known:
            raise invalid_field(field, f"Bedrock takes no {part.kind} of type {kind[:80]!r}: '{field}' holds some.")
        block: dict[str, Any] = {"format": known[kind], "source": {"bytes": part.data}}
        if part.kind == "document":
            self.documents += 1
            block["name"] = _document_name(part.name) or f"document {self.documents}"
        return {part.kind: block}

    # -- everything else

    def tools(self, body: dict[str, Any]) -> None:
        """History with tool calls is refused without a toolConfig: what was called once is then listed as it was named."""
        require_unforced(self.call, self.model)
        choice = self.call.tool_choice
        used = self.used_tools()
        if self.call.tools and choice is not None and choice.mode == "none" and used:
            self.dropped.append(self.call.named("tool_choice"))
        elif choice is not None and choice.mode == "none":
            return
        tools = [block for tool in self.call.tools for block in self.tool(tool)]
        if choice is not None and choice.allowed:
            allowed = {self.names.sent(name) for name in choice.allowed}
            tools = [block for block in tools if block.get("toolSpec", {}).get("name") in allowed] or tools
        if not tools:
            tools = [{"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object"}}}} for name in used]
        if not tools:
            return
        body["toolConfig"] = {"tools": tools}
        if choice is not None and choice.mode == "any":
            body["toolConfig"]["toolChoice"] = {"any": {}}
        elif choice is not None and choice.mode == "tool":
            body["toolConfig"]["toolChoice"] = {"tool": {"name": self.names.sent(choice.name or "")}}

    def used_tools(self) -> list[str]:
        calls = [part for turn in self.call.turns for part in turn.parts if isinstance(part, ToolCall)]
        return list(dict.fromkeys(self.names.sent(part.full_name) for part in calls))

    def tool(self, tool: Tool) -> list[dict[str, Any]]:
        schema = tool.input_schema
        name = self.names.sent(tool.full_name)
        made: dict[str, Any] = {
            "name": name,
            "inputSchema": {"json": schema if "type" in schema else {"type": "object"} | schema},
        }
        if tool.description:
            made["description"] = tool.description
        return _marked({"toolSpec": made}, tool.cache)

    def thinking(self) -> dict[str, Any]:
        asked, call = self.call.reasoning, self.call
        if asked is None or asked.off or not asked.asked:
            return {}
        forced = call.tool_choice is not None and call.tool_choice.mode in ("any", "tool")
        if not self.claude or forced or (not self.modern and self.max_tokens <= LEAST_BUDGET):
            self.dropped.append(call.named("reasoning"))
            return {}
        if self.modern:
            effort = asked.as_effort(self.max_tokens) or "high"
            return {"thinking": {"type": "adaptive"}, "output_config": {"effort": {"minimal": "low"}.get(effort, effort)}}
        budget = asked.as_budget(self.max_tokens, LEAST_BUDGET) or LEAST_BUDGET
        return {"thinking": {"type": "enabled", "budget_tokens": budget}}

    def sampling(self, body: dict[str, Any], extra: dict[str, Any], *, thinking: bool) -> None:
        call = self.call
        config: dict[str, Any] = {}
        if call.max_tokens is not None or self.claude:
            config["maxTokens"] = self.max_tokens
        fixed = self.claude and (self.modern or thinking)
        for name, sent in (("temperature", "temperature"), ("top_p", "topP")):
            value = getattr(call, name)
            if value is not None and (fixed or (self.claude and name == "top_p" and call.temperature is not None)):
                self.dropped.append(call.named(name))
            elif value is not None:
                config[sent] = min(max(value, 0), 1)
        if call.top_k is not None and self.claude and not fixed:
            extra["top_k"] = call.top_k
        elif call.top_k is not None:
            self.dropped.append(call.named("top_k"))
        stops = [stop for stop in call.stop if stop.strip()]
        if stops:
            config["stopSequences"] = stops
        if config:
            body["inferenceConfig"] = config

    def schema(self) -> dict[str, Any]:
        wanted = self.call.output
        assert wanted is not None
        made = {"schema": orjson.dumps(closed(wanted.schema or {"type": "object"})).decode(), "name": wanted.name or "answer"}
        if wanted.description:
            made["description"] = wanted.description
        return {"type": "json_schema", "structure": {"jsonSchema": made}}

    def rest(self, body: dict[str, Any], extra: dict[str, Any]) -> None:
        call = self.call
        self.dropped += [call.named(name) for name in UNSPEAKABLE if getattr(call, name) is not None]
        if call.metadata is not None:
            body["requestMetadata"] = {name: text for name, text in call.metadata.items() if type(text) is str}
        if call.service_tier in ("priority", "default", "flex"):
            body["serviceTier"] = {"type": call.service_tier}
        elif call.service_tier is not None:
            self.dropped.append(call.named("service_tier"))
        self.dropped += call.native
        for name, value in call.extra.items():
            extra.setdefault(name, value)


def _marked(block: dict[str, Any], cache: Cache | None) -> list[dict[str, Any]]:
    if cache is None:
        return [block]
    point = {"type": "default"} | ({"ttl": cache.ttl} if cache.ttl else {})
    return [block, {"cachePoint": point}]


def _document_name(name: str | None) -> str:
    """Letters, digits, single blanks, hyphens, parentheses and brackets are all that Bedrock takes."""
    return re.sub(r"\s+", " ", re.sub(r"[^a-zA-Z0-9\s()\[\]-]", "-", name or "")).strip()[:200]

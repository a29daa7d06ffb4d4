"""A canonical Call → a Gemini body (Gemini API and Vertex AI)."""

from __future__ import annotations

import json
from typing import Any

import orjson
from msgspec.structs import replace

from shared.domain.catalogue import Model, Quirks
from shared.wire.canonical import Call, Encoded, Media, Part, Text, Thinking, Tool, ToolCall, ToolResult, Turn
from shared.wire.envelope import invalid_field
from shared.wire.schema import subset
from shared.wire.turns import Names, merged, paired, result_media, result_text

FOREIGN_HISTORY = "skip_thought_signature_validator"
"""Google's documented stand-in for the signature of a call that another model made."""
INLINE = frozenset({"image", "audio", "video", "document"})
"""Media by an http URL must be fetched before: Gemini takes bytes, or files of its own."""
MOST_STOPS = 5
UNSPEAKABLE = ("logit_bias", "verbosity", "user", "service_tier", "metadata", "prompt_cache_key", "parallel_tool_calls")
LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}


def encode_call(call: Call, model: Model, quirks: Quirks) -> Encoded:
    """Raises Refused, naming the client's field."""
    return _Encoder(call, model, quirks).encoded()


class _Encoder:
    def __init__(self, call: Call, model: Model, quirks: Quirks) -> None:
        self.call, self.model, self.quirks = call, model, quirks
        self.names = Names("a-zA-Z0-9_.:-", 64)
        self.dropped: list[str] = []
        self.levelled = "gemini-3" in model.sent_id

    def encoded(self) -> Encoded:
        call = self.call
        body: dict[str, Any] = {"contents": self.contents()}
        if call.system:
            body["systemInstruction"] = {"parts": [{"text": part.text} for part in call.system]}
        self.tools(body)
        config = self.config()
        if config:
            body["generationConfig"] = config
        self.dropped += call.unheard(lambda part: part.proves("gemini") and part.text)
        self.dropped += [call.named(name) for name in UNSPEAKABLE if getattr(call, name) is not None]
        if call.format == "gemini":
            self.native(body)
        else:
            self.dropped += call.native
        for name, value in call.extra.items():
            body.setdefault(name, value)
        return Encoded(body=orjson.dumps(body), dropped=tuple(dict.fromkeys(self.dropped)), names=self.names.back)

    def native(self, body: dict[str, Any]) -> None:
        """What only Gemini has a word for, where it belongs (`generationConfig.mediaResolution`)."""
        for path, value in self.call.native.items():
            outer, _, inner = path.rpartition(".")
            (body.setdefault(outer, {}) if outer else body)[inner] = value

    def contents(self) -> list[dict[str, Any]]:
        told = [replace(turn, role="user") if turn.role == "system" else turn for turn in self.call.turns]
        turns = paired(merged(told))
        if not turns or turns[0].role != "user":
            turns.insert(0, Turn(role="user", parts=(Text("(The conversation continues.)"),)))
        latest = max((at for at, turn in enumerate(turns) if turn.role == "user" and not _only_results(turn)), default=0)
        contents = []
        for at, turn in enumerate(turns):
            parts = self.parts(turn, current=at > latest)
            if parts:
                contents.append({"role": "model" if turn.role == "assistant" else "user", "parts": parts})
        return contents

    def parts(self, turn: Turn, *, current: bool) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        first_call = True
        for part in turn.parts:
            if isinstance(part, ToolCall):
                parts.append(self.tool_call(part, first=first_call and current))
                first_call = False
            else:
                parts += self.part(part)
        return parts

    def part(self, part: Part) -> list[dict[str, Any]]:
        match part:
            case Text():
                return [{"text": part.text}] if part.text else []
            case Media():
                return [self.media(part)]
            case ToolResult():
                return [self.result(part), *(self.media(inner) for inner in result_media(part))]
            case Thinking() if part.proves("gemini") and part.text:
                return [{"text": part.text, "thought": True, "thoughtSignature": part.signature}]
        return []

    def tool_call(self, part: ToolCall, *, first: bool) -> dict[str, Any]:
        name = self.names.sent(part.full_name)
        made: dict[str, Any] = {"functionCall": {"name": name, "args": _args(part)}}
        signature = part.signature or (FOREIGN_HISTORY if first and self.levelled else None)
        return made | ({"thoughtSignature": signature} if signature else {})

    def result(self, part: ToolResult) -> dict[str, Any]:
        text = result_text(part) if not part.is_error else result_text(replace(part, is_error=False))
        response: Any = None
        if text.lstrip().startswith("{"):
            try:
                response = json.loads(text)
            except (ValueError, RecursionError):
                response = None
        if type(response) is not dict:
            response = {"error" if part.is_error else "result": text}
        return {"functionResponse": {"name": self.names.sent(part.name or "tool"), "response": response}}

    def media(self, part: Media) -> dict[str, Any]:
        if part.data is not None:
            return {"inlineData": {"mimeType": part.media_type or _assumed(part.kind), "data": part.data}}
        if part.file_id is not None:
            return {"fileData": {"fileUri": part.file_id} | ({"mimeType": part.media_type} if part.media_type else {})}
        url = part.url or ""
        if url.startswith(("gs://", "https://www.youtube.com/", "https://youtu.be/")):
            return {"fileData": {"fileUri": url, "mimeType": part.media_type or _assumed(part.kind)}}
        field = self.call.named("turns")
        raise invalid_field(field, f"{self.model.model_id} takes media as data, not by URL: '{field}' holds {url[:100]!r}.")

    def tools(self, body: dict[str, Any]) -> None:
        call = self.call
        if not call.tools:
            return
        body["tools"] = [{"functionDeclarations": [self.tool(tool) for tool in call.tools]}]
        choice = call.tool_choice
        if choice is None:
            return
        calling: dict[str, Any] = {"mode": {"auto": "AUTO", "none": "NONE"}.get(choice.mode, "ANY")}
        allowed = [choice.name] if choice.mode == "tool" and choice.name else list(choice.allowed)
        if allowed:
            calling |= {"mode": "ANY", "allowedFunctionNames": [self.names.sent(name) for name in allowed]}
        body["toolConfig"] = {"functionCallingConfig": calling}

    def tool(self, tool: Tool) -> dict[str, Any]:
        made: dict[str, Any] = {"name": self.names.sent(tool.full_name)}
        if tool.description:
            made["description"] = tool.description
        if tool.input_schema.get("properties"):
            made["parameters"] = subset(tool.input_schema)
        return made

    def config(self) -> dict[str, Any]:
        call = self.call
        made: dict[str, Any] = {
            "maxOutputTokens": call.max_tokens, "temperature": call.temperature, "topP": call.top_p, "topK": call.top_k,
            "seed": call.seed, "presencePenalty": call.presence_penalty, "frequencyPenalty": call.frequency_penalty,
        }  # fmt: skip
        if call.stop:
            made["stopSequences"] = list(call.stop[:MOST_STOPS])
            if len(call.stop) > MOST_STOPS:
                self.dropped.append(f"{call.named('stop')}[{MOST_STOPS}:]")
        if call.choices > 1:
            made["candidateCount"] = call.choices
        if call.logprobs is not None:
            made["responseLogprobs"] = True
            made["logprobs"] = call.logprobs or None
        if call.output is not None and call.output.kind != "text":
            made["responseMimeType"] = "application/json"
            if call.output.kind == "schema":
                made["responseSchema"] = subset(call.output.schema or {"type": "object"})
        made["thinkingConfig"] = self.thinking()
        return {name: value for name, value in made.items() if value is not None}

    def thinking(self) -> dict[str, Any] | None:
        asked = self.call.reasoning
        if asked is None or not asked.asked:
            return {"includeThoughts": True} if asked is not None and asked.show else None
        cap = self.call.max_tokens or self.model.max_output_tokens or 8_192
        shown = {"includeThoughts": asked.show is not False and not asked.off}
        if self.levelled:
            return {"thinkingLevel": LEVELS.get(asked.as_effort(cap) or "", "LOW")} | shown
        budget = asked.as_budget(cap)
        return shown if budget is None else {"thinkingBudget": budget} | shown


def _only_results(turn: Turn) -> bool:
    return all(isinstance(part, ToolResult) for part in turn.parts)


def _args(part: ToolCall) -> dict[str, Any]:
    if part.custom:
        return {"input": part.arguments}
    try:
        given = json.loads(part.arguments) if part.arguments.strip() else {}
    except (ValueError, RecursionError):
        given = None
    return given if type(given) is dict else {"_raw": part.arguments}


def _assumed(kind: str) -> str:
    return {"image": "image/png", "audio": "audio/wav", "video": "video/mp4"}.get(kind, "application/pdf")

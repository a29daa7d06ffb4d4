"""Cohere v2 chat as a provider is asked and answers (https://docs.cohere.com/v2/reference/chat).

Oddities: tool_choice knows REQUIRED and NONE only; a tool plan is the model's reasoning before its calls; tool results are
messages with a string; citations come apart from the text.
"""

from __future__ import annotations

from typing import Any

import orjson

from shared.domain.catalogue import Model, Quirks
from shared.domain.usage import MAX_TOKENS, Usage
from shared.wire import datauri, loose
from shared.wire.canonical import (
    NO_INPUT,
    Call,
    Choice,
    Citation,
    Cited,
    Encoded,
    Event,
    Failed,
    Media,
    Reply,
    Start,
    Stop,
    Stopped,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    Used,
)
from shared.wire.decoder import EventDecoder
from shared.wire.envelope import invalid_field
from shared.wire.openai_chat.encode import one_choice_only
from shared.wire.parts import Parts
from shared.wire.reply import MalformedReply
from shared.wire.schema import required
from shared.wire.translate import json_error_message as error_message
from shared.wire.turns import Names, paired, result_text

__all__ = ["StreamDecoder", "decode_reply", "encode_call", "error_message"]

UNSPEAKABLE = ("logit_bias", "verbosity", "user", "service_tier", "metadata", "prompt_cache_key", "parallel_tool_calls")
MOST_STOPS = 5
STOPS: dict[str, Stop] = {
    "COMPLETE": Stop.END, "STOP_SEQUENCE": Stop.SEQUENCE, "MAX_TOKENS": Stop.LENGTH, "TOOL_CALL": Stop.TOOL,
    "ERROR": Stop.ERROR, "ERROR_TOXIC": Stop.FILTER, "ERROR_LIMIT": Stop.LENGTH, "TIMEOUT": Stop.ERROR,
}  # fmt: skip


def encode_call(call: Call, model: Model, quirks: Quirks) -> Encoded:
    """Raises Refused, naming the client's field."""
    if call.choices > 1:
        raise one_choice_only(call)
    names = Names()
    dropped: list[str] = []
    body: dict[str, Any] = {"model": model.sent_id, "messages": _messages(call, names)}
    plain = {
        "max_tokens": call.max_tokens, "temperature": call.temperature, "p": _within(call.top_p, 0.01, 0.99),
        "k": _within(call.top_k, 0, 500), "seed": call.seed, "frequency_penalty": _within(call.frequency_penalty, 0, 1),
        "presence_penalty": _within(call.presence_penalty, 0, 1),
    }  # fmt: skip
    body.update({name: value for name, value in plain.items() if value is not None})
    if call.stop:
        body["stop_sequences"] = list(call.stop[:MOST_STOPS])
        if len(call.stop) > MOST_STOPS:
            dropped.append(f"{call.named('stop')}[{MOST_STOPS}:]")
    if call.logprobs is not None:
        body["logprobs"] = True
    _tools(call, body, names)
    _answer(call, model, body)
    if call.stream:
        body["stream"] = True
    dropped += call.unheard(lambda part: False)
    dropped += [call.named(name) for name in UNSPEAKABLE if getattr(call, name) is not None]
    if call.format == "cohere":
        body.update(call.native)
    else:
        dropped += call.native
    for name, value in call.extra.items():
        body.setdefault(name, value)
    return Encoded(body=orjson.dumps(body), dropped=tuple(dict.fromkeys(dropped)), names=names.back)


def _within(value: float | None, least: float, most: float) -> float | None:
    """Cohere's ranges are narrower than others': top_p of 1, say, is refused."""
    return None if value is None else min(max(value, least), most)


def _messages(call: Call, names: Names) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    system = "\n\n".join(part.text for part in call.system)
    if system:
        messages.append({"role": "system", "content": system})
    for turn in paired(call.turns):
        if turn.role == "assistant":
            messages.append(_assistant(turn, names))
            continue
        for part in turn.parts:
            if isinstance(part, ToolResult):
                messages.append({"role": "tool", "tool_call_id": part.call_id, "content": result_text(part)})
        rest = [part for part in turn.parts if isinstance(part, (Text, Media))]
        if rest:
            messages.append({"role": turn.role, "content": _content(call, rest)})
    return messages


def _content(call: Call, parts: list[Text | Media]) -> str | list[dict[str, Any]]:
    if all(isinstance(part, Text) for part in parts):
        return "\n\n".join(part.text for part in parts if isinstance(part, Text))
    made: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Text):
            made.append({"type": "text", "text": part.text})
        elif part.kind == "image":
            url = part.url or datauri.join(part.media_type, part.data or "")
            made.append({"type": "image_url", "image_url": {"url": url}})
        else:
            field = call.named("turns")
            raise invalid_field(field, f"This model takes text and images: '{field}' holds {part.kind}.")
    return made


def _assistant(turn: Turn, names: Names) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant"}
    text = "".join(part.text for part in turn.parts if isinstance(part, Text))
    calls = [part for part in turn.parts if isinstance(part, ToolCall)]
    if text or not calls:
        message["tool_plan" if calls else "content"] = text
    if calls:
        message["tool_calls"] = [
            {"id": part.id, "type": "function", "function": {"name": names.sent(part.full_name), "arguments": _arguments(part)}}
            for part in calls
        ]
    return message


def _arguments(part: ToolCall) -> str:
    if part.custom:
        return orjson.dumps({"input": part.arguments}).decode()
    try:
        return part.arguments if type(orjson.loads(part.arguments)) is dict else "{}"
    except orjson.JSONDecodeError:
        return "{}" if not part.arguments.strip() else orjson.dumps({"_raw": part.arguments}).decode()


def _tools(call: Call, body: dict[str, Any], names: Names) -> None:
    if not call.tools:
        return
    wanted = list(call.tools)
    choice = call.tool_choice
    if choice is not None and choice.mode == "none":
        body["tool_choice"] = "NONE"
    elif choice is not None and choice.mode in ("any", "tool"):
        allowed = {name for name in (choice.name, *choice.allowed) if name}
        wanted = [tool for tool in wanted if tool.name in allowed] or wanted
        body["tool_choice"] = "REQUIRED"
    body["tools"] = [_tool(tool, names) for tool in wanted]


def _tool(tool: Tool, names: Names) -> dict[str, Any]:
    schema = tool.input_schema or NO_INPUT
    function: dict[str, Any] = {"name": names.sent(tool.full_name), "parameters": schema}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _answer(call: Call, model: Model, body: dict[str, Any]) -> None:
    if call.output is not None and call.output.kind != "text":
        if "tools" in body:
            field = call.named("output")
            raise invalid_field(field, f"Cohere gives JSON or calls tools, not both: '{field}' cannot go with tools.")
        body["response_format"] = {"type": "json_object"}
        if call.output.kind == "schema":
            body["response_format"]["json_schema"] = required(call.output.schema or {"type": "object"})
    asked = call.reasoning
    if asked is not None and asked.asked:
        body["thinking"] = {"type": "disabled" if asked.off else "enabled"}
        budget = asked.as_budget(call.max_tokens or model.max_output_tokens or 8_192)
        if budget and not asked.off:
            body["thinking"]["token_budget"] = budget


def decode_reply(body: bytes) -> Reply:
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedReply("answered with something that is no JSON object") from None
    message = reply.get("message") if type(reply) is dict else None
    if type(message) is not dict:
        raise MalformedReply("answered without a message")
    parts: list[Text | Media | Thinking | ToolCall] = []
    plan = message.get("tool_plan")
    if type(plan) is str and plan:
        parts.append(Thinking(text=plan))
    for block in loose.tables(message.get("content")):
        kind = "thinking" if block.get("type") == "thinking" else "text"
        text = block.get(kind)
        if type(text) is str and text:
            parts.append(Thinking(text=text) if kind == "thinking" else Text(text))
    parts += [_called(raw, at) for at, raw in enumerate(loose.tables(message.get("tool_calls")))]
    reason = loose.text(reply.get("finish_reason"))
    return Reply(
        choices=(Choice(parts=tuple(parts), stop=STOPS.get(reason, Stop.END), native=reason or None),),
        usage=read_usage(reply.get("usage")),
        citations=tuple(_citations(message.get("citations"))),
    )


def _called(raw: dict[str, Any], at: int) -> ToolCall:
    function = raw.get("function")
    function = function if type(function) is dict else {}
    arguments = function.get("arguments")
    return ToolCall(
        id=str(raw.get("id") or f"call_{at}"),
        name=str(function.get("name") or ""),
        arguments=arguments if type(arguments) is str else "",
    )


def _citations(raw: Any) -> list[Citation]:
    """Of the documents that have a URL."""
    found = []
    for citation in loose.tables(raw):
        for source in loose.tables(citation.get("sources")):
            document = source.get("document")
            document = document if type(document) is dict else {}
            if type(document.get("url")) is str:
                start, end = citation.get("start"), citation.get("end")
                known = type(start) is int and type(end) is int
                found.append(
                    Citation(
                        url=document["url"],
                        title=loose.text(document.get("title")),
                        quote=loose.text(document.get("snippet")),
                        start=start if known else 0,
                        end=end if known else 0,
                    )
                )
    return found


def read_usage(raw: Any) -> Usage | None:
    """`tokens` is what the model read and wrote; `billed_units` leaves Cohere's own preamble out."""
    if type(raw) is not dict:
        return None
    counts = raw.get("billed_units") if type(raw.get("billed_units")) is dict else raw.get("tokens")
    if type(counts) is not dict:
        return None
    given, made = _count(counts.get("input_tokens")), _count(counts.get("output_tokens"))
    return Usage(input_tokens=given, output_tokens=made, cache_read_tokens=min(_count(raw.get("cached_tokens")), given))


def _count(value: Any) -> int:
    return min(int(value), MAX_TOKENS) if type(value) in (int, float) and 0 < value < float("inf") else 0


class StreamDecoder(EventDecoder):
    def __init__(self) -> None:
        super().__init__()
        self._parts = Parts()
        self._stop: Stopped | None = None
        self._failed = False
        self._citations: list[Citation] = []

    def _data(self, data: bytes) -> list[Event]:
        if data.startswith(b"[DONE]"):
            return []
        event = loose.event(data)
        delta = loose.table(event.get("delta"))
        message = loose.table(delta.get("message"))
        match event.get("type"):
            case "message-start":
                return [Start()]
            case "content-start" | "content-delta":
                return self._content(loose.table(message.get("content")))
            case "tool-plan-delta":
                return self._parts.thinking(loose.text(message.get("tool_plan")))
            case "tool-call-start":
                call = _called(loose.table(message.get("tool_calls")), max(self._parts.index, 0))
                begun = self._parts.begin(ToolCall(id=call.id, name=call.name))
                return [*begun, self._parts.more(call.arguments)] if call.arguments else begun
            case "tool-call-delta":
                text = loose.text(loose.table(loose.table(message.get("tool_calls")).get("function")).get("arguments"))
                return [self._parts.more(text)] if text and isinstance(self._parts.open, ToolCall) else []
            case "citation-start":
                self._citations += _citations([message.get("citations")])
                return []
            case "content-end" if isinstance(self._parts.open, Text):
                return []  # its citations can still come
            case "content-end" | "tool-call-end":
                return self._parts.end()
            case "message-end":
                return self._message_end(delta, data)
        if event.get("message") and "type" not in event:  # an error object instead of an event
            self._failed = True
            return [Failed(loose.text(event.get("message")) or "an error", data)]
        return []

    def _ended(self) -> list[Event]:
        return [] if self._stop is None or self._failed else [*self._parts.end(), self._stop]

    def _content(self, content: dict[str, Any]) -> list[Event]:
        thought, text = loose.text(content.get("thinking")), loose.text(content.get("text"))
        return self._parts.thinking(thought) + self._parts.text(text)

    def _message_end(self, delta: dict[str, Any], data: bytes) -> list[Event]:
        told: list[Event] = [Cited(tuple(self._citations))] if self._citations else []
        events = [*told, *self._parts.end()]
        reason = loose.text(delta.get("finish_reason"))
        if delta.get("error"):
            self._failed = True
            return [*events, Failed(loose.text(delta.get("error")) or "an error", data)]
        self._stop = Stopped(STOPS.get(reason, Stop.END), native=reason or None)
        usage = read_usage(delta.get("usage"))
        return [*events, Used(usage)] if usage is not None else events

"""OpenAI Responses' streams, both ways: named events, each with its type and a sequence number; no `[DONE]`.

Codex takes text and tool calls from `response.output_item.done` and needs `response.completed`, so whole items are sent again
there, under the same ids.
"""

from __future__ import annotations

from typing import Any

import orjson
from msgspec.structs import replace

from shared.wire import loose
from shared.wire.canonical import (
    Citation,
    Cited,
    Event,
    Failed,
    Media,
    Stamp,
    Start,
    Stopped,
    Text,
    Thinking,
    ToolCall,
    Used,
)
from shared.wire.decoder import EventDecoder
from shared.wire.encoder import EventEncoder
from shared.wire.openai_chat.sources import located
from shared.wire.openai_responses.reply import (
    INCOMPLETE,
    annotation,
    call_part,
    content_part,
    item_of,
    item_parts,
    native_of,
    read_usage,
    reasoning_part,
    response_object,
    stop_of,
)
from shared.wire.openai_responses.sources import annotated, searched
from shared.wire.parts import Parts


class StreamDecoder(EventDecoder):
    def __init__(self) -> None:
        super().__init__()
        self._parts = Parts()
        self._stop: Stopped | None = None
        self._done = False
        self._sources: list[Citation] = []
        """Of searches, until a text rests on them."""
        self.response: dict[str, Any] | None = None
        """As the terminal event had it."""

    def _data(self, data: bytes) -> list[Event]:
        if self._done or data.lstrip().startswith(b"[DONE]"):
            return []
        event = loose.event(data)
        kind = event.get("type")
        match kind:
            case "response.created":
                model = loose.table(event.get("response")).get("model")
                return [Start(model if type(model) is str else None)]
            case "response.output_item.added":
                return self._added(loose.table(event.get("item")))
            case "response.output_text.delta":
                return self._parts.text(loose.text(event.get("delta")), event.get("logprobs") or None)
            case "response.refusal.delta":
                return self._parts.text(loose.text(event.get("delta")), refusal=True)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return self._thought(loose.text(event.get("delta")))
            case "response.reasoning_summary_part.added":
                return self._thought("\n\n") if self._parts.content() else []
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                delta = loose.text(event.get("delta"))
                return [self._parts.more(delta)] if delta and isinstance(self._parts.open, ToolCall) else []
            case "response.output_item.done":
                return self._item_done(loose.table(event.get("item")))
            case "response.completed" | "response.incomplete":
                return self._completed(loose.table(event.get("response")))
            case "response.failed" | "response.cancelled" | "error":
                return self._failed(event, data)
        return []

    def _ended(self) -> list[Event]:
        return [] if self._stop is None else [*self._parts.end(), self._stop]

    def _thought(self, text: str) -> list[Event]:
        return [self._parts.more(text)] if text and isinstance(self._parts.open, Thinking) else self._parts.thinking(text)

    def _added(self, item: dict[str, Any]) -> list[Event]:
        match item.get("type"):
            case "function_call" if item.get("status") == "completed":
                return self._parts.end()  # Perplexity's: it may be a search of its own, which only its end tells
            case "function_call":
                return self._parts.begin(replace(call_part(item, "arguments"), arguments=""))
            case "custom_tool_call":
                return self._parts.begin(replace(call_part(item, "input"), arguments=""))
            case "reasoning":
                return self._parts.begin(Thinking())
        return self._parts.end()

    def _item_done(self, item: dict[str, Any]) -> list[Event]:
        """The whole item: what its deltas did not say is said now."""
        opened = self._parts.open
        match item.get("type"):
            case "function_call" | "custom_tool_call" if isinstance(opened, ToolCall):
                whole = call_part(item, "input" if opened.custom else "arguments")
                return self._completed_part(whole.arguments)
            case "function_call":
                return self._parts.whole(call_part(item, "arguments"))
            case "reasoning":
                whole_thought = reasoning_part(item)
                if not isinstance(opened, Thinking):
                    return self._parts.whole(whole_thought) if whole_thought.signature or whole_thought.text else []
                events = self._rest(whole_thought.text)
                redacted = whole_thought.signature is not None and not self._parts.content()
                return events + self._parts.end(
                    signature=whole_thought.signature,
                    origin=whole_thought.origin,
                    item_id=whole_thought.item_id,
                    redacted=redacted,
                )
            case "message":
                if isinstance(opened, Text):
                    return [*self._cited(annotated(item), self._parts.content()), *self._parts.end()]
                events = [event for part in item_parts(item) if not self._said(part) for event in self._parts.whole(part)]
                last = self._parts.parts[-1] if self._parts.parts else None
                return events + (self._cited(annotated(item), last.text) if isinstance(last, Text) else [])
            case "image_generation_call":
                return [event for part in item_parts(item) for event in self._parts.whole(part)]
        self._sources += searched(item)
        return self._parts.end()

    def _cited(self, annotations: list[Citation], text: str) -> list[Event]:
        """The sources of a text: those that it names itself, else those that were searched for it."""
        found, self._sources = annotations or self._sources, []
        return [Cited(located(found, text))] if found else []

    def _said(self, part: Text | Media | Thinking | ToolCall) -> bool:
        return bool(self._parts.parts) and self._parts.parts[-1] == part

    def _rest(self, whole: str) -> list[Event]:
        said = self._parts.content()
        return [self._parts.more(whole[len(said) :])] if whole.startswith(said) and len(whole) > len(said) else []

    def _completed_part(self, whole: str) -> list[Event]:
        return [*self._rest(whole), *self._parts.end()]

    def _completed(self, response: dict[str, Any]) -> list[Event]:
        events = self._cited([], self._parts.content()) if isinstance(self._parts.open, Text) else []
        events += self._parts.end()
        self.response = response
        self._stop = Stopped(stop_of(response, self._parts.parts), native=native_of(response))
        usage = read_usage(response.get("usage"))
        return [*events, Used(usage)] if usage is not None else events

    def _failed(self, event: dict[str, Any], data: bytes) -> list[Event]:
        self._done = True
        error = loose.table(loose.table(event.get("response")).get("error")) or event
        return [Failed(loose.text(error.get("message")) or "an error", data)]


class StreamEncoder(EventEncoder):
    """The terminal event waits for the usage, which most providers tell last; so it is written by close()."""

    def __init__(self, stamp: Stamp) -> None:
        super().__init__(stamp)
        self.sequence = 0
        self._items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._part: Text | Media | Thinking | ToolCall | None = None
        self._hidden = False
        self._annotations: list[dict[str, Any]] = []
        """Of the open text."""
        self._head = b""
        self.response: dict[str, Any] | None = None
        """As the terminal event had it."""

    def close(self) -> bytes:
        out = self._start()
        kind = "response.incomplete" if self._stopped.stop in INCOMPLETE else "response.completed"
        self.response = response_object(self._stamp, self._items, self._stopped.stop, self._usage)
        return out + self._event(kind, response=self.response)

    def _opening(self) -> bytes:
        response = response_object(self._stamp, [], None, None)
        return self._event("response.created", response=response) + self._event("response.in_progress", response=response)

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = {"type": kind, "sequence_number": self.sequence, **fields}
        self.sequence += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(body))

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self._items)}

    def _begin(self, part: Text | Media | Thinking | ToolCall) -> bytes:
        """Every part is an item of its own: its index is its place in the final output."""
        self._part = part
        self._hidden = isinstance(part, Media) or (isinstance(part, Thinking) and not self._stamp.show_thinking)
        if self._hidden:
            return b""
        self._open = item_of(part, len(self._items), self._stamp, "in_progress")
        out = self._event("response.output_item.added", output_index=len(self._items), item=self._open)
        place = self._place()
        match part:
            case Text():
                empty = content_part(part)
                out += self._event("response.content_part.added", **place, content_index=0, part=empty)
                kind, more = (
                    ("refusal", {"content_index": 0}) if part.refusal else ("output_text", {"content_index": 0, "logprobs": []})
                )
            case Thinking():
                empty = {"type": "summary_text", "text": ""}
                out += self._event("response.reasoning_summary_part.added", **place, summary_index=0, part=empty)
                kind, more = "reasoning_summary_text", {"summary_index": 0}
            case _:
                custom = isinstance(part, ToolCall) and part.custom
                kind, more = "custom_tool_call_input" if custom else "function_call_arguments", {}
        name = f"response.{kind}.delta"
        fixed = orjson.dumps({"type": name, **place, **more})[:-1]
        self._head = b"event: %b\ndata: %b" % (name.encode(), fixed)
        return out

    def _delta(self, text: str) -> bytes:
        if self._hidden or not text:
            return b""
        self.sequence += 1
        return b'%b,"sequence_number":%d,"delta":%b}\n\n' % (self._head, self.sequence - 1, orjson.dumps(text))

    def _cited(self, citations: tuple[Citation, ...]) -> bytes:
        """Annotations of a text that is still open; a later part has no place for them."""
        part = self._part
        if self._open is None or not isinstance(part, Text) or part.refusal:
            return b""
        self._annotations = [annotation(each) for each in citations]
        place = self._place() | {"content_index": 0}
        return b"".join(
            [
                self._event("response.output_text.annotation.added", **place, annotation_index=at, annotation=made)
                for at, made in enumerate(self._annotations)
            ]
        )

    def _end(self, part: Text | Media | Thinking | ToolCall) -> bytes:
        if self._hidden:
            return self._unseen(part)
        place = self._place()
        match part:
            case Text():
                whole = content_part(part)
                if self._annotations:
                    whole["annotations"] = self._annotations
                if part.refusal:
                    out = self._event("response.refusal.done", **place, content_index=0, refusal=part.text)
                else:
                    out = self._event("response.output_text.done", **place, content_index=0, text=part.text, logprobs=[])
                out += self._event("response.content_part.done", **place, content_index=0, part=whole)
            case Thinking():
                whole = {"type": "summary_text", "text": part.text}
                out = self._event("response.reasoning_summary_text.done", **place, summary_index=0, text=part.text)
                out += self._event("response.reasoning_summary_part.done", **place, summary_index=0, part=whole)
            case ToolCall() if part.custom:
                out = self._event("response.custom_tool_call_input.done", **place, input=part.arguments)
            case ToolCall():
                out = self._event("response.function_call_arguments.done", **place, arguments=part.arguments, name=part.name)
            case _:
                out = b""
        return out + self._item_done(part)

    def _item_done(self, part: Text | Media | Thinking | ToolCall) -> bytes:
        item = item_of(part, len(self._items), self._stamp)
        if self._annotations and item["content"]:
            item["content"][0]["annotations"] = self._annotations
        self._annotations = []
        if self._open is not None:
            item["id"] = self._open["id"]
        out = self._event("response.output_item.done", output_index=len(self._items), item=item)
        self._items.append(item)
        self._open = None
        return out

    def _unseen(self, part: Text | Media | Thinking | ToolCall) -> bytes:
        """Images, and reasoning that the client did not want to see but must send back."""
        self._hidden = False
        if isinstance(part, Thinking) and part.signature is None:
            return b""
        self._open = item_of(part, len(self._items), self._stamp, "in_progress")
        out = self._event("response.output_item.added", output_index=len(self._items), item=self._open)
        return out + self._item_done(part)

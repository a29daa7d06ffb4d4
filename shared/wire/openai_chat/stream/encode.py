"""Canonical events → a client's chunks."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from shared.domain.usage import Usage
from shared.wire.canonical import (
    Begin,
    Cited,
    Delta,
    End,
    Event,
    Media,
    Stamp,
    Start,
    Stopped,
    Text,
    Thinking,
    ToolCall,
    Used,
)
from shared.wire.openai_chat.facts import DONE
from shared.wire.openai_chat.reply import completion_id, finish_of, media_url, signed_detail, usage_object
from shared.wire.openai_chat.sources import url_citations

_encode = msgspec.json.Encoder().encode


class StreamEncoder:
    """Canonical events → chunks. Content deltas are written from a prepared head, so that each costs one small encoding."""

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        head = {
            "id": completion_id(stamp), "object": "chat.completion.chunk", "created": stamp.created_s, "model": stamp.model,
            "system_fingerprint": None,
        }  # fmt: skip
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":'
        self._tail = b',"usage":null}\n\n' if stamp.include_usage else b"}\n\n"
        self._usage: Usage | None = None
        self._greeted: set[int] = set()
        self._open: dict[int, tuple[str, int]] = {}
        self._calls: dict[int, int] = {}
        self._details: dict[int, int] = {}
        self._refused: set[int] = set()

    def feed(self, event: Event) -> bytes:
        match event:
            case Delta():
                return self._delta(event)
            case Begin():
                return self._begin(event)
            case End():
                return self._end(event)
            case Stopped():
                return self._greet(event.choice) + self._stopped(event)
            case Cited():
                return self._greet(event.choice) + self._chunk(event.choice, {"annotations": url_citations(event.citations)})
            case Used():
                self._usage = event.usage
            case Start() if event.usage is not None:
                self._usage = event.usage
        return b""

    def close(self) -> bytes:
        out = b""
        if self._stamp.include_usage and self._usage is not None:
            out = self._head + b'[],"usage":' + orjson.dumps(usage_object(self._usage)) + b"}\n\n"
        return out + DONE

    def _greet(self, choice: int) -> bytes:
        if choice in self._greeted:
            return b""
        self._greeted.add(choice)
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def _chunk(self, choice: int, delta: dict[str, Any], logprobs: Any = None) -> bytes:
        body = [{"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": None}]
        return self._head + _encode(body) + self._tail

    def _stopped(self, event: Stopped) -> bytes:
        body: dict[str, Any] = {
            "index": event.choice, "delta": {}, "logprobs": None,
            "finish_reason": finish_of(event.stop, event.choice in self._refused),
        }  # fmt: skip
        if self._stamp.native_finish:
            body["native_finish_reason"] = event.native
        return self._head + _encode([body]) + self._tail

    def _begin(self, event: Begin) -> bytes:
        out = self._greet(event.choice)
        part = event.part
        if isinstance(part, ToolCall):
            at = self._calls[event.choice] = self._calls.get(event.choice, -1) + 1
            kind = "custom" if part.custom else "function"
            self._open[event.choice] = (kind, at)
            body = {"name": part.name, "input" if part.custom else "arguments": ""}
            return out + self._chunk(event.choice, {"tool_calls": [{"index": at, "id": part.id, "type": kind, kind: body}]})
        if isinstance(part, Thinking):
            field = "reasoning_content" if self._stamp.show_thinking else ""
        elif isinstance(part, Text):
            field = "refusal" if part.refusal else "content"
            if part.refusal:
                self._refused.add(event.choice)
        else:
            return out + self._image(event.choice, part)
        self._open[event.choice] = (field, 0)
        return out

    def _image(self, choice: int, part: Media) -> bytes:
        self._open[choice] = ("", 0)
        return self._chunk(choice, {"images": [{"type": "image_url", "image_url": {"url": media_url(part)}}]})

    def _delta(self, event: Delta) -> bytes:
        field, at = self._open[event.choice]
        if not field:
            return b""
        if field in ("function", "custom"):
            name = "input" if field == "custom" else "arguments"
            return self._chunk(event.choice, {"tool_calls": [{"index": at, field: {name: event.text}}]})
        return self._chunk(event.choice, {field: event.text}, {"content": event.logprobs} if event.logprobs else None)

    def _end(self, event: End) -> bytes:
        """A signature comes with the part's end, as OpenRouter's reasoning_details."""
        detail = signed_detail(event.part, show=self._stamp.show_thinking)
        if detail is None:
            return b""
        index = self._details[event.choice] = self._details.get(event.choice, -1) + 1
        return self._greet(event.choice) + self._chunk(event.choice, {"reasoning_details": [detail | {"index": index}]})

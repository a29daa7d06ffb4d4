"""Gemini's streams, both ways: server-sent events (`alt=sse`), or one JSON array that grows.

A comment crashes Google's own clients, so nothing but events is ever sent; a bare line end keeps a connection alive.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from shared.domain.usage import Usage
from shared.wire import loose, sse
from shared.wire.canonical import (
    Begin,
    Citation,
    Cited,
    Delta,
    End,
    Event,
    Failed,
    Media,
    Stamp,
    Start,
    Stop,
    Stopped,
    Text,
    Thinking,
    ToolCall,
    Used,
)
from shared.wire.decoder import EventDecoder
from shared.wire.gemini.reply import (
    REASONS,
    blocked,
    grounding,
    raw_parts,
    read_usage,
    reply_part,
    says_nothing,
    stop_of,
    tail,
    usage_object,
)
from shared.wire.parts import Parts
from shared.wire.reply import MalformedReply

_PIECES = re.compile(rb'["\\{}]')


class _Objects:
    """Whole objects out of a JSON array that comes in pieces."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._at = self._depth = 0
        self._start = -1
        self._quoted = False

    def feed(self, chunk: bytes) -> list[bytes]:
        self._held += chunk
        found: list[bytes] = []
        while match := _PIECES.search(self._held, self._at):
            sign, self._at = match[0], match.end()
            if sign == b"\\":
                if self._quoted:
                    if self._at >= len(self._held):
                        self._at -= 1
                        break
                    self._at += 1
            elif sign == b'"':
                self._quoted = not self._quoted
            elif not self._quoted:
                self._brace(sign, match.start(), found)
        else:
            self._at = len(self._held)
        if self._start < 0:
            del self._held[: self._at]
            self._at = 0
        if len(self._held) > sse.MAX_EVENT_BYTES:
            raise MalformedReply(f"sent an event larger than {sse.MAX_EVENT_BYTES} bytes")
        return found

    def _brace(self, sign: bytes, at: int, found: list[bytes]) -> None:
        if sign == b"{":
            if self._depth == 0:
                self._start = at
            self._depth += 1
        elif self._depth > 0:
            self._depth -= 1
            if self._depth == 0:
                found.append(bytes(self._held[self._start : at + 1]))
                del self._held[: at + 1]
                self._at, self._start = 0, -1


class _Candidate:
    __slots__ = ("calls", "empty", "parts", "reason")

    def __init__(self, index: int) -> None:
        self.parts = Parts(index)
        self.calls = 0
        self.empty = True
        self.reason: str | None = None


class StreamDecoder(EventDecoder):
    def __init__(self) -> None:
        super().__init__()
        self._objects: _Objects | None = None
        self._begun = self._started = self._failed = False
        self._candidates: dict[int, _Candidate] = {}
        self._blocked: str | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        if not self._begun:
            chunk = chunk.lstrip()
            if not chunk:
                return []
            self._begun = True
            if chunk.startswith(b"["):
                self._objects = _Objects()
        if self._objects is None:
            return super().feed(chunk)
        return [event for data in self._objects.feed(chunk) for event in self._data(data)]

    def _ended(self) -> list[Event]:
        events: list[Event] = []
        if self._failed:
            return events
        for index, candidate in self._candidates.items():
            if candidate.reason is not None:
                events += candidate.parts.end()
                stop = stop_of(candidate.reason, called=candidate.calls > 0, empty=candidate.empty)
                events.append(Stopped(stop, index, native=candidate.reason))
        if not self._candidates and self._blocked is not None:
            events.append(Stopped(Stop.FILTER, native=self._blocked))
        return events

    def _data(self, data: bytes) -> list[Event]:
        chunk = loose.parsed(data)
        if type(chunk) is list and chunk:
            chunk = chunk[0]
        if type(chunk) is not dict:
            raise MalformedReply("sent an event that is not a JSON object")
        events: list[Event] = []
        if not self._started:
            self._started = True
            model = chunk.get("modelVersion")
            events.append(Start(model if type(model) is str else None))
        error = chunk.get("error")
        if error:
            self._failed = True
            message = error.get("message") if type(error) is dict else None
            return [*events, Failed(message if type(message) is str else "an error", data)]
        self._blocked = self._blocked or blocked(chunk)
        candidates = chunk.get("candidates")
        for raw in candidates if type(candidates) is list else ():
            if type(raw) is dict:
                events += self._candidate(raw)
        usage = read_usage(chunk.get("usageMetadata"))
        return [*events, Used(usage)] if usage is not None else events

    def _candidate(self, raw: dict[str, Any]) -> list[Event]:
        told = raw.get("index")
        index = told if type(told) is int else 0
        candidate = self._candidates.get(index)
        if candidate is None:
            candidate = self._candidates[index] = _Candidate(index)
        events: list[Event] = []
        content = raw.get("content")
        parts = content.get("parts") if type(content) is dict else None
        for each in parts if type(parts) is list else ():
            part = reply_part(each, candidate.calls) if type(each) is dict else None
            candidate.empty = candidate.empty and (type(each) is not dict or says_nothing(each))
            match part:
                case Text():
                    events += candidate.parts.text(part.text)
                case Thinking():
                    events += candidate.parts.thinking(part.text)
                    if part.signature is not None and isinstance(candidate.parts.open, Thinking):
                        events += candidate.parts.end(signature=part.signature, origin="gemini")
                case ToolCall() | Media():
                    candidate.calls += isinstance(part, ToolCall)
                    events += candidate.parts.whole(part)
        reason = raw.get("finishReason")
        if type(reason) is str and reason != "FINISH_REASON_UNSPECIFIED":
            candidate.reason = reason
        return events


class StreamEncoder:
    """Events, or one JSON array (Stamp.sse). The last chunk, with the reason and the usage, is written by close()."""

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        self._sse = stamp.sse
        self._tail = tail(stamp)
        self._usage = Usage()
        self._stops: dict[int, Stop] = {}
        self._kinds: dict[int, type[Any]] = {}
        self._citations: tuple[Citation, ...] = ()
        self._first = True

    def feed(self, event: Event) -> bytes:
        match event:
            case Begin():
                self._kinds[event.choice] = type(event.part)
            case Delta():
                return self._delta(event)
            case End() if isinstance(event.part, (ToolCall, Media)):
                return self._chunk(event.choice, raw_parts(event.part, self._stamp))
            case End() if isinstance(event.part, Thinking) and event.part.signature and event.part.origin == "gemini":
                if self._stamp.show_thinking:
                    signed = {"text": "", "thought": True, "thoughtSignature": event.part.signature}
                    return self._chunk(event.choice, [signed])
            case Stopped():
                self._stops[event.choice] = event.stop
            case Cited():
                self._citations = event.citations
            case Used():
                self._usage = event.usage
            case Start() if event.usage is not None:
                self._usage = event.usage
        return b""

    def close(self) -> bytes:
        candidates = [
            {"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": REASONS[stop], "index": choice}
            | grounding(self._citations)
            for choice, stop in sorted((self._stops or {0: Stop.END}).items())
        ]
        body = {"candidates": candidates, "usageMetadata": usage_object(self._usage)} | self._tail
        return self._written(body) + (b"" if self._sse else b"]\n")

    def _delta(self, event: Delta) -> bytes:
        kind = self._kinds.get(event.choice)
        if kind is Thinking:
            return self._chunk(event.choice, [{"text": event.text, "thought": True}]) if self._stamp.show_thinking else b""
        return self._chunk(event.choice, [{"text": event.text}]) if kind is Text else b""

    def _chunk(self, choice: int, parts: list[dict[str, Any]]) -> bytes:
        if not parts:
            return b""
        return self._written({"candidates": [{"content": {"role": "model", "parts": parts}, "index": choice}]} | self._tail)

    def _written(self, body: dict[str, Any]) -> bytes:
        raw = orjson.dumps(body)
        if self._sse:
            return b"data: " + raw + b"\r\n\r\n"
        opening = b"[" if self._first else b",\r\n"
        self._first = False
        return opening + raw

"""Anthropic Messages' streams, both ways. Every event has a name, equal to its data's type; blocks are sequential."""

from __future__ import annotations

from typing import Any

import orjson

from shared.wire import loose
from shared.wire.anthropic_messages.reply import (
    REASONS,
    STOPS,
    block_part,
    blocks_of,
    citation_of,
    message_head,
    read_usage,
    signature_block,
    thinking_block,
    usage_object,
)
from shared.wire.canonical import (
    Citation,
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
from shared.wire.encoder import EventEncoder
from shared.wire.parts import Parts


class StreamDecoder(EventDecoder):
    def __init__(self) -> None:
        super().__init__()
        self._parts = Parts()
        self._signature = ""
        self._usage: dict[str, Any] = {}
        self._stop: Stopped | None = None
        self._given = ""
        self.done = False

    def _data(self, data: bytes) -> list[Event]:
        if self.done:
            return []
        event = loose.event(data)
        match event.get("type"):
            case "message_start":
                return self._start(loose.table(event.get("message")))
            case "content_block_start":
                return self._begin(loose.table(event.get("content_block")))
            case "content_block_delta":
                return self._delta(loose.table(event.get("delta")))
            case "content_block_stop":
                return self._end()
            case "message_delta":
                return self._message_delta(event)
            case "message_stop":
                self.done = True
                return []
            case "error":
                self.done = True
                message = loose.table(event.get("error")).get("message")
                return [Failed(message if type(message) is str else "an error", data)]
        return []

    def _ended(self) -> list[Event]:
        return [] if self._stop is None else [*self._parts.end(), self._stop]

    def _start(self, message: dict[str, Any]) -> list[Event]:
        self._usage = loose.table(message.get("usage"))
        model = message.get("model")
        return [Start(model if type(model) is str else None, read_usage(self._usage))]

    def _begin(self, block: dict[str, Any]) -> list[Event]:
        self._signature = str(block.get("signature") or "")
        match block.get("type"):
            case "text":
                events = self._parts.begin(Text(""))
                text = block.get("text")
                return [*events, self._parts.more(text)] if type(text) is str and text else events
            case "thinking":
                return self._parts.begin(Thinking())
            case "tool_use":
                given = block.get("input")
                self._given = orjson.dumps(given).decode() if given else ""
                return self._parts.begin(ToolCall(id=str(block.get("id") or ""), name=str(block.get("name") or "")))
            case "redacted_thinking":
                part = block_part(block)
                return self._parts.whole(part) if part is not None else []
        return self._parts.end()

    def _delta(self, delta: dict[str, Any]) -> list[Event]:
        kind = delta.get("type")
        if kind == "signature_delta":
            self._signature += str(delta.get("signature") or "")
            return []
        text = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}.get(str(kind))
        piece = delta.get(text) if text is not None else None
        if type(piece) is not str or not piece or self._parts.open is None:
            return []
        return [self._parts.more(piece)]

    def _end(self) -> list[Event]:
        opened = self._parts.open
        if isinstance(opened, ToolCall) and not self._parts.content():
            return [self._parts.more(self._given or "{}"), *self._parts.end()]
        if isinstance(opened, Thinking) and self._signature:
            return self._parts.end(signature=self._signature, origin="anthropic")
        return self._parts.end()

    def _message_delta(self, event: dict[str, Any]) -> list[Event]:
        delta = loose.table(event.get("delta"))
        reason, sequence = delta.get("stop_reason"), delta.get("stop_sequence")
        if type(reason) is str:
            known = sequence if type(sequence) is str else None
            self._stop = Stopped(STOPS.get(reason, Stop.END), 0, known, reason)
        given = {name: value for name, value in loose.table(event.get("usage")).items() if value is not None}
        self._usage = self._usage | given
        usage = read_usage(self._usage)
        return [Used(usage)] if usage is not None else []


def named(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))


_FIELDS: dict[Any, bytes] = {
    Text: b'{"type":"text_delta","text":',
    Thinking: b'{"type":"thinking_delta","thinking":',
    ToolCall: b'{"type":"input_json_delta","partial_json":',
}


class StreamEncoder(EventEncoder):
    """`message_delta` waits for the usage, which most providers tell last; so it is written by close()."""

    def __init__(self, stamp: Stamp) -> None:
        super().__init__(stamp)
        self._index = -1
        self._open: type[Any] | None = None
        self._delta_head = b""
        self._sent = False
        self._custom: list[str] | None = None

    def close(self) -> bytes:
        stop = self._stopped
        delta = {"stop_reason": REASONS[stop.stop], "stop_sequence": stop.stop_sequence}
        last = {"type": "message_delta", "delta": delta, "usage": usage_object(self._usage)}
        return self._start() + named(last) + named({"type": "message_stop"})

    def _opening(self) -> bytes:
        usage = usage_object(self._usage) | {"output_tokens": 1 if self._usage.output_tokens else 0}
        message = message_head(self._stamp) | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return named({"type": "message_start", "message": message})

    def _begin(self, part: Text | Media | Thinking | ToolCall) -> bytes:
        self._sent, self._custom, self._open = False, None, None
        if isinstance(part, Media):
            return b"".join([self._whole(block) for block in blocks_of(part, self._stamp)])
        if isinstance(part, Thinking) and (part.redacted or not self._stamp.show_thinking):
            return b""
        out = b"".join([self._whole(block) for block in signature_block(part)]) if isinstance(part, ToolCall) else b""
        self._open = type(part)
        if isinstance(part, ToolCall):
            block: dict[str, Any] = {"type": "tool_use", "id": part.id, "name": part.full_name, "input": {}}
            self._custom = [] if part.custom else None
        elif isinstance(part, Thinking):
            block = {"type": "thinking", "thinking": "", "signature": ""}
        else:
            block = {"type": "text", "text": ""}
        return out + self._block_start(block)

    def _block_start(self, block: dict[str, Any]) -> bytes:
        self._index += 1
        field = _FIELDS[self._open] if self._open is not None else b""
        self._delta_head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":' % self._index + field
        )
        return named({"type": "content_block_start", "index": self._index, "content_block": block})

    def _whole(self, block: dict[str, Any]) -> bytes:
        return self._block_start(block) + self._block_stop()

    def _block_stop(self) -> bytes:
        return named({"type": "content_block_stop", "index": self._index})

    def _delta(self, text: str) -> bytes:
        if self._open is None or not text:
            return b""
        if self._custom is not None:
            self._custom.append(text)
            return b""
        self._sent = True
        return self._delta_head + orjson.dumps(text) + b"}}\n\n"

    def _cited(self, citations: tuple[Citation, ...]) -> bytes:
        """Deltas of a text that is still open; a later block has no place for them."""
        if self._open is not Text:
            return b""
        told = {"type": "content_block_delta", "index": self._index}
        return b"".join(
            [named(told | {"delta": {"type": "citations_delta", "citation": citation_of(each)}}) for each in citations]
        )

    def _end(self, part: Text | Media | Thinking | ToolCall) -> bytes:
        if isinstance(part, Media):
            return b""
        out = b""
        if self._open is None:
            if isinstance(part, Thinking) and part.signature:
                return self._whole(
                    thinking_block(part if part.redacted else Thinking(signature=part.signature, origin=part.origin))
                )
            return b""
        if self._custom is not None:
            text, self._custom = "".join(self._custom), None
            out = self._delta(orjson.dumps({"input": text}).decode())
        if isinstance(part, Thinking):
            delta = {"type": "signature_delta", "signature": thinking_block(part)["signature"]}
            out += named({"type": "content_block_delta", "index": self._index, "delta": delta})
        self._open = None
        return out + self._block_stop()

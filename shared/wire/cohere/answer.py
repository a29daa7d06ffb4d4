"""What Cohere's clients are answered: whole, as a stream of named events, and with an error of `{id, message}`."""

from __future__ import annotations

from typing import Any

import orjson

from shared.domain.refusal import Refusal
from shared.domain.usage import Usage
from shared.wire import sse
from shared.wire.canonical import (
    Choice,
    Citation,
    Media,
    Part,
    Reply,
    Stamp,
    Stop,
    Text,
    Thinking,
    ToolCall,
)
from shared.wire.encoder import EventEncoder
from shared.wire.openai_chat.facts import encode_refusal as encode_openai_refusal

PING = sse.comment(b"waystation")
FINISH: dict[Stop, str] = {
    Stop.END: "COMPLETE", Stop.SEQUENCE: "STOP_SEQUENCE", Stop.PAUSE: "COMPLETE", Stop.LENGTH: "MAX_TOKENS",
    Stop.TOOL: "TOOL_CALL", Stop.FILTER: "ERROR_TOXIC", Stop.REFUSAL: "COMPLETE", Stop.ERROR: "ERROR",
}  # fmt: skip


def encode_refusal(refusal: Refusal, request_id: str | None) -> tuple[int, dict[str, str], bytes]:
    status, headers, _ = encode_openai_refusal(refusal, request_id)
    if refusal.raw_body is not None:
        return status, headers, refusal.raw_body
    return status, headers, orjson.dumps({"id": request_id or "", "message": refusal.message})


def encode_stream_error(refusal: Refusal, sequence: int = 0) -> bytes:
    """The event that ends a stream which went wrong after it began."""
    return _event("message-end", {"delta": {"finish_reason": "ERROR", "error": refusal.message}})


def encode_reply(reply: Reply, stamp: Stamp) -> bytes:
    choice = reply.choices[0] if reply.choices else Choice(parts=(), stop=Stop.END)
    message: dict[str, Any] = {"role": "assistant"}
    content = [block for part in choice.parts if (block := _block(part, stamp)) is not None]
    calls = [_called(part, part.arguments) for part in choice.parts if isinstance(part, ToolCall)]
    if content or not calls:
        message["content"] = content
    if calls:
        message["tool_calls"] = calls
    texts = [part.text for part in choice.parts if isinstance(part, Text)]
    if reply.citations and texts:
        message["citations"] = [cited(each, at, texts[-1]) for at, each in enumerate(reply.citations)]
    made = {"id": _id(stamp), "finish_reason": FINISH[choice.stop], "message": message, "usage": _usage(reply.usage or Usage())}
    return orjson.dumps(made)


def _id(stamp: Stamp) -> str:
    return stamp.event_id


def _block(part: Part, stamp: Stamp) -> dict[str, Any] | None:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Thinking() if part.text and stamp.show_thinking:
            return {"type": "thinking", "thinking": part.text}
        case Media():
            return {"type": "text", "text": f"![]({part.url or ''})"}
    return None


def cited(citation: Citation, at: int, text: str) -> dict[str, Any]:
    """A span of the text and the document that it rests on."""
    start, end = citation.start or 0, citation.end or 0
    document = {"url": citation.url, "title": citation.title, "snippet": citation.quote}
    source = {"type": "document", "id": f"source:{at}", "document": document}
    return {"start": start, "end": end, "text": text[start:end], "sources": [source], "type": "TEXT_CONTENT"}


def _called(part: ToolCall, arguments: str) -> dict[str, Any]:
    return {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": arguments}}


def _usage(usage: Usage) -> dict[str, Any]:
    counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return {"billed_units": counts, "tokens": counts, "cached_tokens": usage.cache_read_tokens}


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


class StreamEncoder(EventEncoder):
    """Content and tool calls are counted apart. The end waits for the usage, so it is written by close()."""

    def __init__(self, stamp: Stamp) -> None:
        super().__init__(stamp)
        self._content = self._calls = -1
        self._text: list[str] = []
        """What the open text has so far."""
        self._kind: str | None = None
        """What the open part's deltas are called; None: it is not shown."""

    def close(self) -> bytes:
        ended = {"finish_reason": FINISH[self._stopped.stop], "usage": _usage(self._usage)}
        return self._start() + _event("message-end", {"id": _id(self._stamp), "delta": ended})

    def _opening(self) -> bytes:
        empty = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        return _event("message-start", {"id": _id(self._stamp), "delta": {"message": empty}})

    def _begin(self, part: Part) -> bytes:
        if isinstance(part, ToolCall):
            self._kind = "call"
            self._calls += 1
            return self._piece("tool-call-start", self._calls, {"tool_calls": _called(part, "")})
        shown = isinstance(part, Text) or (isinstance(part, Thinking) and self._stamp.show_thinking)
        self._kind = ("text" if isinstance(part, Text) else "thinking") if shown else None
        self._text = []
        if self._kind is None:
            return b""
        self._content += 1
        return self._piece("content-start", self._content, {"content": {"type": self._kind, self._kind: ""}})

    def _delta(self, text: str) -> bytes:
        if self._kind is None or not text:
            return b""
        if self._kind == "call":
            return self._piece("tool-call-delta", self._calls, {"tool_calls": {"function": {"arguments": text}}})
        if self._kind == "text":
            self._text.append(text)
        return self._piece("content-delta", self._content, {"content": {self._kind: text}})

    def _cited(self, citations: tuple[Citation, ...]) -> bytes:
        """Of a text that is still open; a later part has no place for them."""
        if self._kind != "text":
            return b""
        text = "".join(self._text)
        return b"".join(
            [
                self._piece("citation-start", at, {"citations": cited(each, at, text)}) + _event("citation-end", {"index": at})
                for at, each in enumerate(citations)
            ]
        )

    def _end(self, part: Part) -> bytes:
        kind, self._kind = self._kind, None
        if kind is None:
            return b""
        name, index = ("tool-call-end", self._calls) if kind == "call" else ("content-end", self._content)
        return _event(name, {"index": index})

    def _piece(self, name: str, index: int, message: dict[str, Any]) -> bytes:
        return _event(name, {"index": index, "delta": {"message": message}})

"""Chat Completions' streams, both ways.

Chat has no block boundaries and may interleave: deltas of text and of several tool calls, each by its index. The decoder
makes sequential parts of them: while one tool call is open, pieces of the next wait until the first can no longer grow.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import orjson

from shared.domain.usage import Usage
from shared.wire import loose
from shared.wire.canonical import (
    Begin,
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
from shared.wire.openai_chat.facts import DONE, read_usage
from shared.wire.openai_chat.reply import (
    completion_id,
    finish_of,
    media_url,
    signature_in,
    signed_detail,
    stop_of,
    usage_object,
)
from shared.wire.parts import Parts


class _Pending:
    """A tool call in the making."""

    __slots__ = ("arguments", "custom", "id", "name", "ready")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.custom = False
        self.ready = False


class _Choice:
    """One choice: its parts, and the tool calls by their index, in the order in which they began."""

    __slots__ = ("calls", "current", "finish", "index", "order", "parts", "refused", "think")

    def __init__(self, index: int, think_tags: bool) -> None:
        self.index = index
        self.parts = Parts(index)
        self.calls: dict[Any, _Pending] = {}
        self.order: list[_Pending] = []
        self.current: _Pending | None = None
        self.finish: str | None = None
        self.refused = False
        self.think = ThinkTags() if think_tags else None


class StreamDecoder(EventDecoder):
    """`think_tags`: reasoning comes inline, as <think>…</think>."""

    def __init__(self, think_tags: bool = False) -> None:
        super().__init__()
        self._choices: dict[int, _Choice] = {}
        self._think_tags = think_tags
        self._started = self._failed = self.done = False

    def close(self) -> list[Event]:
        """As everywhere, but a last event that is whole JSON and no object is malformed, not half."""
        events: list[Event] = []
        last = self._splitter.close()
        if last is not None and last[1] is not None and (last[1].lstrip().startswith(b"[DONE]") or _is_json(last[1])):
            events += self._data(last[1])
        return events + self._ended()

    def _ended(self) -> list[Event]:
        return [] if self._failed else [event for choice in self._choices.values() for event in self._finish(choice)]

    def _data(self, data: bytes) -> list[Event]:
        if self.done:
            return []
        if data.lstrip().startswith(b"[DONE]"):
            self.done = True
            return []
        chunk = loose.event(data)
        events: list[Event] = []
        if not self._started:
            self._started = True
            events.append(Start(chunk.get("model") if type(chunk.get("model")) is str else None))
        if chunk.get("error"):
            self._failed = True
            return [*events, Failed(_message(chunk["error"]), data)]
        for raw in loose.tables(chunk.get("choices")):
            events += self._choice(raw)
        groq = chunk.get("x_groq")
        usage = chunk.get("usage") or (groq.get("usage") if type(groq) is dict else None)
        return [*events, *_used(usage)]

    def _choice(self, raw: dict[str, Any]) -> list[Event]:
        told = raw.get("index")
        index = told if type(told) is int else 0
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(index, self._think_tags)
        events: list[Event] = []
        delta = raw.get("delta")
        if type(delta) is dict:
            events += self._delta(choice, delta, raw.get("logprobs"))
        finish = raw.get("finish_reason")
        if type(finish) is str:
            choice.finish = finish
        return [*events, *_used(raw.get("usage"))]

    def _delta(self, choice: _Choice, delta: dict[str, Any], logprobs: Any) -> list[Event]:
        events: list[Event] = []
        parts = choice.parts
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if type(thought) is str and thought:
            events += self._before_text(choice) + parts.thinking(thought)
        signed = signature_in(delta)
        if signed is not None and isinstance(parts.open, Thinking):
            events += parts.end(signature=signed[0], origin=signed[1])
        content = delta.get("content")
        if type(content) is list:
            thought, content = _typed_content(content)
            if thought:
                events += self._before_text(choice) + parts.thinking(thought)
        known = logprobs.get("content") if type(logprobs) is dict else None
        if type(content) is str and content:
            events += self._before_text(choice)
            if choice.think is None:
                events += parts.text(content, known)
            else:
                for text, thinking in choice.think.feed(content):
                    events += parts.thinking(text) if thinking else parts.text(text)
        refusal = delta.get("refusal")
        if type(refusal) is str and refusal:
            choice.refused = True
            events += self._before_text(choice) + parts.text(refusal, refusal=True)
        legacy = delta.get("function_call")
        calls = loose.tables(delta.get("tool_calls"))
        if type(legacy) is dict:
            calls.append(
                {"index": 0, "id": f"call_{legacy.get('name') or ''}" if legacy.get("name") else None, "function": legacy}
            )
        for raw in calls:
            events += self._call(choice, raw)
        return events

    def _before_text(self, choice: _Choice) -> list[Event]:
        """Text after tool calls: those that wait are complete now."""
        return self._flush(choice) if choice.current is not None else []

    def _call(self, choice: _Choice, raw: dict[str, Any]) -> list[Event]:
        """A piece of a tool call. Some providers leave the index out, or give every call the same: an id or a name that is
        new begins another call."""
        index, tool_id = raw.get("index"), raw.get("id")
        tool_id = tool_id if type(tool_id) is str and tool_id else None
        kind = "custom" if type(raw.get("custom")) is dict else "function"
        given = raw.get(kind)
        body: dict[str, Any] = given if type(given) is dict else {}
        name = body.get("name") if type(body.get("name")) is str else None
        place: Any = index if type(index) is int else (tool_id or len(choice.order) - (name is None))
        call = choice.calls.get(place)
        if call is None or (tool_id is not None and call.id and tool_id != call.id):
            call = choice.calls[place] = _Pending()
            call.custom = kind == "custom"
            choice.order.append(call)
        call.id = call.id or tool_id or ""
        if name and not call.ready:
            call.name += name
        arguments = body.get("input" if kind == "custom" else "arguments")
        if type(arguments) is dict:
            arguments = orjson.dumps(arguments).decode()
        text = arguments if type(arguments) is str else ""
        return self._grown(choice, call, text)

    def _grown(self, choice: _Choice, call: _Pending, text: str) -> list[Event]:
        events: list[Event] = []
        if choice.current is not None and choice.current is not call and _whole(choice.current):
            choice.current = None
        if choice.current is None and not call.ready and call.name and not self._earlier_waits(choice, call):
            events += self._open(choice, call)
        if text:
            call.arguments.append(text)
            if choice.current is call:
                events.append(choice.parts.more(text))
        return events

    def _earlier_waits(self, choice: _Choice, call: _Pending) -> bool:
        return any(not earlier.ready for earlier in choice.order[: choice.order.index(call)])

    def _open(self, choice: _Choice, call: _Pending) -> list[Event]:
        call.ready = True
        choice.current = call
        tool_id = call.id or f"call_{choice.index}_{choice.order.index(call)}"
        events = choice.parts.begin(ToolCall(id=tool_id, name=call.name, custom=call.custom))
        if call.arguments:
            events.append(choice.parts.more("".join(call.arguments)))
        return events

    def _flush(self, choice: _Choice) -> list[Event]:
        """Give out the calls that wait behind the open one."""
        events: list[Event] = []
        for call in choice.order:
            if not call.ready:
                events += self._open(choice, call)
        choice.current = None
        return events

    def _finish(self, choice: _Choice) -> list[Event]:
        events: list[Event] = []
        if choice.think is not None:
            for text, thinking in choice.think.close():
                events += choice.parts.thinking(text) if thinking else choice.parts.text(text)
        if choice.finish is None:
            return events
        events += self._flush(choice) + choice.parts.end()
        stop = stop_of(choice.finish, called=bool(choice.order))
        if choice.refused and stop is Stop.END:
            stop = Stop.REFUSAL
        return [*events, Stopped(stop, choice.index)]


class ThinkTags:
    """Splits text at <think> and </think>, wherever chunks are cut; only a tag at the very beginning opens."""

    def __init__(self) -> None:
        self._held = ""
        self._thinking = False
        self._begun = False

    def feed(self, text: str) -> list[tuple[str, bool]]:
        self._held += text
        out: list[tuple[str, bool]] = []
        if not self._begun:
            bare = self._held.lstrip()
            if bare.startswith("<think>"):
                self._held, self._thinking, self._begun = bare.removeprefix("<think>"), True, True
            elif "<think>".startswith(bare[:7]) and len(bare) < 7:
                return out
            else:
                self._begun = True
        if self._thinking:
            before, tag, after = self._held.partition("</think>")
            if tag:
                out.append((before, True))
                self._thinking, self._held = False, after.lstrip("\n")
            else:
                keep = next((n for n in range(7, 0, -1) if self._held.endswith("</think>"[:n])), 0)
                out.append((self._held[: len(self._held) - keep], True))
                self._held = self._held[len(self._held) - keep :]
        if not self._thinking and self._held:
            out.append((self._held, False))
            self._held = ""
        return [piece for piece in out if piece[0]]

    def close(self) -> list[tuple[str, bool]]:
        held, self._held = self._held, ""
        return [(held, self._thinking)] if held else []


def _whole(call: _Pending) -> bool:
    """Whether the arguments are complete JSON, so that nothing more can come."""
    return not call.custom and _is_json("".join(call.arguments).encode())


def _typed_content(content: list[Any]) -> tuple[str, str]:
    """Mistral's content parts in a delta: (thinking, text)."""
    thought, text = "", ""
    for part in loose.tables(content):
        if part.get("type") == "thinking":
            thought += "".join(str(item.get("text") or "") for item in loose.tables(part.get("thinking")))
        elif type(part.get("text")) is str:
            text += part["text"]
    return thought, text


def _used(usage: Any) -> list[Event]:
    if type(usage) is not dict:
        return []
    known = read_usage(orjson.dumps(usage))
    return [Used(known)] if known is not None else []


def _message(error: Any) -> str:
    if type(error) is dict and type(error.get("message")) is str:
        return error["message"]  # type: ignore[no-any-return]
    return error if type(error) is str else "an error"


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


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
                finish = finish_of(event.stop, event.choice in self._refused)
                return self._greet(event.choice) + self._chunk(event.choice, {}, finish)
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

    def _chunk(self, choice: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> bytes:
        body = [{"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]
        return self._head + _encode(body) + self._tail

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
        return self._chunk(event.choice, {field: event.text}, None, {"content": event.logprobs} if event.logprobs else None)

    def _end(self, event: End) -> bytes:
        """A signature comes with the part's end, as OpenRouter's reasoning_details."""
        detail = signed_detail(event.part, show=self._stamp.show_thinking)
        if detail is None:
            return b""
        index = self._details[event.choice] = self._details.get(event.choice, -1) + 1
        return self._greet(event.choice) + self._chunk(event.choice, {"reasoning_details": [detail | {"index": index}]})

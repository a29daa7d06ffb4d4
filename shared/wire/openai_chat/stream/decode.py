"""A provider's chunks → canonical events.

Chat has no block boundaries and may interleave: deltas of text and of several tool calls, each by its index. The decoder
makes sequential parts of them: while one tool call is open, pieces of the next wait until the first can no longer grow.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from shared.wire import loose
from shared.wire.canonical import Citation, Cited, Event, Failed, Start, Stop, Stopped, Text, Thinking, ToolCall, Used
from shared.wire.decoder import EventDecoder
from shared.wire.openai_chat.reply import failed, matched_stop, signature_in, stop_of
from shared.wire.openai_chat.sources import annotated, listed, located
from shared.wire.openai_chat.stream.think import ThinkTags
from shared.wire.openai_chat.usage import read_usage
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

    __slots__ = ("calls", "current", "finish", "index", "matched", "order", "parts", "refused", "think")

    def __init__(self, index: int, think_tags: bool) -> None:
        self.index = index
        self.parts = Parts(index)
        self.calls: dict[Any, _Pending] = {}
        self.order: list[_Pending] = []
        self.current: _Pending | None = None
        self.finish: str | None = None
        self.matched: str | None = None
        """The stop sequence, where the server tells."""
        self.refused = False
        self.think = ThinkTags() if think_tags else None


class StreamDecoder(EventDecoder):
    """`think_tags`: reasoning comes inline, as <think>…</think>."""

    def __init__(self, think_tags: bool = False) -> None:
        super().__init__()
        self._choices: dict[int, _Choice] = {}
        self._sources: list[Citation] = []
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
        if chunk.get("error") or failed(chunk):
            self._failed = True
            error = chunk.get("error") or loose.table(chunk.get("base_resp")).get("status_msg")
            return [*events, Failed(_message(error), data)]
        for raw in loose.tables(chunk.get("choices")):
            events += self._choice(raw)
        if "citations" in chunk or "search_results" in chunk:
            self._sources = listed(chunk) or self._sources
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
            if "annotations" in delta:
                self._sources += annotated(delta)
            events += self._delta(choice, delta, raw.get("logprobs"))
        finish = raw.get("finish_reason")
        if type(finish) is str:
            choice.finish = finish
            choice.matched = matched_stop(raw, Stop.END)
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
        if self._sources and choice.index == 0:
            text = choice.parts.content() if isinstance(choice.parts.open, Text) else ""
            events.append(Cited(located(self._sources, text)))
        events += self._flush(choice) + choice.parts.end()
        stop = stop_of(choice.finish, called=bool(choice.order))
        if choice.refused and stop is Stop.END:
            stop = Stop.REFUSAL
        matched = choice.matched if stop is Stop.END else None
        return [*events, Stopped(stop if matched is None else Stop.SEQUENCE, choice.index, matched, choice.finish or None)]


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

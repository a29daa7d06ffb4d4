"""Parts: an answer's parts while they are made, and what their events amount to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from shared.domain.usage import Usage
from shared.wire.canonical import (
    Begin,
    Choice,
    Citation,
    Cited,
    Delta,
    End,
    Event,
    Media,
    Reply,
    Start,
    Stop,
    Stopped,
    Text,
    Thinking,
    ToolCall,
    Used,
)


class Parts:
    """One choice's parts in the making, for decoders: `add` text to the part at hand, and the events come out in order.

    A new kind of part ends the one before it, so that at most one is open.
    """

    __slots__ = ("_choice", "_content", "_open", "index", "parts")

    def __init__(self, choice: int = 0) -> None:
        self._choice = choice
        self._open: Text | Thinking | ToolCall | None = None
        self._content: list[str] = []
        self.index = -1
        self.parts: list[Text | Media | Thinking | ToolCall] = []
        """The whole ones."""

    @property
    def open(self) -> Text | Thinking | ToolCall | None:
        return self._open

    def text(self, text: str, logprobs: Any = None, *, refusal: bool = False) -> list[Event]:
        if not text and logprobs is None:
            return []
        events: list[Event] = []
        if not isinstance(self._open, Text) or self._open.refusal is not refusal:
            events = self.begin(Text("", refusal=refusal))
        return [*events, self.more(text, logprobs)]

    def thinking(self, text: str) -> list[Event]:
        if not text:
            return []
        events: list[Event] = [] if isinstance(self._open, Thinking) and not self._open.redacted else self.begin(Thinking())
        return [*events, self.more(text)]

    def begin(self, part: Text | Thinking | ToolCall) -> list[Event]:
        events = self.end()
        self.index += 1
        self._open, self._content = part, []
        return [*events, Begin(self.index, part, self._choice)]

    def more(self, text: str, logprobs: Any = None) -> Delta:
        self._content.append(text)
        return Delta(self.index, text, self._choice, logprobs)

    def whole(self, part: Text | Media | Thinking | ToolCall) -> list[Event]:
        """A part that came at once."""
        events: list[Event] = self.end()
        self.index += 1
        self.parts.append(part)
        text, bare = _emptied(part)
        events.append(Begin(self.index, bare, self._choice))
        if text:
            events.append(Delta(self.index, text, self._choice))
        return [*events, End(self.index, part, self._choice)]

    def content(self) -> str:
        """What the open part has so far."""
        return "".join(self._content)

    def end(self, **changes: Any) -> list[Event]:
        """Complete the open part, if there is one; `changes` are fields of it that came late, such as a signature."""
        part = self._open
        if part is None:
            return []
        self._open = None
        content = "".join(self._content)
        field = "arguments" if isinstance(part, ToolCall) else "text"
        whole = replace(part, **({field: content} | changes))
        self.parts.append(whole)
        return [End(self.index, whole, self._choice)]


def _emptied(part: Text | Media | Thinking | ToolCall) -> tuple[str, Text | Media | Thinking | ToolCall]:
    if isinstance(part, ToolCall):
        return part.arguments, replace(part, arguments="")
    if isinstance(part, Media):
        return "", part
    return part.text, replace(part, text="")


def fold(events: Sequence[Event]) -> Reply:
    """The reply that a stream amounts to."""
    model: str | None = None
    usage: Usage | None = None
    parts: dict[int, list[Text | Media | Thinking | ToolCall]] = {}
    stops: dict[int, Stopped] = {}
    logprobs: dict[int, list[Any]] = {}
    citations: tuple[Citation, ...] = ()
    for event in events:
        match event:
            case Start():
                model, usage = event.model or model, event.usage or usage
            case End():
                parts.setdefault(event.choice, []).append(event.part)
            case Stopped():
                stops[event.choice] = event
            case Used():
                usage = event.usage
            case Cited():
                citations = event.citations
            case Delta() if event.logprobs is not None:
                logprobs.setdefault(event.choice, []).extend(event.logprobs)
    choices = []
    for index in sorted({*parts, *stops}):
        stopped = stops.get(index) or Stopped(Stop.ERROR, index)
        known = {"content": logprobs[index]} if index in logprobs else None
        choices.append(
            Choice(
                parts=tuple(parts.get(index, ())),
                stop=stopped.stop,
                stop_sequence=stopped.stop_sequence,
                logprobs=known,
                native=stopped.native,
            )
        )
    return Reply(choices=tuple(choices), usage=usage, model=model, citations=citations)

"""Encoder: what the formats whose streams open, show part after part and end with their usage have in common (canonical.py
StreamEncoder)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from shared.domain.usage import Usage
from shared.wire.canonical import (
    Begin,
    Citation,
    Cited,
    Delta,
    End,
    Event,
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

Made = Text | Media | Thinking | ToolCall
"""What an answer is made of."""


class EventEncoder(ABC):
    """The end of a stream waits for its usage, which most providers tell last; so `close()`, a format's own, writes it."""

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        self._started = False
        self._usage = Usage()
        self._stopped = Stopped(Stop.END)

    def feed(self, event: Event) -> bytes:
        match event:
            case Delta():
                return self._delta(event.text)
            case Begin():
                return self._start() + self._begin(event.part)
            case End():
                return self._end(event.part)
            case Start():
                self._usage = event.usage or self._usage
                return self._start()
            case Used():
                self._usage = event.usage
            case Stopped():
                self._stopped = event
            case Cited():
                return self._cited(event.citations)
        return b""

    def _start(self) -> bytes:
        """What opens the stream, once."""
        if self._started:
            return b""
        self._started = True
        return self._opening()

    @abstractmethod
    def _opening(self) -> bytes: ...

    @abstractmethod
    def _begin(self, part: Made) -> bytes: ...

    @abstractmethod
    def _delta(self, text: str) -> bytes: ...

    @abstractmethod
    def _cited(self, citations: tuple[Citation, ...]) -> bytes: ...

    @abstractmethod
    def _end(self, part: Made) -> bytes: ...

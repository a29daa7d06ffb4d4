"""Decoder: what the formats whose streams are server-sent events of JSON have in common (canonical.py StreamDecoder)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from shared.wire import sse
from shared.wire.canonical import Event
from shared.wire.reply import MalformedReply


class EventDecoder(ABC):
    def __init__(self) -> None:
        self._splitter = sse.Splitter()

    def feed(self, chunk: bytes) -> list[Event]:
        """Raises MalformedReply."""
        events: list[Event] = []
        for _, data in self._splitter.feed(chunk):
            if data is not None and data.strip():
                events += self._data(data)
        if self._splitter.overflown:
            raise MalformedReply(f"sent an event larger than {sse.MAX_EVENT_BYTES} bytes")
        return events

    def close(self) -> list[Event]:
        """The connection has ended: the last event may lack its blank line, or be half of one, and then it is none."""
        events: list[Event] = []
        last = self._splitter.close()
        if last is not None and last[1] is not None:
            try:
                events += self._data(last[1])
            except MalformedReply:
                events = []
        return events + self._ended()

    @abstractmethod
    def _data(self, data: bytes) -> list[Event]:
        """One event's. Raises MalformedReply."""

    @abstractmethod
    def _ended(self) -> list[Event]:
        """What is left to say: why it stopped."""

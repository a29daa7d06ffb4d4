"""Server-sent events, split incrementally: any framing of lines and chunks gives the same events.

Source: WHATWG HTML §9.2. Lines end in LF, CRLF or CR; a blank line ends an event; `data` lines join with LF; one space
after the colon goes; a byte order mark is ignored.
"""

from __future__ import annotations

import re

MAX_EVENT_BYTES = 1024 * 1024
BOM = b"\xef\xbb\xbf"

_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")


Event = tuple[bytes, bytes | None]
"""An event as it came, with the blank line that ends it, and its data: None for comments and the like."""


class Splitter:
    """Feed chunks, get whole events; what is left of an unfinished one waits, up to MAX_EVENT_BYTES."""

    __slots__ = ("_carriage", "_held", "_scanned", "overflown")

    def __init__(self) -> None:
        self._held = bytearray()
        self._scanned = 0
        self._carriage = False
        self.overflown = False
        """An event was too large: it and all after it are not given out."""

    @property
    def empty(self) -> bool:
        """Whether the next chunk begins a new event."""
        return not self._held

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes, in order. All that came, concatenated, is the stream."""
        if not self._carriage and b"\r" in chunk:
            self._carriage = True
        if self._held or self._carriage or len(chunk) > MAX_EVENT_BYTES:
            self._held += chunk
            return self._whole_events()
        pieces = chunk.split(b"\n\n")
        rest = pieces.pop()
        events: list[Event] = []
        for piece in pieces:
            raw = piece + b"\n\n"
            if piece.startswith(b"data: ") and b"\n" not in piece:
                events.append((raw, piece[6:]))
                continue
            empty = len(piece) - len(piece.lstrip(b"\n"))
            if empty:  # they belong to no event, however the stream is cut
                events.append((raw[:empty], None))
            events.append((raw[empty:], data_of(raw)))
        if rest:
            self._held += rest
            events += self._whole_events()
        return events

    def _whole_events(self) -> list[Event]:
        """Take whole events from what is held, in any style of line ends."""
        held = self._held
        events: list[Event] = []
        start, scan = 0, self._scanned
        while not self.overflown:
            end = self._empty_line_end(start)
            if end < 0:
                end = self._event_end(scan)
            if end - start > MAX_EVENT_BYTES or (end < 0 and len(held) - start > MAX_EVENT_BYTES):
                self.overflown = True
                break
            if end < 0:
                end = self._comment_end(start)
            if end < 0:
                break
            raw = bytes(held[start:end])
            events.append((raw, data_of(raw)))
            start = scan = end
        del held[:start]
        # A blank line may have begun in the last three bytes: "\r\n\r" waits for what follows.
        self._scanned = max(0, len(held) - 3)
        return events

    def close(self) -> Event | None:
        """What the stream ended in, without a blank line to end it; None when nothing is left."""
        raw = bytes(self._held)
        self._held.clear()
        self._scanned = 0
        return (raw, data_of(raw)) if raw and not self.overflown else None

    def _event_end(self, scan: int) -> int:
        """Just after the next blank line; -1 when there is none yet."""
        held = self._held
        if not self._carriage:
            at = held.find(b"\n\n", scan)
            return at + 2 if at >= 0 else -1
        match = _BLANK_LINE.search(held, scan)
        if match is None or (match.end() == len(held) and held.endswith(b"\r")):
            return -1
        return match.end()

    def _empty_line_end(self, start: int) -> int:
        """Just after an empty line where an event would begin; -1 when there is none, or not yet for certain."""
        held = self._held
        if held.startswith(b"\n", start):
            return start + 1
        if held.startswith(b"\r\n", start):
            return start + 2
        return start + 1 if held.startswith(b"\r", start) and len(held) > start + 1 else -1

    def _comment_end(self, start: int) -> int:
        """Just after a comment line where an event would begin: keep-alives must not wait; else -1."""
        held = self._held
        if not held.startswith(b":", start):
            return -1
        return held.find(b"\n", start) + 1 or -1


def data_of(raw: bytes) -> bytes | None:
    """The data of one event, its lines joined; None when it has none."""
    lines = []
    for line in raw.removeprefix(BOM).splitlines():
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None


def event(data: bytes) -> bytes:
    """An event with one line of data, as bytes to send."""
    return b"data: " + data + b"\n\n"


def comment(text: bytes) -> bytes:
    """A keep-alive that clients ignore."""
    return b": " + text + b"\n\n"

"""Reasoning that comes inline in <think> tags, told apart from the text."""

from __future__ import annotations

from msgspec.structs import replace

from shared.wire.canonical import Choice, Reply, Text, Thinking
from shared.wire.openai_chat.reply import decode_reply


class ThinkTags:
    """Splits text at <think> and </think>, wherever chunks are cut; only a tag at the very beginning opens."""

    def __init__(self) -> None:
        self._held = ""
        self._thinking = False
        self._begun = False
        self._blank = False
        """The thoughts are over and the text has not begun: line ends between them belong to neither."""

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
                self._thinking, self._blank, self._held = False, True, after
            else:
                keep = next((n for n in range(7, 0, -1) if self._held.endswith("</think>"[:n])), 0)
                out.append((self._held[: len(self._held) - keep], True))
                self._held = self._held[len(self._held) - keep :]
        if self._blank:
            self._held = self._held.lstrip("\n")
            self._blank = not self._held
        if not self._thinking and self._held:
            out.append((self._held, False))
            self._held = ""
        return [piece for piece in out if piece[0]]

    def close(self) -> list[tuple[str, bool]]:
        held, self._held = self._held, ""
        return [(held, self._thinking)] if held else []


def decode_tagged_reply(body: bytes) -> Reply:
    """A whole answer of such a model. Raises MalformedReply."""
    reply = decode_reply(body)
    return replace(reply, choices=tuple(_told_apart(choice) for choice in reply.choices))


def _told_apart(choice: Choice) -> Choice:
    at = next((at for at, part in enumerate(choice.parts) if isinstance(part, Text) and not part.refusal), None)
    if at is None:
        return choice
    text, tags = choice.parts[at], ThinkTags()
    assert isinstance(text, Text)
    pieces = [*tags.feed(text.text), *tags.close()]
    parts = [Thinking(text=piece) if thinking else Text(piece) for piece, thinking in pieces]
    return replace(choice, parts=(*choice.parts[:at], *parts, *choice.parts[at + 1 :]))

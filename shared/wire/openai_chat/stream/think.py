"""Reasoning that comes inline in <think> tags, told apart from the text."""

from __future__ import annotations


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

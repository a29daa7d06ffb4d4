"""Turns (pure): histories put into the order that strict providers demand.

Clients send what they have: results out of order, results missing after a crash, orphans after a compaction. Anthropic,
Gemini and Bedrock answer 400 to each of these, and the client cannot mend it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from shared.wire.canonical import Media, Part, Text, ToolCall, ToolResult, Turn

LOST = "(The result of this tool call was lost.)"


def lead(turns: Sequence[Turn]) -> tuple[tuple[Text, ...], tuple[Turn, ...]]:
    """What the system turns at the beginning say, and the turns after them."""
    count = next((number for number, turn in enumerate(turns) if turn.role != "system"), len(turns))
    return tuple(part for turn in turns[:count] for part in turn.parts if isinstance(part, Text)), tuple(turns[count:])


def merged(turns: Iterable[Turn]) -> list[Turn]:
    """Neighbours of one role become one turn; empty turns go."""
    out: list[Turn] = []
    for turn in turns:
        if not turn.parts:
            continue
        if out and out[-1].role == turn.role:
            out[-1] = replace(out[-1], parts=(*out[-1].parts, *turn.parts))
        else:
            out.append(turn)
    return out


def paired(turns: Sequence[Turn]) -> list[Turn]:
    """Every tool call is answered in the next user turn, results first and in the order of the calls.

    A result that came later moves up; one that never came is told as lost; one without a call becomes text.
    """
    out: list[Turn] = []
    waiting = list(merged(turns))
    while waiting:
        turn = waiting.pop(0)
        if turn.role == "user":  # no assistant before it: whatever results it has are orphans
            out.append(replace(turn, parts=tuple(_as_text(part) for part in turn.parts)))
            continue
        out.append(turn)
        calls = [part for part in turn.parts if isinstance(part, ToolCall)]
        if not calls:
            continue
        results, waiting = _taken([call.id for call in calls], waiting)
        answers = [results.get(call.id) or lost(call) for call in calls]
        rest: tuple[Part, ...] = ()
        if waiting and waiting[0].role == "user":
            rest = tuple(_as_text(part) for part in waiting.pop(0).parts)
        out.append(Turn(role="user", parts=(*(replace(a, name=c.name) for a, c in zip(answers, calls, strict=True)), *rest)))
    return merged(out)


def lost(call: ToolCall) -> ToolResult:
    return ToolResult(call_id=call.id, name=call.name, parts=(Text(LOST),), is_error=True, custom=call.custom)


def _taken(wanted: list[str], turns: Sequence[Turn]) -> tuple[dict[str, ToolResult], list[Turn]]:
    """The first result of each wanted call, and the turns without them. A call id used again later ends the search."""
    results: dict[str, ToolResult] = {}
    rest: list[Turn] = []
    searching = True
    for turn in turns:
        if turn.role == "assistant" and any(isinstance(part, ToolCall) and part.id in wanted for part in turn.parts):
            searching = False
        kept: list[Part] = []
        for part in turn.parts:
            if searching and isinstance(part, ToolResult) and part.call_id in wanted and part.call_id not in results:
                results[part.call_id] = part
            else:
                kept.append(part)
        if kept:
            rest.append(replace(turn, parts=tuple(kept)))
    return results, rest


def _as_text(part: Part) -> Part:
    """An orphaned result as the text that it holds."""
    if not isinstance(part, ToolResult):
        return part
    return Text(f"[Result of an earlier tool call {part.call_id}]\n{result_text(part)}")


def result_text(result: ToolResult) -> str:
    """A result's text; an error says that it is one, for formats that have no flag for it."""
    body = "\n".join(part.text for part in result.parts if isinstance(part, Text))
    return f"Error: {body}" if result.is_error and not body.startswith("Error") else body


def result_media(result: ToolResult) -> list[Media]:
    return [part for part in result.parts if isinstance(part, Media)]


class Ids:
    """Tool call ids within a vendor's alphabet and length: the same id becomes the same one everywhere in a call.

    An id that is used in two turns becomes two.
    """

    def __init__(self, allowed: str, length: int, *, exact: bool = False) -> None:
        self._bad = re.compile(f"[^{allowed}]")
        self._length = length
        self._exact = exact
        self._known: dict[str, str] = {}
        self._taken: set[str] = set()

    def call(self, tool_id: str) -> str:
        """The id for a call that is made here."""
        count = 0
        made = self._made(tool_id, count)
        while made in self._taken:
            count += 1
            made = self._made(tool_id, count)
        self._taken.add(made)
        self._known[tool_id] = made
        return made

    def result(self, tool_id: str) -> str:
        """The id of the latest call that had this one."""
        return self._known.get(tool_id) or self._made(tool_id, 0)

    def _made(self, tool_id: str, count: int) -> str:
        fits = not self._bad.search(tool_id) and 0 < len(tool_id) <= self._length
        if fits and count == 0 and (not self._exact or len(tool_id) == self._length):
            return tool_id
        digest = hashlib.sha256(f"{tool_id}\0{count}".encode()).hexdigest()
        if self._exact:
            return digest[: self._length]
        stem = self._bad.sub("_", tool_id)[: self._length - 9]
        return f"{stem}_{digest[:8]}"


class Names:
    """Tool names within a vendor's alphabet and length, and the way back."""

    def __init__(self, allowed: str = "a-zA-Z0-9_-", length: int = 64) -> None:
        self._bad = re.compile(f"[^{allowed}]")
        self._length = length
        self._sent: dict[str, str] = {}
        self.back: dict[str, str] = {}
        """Sent name → the client's, where they differ."""

    def sent(self, name: str) -> str:
        known = self._sent.get(name)
        if known is not None:
            return known
        made = name
        if not name or len(name) > self._length or self._bad.search(name):
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            made = f"{self._bad.sub('_', name)[: self._length - 9]}_{digest}"
            self.back[made] = name
        self._sent[name] = made
        return made

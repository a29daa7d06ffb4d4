"""Middle-out (pure): a conversation shortened from its middle until it fits.

Messages go whole, the ones nearest to the middle first. Three things stay whatever their length: the system's messages at the
beginning, the last message of the user, and the last of all. A tool call and its results go together, with all between them,
so that neither is ever alone; so do reasoning and what it led to. Messages of OpenAI's Chat, items of its Responses and
messages of Anthropic's are understood alike.

Source: OpenRouter's documentation of message transforms. It says what is removed; that pairs stay whole is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from shared.domain.catalogue import Deployment, WireFormat
from shared.wire.envelope import Envelope, open_envelope
from shared.wire.needs import BYTES_PER_TOKEN, TOKENS_PER_MEDIA, estimated_tokens
from shared.wire.openai_chat import ChatCall

SHORT_TOKENS = 8_192
"""Contexts up to this are made to fit unless the call says otherwise, as at OpenRouter."""
TYPICAL_OUTPUT_TOKENS = 512
"""Room for the answer to a call that does not say how much it wants at most."""
TURNS = ("messages", "input")
SYSTEM = ("system", "developer")
TEXTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "tool_use", "tool_result", "summary_text"})
"""Types of parts that are text; others count as what is looked at or listened to."""


class Cut(msgspec.Struct, frozen=True):
    """A shortened body. `before` and `after` count messages; `tokens` are estimated, of the whole prompt."""

    envelope: Envelope
    field: str
    before: int
    after: int
    tokens: int

    def told(self) -> str:
        """For `x-waystation-dropped`."""
        return f"{self.field} ({self.before - self.after} of {self.before})"


def wanted(asked: bool | None, client: WireFormat, deployment: Deployment, call: ChatCall) -> bool:
    """Whether a call is to be shortened for a deployment: it may be, and seems too long. `asked` None: it does not say.
    OpenRouter does so itself, where it hears of it."""
    if deployment.provider.quirks.takes_routing and deployment.provider.wire_format is client:
        return False
    context, most = deployment.model.context_tokens, deployment.provider.quirks.most_messages
    if asked is None:
        asked = context is not None and context <= SHORT_TOKENS
    if not asked:
        return False
    if most is not None and call.messages > most:
        return True
    return context is not None and estimated_tokens(call) + room(call, context) > context


def room(call: ChatCall, context_tokens: int) -> int:
    """For the answer, in tokens; never more than half of the context."""
    return min(TYPICAL_OUTPUT_TOKENS if call.max_tokens is None else call.max_tokens, context_tokens // 2)


def fitted(envelope: Envelope, deployment: Deployment, call: ChatCall) -> Cut | None:
    """None where it fits after all, or has no messages that could go."""
    field = next((name for name in TURNS if name in envelope.fields), None)
    turns = None if field is None else orjson.loads(bytes(envelope.fields[field]))
    if field is None or type(turns) is not list or not turns:
        return None
    context = deployment.model.context_tokens
    rest = sum(len(bytes(raw)) for name, raw in envelope.fields.items() if name != field) // BYTES_PER_TOKEN
    most_tokens = None if context is None else context - room(call, context) - rest
    left = shortened(turns, most_tokens, deployment.provider.quirks.most_messages)
    if len(left) == len(turns):
        return None
    made = open_envelope(envelope.edited({field: orjson.dumps(left)}))
    made.routing = envelope.routing
    return Cut(made, field, len(turns), len(left), rest + sum(map(estimated, left)))


def shortened(turns: Sequence[Any], most_tokens: int | None, most_turns: int | None = None) -> list[Any]:
    """What is left of `turns` with at most so many estimated tokens and so many messages, or as little as can be. All of them
    where they fit."""
    spans = _spans(turns)
    sizes = [sum(estimated(turn) for turn in turns[first:end]) for first, end in spans]
    tokens, many = sum(sizes), len(turns)
    kept = _kept(turns, spans)
    middle = len(turns) / 2
    gone: set[int] = set()
    for at in sorted(range(len(spans)), key=lambda at: abs(sum(spans[at]) / 2 - middle)):
        if (most_tokens is None or tokens <= most_tokens) and (most_turns is None or many <= most_turns):
            break
        if at not in kept:
            gone.add(at)
            tokens -= sizes[at]
            many -= spans[at][1] - spans[at][0]
    return [turn for at, (first, end) in enumerate(spans) if at not in gone for turn in turns[first:end]]


def estimated(turn: Any) -> int:
    """Tokens, as wire/needs.py counts those of a whole call: a quarter of the bytes, and a number for each thing that is no
    text."""
    media, stripped = _without_media(turn)
    return -(-len(orjson.dumps(stripped)) // BYTES_PER_TOKEN) + media * TOKENS_PER_MEDIA


def _without_media(turn: Any) -> tuple[int, Any]:
    content = turn.get("content") if type(turn) is dict else None
    if type(content) is not list:
        return 0, turn
    media, texts = 0, []
    for part in content:
        if type(part) is dict and part.get("type") not in TEXTS:
            media += 1
            continue
        inner, stripped = _without_media(part)
        media += inner
        texts.append(stripped)
    return media, turn | {"content": texts}


def _kept(turns: Sequence[Any], spans: Sequence[tuple[int, int]]) -> set[int]:
    """Which runs stay."""
    kept = {len(spans) - 1}
    for at, (first, _) in enumerate(spans):
        if _role(turns[first]) not in SYSTEM:
            break
        kept.add(at)
    for at in reversed(range(len(spans))):
        if any(_role(turn) == "user" and not _answers(turn) for turn in turns[slice(*spans[at])]):
            kept.add(at)
            break
    return kept


def _spans(turns: Sequence[Any]) -> list[tuple[int, int]]:
    """Runs of messages that cannot be parted, as first and end."""
    begins = list(range(len(turns)))  # of each message, where the run begins that it belongs to
    calls: dict[str, int] = {}
    for at, turn in enumerate(turns):
        for name in _answers(turn):
            begins[at] = min(begins[at], calls.get(name, max(0, at - 1)))
        if at and _leads_on(turns[at - 1]):
            begins[at] = min(begins[at], at - 1)
        calls.update(dict.fromkeys(_calls(turn), at))
    spans: list[tuple[int, int]] = []
    first = end = len(turns)
    for at in reversed(range(len(turns))):
        first = min(first, begins[at])
        if first == at:
            spans.append((at, end))
            first = end = at
    return spans[::-1]


def _role(turn: Any) -> Any:
    return turn.get("role") if type(turn) is dict else None


def _leads_on(turn: Any) -> bool:
    """Reasoning as an item of its own: what it led to follows."""
    return type(turn) is dict and turn.get("type") == "reasoning"


def _calls(turn: Any) -> list[str]:
    """Ids of the calls in it."""
    if type(turn) is not dict:
        return []
    if str(turn.get("type")).endswith("_call"):
        return [str(turn.get("call_id"))]
    own = [str(call.get("id")) for call in _tables(turn.get("tool_calls"))]
    return own + [str(part.get("id")) for part in _tables(turn.get("content")) if part.get("type") == "tool_use"]


def _answers(turn: Any) -> list[str]:
    """Ids of the calls whose results are in it."""
    if type(turn) is not dict:
        return []
    if str(turn.get("type")).endswith("_call_output"):
        return [str(turn.get("call_id"))]
    if turn.get("role") in ("tool", "function"):
        return [str(turn.get("tool_call_id"))]
    return [str(part.get("tool_use_id")) for part in _tables(turn.get("content")) if part.get("type") == "tool_result"]


def _tables(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if type(each) is dict] if type(value) is list else []

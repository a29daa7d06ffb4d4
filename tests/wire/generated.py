"""Hypothesis strategies for the hub: calls, replies, and the events that a reply is as a stream."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from shared.domain.usage import Usage
from shared.wire.canonical import (
    Call,
    Choice,
    Event,
    Media,
    OutputFormat,
    Reasoning,
    Reply,
    Start,
    Stop,
    Stopped,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    Used,
)
from shared.wire.parts import Parts

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_-]{0,15}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(WORDS, VALUES, max_size=4)
ARGUMENTS = OBJECTS.map(lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")))
COUNTS = st.integers(0, 10_000)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    read, written, plain = draw(COUNTS), draw(COUNTS), draw(COUNTS)
    made = draw(COUNTS)
    return Usage(
        input_tokens=read + written + plain,
        output_tokens=made,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=draw(st.integers(0, made)),
    )


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    """What every format can say: thinking, then text, then tool calls."""
    parts: list[Text | Media | Thinking | ToolCall] = []
    if draw(st.booleans()):
        parts.append(Thinking(text=draw(WORDS)))
    if draw(st.booleans()):
        parts.append(Text(draw(WORDS)))
    calls = draw(st.lists(st.tuples(NAMES, ARGUMENTS), max_size=3))
    parts += [ToolCall(id=f"call_{at}", name=name, arguments=arguments) for at, (name, arguments) in enumerate(calls)]
    stop = Stop.TOOL if calls else draw(st.sampled_from([Stop.END, Stop.LENGTH]))
    if not parts and stop is Stop.END:
        parts.append(Text(draw(WORDS)))  # nothing at all and no reason for it: Gemini cannot mean that
    return Reply(choices=(Choice(parts=tuple(parts), stop=stop),), usage=draw(usages()), model="model")


def events_of(reply: Reply, sizes: list[int]) -> list[Event]:
    """The reply as a stream; its parts cut into pieces of the given sizes, over and over."""
    events: list[Event] = [Start(reply.model)]
    for index, choice in enumerate(reply.choices):
        parts = Parts(index)
        for part in choice.parts:
            if isinstance(part, Media):
                events += parts.whole(part)
                continue
            text = part.arguments if isinstance(part, ToolCall) else part.text
            field = "arguments" if isinstance(part, ToolCall) else "text"
            changed: dict[str, Any] = {field: ""}
            bare = type(part)(**({name: getattr(part, name) for name in part.__struct_fields__} | changed))
            events += parts.begin(bare)
            at, turn = 0, 0
            while at < len(text):
                size = sizes[turn % len(sizes)]
                events.append(parts.more(text[at : at + size]))
                at, turn = at + size, turn + 1
            events += parts.end()
        events.append(Stopped(choice.stop, index))
    if reply.usage is not None:
        events.append(Used(reply.usage))
    return events


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Calls of any client: tidy ones and untidy ones."""
    tools = tuple(
        Tool(name=name, description=draw(st.none() | WORDS), schema={"type": "object", "properties": {}})
        for name in draw(st.lists(NAMES, max_size=3, unique=True))
    )
    turns: list[Turn] = []
    for number in range(draw(st.integers(1, 5))):
        role = draw(st.sampled_from(["user", "assistant", "system"]))
        parts: list[Any] = [Text(text) for text in draw(st.lists(WORDS, max_size=2))]
        if role == "assistant":
            parts += [
                ToolCall(id=f"call_{number}_{at}", name=name, arguments=draw(ARGUMENTS | WORDS))
                for at, name in enumerate(draw(st.lists(NAMES, max_size=2)))
            ]
            if draw(st.booleans()):
                parts.insert(0, Thinking(text=draw(WORDS), signature=draw(st.none() | NAMES), origin="anthropic"))
        elif role == "user":
            ids = draw(st.lists(st.sampled_from([f"call_{n}_{m}" for n in range(4) for m in range(2)]), max_size=3))
            parts = [
                ToolResult(call_id=tool_id, parts=(Text(draw(WORDS)),), is_error=draw(st.booleans())) for tool_id in ids
            ] + parts
        turns.append(Turn(role=role, parts=tuple(parts)))  # type: ignore[arg-type]
    choice = draw(st.none() | st.sampled_from([ToolChoice(mode="auto"), ToolChoice(mode="any"), ToolChoice(mode="none")]))
    return Call(
        model="lab/model",
        system=tuple(Text(text) for text in draw(st.lists(WORDS, max_size=2))),
        turns=tuple(turns),
        tools=tools,
        tool_choice=choice if tools else None,
        max_tokens=draw(st.none() | st.integers(1, 100_000)),
        temperature=draw(st.none() | st.floats(0, 2)),
        top_p=draw(st.none() | st.floats(0, 1)),
        stop=tuple(draw(st.lists(WORDS, max_size=6))),
        seed=draw(st.none() | st.integers(0, 1000)),
        choices=draw(st.integers(1, 2)),
        output=draw(
            st.none() | st.sampled_from([OutputFormat(kind="json"), OutputFormat(kind="schema", schema={"type": "object"})])
        ),
        reasoning=draw(st.none() | st.sampled_from(["none", "low", "high"]).map(lambda effort: Reasoning(effort=effort))),
        stream=draw(st.booleans()),
    )

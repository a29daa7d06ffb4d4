"""Forced: a JSON schema at a model without structured outputs (quirks.schema_tool) becomes a tool that it must call. The call's
arguments are the answer: the client sees text, and no tool.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from shared.domain.catalogue import Deployment
from shared.wire.canonical import Begin, Call, Choice, Delta, End, Event, Stop, Stopped, Text, Tool, ToolCall, ToolChoice

TOLD = "Give your whole answer as the input of this tool."
SCHEMA_FIELDS = ("response_format", "output_config", "output_format")


def needs_hub(fields: Mapping[str, msgspec.Raw], deployment: Deployment) -> bool:
    """Whether a call in its provider's own format cannot pass as it is: it asks for a schema. `fields`: the body's, as JSON."""
    return deployment.schema_by_tool and any(b"json_schema" in bytes(fields.get(name, b"")) for name in SCHEMA_FIELDS)


def answer_tool(call: Call, deployment: Deployment) -> str | None:
    """What the tool is called that the answer is asked by; None: the answer is asked for plainly."""
    output = call.output
    if output is None or output.kind != "schema" or not deployment.schema_by_tool:
        return None
    if (output.schema or {}).get("type", "object") != "object":
        return None  # a tool's input is an object
    if call.tools and call.tool_choice is not None and call.tool_choice.mode == "tool":
        return None  # the client wants that tool's call, not an answer
    name, taken = output.name or "answer", {tool.full_name for tool in call.tools}
    while name in taken:
        name += "_"
    return name


def forced(call: Call, name: str) -> Call:
    """The same call with that tool in the place of its output format. With tools of the client's own, any may be called."""
    output, choice = call.output, call.tool_choice
    assert output is not None
    tool = Tool(name=name, description=output.description or TOLD, schema=output.schema or {"type": "object"})
    made = ToolChoice(mode="any", allowed=(*choice.allowed, name) if choice is not None and choice.allowed else ())
    if not call.tools or (choice is not None and choice.mode == "none"):
        made = ToolChoice(mode="tool", name=name)
    names = call.names if call.tools else call.names | {"tool_choice": call.named("output")}
    return replace(call, output=None, tools=(*call.tools, tool), tool_choice=made, names=names)


def unforced(choice: Choice, name: str) -> Choice:
    """A whole answer as the client asked for it. What the model said beside the tool is no part of it."""
    answer = next((part for part in choice.parts if isinstance(part, ToolCall) and part.name == name), None)
    if answer is None:
        return choice
    parts = tuple(
        Text(answer.arguments) if part is answer else part
        for part in choice.parts
        if part is answer or not (isinstance(part, Text) or (isinstance(part, ToolCall) and part.name == name))
    )
    called = any(isinstance(part, ToolCall) for part in parts)
    return replace(choice, parts=parts, stop=Stop.END if choice.stop is Stop.TOOL and not called else choice.stop)


class Unforcing:
    """The same of a stream. Text is held back until it is known whether the tool is called after it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._held: list[Event] = []
        self._holding: set[tuple[int, int]] = set()
        """Choice and index of parts that are text, or the tool called once too often."""
        self._spare: set[tuple[int, int]] = set()
        self._answers: set[tuple[int, int]] = set()
        self._answered: set[int] = set()
        self._called: set[int] = set()

    def feed(self, event: Event) -> list[Event]:
        match event:
            case Begin(part=ToolCall() as part) if part.name == self._name:
                return self._begin(event)
            case Begin(part=Text() as text) if not text.refusal:
                self._holding.add((event.choice, event.index))
                self._held.append(event)
                return []
            case Begin(part=ToolCall()):
                self._called.add(event.choice)
                return [*self._let_go(event.choice), event]
            case Delta() | End():
                return self._more(event)
            case Stopped():
                alone = event.stop is Stop.TOOL and event.choice in self._answered and event.choice not in self._called
                return [*self._let_go(event.choice), replace(event, stop=Stop.END) if alone else event]
        return [event]

    def _begin(self, event: Begin) -> list[Event]:
        place = (event.choice, event.index)
        if event.choice in self._answered:
            self._spare.add(place)
            return []
        self._answered.add(event.choice)
        self._answers.add(place)
        return [Begin(event.index, Text(""), event.choice)]

    def _more(self, event: Delta | End) -> list[Event]:
        place = (event.choice, event.index)
        if place in self._spare:
            return []
        if place in self._holding:
            self._held.append(event)
            return []
        if isinstance(event, End) and place in self._answers and isinstance(event.part, ToolCall):
            return [End(event.index, Text(event.part.arguments), event.choice)]
        return [event]

    def _let_go(self, choice: int) -> list[Event]:
        """The text is the answer after all, unless the tool's was."""
        mine = [event for event in self._held if getattr(event, "choice", 0) == choice]
        self._held = [event for event in self._held if getattr(event, "choice", 0) != choice]
        return [] if choice in self._answered else mine

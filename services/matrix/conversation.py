"""What a client asks and what it hears, free of any wire format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="  # one transparent pixel
)
PNG_BYTES = 70


class Wrong(Exception):
    """An answer that its own format does not allow, or that says the wrong thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One call. With `before` it goes on from what was heard: `results` answer its tool calls, else `text` does."""

    model: str
    text: str
    system: str | None = None
    stream: bool = False
    tools: tuple[Tool, ...] = ()
    image: str | None = None
    """A PNG in base64."""
    schema: Mapping[str, Any] | None = None
    """What the answer has to meet; strictly where it is closed, as OpenAI calls it."""
    think: bool = False
    before: tuple[Ask, Heard] | None = None
    results: tuple[str, ...] = ()

    def turns(self) -> list[tuple[Ask, Heard | None]]:
        """All turns so far, this one last; each as it was asked and what was heard."""
        earlier = [] if self.before is None else [*self.before[0].turns()[:-1], self.before]
        return [*earlier, (self, None)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    call_id: str
    name: str
    arguments: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """`turn`: the assistant's turn as the format's clients send it back."""

    text: str = ""
    thoughts: str = ""
    calls: tuple[Called, ...] = ()
    finish: str = ""
    """`end`, `tools`, `length` or the format's own word."""
    input_tokens: int = 0
    output_tokens: int = 0
    deltas: int = 0
    turn: Any = None
    error: str | None = None
    """What an error in mid-stream said."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A sent event: its name, if it has one, and its data."""

    name: str | None
    data: str


class Client(Protocol):
    """A client of one format."""

    name: str

    def request(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        """Path and body."""
        ...

    def headers(self, key: str) -> dict[str, str]: ...

    def read(self, body: Any) -> Heard:
        """Raises Wrong."""
        ...

    def listen(self, events: list[Sent]) -> Heard:
        """A whole stream. Raises Wrong when it is not in order or has no end."""
        ...

    def error(self, status: int, body: Any) -> str:
        """An error's message. Raises Wrong when it is not in this format."""
        ...


def events_of(raw: bytes) -> list[Sent]:
    """The events of a stream, comments left out. Raises Wrong."""
    made: list[Sent] = []
    for block in raw.decode().replace("\r\n", "\n").split("\n\n"):
        name, data = None, []
        for line in block.split("\n"):
            kind, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if kind == "event":
                name = value
            elif kind == "data":
                data.append(value)
            elif kind and not line.startswith(":"):
                raise Wrong(f"a stream has the line {line[:80]!r}")
        if data:
            made.append(Sent(name, "\n".join(data)))
    return made


def need(value: Any, *path: str | int) -> Any:
    """`value[path…]`. Raises Wrong when it is not there."""
    for at, step in enumerate(path):
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            raise Wrong(f"no {'.'.join(map(str, path[: at + 1]))}") from None
    return value


def openai_error(body: Any) -> str:
    """The message of an error of OpenAI's, which has all of four fields. Raises Wrong."""
    error = need(body, "error")
    for name in ("message", "type", "param", "code"):
        if name not in error:
            raise Wrong(f"an error without {name}")
    return str(error["message"])


@dataclass(slots=True)
class Building:
    """An answer as its deltas come in."""

    text: str = ""
    thoughts: str = ""
    finish: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    deltas: int = 0
    error: str | None = None
    calls: list[Called] = field(default_factory=list)

    def heard(self, turn: Any) -> Heard:
        return Heard(
            text=self.text, thoughts=self.thoughts, calls=tuple(self.calls), finish=self.finish, deltas=self.deltas,
            input_tokens=self.input_tokens, output_tokens=self.output_tokens, turn=turn, error=self.error,
        )  # fmt: skip

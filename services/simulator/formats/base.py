"""What a wire format is to the simulator. Each is written from its vendor's documents alone, and shares no line with
`shared/wire`: a mistake in one cannot hide behind the same mistake in the other.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import orjson

from services.simulator.answer import Reply
from services.simulator.behaviour import Behaviour
from services.simulator.call import BadCall, Call

SIMULATED = b"simulator"


class Step(Enum):
    """What an event of a stream is, as far as pace and faults care."""

    OPENING = auto()
    TOKEN = auto()
    CLOSING = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the URL and the headers say of a call. Header names in lower case."""

    model: str | None = None
    stream: bool | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error to answer with, in OpenAI's words; each format has its own for the same."""

    status: int
    message: str
    kind: str = "server_error"
    code: str | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    read: Callable[[bytes, Asked], tuple[dict[str, Any], Call]]
    """The parsed body, and the call in the chat format's terms. Raises BadCall."""
    encode_reply: Callable[[Reply, Behaviour], bytes]
    encode_events: Callable[[Reply, Behaviour, Call], Iterator[tuple[Step, bytes]]]
    encode_error: Callable[[Failure], tuple[bytes, dict[str, str]]]
    """Body and headers."""
    error_event: Callable[[str], bytes]
    malformed: bytes
    """What stands in a stream for an event that is broken."""
    key: Callable[[Mapping[str, str]], str]
    """The credential in the headers."""
    stream_type: str = "text/event-stream; charset=utf-8"
    lines: bool = True
    """Whether a stream is lines, so that comments and CRLF mean something."""


def bearer(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" else ""


def parsed(raw: bytes) -> dict[str, Any]:
    """Raises BadCall."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadCall(400, f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadCall(400, "The body must be a JSON object.")
    return body


def bad(where: str, problem: str, *, code: str | None = None) -> BadCall:
    return BadCall(400, f"{where}: {problem}", param=where, code=code)


def only(value: Mapping[str, Any], allowed: Collection[str], where: str) -> None:
    """Refuse what the vendor does not know."""
    for name in value:
        if name not in allowed:
            place = f"{where}.{name}" if where else name
            raise bad(place, "Extra inputs are not permitted", code="unknown_parameter")


def an_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad(where, "must be an object")
    return value


def a_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise bad(where, "must be an array")
    return value


def objects(value: Any, where: str) -> list[tuple[str, dict[str, Any]]]:
    """(place, object) of each entry."""
    return [(f"{where}[{at}]", an_object(entry, f"{where}[{at}]")) for at, entry in enumerate(a_list(value, where))]


def a_string(value: Any, where: str, *, pattern: str | None = None) -> str:
    if not isinstance(value, str):
        raise bad(where, "must be a string")
    if pattern is not None and re.fullmatch(pattern, value) is None:
        raise bad(where, f"must match {pattern}")
    return value


def a_number(value: Any, where: str, least: float, most: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise bad(where, f"must be a number between {least} and {most}")


def whole(value: Any, where: str, least: int, most: int = 10**9) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise bad(where, f"must be a whole number of at least {least}" + (f" and at most {most}" if most < 10**9 else ""))
    return value


def strings(value: Any, where: str, *, most: int = 1000) -> tuple[str, ...]:
    entries = a_list(value, where)
    if len(entries) > most:
        raise bad(where, f"must have at most {most} entries")
    return tuple(a_string(entry, f"{where}[{at}]") for at, entry in enumerate(entries))


def data_uri(media_type: str, data: Any, where: str) -> str:
    """Media as a chat call carries them. Raises BadCall when the base64 is none."""
    try:
        b64decode(a_string(data, where), validate=True)
    except ValueError:
        raise bad(where, "is not valid base64") from None
    return f"data:{media_type};base64,{data}"


def media_part(media_type: str, data: Any, where: str) -> dict[str, Any]:
    """A part of a chat message."""
    uri = data_uri(media_type, data, where)
    if media_type.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": uri}}
    return {"type": "file", "file": {"file_data": uri}}


def sign(text: str) -> str:
    """What vouches for a thought; `check_signature` knows it again."""
    return b64encode(hashlib.sha256(SIMULATED + text.encode()).digest()).decode()


def check_signature(text: str, signature: Any, where: str) -> None:
    if signature != sign(text):
        raise bad(where, "Invalid signature")


def event(name: str, data: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data))


def strict_schema(schema: Any, where: str) -> None:
    """OpenAI's strict mode and Anthropic's structured outputs: every object closed, and (OpenAI) every property required."""
    if isinstance(schema, list):
        for at, entry in enumerate(schema):
            strict_schema(entry, f"{where}[{at}]")
    if not isinstance(schema, dict):
        return
    if (schema.get("type") == "object" or "properties" in schema) and schema.get("additionalProperties") is not False:
        raise bad(where, "'additionalProperties' is required to be supplied and to be false")
    for name, value in schema.items():
        if isinstance(value, dict | list) and name not in ("enum", "const", "default", "examples", "required"):
            strict_schema(value, f"{where}.{name}")

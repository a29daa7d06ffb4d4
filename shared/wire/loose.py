"""Loose reading of what a provider sent: a value of the wrong type counts as absent. (fields.py reads clients' bodies.)"""

from __future__ import annotations

from typing import Any

import orjson

from shared.domain.usage import MAX_TOKENS
from shared.wire.reply import MalformedReply

Values = dict[str, Any]


def table(value: Any) -> Values:
    return value if type(value) is dict else {}


def array(value: Any) -> list[Any]:
    return value if type(value) is list else []


def tables(value: Any) -> list[Values]:
    """The objects of an array."""
    return [item for item in value if type(item) is dict] if type(value) is list else []


def text(value: Any) -> str:
    return value if type(value) is str else ""


def count(value: Any) -> int:
    """A number of tokens, within what a call can have."""
    return min(value, MAX_TOKENS) if type(value) is int and value > 0 else 0


def parsed(data: bytes) -> Any:
    """What the JSON is; None when it is none."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def event(data: bytes) -> Values:
    """An event's object. Raises MalformedReply."""
    value = parsed(data)
    if type(value) is not dict:
        raise MalformedReply("sent an event that is not a JSON object")
    return value

"""Tidy: messages without what a provider refuses in them (domain/catalogue.py Quirks.tidied). They are opened no further than
their top level, and what needs no change keeps its bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from shared.domain.catalogue import Quirks
from shared.wire.envelope import invalid_field
from shared.wire.reply import UNREADABLE

_Message = dict[str, msgspec.Raw]
_slices = msgspec.json.Decoder(list[_Message]).decode
_encode = msgspec.json.Encoder().encode

ALTERNATING = (b'"user"', b'"assistant"')
PLAIN = {"role", "content"}


def tidied(messages: bytes, quirks: Quirks) -> tuple[bytes, list[str]]:
    """A body's messages, and what was dropped of them. What is no array of objects is the provider's to refuse."""
    try:
        held = _slices(messages)
    except UNREADABLE:
        return messages, []
    dropped, changed = [], False
    for name in quirks.message_drop:
        given = [message.pop(name) for message in held if name in message]
        if any(bytes(value) != b"null" for value in given):
            dropped.append(f"messages[].{name}")
        changed = changed or bool(given)
    if quirks.no_nulls:
        changed = without_nulls(held) or changed
    if quirks.alternating:
        merged = _merged(held)
        held, changed = merged, changed or len(merged) != len(held)
    return (_encode(held) if changed else messages), dropped


def without_nulls(held: list[_Message]) -> bool:
    """Take out what is null; whether something was."""
    found = False
    for message in held:
        for name in [name for name, value in message.items() if bytes(value) == b"null"]:
            del message[name]
            found = True
    return found


def _merged(held: list[_Message]) -> list[_Message]:
    """Users' or assistant's messages that follow one another become one."""
    made: list[_Message] = []
    for message in held:
        last = made[-1] if made else None
        if last is not None and _joins(last, message):
            made[-1] = last | {"content": msgspec.Raw(_both(bytes(last["content"]), bytes(message["content"])))}
        else:
            made.append(message)
    return made


def _joins(last: _Message, message: _Message) -> bool:
    role = message.get("role")
    return (
        role is not None
        and bytes(role) in ALTERNATING
        and last.keys() == message.keys() == PLAIN
        and bytes(last["role"]) == bytes(role)
        and {bytes(each["content"])[:1] for each in (last, message)} <= {b'"', b"["}
    )


def _both(first: bytes, second: bytes) -> bytes:
    """Two contents as one: two strings are a string, else their parts follow one another."""
    contents = [orjson.loads(first), orjson.loads(second)]
    if all(type(content) is str for content in contents):
        return orjson.dumps("\n\n".join(contents))
    parts: list[Any] = []
    for content in contents:
        parts += [{"type": "text", "text": content}] if type(content) is str else content
    return orjson.dumps(parts)


def refuse_more_than_one(choices: int) -> None:
    """For a provider that refuses `n`: 1 goes without saying, more would silently become one. Raises Refused."""
    if choices > 1:
        raise invalid_field("n", "This model gives one answer a call: 'n' must be 1.")

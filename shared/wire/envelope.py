"""Envelope: a JSON body opened no further than its top level, refused when two readers could read it differently.

The values stay slices of the body, so what nobody edits goes on byte for byte. A key that occurs twice, at any depth,
is refused: parsers disagree about which one counts, and budgets must not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import orjson

from shared.domain.refusal import Reason, Refused, refuse

GUARDED_FIELDS = frozenset(
    {"model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "max_output_tokens"}
)
"""Fields that decide about routing and money. `Model` beside `model` would be read by case-blind parsers (Go's)."""

MAX_FIELDS = 1000
MAX_SHOWN = 64

_slices = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Envelope:
    """The top level of a body: `fields` in their order, each value the bytes that were sent."""

    __slots__ = ("_values", "body", "fields", "routing")

    def __init__(self, body: bytes, fields: dict[str, msgspec.Raw], values: dict[str, Any]) -> None:
        self.body = body
        self.fields = fields
        self.routing: bytes | None = None
        """OpenRouter's `provider`, once it was taken out of the body (preferences.py)."""
        self._values = values

    def value(self, name: str) -> Any:
        """The parsed value; None when absent or null. Only until `release`."""
        return self._values.get(name)

    def text(self, name: str) -> str:
        """A string that must be there. Raises Refused."""
        value = self._values.get(name)
        if type(value) is str:
            return value
        if value is None:
            raise invalid_field(name, f"Missing required field {name!r}: it must be a string.")
        raise wrong_type(name, "a string", value)

    def flag(self, name: str) -> bool:
        """A boolean; False when absent or null. Raises Refused."""
        value = self._values.get(name)
        if value is None:
            return False
        if type(value) is not bool:
            raise wrong_type(name, "a boolean", value)
        return value

    def integer(self, name: str, least: int, most: int) -> int | None:
        """A whole number within bounds; None when absent or null. Raises Refused."""
        value = self._values.get(name)
        if value is None:
            return None
        if type(value) is not int:
            raise wrong_type(name, "an integer", value)
        if not least <= value <= most:
            raise invalid_field(name, f"Invalid value for {name!r}: expected an integer from {least} to {most}.")
        return value

    def release(self) -> None:
        """Drop the parsed values (several times the body's size) for the rest of the call; the slices stay."""
        self._values = {}

    def edited(
        self,
        replace: Mapping[str, bytes] | None = None,
        drop: Iterable[str] = (),
        rename: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body with top-level fields dropped, then renamed, then set to JSON; all else as it was sent.

        A field gives way to one that has its new name already.
        """
        fields = dict(self.fields)
        for name in drop:
            fields.pop(name, None)
        for name, target in (rename or {}).items():
            if name in fields:
                fields.setdefault(target, fields.pop(name))
        for name, raw in (replace or {}).items():
            fields[name] = msgspec.Raw(raw)
        return _encode(fields)


def open_envelope(body: bytes) -> Envelope:
    """Raises Refused: not JSON (with the byte), no object, too deep, a duplicate key, a guarded field in odd case."""
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _not_json(body, error) from None
    if type(values) is not dict:
        raise refuse(Reason.INVALID_BODY, 400, "The body must be a JSON object.", retry=False)
    refuse_duplicate_keys(body, values)
    if len(values) > MAX_FIELDS:
        raise refuse(Reason.INVALID_BODY, 400, f"The body has more than {MAX_FIELDS} top-level fields.", retry=False)
    for name in values:
        if name not in GUARDED_FIELDS and name.casefold() in GUARDED_FIELDS:
            raise invalid_field(_shown(name), f"Unknown field {_shown(name)!r}: did you mean {name.casefold()!r}?")
    return Envelope(body, _slices(body), values)


def refuse_duplicate_keys(body: bytes, values: object) -> None:
    """Raises Refused when an object in `body`, already parsed to `values`, holds a key twice.

    At C speed: re-encode what was parsed, which has no duplicates. The same bytes: none were there. Else count quotes.
    A string has as many of them in the body as re-encoded, unless it spells one `\\u0022`, and a key that was swallowed
    took two along. So equal counts prove that none was; anything else is settled by an exact parse in Python.
    """
    try:
        encoded = orjson.dumps(values)
    except orjson.JSONEncodeError:
        raise refuse(Reason.INVALID_BODY, 400, "The body is nested too deeply: 254 levels are the most.", retry=False) from None
    if encoded == body or (body.count(b'"') == encoded.count(b'"') and b"\\u0022" not in body):
        return
    json.loads(body, object_pairs_hook=_pairs_without_duplicates)


def _pairs_without_duplicates(pairs: list[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise refuse(
                Reason.INVALID_BODY, 400, f"The body has the key {_shown(key)!r} twice in one object.",
                field=_shown(key), retry=False,
            )  # fmt: skip
        seen.add(key)


def invalid_field(name: str, message: str) -> Refused:
    return refuse(Reason.INVALID_FIELD, 400, message, field=name, retry=False)


def wrong_type(name: str, expected: str, value: object) -> Refused:
    return invalid_field(name, f"Invalid type for {name!r}: expected {expected}, but got {_kind(value)} instead.")


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def _not_json(body: bytes, error: orjson.JSONDecodeError) -> Refused:
    if not body.strip():
        message = "The body is empty: send a JSON object."
    else:
        try:
            text = body.decode()
        except UnicodeDecodeError as broken:
            message = f"The body is not UTF-8: bad byte at offset {broken.start}."
        else:
            at = len(text[: error.pos].encode())
            message = f"The body is not valid JSON: {error.msg} at byte {at}."
    return refuse(Reason.INVALID_BODY, 400, message, retry=False)


def _shown(name: str) -> str:
    """A client's own name for something, short enough for a message."""
    return name if len(name) <= MAX_SHOWN else name[:MAX_SHOWN] + "…"

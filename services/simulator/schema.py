"""A plausible instance of a JSON schema: what a model with structured outputs would have written.

Knows what providers accept in strict schemas and the usual rest: types, enum, const, properties, items, bounds,
lengths, formats, anyOf/oneOf/allOf and `$ref` into `$defs`. A `pattern` is met when one of the sample strings meets it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_DEPTH = 12
"""Below this, optional properties and items are left out, so that a recursive schema ends."""

FORMATS = {
    "date": "2026-11-20",
    "date-time": "2026-11-20T09:30:00Z",
    "time": "09:30:00Z",
    "duration": "PT30M",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "018f4e6a-7b1c-7d2e-9f3a-4b5c6d7e8f90",
}
HINTS = (
    (re.compile(r"city|location|place|town", re.I), "Paris"),
    (re.compile(r"country", re.I), "France"),
    (re.compile(r"email", re.I), FORMATS["email"]),
    (re.compile(r"url|link|uri", re.I), FORMATS["uri"]),
    (re.compile(r"date|day", re.I), FORMATS["date"]),
    (re.compile(r"path|file", re.I), "README.md"),
    (re.compile(r"command|cmd", re.I), "echo pong"),
    (re.compile(r"unit", re.I), "celsius"),
    (re.compile(r"currency", re.I), "EUR"),
    (re.compile(r"language|lang", re.I), "en"),
    (re.compile(r"name|author|person", re.I), "Ada"),
)
SAMPLES = ("Paris", "paris", "PARIS", "A1", "a1", "1", "42", "123", "12345", "ABC", "abc", "EUR", *FORMATS.values())


def make_instance(schema: Any, text: str = "") -> Any:
    """An instance of `schema`; strings without a better idea become `text`, what the user said."""
    return _make(schema, schema, "", text, 0)


def _make(schema: Any, root: Any, name: str, text: str, depth: int) -> Any:
    if not isinstance(schema, Mapping):
        return text
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            rest = {key: value for key, value in schema.items() if key != choice}
            return _make({**rest, **_simplest(schema[choice], root, depth)}, root, name, text, depth + 1)
    match _kind(schema, depth):
        case "object":
            return _object(schema, root, text, depth)
        case "array":
            return _array(schema, root, name, text, depth)
        case "integer":
            return int(_number(schema, whole=True))
        case "number":
            return _number(schema, whole=False)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return _string(schema, name, text)


def _resolved(schema: Mapping[str, Any], root: Any) -> Mapping[str, Any]:
    """`schema` with its references followed and its allOf folded in."""
    for _ in range(MAX_DEPTH):
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            break
        found: Any = root
        for step in reference.lstrip("#").strip("/").split("/") if reference != "#" else ():
            found = found.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, Mapping) else {}
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**found, **rest} if isinstance(found, Mapping) else rest
    for part in schema.get("allOf", ()):
        merged = _resolved(part, root)
        properties = {**schema.get("properties", {}), **merged.get("properties", {})}
        required = [*schema.get("required", ()), *merged.get("required", ())]
        schema = {**schema, **merged, "properties": properties, "required": required}
    return schema


def _simplest(choices: Sequence[Any], root: Any, depth: int) -> Mapping[str, Any]:
    """The first choice; deep down, one that does not lead deeper."""
    resolved = [_resolved(choice, root) for choice in choices if isinstance(choice, Mapping)]
    if depth >= MAX_DEPTH:
        resolved.sort(key=lambda choice: choice.get("type") in ("object", "array") or "properties" in choice)
    return resolved[0] if resolved else {}


def _kind(schema: Mapping[str, Any], depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = "null" if depth >= MAX_DEPTH and "null" in kind else next(iter(kind), "string")
    if kind is None:
        if schema.get("properties"):
            return "object"
        if "items" in schema or "prefixItems" in schema:
            return "array"
        if "minimum" in schema or "maximum" in schema or "multipleOf" in schema:
            return "number"
        return "string"
    return str(kind)


def _object(schema: Mapping[str, Any], root: Any, text: str, depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    required = schema.get("required") or ()
    wanted = required if depth >= MAX_DEPTH else [*properties, *(name for name in required if name not in properties)]
    return {name: _make(properties.get(name, {}), root, name, text, depth + 1) for name in wanted}


def _array(schema: Mapping[str, Any], root: Any, name: str, text: str, depth: int) -> list[Any]:
    least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
    prefix = schema.get("prefixItems") or ()
    length = max(least, len(prefix), 0 if depth >= MAX_DEPTH else 1)
    if most is not None:
        length = min(length, int(most))
    items = schema.get("items")
    if not prefix and items is False:
        length = least
    made = [
        _make(prefix[index] if index < len(prefix) else items or {}, root, name, text, depth + 1) for index in range(length)
    ]
    return _distinct(made, items, root) if schema.get("uniqueItems") else made


def _distinct(made: list[Any], items: Any, root: Any) -> list[Any]:
    """The same length with no two alike, as far as the items' schema allows it."""
    options = list(_resolved(items, root).get("enum", ())) if isinstance(items, Mapping) else []
    distinct: list[Any] = []
    for index, entry in enumerate(made):
        if options:
            entry = options[index % len(options)]
        elif entry in distinct and isinstance(entry, str):
            entry = f"{entry} {index + 1}"
        elif entry in distinct and isinstance(entry, int | float):
            entry = entry + index
        distinct.append(entry)
    return distinct


def _number(schema: Mapping[str, Any], *, whole: bool) -> float:
    step = schema.get("multipleOf") or (1 if whole else 0.5)
    low, high = _edge(schema, "minimum", "exclusiveMinimum"), _edge(schema, "maximum", "exclusiveMaximum")
    value: float = step * math.ceil((low[0] if low else min(42, high[0] if high else 42)) / step)
    if low and low[1] and value <= low[0]:
        value += step
    if high and (value > high[0] or (high[1] and value >= high[0])):
        value = step * math.floor(high[0] / step)
        if high[1] and value >= high[0]:
            value -= step
    if low and not whole and (value < low[0] or (low[1] and value <= low[0])) and high:
        value = (low[0] + high[0]) / 2
    return value


def _edge(schema: Mapping[str, Any], closed: str, opened: str) -> tuple[float, bool] | None:
    """A bound and whether it is exclusive; draft 4 says the latter with a boolean."""
    bound, exclusive = schema.get(closed), schema.get(opened)
    if exclusive is True and bound is not None:
        return bound, True
    if isinstance(exclusive, int | float) and not isinstance(exclusive, bool):
        return exclusive, True
    return None if bound is None else (bound, False)


def _string(schema: Mapping[str, Any], name: str, text: str) -> str:
    if schema.get("format") in FORMATS:
        return FORMATS[schema["format"]]
    hinted = next((value for pattern, value in HINTS if pattern.search(name)), None)
    made = hinted or text[:200] or "example"
    if (pattern := schema.get("pattern")) is not None:
        made = next((sample for sample in (made, *SAMPLES) if _meets(pattern, sample)), made)
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
    if len(made) < least:
        made = (made + " " + "x" * least)[:least] if pattern is None else made.ljust(least, made[-1:] or "x")
    return made if most is None else made[: int(most)]


def _meets(pattern: str, sample: str) -> bool:
    try:
        return re.search(pattern, sample) is not None
    except re.error:
        return False

"""Params: the operator's last word on a body, per provider, connection and model. Names are the provider's own; a dot leads
into an object (`generationConfig.topK`). What decides about routing or money cannot be touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import orjson

from shared.domain.catalogue import Params

GUARDED = frozenset(
    {
        "model", "messages", "input", "contents", "texts", "requests", "prompt", "documents", "query", "stream",
        "stream_options", "n", "candidateCount", "max_tokens", "max_completion_tokens", "max_output_tokens",
        "maxOutputTokens", "maxTokens",
    }
)  # fmt: skip

_slices = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def guarded(params: Params) -> str | None:
    """The first name that nobody may drop or set; None when all is well."""
    return next((name for name in (*params.drop, *_paths(params.set)) if GUARDED & set(name.split("."))), None)


def _paths(values: Mapping[str, Any], before: str = "") -> Iterable[str]:
    for name, value in values.items():
        yield before + name
        if type(value) is dict:
            yield from _paths(value, f"{before}{name}.")


def applied(body: bytes, params: Params) -> tuple[bytes, list[str]]:
    """The body with fields dropped, then set (objects are merged); and the names that were in it and are not any more."""
    fields = _slices(body)
    dropped = [name for name in params.drop if _drop(fields, name)]
    for path, value in params.set.items():
        name, *rest = path.split(".")
        for step in reversed(rest):
            value = {step: value}
        if type(value) is dict and name in fields:
            value = _merged(orjson.loads(bytes(fields[name])), value)
        fields[name] = msgspec.Raw(orjson.dumps(value))
    return _encode(fields), dropped


def _drop(fields: dict[str, msgspec.Raw], path: str) -> bool:
    name, *rest = path.split(".")
    if name not in fields:
        return False
    if not rest:
        del fields[name]
        return True
    whole = inner = orjson.loads(bytes(fields[name]))
    for step in rest[:-1]:
        inner = inner.get(step) if type(inner) is dict else None
    if type(inner) is not dict or rest[-1] not in inner:
        return False
    del inner[rest[-1]]
    fields[name] = msgspec.Raw(orjson.dumps(whole))
    return True


def _merged(held: Any, new: dict[str, Any]) -> dict[str, Any]:
    if type(held) is not dict:
        return new
    made = dict(held)
    for name, value in new.items():
        made[name] = _merged(made.get(name), value) if type(value) is dict else value
    return made

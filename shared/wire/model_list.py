"""The ids in a provider's list of models: OpenAI's and Anthropic's `data[].id`, Google's and Cohere's `models[].name`."""

from __future__ import annotations

import orjson

from shared.wire.reply import MalformedReply

MOST_MODELS = 10_000
MOST_CHARACTERS = 200


def read_model_ids(body: bytes) -> list[str]:
    """Distinct, in their order. Raises MalformedReply."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = None
    entries = told if type(told) is list else told.get("data", told.get("models")) if type(told) is dict else None
    if type(entries) is not list:
        raise MalformedReply("answered with no list of models")
    found: dict[str, None] = {}
    for entry in entries[:MOST_MODELS]:
        name = (entry.get("id") or entry.get("name")) if type(entry) is dict else None
        if type(name) is str and 0 < len(name) <= MOST_CHARACTERS and name.isprintable():
            found[name.removeprefix("models/")] = None
    return list(found)

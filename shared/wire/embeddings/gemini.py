"""Gemini's embedContent and batchEmbedContents (https://ai.google.dev/api/embeddings)."""

from __future__ import annotations

from typing import Any

import orjson

from shared.domain.catalogue import Model
from shared.domain.usage import MAX_TOKENS, Usage
from shared.wire import fields
from shared.wire.canonical import Encoded, Stamp
from shared.wire.embeddings.canonical import EmbedCall, EmbedReply
from shared.wire.envelope import invalid_field, wrong_type
from shared.wire.fields import Values, camel
from shared.wire.reply import MalformedReply

KNOWN = frozenset({"model", "content", "taskType", "title", "outputDimensionality", "embedContentConfig"})


def decode_call(values: Values, *, model: str) -> EmbedCall:
    """A batch must ask the same of all its texts: elsewhere one call has one task. Raises Refused, naming the field."""
    values = camel(values)
    if "requests" not in values:
        return _call(values, model, ((_text(values, ""), values),), single=True)
    requests = [(path, camel(each)) for path, each in fields.tables(values, "requests")]
    if not requests:
        raise invalid_field("requests", "Missing required field 'requests'.")
    first = _asked(requests[0][1])
    for path, each in requests:
        if _asked(each) != first:
            raise invalid_field(path.rstrip("."), "All requests of one batch must have the same taskType and dimensions here.")
    return _call(requests[0][1], model, tuple((_text(each, path), each) for path, each in requests), single=False)


def _asked(values: Values) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("content", "model", "title")}


def _call(values: Values, model: str, texts: tuple[tuple[str, Values], ...], *, single: bool) -> EmbedCall:
    configured = camel(fields.table(values, "embedContentConfig") or {}) | values
    return EmbedCall(
        model=model,
        inputs=tuple(text for text, _ in texts),
        dimensions=fields.integer(configured, "outputDimensionality", least=1),
        task=fields.text(configured, "taskType"),
        title=fields.text(configured, "title"),
        single=single,
        extra={name: value for name, value in values.items() if name not in KNOWN},
        names={"inputs": "content", "dimensions": "outputDimensionality", "task": "taskType"},
    )


def _text(values: Values, path: str) -> str:
    content = fields.table(values, "content", path)
    if content is None:
        raise invalid_field(f"{path}content", "Missing required field 'content'.")
    parts = fields.tables(content, "parts", f"{path}content.")
    texts = [fields.text(part, "text", at) for at, part in parts]
    if not texts or None in texts:
        raise wrong_type(f"{path}content.parts", "parts of text", content.get("parts"))
    return "\n".join(text for text in texts if text is not None)


def encode_call(call: EmbedCall, model: Model) -> Encoded:
    """Always a batch: one answer for one text and for many."""
    asked: dict[str, Any] = {"model": f"models/{model.sent_id}"}
    plain = {"taskType": call.task, "title": call.title, "outputDimensionality": call.dimensions}
    asked |= {name: value for name, value in plain.items() if value is not None}
    requests = [asked | {"content": {"parts": [{"text": text}]}} | call.extra for text in call.inputs]
    return Encoded(body=orjson.dumps({"requests": requests}), dropped=("user",) if call.user is not None else ())


def decode_reply(body: bytes) -> EmbedReply:
    """Raises MalformedReply. Usage is told by the newer models only."""
    try:
        reply = orjson.loads(body)
        entries = reply["embeddings"] if "embeddings" in reply else [reply["embedding"]]
        vectors = [[float(value) for value in entry["values"]] for entry in entries]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise MalformedReply("answered without embeddings") from None
    told = reply.get("usageMetadata")
    count = told.get("promptTokenCount") if type(told) is dict else None
    usage = Usage(input_tokens=min(count, MAX_TOKENS), output_tokens=0) if type(count) is int and count >= 0 else None
    return EmbedReply(vectors=vectors, usage=usage)


def encode_reply(reply: EmbedReply, call: EmbedCall, stamp: Stamp) -> bytes:
    entries = [{"values": vector} for vector in reply.vectors]
    made: dict[str, Any] = {"embedding": entries[0]} if call.single and entries else {"embeddings": entries}
    if reply.usage is not None:
        made["usageMetadata"] = {"promptTokenCount": reply.usage.input_tokens}
    return orjson.dumps(made)

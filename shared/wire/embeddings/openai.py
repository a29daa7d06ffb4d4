"""OpenAI's embeddings (https://platform.openai.com/docs/api-reference/embeddings), as clients ask and providers answer."""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from typing import Any

import msgspec
import orjson

from shared.domain.catalogue import Model
from shared.domain.usage import Usage
from shared.wire import fields, openai_chat
from shared.wire.canonical import Encoded, Stamp
from shared.wire.embeddings.canonical import EmbedCall, EmbedReply
from shared.wire.envelope import invalid_field, wrong_type
from shared.wire.fields import Values
from shared.wire.reply import MalformedReply

KNOWN = frozenset({"model", "input", "dimensions", "encoding_format", "user", "input_type", "task_type"})
TASKS = {
    "search_query": "RETRIEVAL_QUERY", "query": "RETRIEVAL_QUERY", "search_document": "RETRIEVAL_DOCUMENT",
    "passage": "RETRIEVAL_DOCUMENT", "document": "RETRIEVAL_DOCUMENT", "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}  # fmt: skip
"""`input_type` as Cohere, NVIDIA and Voyage have it, through OpenAI's format."""


def decode_call(values: Values, *, model: str) -> EmbedCall:
    """Raises Refused, naming the field."""
    given = values.get("input")
    inputs = [given] if type(given) is str else given
    if type(inputs) is not list or not inputs:
        raise wrong_type("input", "a string or an array of strings", given)
    if any(type(each) is not str for each in inputs):
        raise invalid_field("input", "This model takes text: 'input' must be a string or strings, not token ids.")
    kind = fields.text(values, "input_type") or fields.text(values, "task_type")
    return EmbedCall(
        model=model,
        inputs=tuple(inputs),
        dimensions=fields.integer(values, "dimensions", least=1),
        task=TASKS.get(kind.lower(), kind) if kind else None,
        user=fields.text(values, "user"),
        base64=fields.one_of(values, "encoding_format", ("float", "base64")) == "base64",
        extra={name: value for name, value in values.items() if name not in KNOWN},
        names={"inputs": "input", "task": "input_type"},
    )


def encode_call(call: EmbedCall, model: Model) -> Encoded:
    body: dict[str, Any] = {"model": model.sent_id, "input": list(call.inputs), "encoding_format": "float"}
    if call.dimensions is not None:
        body["dimensions"] = call.dimensions
    if call.user is not None:
        body["user"] = call.user
    dropped = [call.named(name) for name in ("task", "title") if getattr(call, name) is not None]
    return Encoded(body=orjson.dumps(body | call.extra), dropped=tuple(dropped))


def decode_reply(body: bytes) -> EmbedReply:
    """Raises MalformedReply."""
    try:
        reply = orjson.loads(body)
        entries = sorted(reply["data"], key=lambda entry: entry.get("index", 0))
        vectors = [_vector(entry["embedding"]) for entry in entries]
        usage = openai_chat.read_usage(msgspec.Raw(orjson.dumps(reply.get("usage"))))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError):
        raise MalformedReply("answered without embeddings") from None
    return EmbedReply(vectors=vectors, usage=usage)


def _vector(raw: Any) -> list[float]:
    if type(raw) is str:
        packed = b64decode(raw)
        return list(struct.unpack(f"<{len(packed) // 4}f", packed))
    return [float(value) for value in raw]


def encode_reply(reply: EmbedReply, call: EmbedCall, stamp: Stamp) -> bytes:
    usage = reply.usage or Usage()
    data = [
        {"object": "embedding", "index": at, "embedding": _packed(vector) if call.base64 else vector}
        for at, vector in enumerate(reply.vectors)
    ]
    told = {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens}
    return orjson.dumps({"object": "list", "data": data, "model": stamp.model, "usage": told})


def _packed(vector: list[float]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

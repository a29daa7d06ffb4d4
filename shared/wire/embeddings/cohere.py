"""Cohere's v2 embed (https://docs.cohere.com/v2/reference/embed), as clients ask and providers answer. Its input_type is not
optional."""

from __future__ import annotations

from typing import Any

import orjson

from shared.domain.catalogue import Model
from shared.wire import fields
from shared.wire.canonical import Encoded, Stamp
from shared.wire.cohere import read_usage
from shared.wire.embeddings.canonical import EmbedCall, EmbedReply
from shared.wire.envelope import invalid_field
from shared.wire.fields import Values
from shared.wire.reply import MalformedReply

TYPES = {
    "RETRIEVAL_QUERY": "search_query", "RETRIEVAL_DOCUMENT": "search_document", "CLASSIFICATION": "classification",
    "CLUSTERING": "clustering", "QUESTION_ANSWERING": "search_query", "FACT_VERIFICATION": "search_query",
    "CODE_RETRIEVAL_QUERY": "search_query", "SEMANTIC_SIMILARITY": "clustering",
}  # fmt: skip
DEFAULT_TYPE = "search_document"
"""What an OpenAI client means that does not say: it fills an index far more often than it asks one question."""


KNOWN = frozenset({"model", "texts", "input_type", "embedding_types", "output_dimension", "truncate", "max_tokens"})
TASKS = {
    "search_query": "RETRIEVAL_QUERY", "search_document": "RETRIEVAL_DOCUMENT", "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}  # fmt: skip


def decode_call(values: Values, *, model: str) -> EmbedCall:
    """Raises Refused, naming the field."""
    texts = fields.texts(values, "texts")
    if not texts:
        raise invalid_field("texts", "Missing required field 'texts': strings to embed.")
    kinds = fields.texts(values, "embedding_types") or ["float"]
    if kinds != ["float"]:
        raise invalid_field("embedding_types", "Embeddings are 'float' here, and nothing else.")
    kind = fields.text(values, "input_type")
    return EmbedCall(
        model=model,
        inputs=tuple(texts),
        dimensions=fields.integer(values, "output_dimension", least=1),
        task=TASKS.get(kind, kind) if kind else None,
        extra={name: value for name, value in values.items() if name not in KNOWN},
        names={"inputs": "texts", "task": "input_type", "dimensions": "output_dimension"},
    )


def encode_reply(reply: EmbedReply, call: EmbedCall, stamp: Stamp) -> bytes:
    tokens = reply.usage.input_tokens if reply.usage is not None else 0
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}}
    made = {"id": stamp.event_id, "embeddings": {"float": reply.vectors}, "texts": list(call.inputs), "meta": meta}
    return orjson.dumps(made | {"response_type": "embeddings_by_type"})


def encode_call(call: EmbedCall, model: Model) -> Encoded:
    body: dict[str, Any] = {"model": model.sent_id, "texts": list(call.inputs), "embedding_types": ["float"]}
    body["input_type"] = TYPES.get(call.task, call.task.lower()) if call.task else DEFAULT_TYPE
    if call.dimensions is not None:
        body["output_dimension"] = call.dimensions
    dropped = [call.named(name) for name in ("user", "title") if getattr(call, name) is not None]
    return Encoded(body=orjson.dumps(body | call.extra), dropped=tuple(dropped))


def decode_reply(body: bytes) -> EmbedReply:
    """Raises MalformedReply."""
    try:
        reply = orjson.loads(body)
        vectors = [[float(value) for value in vector] for vector in reply["embeddings"]["float"]]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise MalformedReply("answered without embeddings") from None
    return EmbedReply(vectors=vectors, usage=read_usage(reply.get("meta")))

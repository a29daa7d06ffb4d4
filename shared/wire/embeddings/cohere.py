"""Cohere's v2 embed as a provider answers it (https://docs.cohere.com/v2/reference/embed). Its input_type is not optional."""

from __future__ import annotations

from typing import Any

import orjson

from shared.domain.catalogue import Model
from shared.wire.canonical import Encoded
from shared.wire.cohere import read_usage
from shared.wire.embeddings.canonical import EmbedCall, EmbedReply
from shared.wire.reply import MalformedReply

TYPES = {
    "RETRIEVAL_QUERY": "search_query", "RETRIEVAL_DOCUMENT": "search_document", "CLASSIFICATION": "classification",
    "CLUSTERING": "clustering", "QUESTION_ANSWERING": "search_query", "FACT_VERIFICATION": "search_query",
    "CODE_RETRIEVAL_QUERY": "search_query", "SEMANTIC_SIMILARITY": "clustering",
}  # fmt: skip
DEFAULT_TYPE = "search_document"
"""What an OpenAI client means that does not say: it fills an index far more often than it asks one question."""


def encode_call(call: EmbedCall, model: Model) -> Encoded:
    body: dict[str, Any] = {"model": model.model_id, "texts": list(call.inputs), "embedding_types": ["float"]}
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

"""Embeddings and rerank in OpenAI's, Gemini's and Cohere's formats. A vector is made of its text's hash, a relevance of shared
words: the same at every endpoint, so that a test can say beforehand what comes.
"""

from __future__ import annotations

import hashlib
import math
import struct
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from services.simulator.call import BadCall
from services.simulator.formats.base import a_list, a_string, an_object, bad, objects, only, parsed, strings, whole
from services.simulator.formats.gemini import only as only_known
from services.simulator.tokens import count_tokens

MODEL = "embed"
DEFAULT_DIMENSIONS = 8
MOST_DIMENSIONS = 4096
TYPES = ("search_document", "search_query", "classification", "clustering", "image")
TASKS = (
    "RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT", "SEMANTIC_SIMILARITY", "CLASSIFICATION", "CLUSTERING", "QUESTION_ANSWERING",
    "FACT_VERIFICATION", "CODE_RETRIEVAL_QUERY",
)  # fmt: skip


def vector(text: str, dimensions: int = DEFAULT_DIMENSIONS) -> list[float]:
    """Of length 1, in numbers that are exact as float32."""
    raw = b"".join(hashlib.sha256(b"%d %b" % (at, text.encode())).digest() for at in range(-(-dimensions // 32)))
    values = [byte - 127.5 for byte in raw[:dimensions]]
    length = math.sqrt(sum(value * value for value in values))
    return [struct.unpack("<f", struct.pack("<f", value / length))[0] for value in values]


def openai(raw: bytes) -> dict[str, Any]:
    body = parsed(raw)
    only(body, ("model", "input", "dimensions", "encoding_format", "user"), "")
    model, given = _model(body), body.get("input")
    texts = [given] if isinstance(given, str) else list(strings(given, "input", most=2048))
    if not texts or not all(texts):
        raise bad("input", "must not be empty")
    dimensions = whole(body.get("dimensions", DEFAULT_DIMENSIONS), "dimensions", 1, MOST_DIMENSIONS)
    packed = body.get("encoding_format") == "base64"
    data = []
    for at, text in enumerate(texts):
        made: Any = vector(text, dimensions)
        if packed:
            made = b64encode(struct.pack(f"<{dimensions}f", *made)).decode()
        data.append({"object": "embedding", "index": at, "embedding": made})
    tokens = sum(map(count_tokens, texts))
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def gemini(raw: bytes, model: str) -> dict[str, Any]:
    """batchEmbedContents."""
    body = parsed(raw)
    only_known(body, ("requests",), "")
    requests = objects(body.get("requests"), "requests")
    return {"embeddings": [{"values": _embedded(each, model, where)} for where, each in requests]}


def _embedded(request: Mapping[str, Any], model: str, where: str) -> list[float]:
    only_known(request, ("model", "content", "taskType", "title", "outputDimensionality"), where)
    if request.get("model") != f"models/{model}":
        raise bad(f"{where}.model", f"must be models/{model}")
    if request.get("taskType") not in (None, *TASKS):
        raise bad(f"{where}.taskType", "is no task type")
    parts = objects(an_object(request.get("content"), f"{where}.content").get("parts"), f"{where}.content.parts")
    text = "\n".join(a_string(part.get("text"), f"{at}.text") for at, part in parts)
    dimensions = whole(request.get("outputDimensionality", DEFAULT_DIMENSIONS), f"{where}.outputDimensionality", 1)
    return vector(text, dimensions)


def cohere(raw: bytes) -> dict[str, Any]:
    body = parsed(raw)
    _model(body)
    if body.get("input_type") not in TYPES:
        raise bad("input_type", f"must be one of {', '.join(TYPES)}")
    texts = strings(body.get("texts"), "texts", most=96)
    kinds = a_list(body.get("embedding_types", ["float"]), "embedding_types")
    if kinds != ["float"]:
        raise bad("embedding_types", "only float is simulated")
    dimensions = whole(body.get("output_dimension", DEFAULT_DIMENSIONS), "output_dimension", 1, MOST_DIMENSIONS)
    billed = {"input_tokens": sum(map(count_tokens, texts))}
    vectors = [vector(text, dimensions) for text in texts]
    meta = {"api_version": {"version": "2"}, "billed_units": billed}
    return {"id": "simulated", "embeddings": {"float": vectors}, "texts": list(texts), "meta": meta}


def rerank(raw: bytes) -> dict[str, Any]:
    """Cohere's second version: documents are strings, and are not given back."""
    body = parsed(raw)
    _model(body)
    query = set(a_string(body.get("query"), "query").lower().split())
    documents = strings(body.get("documents"), "documents", most=1000)
    if "return_documents" in body:
        raise BadCall(400, "unknown field: return_documents", param="return_documents")
    scored = [(at, len(query & set(text.lower().split())) / len(query or "x")) for at, text in enumerate(documents)]
    scored.sort(key=lambda entry: -entry[1])
    best = scored[: whole(body.get("top_n", len(scored)), "top_n", 1)]
    results = [{"index": at, "relevance_score": score} for at, score in best]
    return {"id": "simulated", "results": results, "meta": {"billed_units": {"search_units": 1}}}


def _model(body: Mapping[str, Any]) -> str:
    return a_string(body.get("model"), "model")

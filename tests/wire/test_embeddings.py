"""Embeddings and rerank, each call written out: what a client sends, what the provider gets, and the way back."""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from typing import Any

import orjson
import pytest

from shared.domain.catalogue import Connection, Deployment, Model, Provider, WireFormat
from shared.domain.refusal import Refused
from shared.wire.canonical import Stamp
from shared.wire.codec import MalformedReply, bridge, read_facts
from shared.wire.envelope import open_envelope

STAMP = Stamp(event_id="018f4e6a7b1c7d2e9f3a4b5c6d7e8f90", created_s=1, model="lab/e")
OPENAI, GEMINI, COHERE = WireFormat.OPENAI_CHAT, WireFormat.GEMINI, WireFormat.COHERE


def deployment(wire_format: WireFormat, *endpoints: str) -> Deployment:
    provider = Provider(
        name="lab", title="Lab", prefix="lab", base_url=None, wire_format=wire_format,
        endpoints=dict.fromkeys(endpoints or ("embeddings", "rerank"), "/x"),
    )  # fmt: skip
    connection = Connection(connection_id="c", name="lab", provider="lab", prefix="lab", base_url="http://x")
    return Deployment(provider=provider, connection=connection, model=Model(model_id="e"))


class Call:
    def __init__(self, client: WireFormat, provider: WireFormat, body: Any, operation: str = "embeddings") -> None:
        envelope = open_envelope(orjson.dumps(body))
        facts = read_facts(client, operation, envelope, "lab/e", None)
        envelope = open_envelope(orjson.dumps(body))
        to = deployment(provider)
        self.bridge = bridge(client, to, STAMP, operation)
        raw, self.dropped = self.bridge.request_body(envelope, to, facts, None)
        self.sent = orjson.loads(raw)

    def answered(self, reply: Any) -> Any:
        self.facts = self.bridge.read_reply(orjson.dumps(reply))
        return orjson.loads(self.facts.body)


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "lab/e", **fields}


def test_openai_to_gemini() -> None:
    call = Call(OPENAI, GEMINI, body(input=["a", "b"], dimensions=2, user="me", input_type="query"))
    asked = {"model": "models/e", "taskType": "RETRIEVAL_QUERY", "outputDimensionality": 2}
    assert call.sent == {
        "requests": [asked | {"content": {"parts": [{"text": "a"}]}}, asked | {"content": {"parts": [{"text": "b"}]}}]
    }
    assert call.dropped == ["user"]
    told = {"embeddings": [{"values": [1, 0]}, {"values": [0, 0.5]}], "usageMetadata": {"promptTokenCount": 4}}
    assert call.answered(told) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [1.0, 0.0]},
            {"object": "embedding", "index": 1, "embedding": [0.0, 0.5]},
        ],
        "model": "lab/e",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    assert call.facts.usage is not None
    assert call.facts.usage.input_tokens == 4


def test_base64_is_packed_here_where_the_provider_gives_numbers() -> None:
    call = Call(OPENAI, COHERE, body(input="a", encoding_format="base64"))
    assert call.sent == {"model": "e", "texts": ["a"], "embedding_types": ["float"], "input_type": "search_document"}
    made = call.answered({"embeddings": {"float": [[0.5, -1]]}, "meta": {"billed_units": {"input_tokens": 3}}})
    assert struct.unpack("<2f", b64decode(made["data"][0]["embedding"])) == (0.5, -1.0)
    assert made["usage"]["prompt_tokens"] == 3


def test_openai_to_openai_passes_as_it_is() -> None:
    call = Call(OPENAI, OPENAI, body(input=[1, 2, 3], encoding_format="base64", odd=True))
    assert call.sent == {"model": "e", "input": [1, 2, 3], "encoding_format": "base64", "odd": True}


def test_gemini_to_openai() -> None:
    content = {"parts": [{"text": "a"}, {"text": "b"}]}
    call = Call(GEMINI, OPENAI, {"content": content, "task_type": "CLUSTERING", "output_dimensionality": 2})
    assert call.sent == {"model": "e", "input": ["a\nb"], "encoding_format": "float", "dimensions": 2}
    assert call.dropped == ["taskType"]
    packed = b64encode(struct.pack("<2f", 0.5, 1)).decode()
    told = {"data": [{"index": 0, "embedding": packed}], "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    assert call.answered(told) == {"embedding": {"values": [0.5, 1.0]}, "usageMetadata": {"promptTokenCount": 2}}


def test_a_batch_is_answered_as_a_batch() -> None:
    requests = [{"model": "models/lab/e", "content": {"parts": [{"text": text}]}} for text in ("a", "b")]
    call = Call(GEMINI, COHERE, {"requests": requests})
    assert call.sent["texts"] == ["a", "b"]
    made = call.answered({"embeddings": {"float": [[1], [2]]}})
    assert made == {"embeddings": [{"values": [1.0]}, {"values": [2.0]}]}


def test_vectors_come_in_the_order_of_their_texts() -> None:
    call = Call(GEMINI, OPENAI, {"requests": [{"content": {"parts": [{"text": text}]}} for text in "ab"]})
    told = {"data": [{"index": 1, "embedding": [2]}, {"index": 0, "embedding": [1]}]}
    assert call.answered(told)["embeddings"] == [{"values": [1.0]}, {"values": [2.0]}]


@pytest.mark.parametrize(
    ("client", "given", "field"),
    [
        (OPENAI, body(input=[1, 2]), "input"),
        (OPENAI, body(input=["a", 1]), "input"),
        (OPENAI, body(input="a", dimensions=0), "dimensions"),
        (OPENAI, body(input="a", encoding_format="int8"), "encoding_format"),
        (GEMINI, {"requests": []}, "requests"),
        (GEMINI, {"requests": [{"content": {"parts": [{"inlineData": {}}]}}]}, "requests[0].content.parts"),
        (GEMINI, {"content": {"parts": []}}, "content.parts"),
        (GEMINI, {}, "content"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(client: WireFormat, given: Any, field: str) -> None:
    with pytest.raises(Refused) as caught:
        Call(client, COHERE, given)
    assert caught.value.refusal.field == field


def test_a_batch_of_different_tasks_is_refused_by_name() -> None:
    content = {"parts": [{"text": "a"}]}
    requests = [{"content": content, "taskType": "CLUSTERING"}, {"content": content, "taskType": "CLASSIFICATION"}]
    with pytest.raises(Refused) as caught:
        Call(GEMINI, OPENAI, {"requests": requests})
    assert caught.value.refusal.field == "requests[1]"


@pytest.mark.parametrize(
    ("provider", "reply"),
    [
        (GEMINI, {"embeddings": []}),
        (GEMINI, {"embeddings": [{"values": ["x"]}]}),
        (GEMINI, {"embeddings": [{}]}),
        (GEMINI, []),
        (COHERE, {"embeddings": [[1]]}),
        (COHERE, {"embeddings": {"float": [[1], [2]]}}),
    ],
)
def test_an_answer_that_is_none_is_the_providers_fault(provider: WireFormat, reply: Any) -> None:
    with pytest.raises(MalformedReply):
        Call(OPENAI, provider, body(input="a")).answered(reply)


@pytest.mark.parametrize("wire_format", [WireFormat.ANTHROPIC_MESSAGES, WireFormat.BEDROCK, WireFormat.OPENAI_RESPONSES])
def test_where_nothing_is_embedded_the_model_is_named(wire_format: WireFormat) -> None:
    with pytest.raises(Refused) as caught:
        bridge(OPENAI, deployment(wire_format), STAMP, "embeddings")
    assert caught.value.refusal.field == "model"


def test_rerank_at_cohere_takes_objects_and_gives_documents_back() -> None:
    given = body(query="q", documents=["a", {"text": "b"}], top_n=1, return_documents=True)
    call = Call(OPENAI, COHERE, given, "rerank")
    assert call.sent == {"model": "e", "query": "q", "documents": ["a", "b"], "top_n": 1}
    told = {"id": "1", "results": [{"index": 1, "relevance_score": 0.9}], "meta": {"billed_units": {"search_units": 1}}}
    made = call.answered(told)
    assert made["results"] == [{"index": 1, "relevance_score": 0.9, "document": {"text": "b"}}]
    assert (made["model"], made["meta"]) == ("lab/e", told["meta"])
    with pytest.raises(MalformedReply):
        call.answered({"results": [{"index": 7, "relevance_score": 1}]})
    with pytest.raises(Refused) as caught:
        Call(OPENAI, COHERE, body(query="q", documents=["a", {"title": "b"}]), "rerank")
    assert caught.value.refusal.field == "documents[1]"

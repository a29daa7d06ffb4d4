"""Rerank at Cohere (https://docs.cohere.com/v2/reference/rerank) for clients of `/v1/rerank`, whose shape is Cohere's own first
version: documents may be objects, and come back with the results when `return_documents` asks for them.
"""

from __future__ import annotations

from typing import Any

import orjson

from shared.domain.catalogue import Deployment
from shared.domain.usage import Usage
from shared.wire import fields
from shared.wire.canonical import Stamp
from shared.wire.envelope import Envelope, wrong_type
from shared.wire.openai_chat.facts import ChatCall
from shared.wire.reply import MalformedReply, ReplyFacts
from shared.wire.translate import json_error_message
from shared.wire.whole import WholeAnswers


class Rerank(WholeAnswers):
    """One attempt's bridge (wire/codec.py Bridge)."""

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        self._documents: list[str] | None = None
        """To be given back."""

    def request_body(
        self, envelope: Envelope, deployment: Deployment, call: ChatCall, output_cap: int | None
    ) -> tuple[bytes, list[str]]:
        """Raises Refused, naming the field."""
        values = orjson.loads(envelope.body)
        documents = [_text(each, at) for at, each in enumerate(fields.array(values, "documents") or [])]
        back = fields.flag(values, "return_documents")
        self._documents = documents if back else None
        rest = {name: value for name, value in values.items() if name not in ("model", "documents", "return_documents")}
        return orjson.dumps({"model": deployment.model.sent_id, "documents": documents, **rest}), []

    def read_reply(self, body: bytes) -> ReplyFacts:
        """Cohere bills searches, not tokens: a model's price per request is what counts."""
        try:
            reply = orjson.loads(body)
            results = [_result(raw, self._documents) for raw in reply["results"]]
        except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
            raise MalformedReply("answered without results") from None
        made = reply | {"object": "list", "model": self._stamp.model, "results": results}
        return ReplyFacts(body=orjson.dumps(made), usage=Usage(), finish_reason="stop")

    def provider_message(self, body: bytes) -> str | None:
        return json_error_message(body)


def _text(document: Any, at: int) -> str:
    text = document.get("text") if type(document) is dict else document
    if type(text) is not str:
        raise wrong_type(f"documents[{at}]", "a string, or an object with a text", document)
    return text


def _result(raw: dict[str, Any], documents: list[str] | None) -> dict[str, Any]:
    return raw if documents is None else raw | {"document": {"text": documents[raw["index"]]}}

"""Citing: a passthrough to Chat providers that name their sources beside the answer (Perplexity). Nothing is taken away: the
sources are there once more, as the annotations that OpenAI's clients look for.
"""

from __future__ import annotations

from typing import Any

import orjson
from msgspec.structs import replace

from shared.wire import loose
from shared.wire.canonical import Citation
from shared.wire.openai_chat.sources import NAMES, listed, located, url_citations
from shared.wire.passthrough import ChatPassthrough
from shared.wire.reply import ReplyFacts
from shared.wire.tap import ChatTap


class CitingPassthrough(ChatPassthrough):
    def read_reply(self, body: bytes) -> ReplyFacts:
        facts = super().read_reply(body)
        if not _named(body):
            return facts
        answer = orjson.loads(body)
        sources = listed(answer)
        for choice in loose.tables(answer["choices"]):
            message = choice.get("message")
            if sources and type(message) is dict and "annotations" not in message:
                message["annotations"] = url_citations(located(sources, loose.text(message.get("content"))))
        return replace(facts, body=orjson.dumps(answer))

    def tap(self, *, hide_usage: bool) -> CitingTap:
        return CitingTap(hide_usage)


class CitingTap(ChatTap):
    """The annotations come with the chunk that says why the answer ends."""

    def __init__(self, hide_usage: bool) -> None:
        super().__init__(hide_usage)
        self._sources: list[Citation] = []
        self._text: list[str] = []
        self._told = False

    def _hear(self, chunk: Any, raw: bytes, data: bytes) -> bytes:
        if _named(data):
            self._sources = listed(loose.event(data)) or self._sources
        for choice in chunk.choices or ():
            if choice.delta is not None and choice.delta.content:
                self._text.append(choice.delta.content)
            if choice.finish_reason and self._sources and not self._told:
                self._told = True
                data = self._annotated(data)
                raw = b"data: " + data + b"\n\n"
        return super()._hear(chunk, raw, data)

    def _annotated(self, data: bytes) -> bytes:
        event = loose.event(data)
        first = loose.tables(event.get("choices"))[0]
        made = url_citations(located(self._sources, "".join(self._text)))
        first["delta"] = loose.table(first.get("delta")) | {"annotations": made}
        return orjson.dumps(event)


def _named(data: bytes) -> bool:
    return any(name in data for name in NAMES)

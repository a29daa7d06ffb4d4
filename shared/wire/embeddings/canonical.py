"""What an embeddings call is in any format: texts in, one vector each out."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.domain.usage import Usage


class EmbedCall(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    inputs: tuple[str, ...]
    dimensions: int | None = None
    task: str | None = None
    """In Gemini's words, which are the fullest: RETRIEVAL_QUERY, RETRIEVAL_DOCUMENT, CLASSIFICATION, CLUSTERING, …"""
    title: str | None = None
    """Of the document that is embedded (Gemini)."""
    user: str | None = None
    base64: bool = False
    """The client wants little-endian float32 in base64 instead of numbers."""
    single: bool = False
    """The client gave one text, not a list, and its format answers differently then (Gemini)."""
    extra: dict[str, Any] = {}
    """What no format of ours knows: passed on."""
    names: dict[str, str] = {}
    """Our field → the client's own name for it."""

    def named(self, field: str) -> str:
        return self.names.get(field, field)


class EmbedReply(msgspec.Struct, frozen=True, kw_only=True):
    vectors: list[list[float]]
    usage: Usage | None = None

"""What a transcription is in any format: sound in, words with their times out."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.wire.multipart import Upload

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")


class TranscribeCall(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    audio: Upload
    language: str | None = None
    """ISO 639-1; None: whatever is heard."""
    prompt: str | None = None
    response_format: str = "json"
    temperature: str | None = None
    granularities: tuple[str, ...] = ()
    extra: dict[str, Any] = {}
    """What OpenAI's format does not know: passed on."""


class Word(msgspec.Struct, frozen=True):
    text: str
    start_s: float
    end_s: float


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    language: str | None = None
    duration_s: float | None = None
    words: tuple[Word, ...] = ()
    segments: tuple[Word, ...] = ()
    """Where the provider makes them itself."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One more request to the provider, where a transcription takes several. `path` is under the connection's base URL."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    wait_s: float = 0
    """How long to wait before it."""

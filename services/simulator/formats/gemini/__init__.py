"""Google's generateContent (https://ai.google.dev/api/generate-content), as strict as it is there: no unknown name passes."""

from __future__ import annotations

from collections.abc import Mapping

from services.simulator.formats.base import Format, bearer
from services.simulator.formats.gemini.answer import encode_error, encode_events, encode_reply, error_event
from services.simulator.formats.gemini.ask import only, read, read_count


def key(headers: Mapping[str, str]) -> str:
    return headers.get("x-goog-api-key", "") or bearer(headers)


FORMAT = Format(
    read=read,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=encode_error,
    error_event=error_event,
    malformed=b'data: {"candidates": [{"content": {"parts": [{"text":\r\n\r\n',
    key=key,
)

__all__ = ["FORMAT", "only", "read_count"]

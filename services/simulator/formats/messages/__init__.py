"""Anthropic's Messages API (https://platform.claude.com/docs/en/api/messages), as strict as it is there."""

from __future__ import annotations

from collections.abc import Mapping

from services.simulator.formats.base import Format, bearer
from services.simulator.formats.messages.answer import encode_error, encode_events, encode_reply, error_event
from services.simulator.formats.messages.ask import read, read_count


def key(headers: Mapping[str, str]) -> str:
    """The header of the API, or the newer SDKs' bearer."""
    return headers.get("x-api-key", "") or bearer(headers)


FORMAT = Format(
    read=read,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=encode_error,
    error_event=error_event,
    malformed=b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":\n\n',
    key=key,
)

__all__ = ["FORMAT", "read_count"]

"""Gemini, as Google's clients speak it and as the Gemini API and Vertex AI answer it."""

from __future__ import annotations

from shared.wire.gemini.decode import decode_call
from shared.wire.gemini.encode import INLINE, encode_call
from shared.wire.gemini.errors import PING, encode_refusal, encode_stream_error, error_message
from shared.wire.gemini.reply import decode_reply, encode_reply
from shared.wire.gemini.stream import StreamDecoder, StreamEncoder

__all__ = [
    "INLINE", "PING", "StreamDecoder", "StreamEncoder", "decode_call", "decode_reply", "encode_call", "encode_refusal",
    "encode_reply", "encode_stream_error", "error_message",
]  # fmt: skip

"""OpenAI Chat Completions, as clients speak it and as providers and their imitators answer it."""

from __future__ import annotations

from shared.wire.openai_chat.decode import decode_call
from shared.wire.openai_chat.encode import encode_call
from shared.wire.openai_chat.facts import (
    DONE,
    ERRORS,
    NO_MEDIA,
    PING,
    ChatCall,
    Media,
    Sound,
    check_call,
    encode_refusal,
    encode_stream_error,
)
from shared.wire.openai_chat.reply import decode_reply, encode_reply
from shared.wire.openai_chat.stream import StreamDecoder, StreamEncoder, decode_tagged_reply
from shared.wire.openai_chat.usage import read_usage

__all__ = [
    "DONE", "ERRORS", "NO_MEDIA", "PING", "ChatCall", "Media", "Sound", "StreamDecoder", "StreamEncoder", "check_call",
    "decode_call", "decode_reply", "decode_tagged_reply", "encode_call", "encode_refusal", "encode_reply",
    "encode_stream_error", "read_usage",
]  # fmt: skip

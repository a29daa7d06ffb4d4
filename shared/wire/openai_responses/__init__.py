"""OpenAI Responses, as Codex and OpenAI's SDKs speak it and as OpenAI answers it."""

from __future__ import annotations

from shared.wire.openai_responses.decode import decode_call
from shared.wire.openai_responses.encode import encode_call
from shared.wire.openai_responses.errors import PING, encode_refusal, encode_stream_error, error_message
from shared.wire.openai_responses.reply import decode_reply, encode_reply
from shared.wire.openai_responses.stream import StreamDecoder, StreamEncoder

__all__ = [
    "PING", "StreamDecoder", "StreamEncoder", "decode_call", "decode_reply", "encode_call", "encode_refusal", "encode_reply",
    "encode_stream_error", "error_message",
]  # fmt: skip

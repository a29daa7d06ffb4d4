"""Anthropic Messages, as clients speak it and as Anthropic answers it."""

from __future__ import annotations

from shared.wire.anthropic_messages.claude import takes_prefill
from shared.wire.anthropic_messages.decode import decode_call
from shared.wire.anthropic_messages.encode import encode_call
from shared.wire.anthropic_messages.errors import PING, encode_refusal, encode_stream_error, error_message
from shared.wire.anthropic_messages.reply import decode_reply, encode_reply
from shared.wire.anthropic_messages.sources import MARK, without_ours
from shared.wire.anthropic_messages.stream import StreamDecoder, StreamEncoder

__all__ = [
    "MARK", "PING", "StreamDecoder", "StreamEncoder", "decode_call", "decode_reply", "encode_call", "encode_refusal",
    "encode_reply", "encode_stream_error", "error_message", "takes_prefill", "without_ours",
]  # fmt: skip

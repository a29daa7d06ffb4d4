"""Cohere v2 (https://docs.cohere.com/v2/reference/chat): how its clients ask and are answered, and how it is asked itself."""

from shared.wire.cohere.answer import PING, StreamEncoder, encode_refusal, encode_reply, encode_stream_error
from shared.wire.cohere.decode import decode_call
from shared.wire.cohere.provider import StreamDecoder, decode_reply, encode_call, error_message, read_usage

__all__ = [
    "PING", "StreamDecoder", "StreamEncoder", "decode_call", "decode_reply", "encode_call", "encode_refusal", "encode_reply",
    "encode_stream_error", "error_message", "read_usage",
]  # fmt: skip

"""Chat Completions' streams, both ways."""

from __future__ import annotations

from shared.wire.openai_chat.stream.decode import StreamDecoder
from shared.wire.openai_chat.stream.encode import StreamEncoder
from shared.wire.openai_chat.stream.think import ThinkTags, decode_tagged_reply

__all__ = ["StreamDecoder", "StreamEncoder", "ThinkTags", "decode_tagged_reply"]

"""How the simulator counts tokens, so that a test can say beforehand what a call will use.

A token is up to six characters that are not white space, with the white space before them; what white space is left at
the end is one token more. A prompt is its texts in tokens, plus 4 for each message, 85 for each part that is not text,
and the offered tools as compact JSON. A token has at least one byte, so a prompt never has more tokens than its body
has bytes (but for parts given by a short URL).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

MESSAGE_TOKENS = 4
PART_TOKENS = 85

_pieces = re.compile(r"\s*\S{1,6}|\s+").findall


def split_tokens(text: str) -> list[str]:
    """The tokens of `text`, in order; joined they are the text again."""
    return _pieces(text)


def count_tokens(text: str) -> int:
    return len(_pieces(text))


def count_prompt_tokens(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()) -> int:
    """`prompt_tokens` of a call with these messages and tools."""
    total = sum(MESSAGE_TOKENS + _content_tokens(message) for message in messages)
    return total + (count_tokens(orjson.dumps(tools).decode()) if tools else 0)


def _content_tokens(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    total = 0
    if isinstance(content, str):
        total += count_tokens(content)
    elif isinstance(content, list):
        total += sum(count_tokens(part["text"]) if part.get("type") == "text" else PART_TOKENS for part in content)
    if calls := message.get("tool_calls"):
        total += count_tokens(orjson.dumps(calls).decode())
    return total

"""Answers that no decoder can read: bad UTF-8 and deep nesting are the provider's fault, never an error of ours."""

from __future__ import annotations

import pytest

from shared.wire.openai_chat import read_usage
from shared.wire.openai_json import JsonPassthrough
from shared.wire.passthrough import ChatPassthrough
from shared.wire.reply import MalformedReply
from shared.wire.tap import ChatTap

DEEP = b'{"x":' + b"[" * 6000 + b"]" * 6000 + b"}"


@pytest.mark.parametrize("body", [b'{"choices":[{"finish_reason":"\xff"}]}', DEEP])
def test_a_whole_answer(body: bytes) -> None:
    with pytest.raises(MalformedReply):
        ChatPassthrough().read_reply(body)


def test_another_operations_answer() -> None:
    with pytest.raises(MalformedReply):
        JsonPassthrough().read_reply(DEEP)


@pytest.mark.parametrize("data", [b'{"choices":[{"delta":{"content":"\xff"}}]}', DEEP])
@pytest.mark.parametrize("size", [7, 100_000])
def test_an_event(data: bytes, size: int) -> None:
    stream = b"data: " + data + b"\n\n"
    tap = ChatTap(hide_usage=False)
    with pytest.raises(MalformedReply):
        for at in range(0, len(stream), size):
            tap.feed(stream[at : at + size])
        tap.feed(b"data: {}\n\n")


def test_a_usage() -> None:
    assert read_usage(b'{"prompt_tokens":' + b"[" * 6000 + b"]" * 6000 + b"}") is None

"""Legacy completions at a provider that only chats: what is sent, what comes back, whole and as a stream."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Refused
from shared.wire.codec import COMPLETIONS, PROVIDERS
from shared.wire.translate import Translation
from tests.wire.translation import STAMP, Translated, events, named_stream

REPLY = {
    "id": "m", "type": "message", "role": "assistant", "model": "claude",
    "content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "there."}],
    "stop_reason": "max_tokens", "usage": {"input_tokens": 4, "output_tokens": 2},
}  # fmt: skip


def translated() -> Translated:
    made = Translated(WireFormat.OPENAI_CHAT, WireFormat.ANTHROPIC_MESSAGES)
    made.bridge = Translation(COMPLETIONS, PROVIDERS[WireFormat.ANTHROPIC_MESSAGES], STAMP)
    return made


def sent(bridge: Translated, **fields: Any) -> dict[str, Any]:
    from shared.wire.envelope import open_envelope

    envelope = open_envelope(orjson.dumps({"model": "lab/model", **fields}))
    call = COMPLETIONS.facts(envelope, None, None)
    raw, bridge.dropped = bridge.bridge.request_body(envelope, bridge.deployment, call, None)
    return orjson.loads(raw)  # type: ignore[no-any-return]


@pytest.mark.parametrize("prompt", ["Once upon", ["Once upon"]])
def test_a_prompt_is_the_users_message(prompt: Any) -> None:
    bridge = translated()
    made = sent(bridge, prompt=prompt, max_tokens=5, temperature=0.5, stop="x", echo=False, best_of=1, logprobs=2, user="u")
    assert made == {
        "model": "model", "max_tokens": 5, "temperature": 0.5, "stop_sequences": ["x"], "metadata": {"user_id": "u"},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Once upon"}]}],
    }  # fmt: skip
    assert bridge.dropped == ["logprobs"]
    assert bridge.answered(REPLY) == {
        "id": "cmpl-" + STAMP.event_id.replace("-", ""),
        "object": "text_completion",
        "created": STAMP.created_s,
        "model": "lab/model",
        "choices": [{"text": "there.", "index": 0, "logprobs": None, "finish_reason": "length"}],
        "usage": bridge.answered(REPLY)["usage"],
    }
    assert bridge.answered(REPLY)["usage"]["total_tokens"] == 6


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "n": 2}, "n"),
        ({}, "prompt"),
    ],
)
def test_what_a_chat_cannot_do_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as caught:
        sent(translated(), **fields)
    assert caught.value.refusal.field == field


@pytest.mark.parametrize("options", [None, {"include_usage": True}])
def test_a_stream(options: Any) -> None:
    bridge = translated()
    sent(bridge, prompt="Once", stream=True, **({"stream_options": options} if options else {}))
    raw = named_stream(
        {"type": "message_start", "message": REPLY | {"content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "the"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "re."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    )
    made = events(bridge.streamed([raw]))
    told = [(chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in made[:3]]
    assert told == [("the", None), ("re.", None), ("", "stop")]
    assert made[-1] == "[DONE]"
    assert len(made) == (5 if options else 4)
    if options:
        assert (made[3]["choices"], made[3]["usage"]["total_tokens"]) == ([], 6)

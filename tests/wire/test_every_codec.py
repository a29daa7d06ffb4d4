"""What holds for every codec, whatever its format: nothing crashes, nothing is lost between encode and decode, and where bytes
are cut makes no difference. `make soak` runs a hundred times as many examples; how many is said at the end (conftest.py)."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.catalogue import Capability, Model, Quirks, WireFormat
from shared.domain.refusal import Refused
from shared.domain.usage import Usage
from shared.wire.canonical import Call, Choice, Event, Reply, Stop, Text, Thinking, ToolCall
from shared.wire.codec import FORMATS, PROVIDERS
from shared.wire.parts import fold
from shared.wire.reply import MalformedReply
from tests.wire.counted import ANSWERS, BODIES, COUNTS, REQUESTS, SPLITS, STREAMS
from tests.wire.generated import VALUES, WORDS, calls, events_of, replies
from tests.wire.translation import STAMP

TIMES = int(os.environ.get("CODEC_EXAMPLES_TIMES", "1"))
BOTH = sorted(set(FORMATS) & set(PROVIDERS))
MODEL = Model(model_id="model", max_output_tokens=50_000, capabilities=frozenset(Capability))
QUIRKS = [
    Quirks(),
    Quirks(tool_ids="nine", forced_tools=("any",), stream_usage=False, reasoning="thinking", text_only_content=True),
    Quirks(replay_reasoning="reasoning_details", reasoning="object", custom_tools=True, developer_role=True),
]
SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=3)


KNOWN = [
    "arguments",
    "candidates",
    "choices",
    "citations",
    "content",
    "contents",
    "custom",
    "data",
    "delta",
    "error",
    "finish_reason",
    "finishReason",
    "format",
    "function",
    "functionCall",
    "functionDeclarations",
    "generationConfig",
    "id",
    "image_url",
    "index",
    "input",
    "inputs",
    "instructions",
    "items",
    "max_tokens",
    "message",
    "messages",
    "metadata",
    "model",
    "n",
    "name",
    "output",
    "output_config",
    "parameters",
    "parts",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "response_format",
    "role",
    "schema",
    "source",
    "stop",
    "stop_reason",
    "stream",
    "system",
    "temperature",
    "text",
    "thinking",
    "tool_calls",
    "tool_choice",
    "tools",
    "type",
    "url",
    "usage",
    "usageMetadata",
    "prompt_tokens",
    "completion_tokens",
    "input_tokens",
    "tool_use_id",
    "tool_call_id",
]
KEYS = st.sampled_from(KNOWN) | WORDS
KINDS = st.sampled_from(
    [
        "text",
        "image",
        "tool_use",
        "tool_result",
        "thinking",
        "function",
        "message",
        "function_call",
        "user",
        "assistant",
        "system",
        "tool",
        "error",
        "content_block_start",
        "content_block_delta",
        "message_start",
        "message_delta",
        "text_delta",
        "json_schema",
        "auto",
        "any",
    ]
)
SHAPED = st.recursive(
    VALUES | KINDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)
"""Nonsense that looks like something: the formats' own keys, with values of any type."""


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    """The stream in pieces of the given sizes, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        pieces.append(stream[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


def names_the_field(refused: Refused) -> None:
    assert refused.refusal.status == 400
    assert refused.refusal.field


def comparable(reply: Reply, wire_format: WireFormat) -> tuple[Any, ...]:
    """A reply without what formats do not all carry: reasoning counts, and cache writes at Gemini and Cohere."""
    parts: list[Any] = []
    for part in reply.choices[0].parts:
        match part:
            case Text():
                parts.append(("text", part.text))
            case Thinking():
                parts.append(("thinking", part.text))
            case ToolCall():
                parts.append((part.id, part.name, orjson.loads(part.arguments or "{}")))
    usage = reply.usage or Usage()
    written = 0 if wire_format in (WireFormat.GEMINI, WireFormat.COHERE) else usage.cache_write_tokens
    counts = (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, written)
    return (tuple(parts), reply.choices[0].stop, counts)


@pytest.mark.parametrize("wire_format", BOTH)
@given(reply=replies())
@settings(max_examples=100 * TIMES, deadline=None)
def test_a_whole_answer_survives_its_own_format(wire_format: WireFormat, reply: Reply) -> None:
    COUNTS[ANSWERS] += 1
    decoded = PROVIDERS[wire_format].decode_reply(FORMATS[wire_format].encode_reply(reply, STAMP))
    assert comparable(decoded, wire_format) == comparable(reply, wire_format)


@pytest.mark.parametrize("wire_format", BOTH)
@given(reply=replies(), pieces=SIZES, cuts=SIZES)
@settings(max_examples=100 * TIMES, deadline=None)
def test_a_stream_survives_its_own_format_however_it_is_cut(
    wire_format: WireFormat, reply: Reply, pieces: list[int], cuts: list[int]
) -> None:
    encoder = FORMATS[wire_format].stream_encoder(STAMP)
    stream = b"".join([encoder.feed(event) for event in events_of(reply, pieces)]) + encoder.close()
    whole, split = PROVIDERS[wire_format].stream_decoder(), PROVIDERS[wire_format].stream_decoder()
    once = whole.feed(stream) + whole.close()
    events: list[Event] = []
    given = cut(stream, cuts)
    COUNTS[STREAMS] += 1
    COUNTS[SPLITS] += len(given) - 1
    for piece in given:
        events += split.feed(piece)
    events += split.close()
    assert fold(events) == fold(once)
    assert comparable(fold(events), wire_format) == comparable(reply, wire_format)


@pytest.mark.parametrize("quirks", QUIRKS)
@pytest.mark.parametrize("wire_format", sorted(PROVIDERS))
@given(call=calls())
@settings(max_examples=60 * TIMES, deadline=None)
def test_every_call_is_encoded_or_refused_by_name(wire_format: WireFormat, quirks: Quirks, call: Call) -> None:
    COUNTS[REQUESTS] += 1
    try:
        encoded = PROVIDERS[wire_format].encode_call(call, MODEL, quirks)
    except Refused as refused:
        names_the_field(refused)
        return
    assert type(orjson.loads(encoded.body)) is dict


@pytest.mark.parametrize("wire_format", sorted(FORMATS))
@given(body=st.dictionaries(KEYS, SHAPED, max_size=6))
@settings(max_examples=150 * TIMES, deadline=None)
def test_any_body_is_understood_or_refused(wire_format: WireFormat, body: dict[str, Any]) -> None:
    COUNTS[BODIES] += 1
    try:
        FORMATS[wire_format].decode_call(body, model="lab/model", stream=False)
    except Refused as refused:
        names_the_field(refused)


@pytest.mark.parametrize("wire_format", sorted(PROVIDERS))
@given(answer=SHAPED, junk=st.binary(max_size=200))
@settings(max_examples=120 * TIMES, deadline=None)
def test_any_answer_is_understood_or_malformed(wire_format: WireFormat, answer: Any, junk: bytes) -> None:
    half = PROVIDERS[wire_format]
    for body in (orjson.dumps(answer), junk):
        COUNTS[ANSWERS] += 1
        with suppress(MalformedReply):
            half.decode_reply(body)
        decoder = half.stream_decoder()
        with suppress(MalformedReply):
            decoder.feed(b"data: " + body + b"\n\n")
            decoder.feed(junk)
            decoder.close()
        half.error_message(body)


def test_an_empty_answer_is_one() -> None:
    empty = Reply(choices=(Choice(parts=(), stop=Stop.END),))
    for half in FORMATS.values():
        assert orjson.loads(half.encode_reply(empty, STAMP))

"""The tap and the splitter under it: however a stream is cut, the same is heard and the same goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.usage import Usage
from shared.wire.reply import MalformedReply
from shared.wire.sse import BOM, MAX_EVENT_BYTES, Event, Splitter, comment, data_of, event
from shared.wire.tap import ChatTap

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
READ = Usage(input_tokens=7, output_tokens=5)
LINE_ENDS = {"LF": b"\n", "CRLF": b"\r\n", "CR": b"\r"}


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """All that a tap says about a stream; `broken` is why it was given up."""

    out: bytes
    usage: Usage | None = None
    finish_reason: str | None = None
    error: bytes | None = None
    done: bool = False
    events: int = 0
    deltas: int = 0
    content_bytes: int = 0
    broken: str | None = None


def heard(pieces: Iterable[bytes], *, hide_usage: bool = False) -> Heard:
    tap = ChatTap(hide_usage)
    out = bytearray()
    broken = None
    try:
        for piece in pieces:
            out += tap.feed(piece)
        out += tap.close()
    except MalformedReply as error:
        broken = str(error)
    assert tap.first_token_seen == (tap.deltas > 0)
    return Heard(
        out=bytes(out), usage=tap.usage, finish_reason=tap.finish_reason, error=tap.error, done=tap.done, events=tap.events,
        deltas=tap.deltas, content_bytes=tap.content_bytes, broken=broken,
    )  # fmt: skip


def cut(stream: bytes, at: Iterable[int]) -> list[bytes]:
    """Pieces of a stream, none of them empty."""
    return [stream[start:end] for start, end in pairwise(sorted({0, *at, len(stream)}))]


def chunk(**fields: Any) -> bytes:
    """An event as OpenAI writes it: no spaces, UTF-8."""
    return event(json.dumps({"id": "c", **fields}, ensure_ascii=False, separators=(",", ":")).encode())


def delta(content: str, **fields: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {"content": content}, "finish_reason": None}], **fields)


def finish(reason: str = "stop", **fields: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {}, "finish_reason": reason}], **fields)


DONE = event(b"[DONE]")
ROLE = chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
ONLY_USAGE = chunk(choices=[], usage=USAGE)
ERROR = b'{"error":{"message":"overloaded","code":529}}'


@dataclass(frozen=True)
class Case:
    """A stream with LF, what is heard in it, and what a client gets that did not ask for usage."""

    stream: bytes
    facts: dict[str, Any]
    out: bytes | None = None
    hidden: bytes | None = None


def case(*events: bytes, out: bytes | None = None, hidden: bytes | None = None, **facts: Any) -> Case:
    return Case(b"".join(events), facts, out, hidden)


NOTHINGS: tuple[Any, ...] = (None, False, "", {}, [], 0)
CASES: dict[str, Case] = {
    "plain": case(
        ROLE, delta("Hé"), delta("o 😀"), finish(), DONE, events=4, deltas=2, content_bytes=9, finish_reason="stop", done=True
    ),
    "with usage": case(
        delta("a"), finish(), ONLY_USAGE, DONE,
        hidden=delta("a") + finish() + DONE,
        events=3, deltas=1, content_bytes=1, finish_reason="stop", done=True, usage=READ,
    ),
    "with usage null before it": case(
        delta("a", usage=None), finish(usage=None), ONLY_USAGE, DONE,
        hidden=delta("a") + finish() + DONE,
        events=3, deltas=1, content_bytes=1, finish_reason="stop", done=True, usage=READ,
    ),
    "with usage null spelled with spaces, and first": case(
        b'data: {"usage": null, "choices": []}\n\ndata: {"choices": [] , "usage" : null}\n\n',
        hidden=b'data: {"choices": []}\n\ndata: {"choices": [] }\n\n',
        events=2,
    ),
    "with usage null inside and at the top": case(
        b'data: {"choices":[{"usage":null}],"x":{"a":1,"usage":null},"usage":null}\n\n',
        hidden=b'data: {"choices":[{"usage":null}],"x":{"a":1,"usage":null}}\n\n',
        events=1,
    ),
    "with usage null in a text": case(
        delta(',"usage":null', usage=None), hidden=delta(',"usage":null'), events=1, deltas=1, content_bytes=13
    ),
    "with usage in the last choice's chunk": case(
        delta("a"), finish("length", usage=USAGE), DONE,
        events=2, deltas=1, content_bytes=1, finish_reason="length", done=True, usage=READ,
    ),
    "with usage inside the choice": case(
        chunk(choices=[{"delta": {}, "finish_reason": "stop", "usage": USAGE}]), DONE,
        events=1, finish_reason="stop", done=True, usage=READ,
    ),
    "with usage of groq": case(
        chunk(choices=[{"delta": {}, "finish_reason": "stop"}], x_groq={"id": "r", "usage": USAGE}), DONE,
        events=1, finish_reason="stop", done=True, usage=READ,
    ),
    "with usage that grows": case(
        delta("a", usage=USAGE | {"completion_tokens": 1, "total_tokens": 8}), delta("b", usage=USAGE),
        events=2, deltas=2, content_bytes=2, usage=READ,
    ),
    "with usage that is nonsense": case(
        delta("a", usage=USAGE), delta("b", usage={"prompt_tokens": -1}), events=2, deltas=2, content_bytes=2, usage=READ
    ),
    "without [DONE]": case(delta("a"), finish(), events=2, deltas=1, content_bytes=1, finish_reason="stop"),
    "without the last blank line": case(
        delta("a"), DONE[:-2], out=delta("a") + DONE, events=1, deltas=1, content_bytes=1, done=True
    ),
    "without half of the last blank line": case(
        delta("a"), finish()[:-1], out=delta("a") + finish(), events=2, deltas=1, content_bytes=1, finish_reason="stop"
    ),
    "cut within an event": case(delta("a"), finish()[:-6], out=delta("a"), events=1, deltas=1, content_bytes=1),
    "cut within a character": case(
        delta("a"), delta("é").partition(b"\xc3")[0] + b"\xc3", out=delta("a"), events=1, deltas=1, content_bytes=1
    ),
    "cut within a comment": case(delta("a"), b": keep", out=delta("a"), events=1, deltas=1, content_bytes=1),
    "with comments": case(
        comment(b"OPENROUTER PROCESSING"), b":\n\n", delta("a"), comment(b"x"), comment(b"data: {}"), DONE,
        events=1, deltas=1, content_bytes=1, done=True,
    ),
    "with other fields": case(
        b"event: chunk\nid: 1\nretry: 5\n", delta("a"), b"event: ping\n\n", DONE, events=1, deltas=1, content_bytes=1, done=True
    ),
    "without a space after the colon": case(
        delta("a").replace(b"data: ", b"data:"), b"data:[DONE]\n\n", events=1, deltas=1, content_bytes=1, done=True
    ),
    "with data over several lines": case(
        b'data: {"choices":[{"delta":\ndata: {"content":"ab"},\ndata: "finish_reason":"stop"}]}\n\n',
        events=1, deltas=1, content_bytes=2, finish_reason="stop",
    ),
    "with empty data": case(b"data:\n\ndata: \n\ndata\n\n", delta("a"), events=1, deltas=1, content_bytes=1),
    "with blank lines": case(b"\n\n\n", delta("a"), b"\n\n", DONE, events=1, deltas=1, content_bytes=1, done=True),
    "with a byte order mark": case(BOM, delta("a"), DONE, events=1, deltas=1, content_bytes=1, done=True),
    "with an error": case(delta("a"), event(ERROR), events=2, deltas=1, content_bytes=1, error=ERROR),
    "with two errors": case(event(ERROR), event(b'{"error":"second"}'), events=2, error=ERROR),
    "with an error and usage in one event": case(
        event(b'{"error":"x","usage":' + json.dumps(USAGE).encode() + b"}"),
        events=1, usage=READ, error=b'{"error":"x","usage":' + json.dumps(USAGE).encode() + b"}",
    ),
    "with errors that are none": case(
        *(delta("a", error=nothing) for nothing in NOTHINGS), events=6, deltas=6, content_bytes=6
    ),
    "with several choices": case(
        chunk(choices=[{"index": 0, "delta": {"content": "ab"}}, {"index": 1, "delta": {"content": "c"}}]),
        events=1, deltas=2, content_bytes=3,
    ),
    "with reasoning, a refusal and tools": case(
        chunk(choices=[{"delta": {"reasoning_content": "hé"}}]),
        chunk(choices=[{"delta": {"content": None, "reasoning": "hm"}}]),
        chunk(choices=[{"delta": {"content": "", "refusal": "no"}}]),
        chunk(choices=[{"delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}}]),
        chunk(choices=[{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": ""}}]}}]),
        finish("tool_calls"),
        events=6, deltas=4, content_bytes=10, finish_reason="tool_calls",
    ),
    "with other types in it": case(
        chunk(choices=[{"delta": {"content": [1]}, "finish_reason": 5}], usage=USAGE),
        chunk(choices={"a": 1}),
        chunk(choices=[5, {"delta": "x", "finish_reason": "stop"}], error="late"),
        events=3, deltas=2, content_bytes=19, finish_reason="stop", usage=READ,
        error=b'{"id":"c","choices":[5,{"delta":"x","finish_reason":"stop"}],"error":"late"}',
    ),
    "with more after [DONE]": case(
        delta("a"), DONE, event(b"garbage"), comment(b"x"), events=1, deltas=1, content_bytes=1, done=True
    ),
    "with garbage": case(
        delta("a"), event(b"garbage"), delta("b"),
        out=delta("a"), events=1, deltas=1, content_bytes=1, broken="sent an event that is not a JSON object",
    ),
    "with an array": case(event(b"[1]"), delta("b"), out=b"", broken="sent an event that is not a JSON object"),
    "with a number at its end": case(
        delta("a"), b"data: 5",
        out=delta("a"), events=1, deltas=1, content_bytes=1, broken="sent an event that is not a JSON object",
    ),
    "empty": case(),
}  # fmt: skip


def in_line_ends(stream: bytes, line_end: bytes) -> bytes:
    return stream.replace(b"\n", line_end)


def expected(wanted: Case, *, hide_usage: bool) -> Heard:
    out = wanted.stream if wanted.out is None else wanted.out
    return Heard(out=wanted.hidden if hide_usage and wanted.hidden is not None else out, **wanted.facts)


def events_of(stream: bytes) -> list[bytes]:
    return [piece for piece in re.split(rb"(?<=\n\n)", stream) if piece]


@pytest.mark.parametrize("hide_usage", [False, True], ids=["shown", "hidden"])
@pytest.mark.parametrize("name", CASES)
def test_a_stream_is_heard_the_same_whole_by_the_event_by_the_byte_and_cut_anywhere(name: str, hide_usage: bool) -> None:
    stream, wanted = CASES[name].stream, expected(CASES[name], hide_usage=hide_usage)
    assert heard([stream], hide_usage=hide_usage) == wanted
    assert heard(events_of(stream), hide_usage=hide_usage) == wanted
    assert heard(cut(stream, range(len(stream))), hide_usage=hide_usage) == wanted
    for at in range(1, len(stream)):
        assert heard(cut(stream, [at]), hide_usage=hide_usage) == wanted, stream[:at]


@pytest.mark.parametrize("name", CASES)
def test_a_stream_with_carriage_returns_is_heard_the_same_cut_anywhere(name: str) -> None:
    wanted = expected(CASES[name], hide_usage=False)
    stream = in_line_ends(CASES[name].stream, b"\r\n")
    whole = heard([stream])
    assert without_out(whole) == without_out(wanted)
    assert whole.out.replace(b"\r\n", b"\n") == wanted.out
    assert heard(cut(stream, range(len(stream)))) == whole
    for at in range(1, len(stream)):
        assert heard(cut(stream, [at])) == whole, stream[:at]


def without_out(one: Heard) -> Heard:
    return msgspec.structs.replace(one, out=b"")


@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_usage_is_hidden_in_every_style_of_line_ends(line_end: str) -> None:
    stream = in_line_ends(delta("a", usage=None) + ONLY_USAGE + DONE + delta("b"), LINE_ENDS[line_end])
    got = heard([stream], hide_usage=True)
    assert got.out.replace(LINE_ENDS[line_end], b"\n") == delta("a") + DONE + delta("b")
    assert (got.usage, got.events, got.done) == (READ, 3, True)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PIECES = st.one_of(
    TEXTS.map(delta),
    TEXTS.map(lambda text: delta(text, usage=None)),
    st.sampled_from(["stop", "length", "tool_calls"]).map(finish),
    st.integers(0, 10**12).map(lambda made: chunk(choices=[], usage={"prompt_tokens": 3, "completion_tokens": made})),
    TEXTS.map(lambda text: event(json.dumps({"error": {"message": text}}, ensure_ascii=False).encode())),
    TEXTS.map(lambda text: comment(re.sub(r"[\r\n]", "", text).encode())),
    TEXTS.map(lambda text: chunk(choices=[{"delta": {"content": text}, "finish_reason": 1}])),
    st.sampled_from(
        [
            DONE, ROLE, ONLY_USAGE, b"event: x\nid: 7\n\n", b"data:\n\n", b'data:{"choices":\ndata:[]}\n\n', event(b"{}"),
            event(b'{"choices":[],"usage":null}'), event(b'{"usage" : null , "choices":[{"usage":null}]}'),
            b"event: y\n" + ROLE,
        ]
    ),
)  # fmt: skip
TAILS = st.sampled_from([b"", DONE, DONE[:-1], DONE[:-2], ONLY_USAGE[:-2], finish()[:-5], b": ping", b"data: 5", event(b"5")])


@given(
    st.lists(PIECES, max_size=8),
    TAILS,
    st.sampled_from(sorted(LINE_ENDS)),
    st.booleans(),
    st.lists(st.floats(0, 1, exclude_max=True), max_size=12),
)
def test_any_stream_is_heard_the_same_however_it_is_cut(
    pieces: list[bytes], tail: bytes, line_end: str, hide_usage: bool, cuts: list[float]
) -> None:
    parts = [in_line_ends(part, LINE_ENDS[line_end]) for part in (*pieces, tail)]
    stream = b"".join(parts)
    whole = heard([stream], hide_usage=hide_usage)
    assert heard(cut(stream, [int(share * len(stream)) for share in cuts]), hide_usage=hide_usage) == whole
    assert heard(filter(None, parts), hide_usage=hide_usage) == whole
    assert heard(cut(stream, range(len(stream))), hide_usage=hide_usage) == whole


@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_an_empty_line_before_a_hidden_event_is_not_hidden_with_it(line_end: str) -> None:
    """A comment, cut between its own line and the empty one after it."""
    parts = [in_line_ends(part, LINE_ENDS[line_end]) for part in (finish("length"), b": \n\n", ONLY_USAGE)]
    stream = b"".join(parts)
    for at in range(len(stream)):
        assert heard(cut(stream, [at]), hide_usage=True).out == parts[0] + parts[1], at


@given(st.lists(PIECES, max_size=8), st.booleans())
def test_unless_usage_is_hidden_every_byte_goes_on(pieces: list[bytes], crlf: bool) -> None:
    stream = in_line_ends(b"".join(pieces), b"\r\n" if crlf else b"\n")
    assert heard([stream]).out == stream


@given(st.lists(TEXTS, max_size=6), st.booleans())
def test_a_client_that_asked_for_no_usage_gets_the_stream_without_it(texts: list[str], nulls: bool) -> None:
    asked = [delta(text, **({"usage": None} if nulls else {})) for text in texts]
    got = heard([*asked, ONLY_USAGE, DONE], hide_usage=True)
    assert got.out == b"".join(map(delta, texts)) + DONE
    assert got.usage == READ


def test_an_event_in_a_chunk_of_its_own_goes_on_as_the_same_object() -> None:
    tap = ChatTap(hide_usage=False)
    sent = [delta("a"), finish(), ONLY_USAGE]
    assert [tap.feed(one) is one for one in sent] == [True, True, True]


def test_what_came_before_garbage_is_given_out_before_it_is_refused() -> None:
    tap = ChatTap(hide_usage=False)
    assert tap.feed(delta("a") + event(b"garbage")) == delta("a")
    with pytest.raises(MalformedReply, match="sent an event that is not a JSON object"):
        tap.feed(b"data: [")
    with pytest.raises(MalformedReply):
        tap.close()


def test_a_keep_alive_does_not_wait_for_its_blank_line() -> None:
    tap = ChatTap(hide_usage=False)
    assert tap.feed(b": ping\n") == b": ping\n"
    assert tap.feed(b"\n") == b"\n"


@pytest.mark.parametrize("pieces", [2, 64])
def test_an_event_larger_than_the_most_is_refused(pieces: int) -> None:
    def sized(size: int) -> bytes:
        return event(b'{"x":"' + b"a" * (size - 16) + b'"}')

    for size, broken in ((MAX_EVENT_BYTES, None), (MAX_EVENT_BYTES + 1, "sent an event larger than 1048576 bytes")):
        stream = delta("a") + sized(size)
        step = len(stream) // pieces
        got = heard(cut(stream, range(0, len(stream), step)))
        assert len(sized(size)) == size
        assert (got.broken, got.out) == (broken, stream if broken is None else delta("a"))


def reference(stream: bytes) -> list[bytes]:
    """Data of the events in a stream, as WHATWG HTML §9.2.6 has it; events without any are left out."""
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(BOM))
    found: list[bytes] = []
    data: list[bytes] = []
    for line in lines[:-1]:
        if not line:
            found += [b"\n".join(data)] if data else []
            data = []
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
    return found


def split(pieces: Iterable[bytes]) -> tuple[list[Event], Event | None]:
    splitter = Splitter()
    events = [one for piece in pieces for one in splitter.feed(piece)]
    return events, splitter.close()


LINES = st.lists(
    st.sampled_from([b"", b"", b"data: a", b"data:b", b"data:  c", b"data", b"data:", b": ping", b":", b"id: 1", b"x", b"dat"])
)


@given(LINES, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.booleans(), st.lists(st.integers(0, 200), max_size=12))
def test_any_cut_of_a_stream_splits_into_the_events_of_the_standard(
    lines: list[bytes], line_end: bytes, ended: bool, marked: bool, cuts: list[int]
) -> None:
    stream = (BOM if marked else b"") + line_end.join(lines) + (line_end if ended and lines else b"")
    for at in ([], cuts, range(len(stream))):
        events, rest = split(cut(stream, [place for place in at if place < len(stream)]))
        assert b"".join(raw for raw, _ in events) + (rest[0] if rest else b"") == stream
        assert [data for _, data in events if data is not None] == reference(stream)


@given(LINES.map(b"\r".join), st.lists(st.integers(0, 200), max_size=12))
def test_a_stream_that_knows_only_carriage_returns_is_split_too(stream: bytes, cuts: list[int]) -> None:
    """The last event waits for the byte after it, which could make a CRLF of its last CR."""
    whole = stream + b"\r\r:"
    for at in ([], cuts, range(len(whole))):
        events, _ = split(cut(whole, [place for place in at if place < len(whole)]))
        assert [data for _, data in events if data is not None] == reference(whole)


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\r\n\r\n", b"a"),
        (b"data:  a\n\n", b" a"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data\n\n", b""),
        (b"data: \n\n", b""),
        (b"data: a: b\n\n", b"a: b"),
        (b"event: e\ndata: a\nid: 1\n\n", b"a"),
        (BOM + b"data: a\n\n", b"a"),
        ("data: a\u2028b\x0bc\x85\n\n".encode(), "a\u2028b\x0bc\x85".encode()),
        (b": data: a\n\n", None),
        (b"Data: a\n\n", None),
        (b" data: a\n\n", None),
        (b"\n", None),
    ],
)
def test_the_data_of_an_event(raw: bytes, data: bytes | None) -> None:
    assert data_of(raw) == data


def test_minimaxs_error_becomes_one_that_clients_take_for_one() -> None:
    fine = b'data: {"choices":[{"delta":{"content":"x"}}],"base_resp":{"status_code":0,"status_msg":""}}\n\n'
    broken = b'data: {"choices":[],"base_resp":{"status_code":1027,"status_msg":"output sensitive"}}\n\n'
    tap = ChatTap(hide_usage=False)
    assert (tap.feed(fine), tap.error) == (fine, None)
    event = b'{"message":"output sensitive","type":"server_error","param":null,"code":"provider_error"}'
    assert tap.feed(broken) == b'data: {"error":' + event + b"}\n\n"
    assert tap.error == broken[6:-2]

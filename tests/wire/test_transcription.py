"""Transcriptions at providers with an API of their own: every request and answer written out."""

from __future__ import annotations

from base64 import b64encode
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.catalogue import Connection, Deployment, Model, Provider, WireFormat
from shared.domain.money import Price, cost_nano_usd
from shared.domain.refusal import Refused
from shared.domain.usage import Usage
from shared.wire.codec import MalformedReply, read_facts
from shared.wire.envelope import open_envelope
from shared.wire.multipart import Upload, encode_form, open_form
from shared.wire.openai_chat import Sound
from shared.wire.transcription import Failed, Passthrough, Step, Transcription, subtitles, transcription
from shared.wire.transcription.canonical import Word
from shared.wire.transcription.length import HEAD_BYTES, length
from tests.wire.test_every_codec import cut

SOUND = Upload(data=b"sound", name="a.mp3", media_type="audio/mpeg")


BY_THE_MINUTE = Price(input_nano_per_mtok=0, output_nano_per_mtok=0, minute_nano=6_000_000)


def begun(
    wire_format: WireFormat, price: Price | None = None, **fields: str
) -> tuple[Passthrough | Transcription, Step, list[str]]:
    body, kind = encode_form([("model", "lab/nova-3"), *fields.items()], [("file", SOUND)], "waystation-1")
    form = open_form(body, kind)
    call = read_facts(WireFormat.OPENAI_CHAT, "transcriptions", form, None, None)
    provider = Provider(
        name="lab", title="Lab", prefix="lab", base_url=None, wire_format=wire_format, endpoints={"transcriptions": "/t"}
    )
    connection = Connection(connection_id="c", name="lab", provider="lab", prefix="lab", base_url="http://x")
    made = transcription(wire_format)
    assert made is not None
    to = Deployment(provider=provider, connection=connection, model=Model(model_id="nova-3", price=price))
    step, dropped = made.first(open_form(body, kind), to, call, "waystation-0123")
    return made, step, dropped


def test_deepgram_has_everything_in_its_url() -> None:
    bridge, step, dropped = begun(WireFormat.DEEPGRAM, language="de", prompt="names", diarize="true", temperature="0")
    path, _, query = step.path.partition("?")
    assert (step.method, path, step.body, step.content_type) == ("POST", "/listen", b"sound", "audio/mpeg")
    assert parse_qs(query) == {"model": ["nova-3"], "smart_format": ["true"], "language": ["de"], "diarize": ["true"]}
    assert dropped == ["prompt", "temperature"]
    assert bridge.following(b"{}", step) is None
    words = [{"word": "hallo", "punctuated_word": "Hallo.", "start": 0.1, "end": 0.5}]
    channel = {"alternatives": [{"transcript": "Hallo.", "words": words}]}
    reply = {"metadata": {"duration": 1.5}, "results": {"channels": [channel]}}
    facts = bridge.read_reply(orjson.dumps(reply))
    assert (facts.body, facts.content_type) == (
        b'{"text":"Hallo.","usage":{"type":"duration","seconds":2}}',
        "application/json",
    )
    assert bridge.provider_message(b'{"err_code": "X", "err_msg": "no sound"}') == "no sound"


def test_assemblyai_takes_three_requests() -> None:
    bridge, upload, dropped = begun(WireFormat.ASSEMBLYAI, speaker_labels="true", prompt="x")
    assert (upload.path, upload.body, upload.content_type) == ("/upload", b"sound", "application/octet-stream")
    assert dropped == ["prompt"]
    order = bridge.following(b'{"upload_url": "https://cdn/1"}', upload)
    assert order is not None
    assert (order.method, order.path) == ("POST", "/transcript")
    assert orjson.loads(order.body) == {
        "audio_url": "https://cdn/1", "speech_models": ["nova-3"], "language_detection": True, "speaker_labels": True,
    }  # fmt: skip
    asked, waits = order, []
    for _ in range(7):
        following = bridge.following(b'{"id": "a/b", "status": "processing"}', asked)
        assert following is not None
        assert (following.method, following.path, following.body) == ("GET", "/transcript/a%2Fb", b"")
        asked = following
        waits.append(asked.wait_s)
    assert waits == [0.5, 0.75, 1.125, 1.6875, 2.53125, 3.0, 3.0]
    done = {"status": "completed", "text": "Hi.", "words": [{"text": "Hi.", "start": 250, "end": 900}]}
    assert bridge.following(orjson.dumps(done), asked) is None
    assert bridge.read_reply(orjson.dumps(done)).body == b'{"text":"Hi."}'
    with pytest.raises(Failed, match="no audio"):
        bridge.following(b'{"id": "1", "status": "error", "error": "no audio"}', asked)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"status": "lost"}', b'{"status": "queued"}'])
def test_an_answer_that_is_none_of_assemblyais(body: bytes) -> None:
    bridge, upload, _ = begun(WireFormat.ASSEMBLYAI)
    with pytest.raises(MalformedReply):
        bridge.following(body, upload)
    with pytest.raises(MalformedReply):
        bridge.following(body, Step(method="GET", path="/transcript/1"))


@pytest.mark.parametrize("wire_format", [WireFormat.DEEPGRAM, WireFormat.ASSEMBLYAI])
@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"results": {"channels": []}, "words": 1}'])
def test_an_answer_without_a_transcript(wire_format: WireFormat, body: bytes) -> None:
    bridge, _, _ = begun(wire_format)
    with pytest.raises(MalformedReply):
        bridge.read_reply(body)


def test_to_openais_format_the_form_is_written_again() -> None:
    fields: dict[str, Any] = {"response_format": "srt", "timestamp_granularities[]": "word", "odd": "yes"}
    bridge, step, dropped = begun(WireFormat.OPENAI_CHAT, **fields)
    sent = open_form(step.body, step.content_type)
    assert {name: sent.value(name) for name in sent.fields} == {
        "model": "nova-3", "response_format": "srt", "timestamp_granularities": ["word"], "odd": "yes",
    }  # fmt: skip
    assert (sent.uploads, step.path, dropped) == ({"file": SOUND}, "/t", [])
    facts = bridge.read_reply(b"1\n00:00")
    assert (facts.body, facts.content_type, facts.usage) == (b"1\n00:00", "text/plain; charset=utf-8", None)
    bridge, _, _ = begun(WireFormat.OPENAI_CHAT)
    told = bridge.read_reply(b'{"text": "x", "usage": {"type": "tokens", "input_tokens": 5, "output_tokens": 2}}')
    assert told.usage is not None
    assert (told.usage.input_tokens, told.usage.output_tokens) == (5, 2)


def test_a_subtitle_ends_with_a_sentence_a_pause_or_when_it_is_full() -> None:
    assert [each.text for each in subtitles.segments([Word("a.", 0, 1), Word("b", 1, 2), Word("c", 3.5, 4)])] == [
        "a.",
        "b",
        "c",
    ]
    long = [Word("word", at / 2, at / 2 + 0.4) for at in range(20)]
    assert [(each.start_s, each.end_s) for each in subtitles.segments(long)] == [(0, 6.9), (7, 9.9)]
    assert subtitles.srt([]) == ""
    assert subtitles.vtt([Word("late", 3661.0015, 3662)]) == "WEBVTT\n\n01:01:01.002 --> 01:01:02.000\nlate\n"


def wave(size: int, *, rate: int, block: int, kind: int = 1) -> bytes:
    head = b"RIFF" + bytes(4) + b"WAVE" + b"LIST" + (4).to_bytes(4, "little") + b"odd."
    fields = [(kind, 2), (1, 2), (rate, 4), (rate * block, 4), (block, 2), (8 * block, 2)]
    head += b"fmt " + (16).to_bytes(4, "little") + b"".join(value.to_bytes(width, "little") for value, width in fields)
    return head + bytes(size - len(head))


@pytest.mark.parametrize(
    ("sound", "most_ms", "likely_ms"),
    [
        (b"", 1000, 1000),
        (b"OggS" + bytes(249_996), 1_000_000, 15_625),
        (b"ID3" + bytes(159_997), 160_000, 10_000),
        (b"\xff\xfb" + bytes(159_998), 160_000, 10_000),
        (b"\xff\xf1" + bytes(159_998), 640_000, 10_000),  # AAC begins almost as MP3 does
        (wave(320_000, rate=16_000, block=2), 10_000, 10_000),
        (wave(320_001, rate=16_000, block=2), 10_001, 10_001),
        (wave(80_000, rate=8_000, block=1, kind=7), 10_000, 10_000),
        (wave(80_000, rate=8_000, block=1, kind=85), 320_000, 5_000),  # MP3 within WAVE
        (wave(80_000, rate=1, block=1), 320_000, 5_000),
        (b"RIFF" + bytes(4) + b"WAVEfmt ", 1000, 1000),
    ],
)
def test_how_long_sound_can_be(sound: bytes, most_ms: int, likely_ms: int) -> None:
    assert length(sound[:HEAD_BYTES], len(sound)) == Sound(most_ms, likely_ms)
    form = encode_form([("model", "m")], [("file", Upload(data=sound, name="a", media_type="audio/x"))], "b")
    assert read_facts(WireFormat.OPENAI_CHAT, "transcriptions", open_form(*form), None, None).sound == Sound(most_ms, likely_ms)
    body = {"model": "m", "input_audio": {"data": b64encode(sound).decode(), "format": "wav"}}
    call = read_facts(WireFormat.OPENAI_CHAT, "transcriptions", open_envelope(orjson.dumps(body)), None, None)
    assert call.sound is not None
    assert call.sound.most_ms >= most_ms
    assert call.sound.likely_ms - likely_ms <= 12  # base64 hides up to two bytes


@pytest.mark.parametrize(("stream", "streams"), [(None, False), (False, False), (True, True), ("true", True), ("false", False)])
def test_whether_it_streams(stream: Any, streams: bool) -> None:
    envelope = open_envelope(orjson.dumps({"model": "m", "stream": stream}))
    assert read_facts(WireFormat.OPENAI_CHAT, "transcriptions", envelope, None, None).stream is streams


@pytest.mark.parametrize("stream", [1, "yes", [True], {}])
def test_stream_must_be_a_boolean(stream: Any) -> None:
    with pytest.raises(Refused) as caught:
        read_facts(
            WireFormat.OPENAI_CHAT, "transcriptions", open_envelope(orjson.dumps({"model": "m", "stream": stream})), None, None
        )
    assert caught.value.refusal.field == "stream"


VERBOSE = {
    "task": "transcribe", "language": "english", "duration": 4.4001, "text": "Hi. You.",
    "segments": [{"start": 0, "end": 1.5, "text": " Hi."}, {"start": 2, "end": 4.4, "text": " You."}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "answer", "content_type"),
    [
        ("json", b'{"text":"Hi. You.","usage":{"type":"duration","seconds":5}}', "application/json"),
        ("text", b"Hi. You.\n", "text/plain; charset=utf-8"),
        (
            "srt",
            b"1\n00:00:00,000 --> 00:00:01,500\nHi.\n\n2\n00:00:02,000 --> 00:00:04,400\nYou.\n",
            "text/plain; charset=utf-8",
        ),
        ("verbose_json", orjson.dumps(VERBOSE), "application/json"),
    ],
)
def test_where_the_price_is_by_the_minute_the_provider_is_asked_for_the_duration(
    wanted: str, answer: bytes, content_type: str
) -> None:
    bridge, step, _ = begun(WireFormat.OPENAI_CHAT, BY_THE_MINUTE, response_format=wanted)
    assert open_form(step.body, step.content_type).value("response_format") == "verbose_json"
    facts = bridge.read_reply(orjson.dumps(VERBOSE))
    assert (facts.body, facts.content_type, facts.usage) == (answer, content_type, Usage(audio_ms=4401))
    told = bridge.read_reply(orjson.dumps(VERBOSE | {"usage": {"type": "duration", "seconds": 5}}))
    assert told.usage == Usage(audio_ms=5000)  # what OpenAI bills


@pytest.mark.parametrize("body", [b"", b"[]", b'{"text": 5}', b'{"text": "x", "segments": [{"text": "x"}]}'])
def test_an_answer_without_what_was_asked_for(body: bytes) -> None:
    bridge, _, _ = begun(WireFormat.OPENAI_CHAT, BY_THE_MINUTE)
    with pytest.raises(MalformedReply):
        bridge.read_reply(body)


@pytest.mark.parametrize(
    ("wire_format", "price"),
    [(WireFormat.DEEPGRAM, None), (WireFormat.ASSEMBLYAI, None), (WireFormat.OPENAI_CHAT, BY_THE_MINUTE)],
)
def test_a_stream_is_refused_by_name_where_there_is_none(wire_format: WireFormat, price: Price | None) -> None:
    with pytest.raises(Refused) as caught:
        begun(wire_format, price, stream="true")
    assert caught.value.refusal.field == "stream"


@pytest.mark.parametrize(
    ("wire_format", "field"),
    [
        (WireFormat.DEEPGRAM, "callback"),
        (WireFormat.DEEPGRAM, "multichannel"),
        (WireFormat.ASSEMBLYAI, "webhook_url"),
        (WireFormat.ASSEMBLYAI, "audio_url"),
    ],
)
def test_what_would_be_answered_or_billed_elsewhere_is_refused(wire_format: WireFormat, field: str) -> None:
    with pytest.raises(Refused) as caught:
        begun(wire_format, None, **{field: "https://elsewhere"})
    assert caught.value.refusal.field == field


def test_the_duration_is_what_is_billed() -> None:
    bridge, _, _ = begun(WireFormat.DEEPGRAM)
    reply: dict[str, Any] = {"results": {"channels": [{"alternatives": [{"transcript": "x"}]}]}}
    assert bridge.read_reply(orjson.dumps(reply)).usage is None  # the flow counts by the bytes
    assert bridge.read_reply(orjson.dumps(reply | {"metadata": {"duration": 25.933313}})).usage == Usage(audio_ms=25_934)
    bridge, _, _ = begun(WireFormat.ASSEMBLYAI)
    assert bridge.read_reply(b'{"text": "x", "audio_duration": 281}').usage == Usage(audio_ms=281_000)
    price = Price(input_nano_per_mtok=0, output_nano_per_mtok=0, minute_nano=4_300_000)
    assert cost_nano_usd(Usage(audio_ms=25_934), price) == 1_858_604  # 25.934 s at 0.0043 USD a minute: 1858603.33, up
    assert cost_nano_usd(Usage(audio_ms=60_000), price) == 4_300_000


STREAM = (
    b'event: transcript.text.delta\ndata: {"type":"transcript.text.delta","delta":"Hi"}\n\n'
    b'event: transcript.text.delta\ndata: {"type":"transcript.text.delta","delta":" you"}\n\n'
    b'event: transcript.text.segment\ndata: {"type":"transcript.text.segment","id":"1"}\n\n'
    b'event: transcript.text.done\ndata: {"type":"transcript.text.done","text":"Hi you",'
    b'"usage":{"type":"tokens","input_tokens":14,"output_tokens":3,"total_tokens":17}}\n\n'
)


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=3))
def test_a_stream_passes_and_is_heard_however_it_is_cut(sizes: list[int]) -> None:
    bridge, step, _ = begun(WireFormat.OPENAI_CHAT, stream="true")
    assert open_form(step.body, step.content_type).value("stream") == "true"
    tap = bridge.tap(hide_usage=False)
    assert b"".join([tap.feed(piece) for piece in cut(STREAM, sizes)]) + tap.close() == STREAM
    assert (tap.usage, tap.finish_reason, tap.done) == (Usage(input_tokens=14, output_tokens=3), "end", True)
    assert (tap.deltas, tap.content_bytes, tap.error) == (2, 6, None)


@pytest.mark.parametrize(
    "event", [b'{"type":"error","message":"bad"}', b'{"error":{"message":"bad","type":"server_error"}}', b'{"error":"bad"}']
)
def test_an_error_in_a_stream(event: bytes) -> None:
    tap = begun(WireFormat.OPENAI_CHAT, stream="true")[0].tap(hide_usage=False)
    tap.feed(b"data: " + event + b"\n\n")
    tap.close()
    assert (tap.error, tap.done) == (event, False)

"""Transcriptions at providers with an API of their own: every request and answer written out."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest

from shared.domain.catalogue import Connection, Deployment, Model, Provider, WireFormat
from shared.wire.codec import MalformedReply, read_facts
from shared.wire.multipart import Upload, encode_form, open_form
from shared.wire.transcription import Failed, Passthrough, Step, Transcription, subtitles, transcription
from shared.wire.transcription.canonical import Word

SOUND = Upload(data=b"sound", name="a.mp3", media_type="audio/mpeg")


def begun(wire_format: WireFormat, **fields: str) -> tuple[Passthrough | Transcription, Step, list[str]]:
    body, kind = encode_form([("model", "lab/nova-3"), *fields.items()], [("file", SOUND)], "waystation-1")
    form = open_form(body, kind)
    call = read_facts(WireFormat.OPENAI_CHAT, "transcriptions", form, None, None)
    provider = Provider(
        name="lab", title="Lab", prefix="lab", base_url=None, wire_format=wire_format, endpoints={"transcriptions": "/t"}
    )
    connection = Connection(connection_id="c", name="lab", provider="lab", prefix="lab", base_url="http://x")
    made = transcription(wire_format)
    assert made is not None
    to = Deployment(provider=provider, connection=connection, model=Model(model_id="nova-3"))
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
    assert (facts.body, facts.content_type) == (b'{"text":"Hallo."}', "application/json")
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

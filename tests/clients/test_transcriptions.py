"""Transcriptions through the OpenAI SDK at providers of three formats: the same words everywhere, and the same subtitles."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import openai
import pytest
import pytest_asyncio

from services.simulator.listen import BROKEN, SECONDS, TEXT
from tests.hosts.cluster import Cluster, running

SOUND = b"RIFF" + bytes(2000)
OWN = ["demo-deepgram/listen", "demo-assemblyai/best"]
SRT = """1
00:00:00,000 --> 00:00:02,400
Hello, this is a sound.

2
00:00:02,500 --> 00:00:04,400
It has two sentences.
"""
VTT = """WEBVTT

00:00:00.000 --> 00:00:02.400
Hello, this is a sound.

00:00:02.500 --> 00:00:04.400
It has two sentences.
"""


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path, demo=True) as started:
        yield started


async def test_what_is_heard_is_the_same_everywhere(cluster: Cluster) -> None:
    async with openai.AsyncOpenAI(base_url=f"{cluster.url()}/v1", api_key=cluster.key, max_retries=0) as client:
        for model in ["demo/listen", *OWN]:
            said = await client.audio.transcriptions.create(model=model, file=("a.wav", SOUND), language="en")
            assert said.text == TEXT, model
            plain = await client.audio.transcriptions.create(model=model, file=("a.wav", SOUND), response_format="text")
            assert plain.strip() == TEXT, model
        for model in OWN:
            verbose = await client.audio.transcriptions.create(
                model=model,
                file=("a.wav", SOUND),
                response_format="verbose_json",
                timestamp_granularities=["word", "segment"],
            )
            assert (verbose.text, verbose.duration, verbose.language) == (TEXT, SECONDS, "en")
            assert verbose.words is not None
            assert verbose.segments is not None
            assert [(word.word, word.start) for word in verbose.words[:2]] == [("Hello,", 0.0), ("this", 0.5)]
            assert [segment.text for segment in verbose.segments] == ["Hello, this is a sound.", "It has two sentences."]
            assert await client.audio.transcriptions.create(model=model, file=("a", SOUND), response_format="srt") == SRT
            assert await client.audio.transcriptions.create(model=model, file=("a", SOUND), response_format="vtt") == VTT
    rows = await cluster.booked(12)
    assert {row["operation"] for row in rows} == {"transcriptions"}
    assert {row["cost_nano_usd"] for row in rows} == {450_000}  # 4.5 s at 0.006 USD a minute


async def test_a_stream_where_the_provider_streams(cluster: Cluster) -> None:
    async with openai.AsyncOpenAI(base_url=f"{cluster.url()}/v1", api_key=cluster.key, max_retries=0) as client:
        file = ("a.wav", SOUND)
        said = ""
        async for event in await client.audio.transcriptions.create(model="demo/listen-tokens", file=file, stream=True):
            if event.type == "transcript.text.delta":
                said += event.delta
        assert said == TEXT
        assert event.type == "transcript.text.done"
        for model in ("demo/listen", *OWN):
            with pytest.raises(openai.BadRequestError, match="cannot be streamed") as caught:
                await client.audio.transcriptions.create(model=model, file=file, stream=True)
            assert caught.value.param == "stream"
    rows = await cluster.booked(4)
    (row,) = [row for row in rows if row["outcome"] == "ok"]
    assert (row["stream"], row["input_tokens"], row["output_tokens"]) == (True, 50, 12)
    assert row["cost_nano_usd"] == 50 * 2500 + 12 * 10_000


async def test_a_hard_budget_is_kept_by_the_bytes(cluster: Cluster) -> None:
    """2,004 bytes of no known format are at most 8.016 s: 0.0008016 USD at 0.006 a minute."""
    for budget_nano, fits in ((801_600, True), (801_599, False)):
        bounded = await cluster.new_key(budget_nano=budget_nano)
        async with openai.AsyncOpenAI(base_url=f"{cluster.url()}/v1", api_key=bounded.key, max_retries=0) as client:
            if fits:
                await client.audio.transcriptions.create(model=OWN[0], file=("a.wav", SOUND))
            else:
                with pytest.raises(openai.RateLimitError, match="may cost up to 801600 nano-USD"):
                    await client.audio.transcriptions.create(model=OWN[0], file=("a.wav", SOUND))


async def test_what_cannot_be_transcribed_is_said_and_costs_nothing(cluster: Cluster) -> None:
    async with openai.AsyncOpenAI(base_url=f"{cluster.url()}/v1", api_key=cluster.key, max_retries=0) as client:
        for model in ["demo/listen", *OWN]:
            with pytest.raises(openai.BadRequestError, match=r"could not be decoded|corrupt|does not appear"):
                await client.audio.transcriptions.create(model=model, file=("a.wav", BROKEN))
        with pytest.raises(openai.BadRequestError, match="none of json"):
            await client.audio.transcriptions.create(model=OWN[0], file=("a", SOUND), response_format="diarized_json")
        with pytest.raises(openai.BadRequestError, match="is no chat model"):
            await client.chat.completions.create(model=OWN[0], messages=[{"role": "user", "content": "hi"}])
    rows = await cluster.booked(3)
    assert {row["cost_nano_usd"] for row in rows} == {0}


async def test_openrouters_json_and_what_is_left_out(cluster: Cluster) -> None:
    sound = {"data": b64encode(SOUND).decode(), "format": "wav"}
    headers = {"Authorization": f"Bearer {cluster.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for model in ["demo/listen", *OWN]:
            body = {"model": model, "input_audio": sound, "prompt": "names"}
            async with session.post(f"{cluster.url()}/v1/audio/transcriptions", json=body) as reply:
                assert ((await reply.json())["text"], reply.status) == (TEXT, 200)
                assert reply.headers.get("x-waystation-dropped") == (None if model == "demo/listen" else "prompt")
        for content_type, data, problem in (
            ("multipart/form-data", b"x", "boundary"),
            ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nx', "not closed"),
            ("text/plain", b"x", "not supported"),
        ):
            async with session.post(
                f"{cluster.url()}/v1/audio/transcriptions", data=data, headers={"Content-Type": content_type}
            ) as reply:
                assert reply.status in (400, 415)
                assert problem in (await reply.json())["error"]["message"]

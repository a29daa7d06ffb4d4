"""Images, moderations and speech, seen through OpenAI's SDK."""

from __future__ import annotations

import io
import wave
from base64 import b64decode
from collections.abc import AsyncIterator

import openai
import pytest

from tests.upstreams import upstream


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        upstream(api_key="the-key") as provider,
        openai.AsyncOpenAI(base_url=provider.url, api_key="the-key", max_retries=0) as made,
    ):
        yield made


async def test_an_image_for_each_of_n_and_its_usage(client: openai.AsyncOpenAI) -> None:
    made = await client.images.generate(model="image", prompt="a red square", n=2)
    assert made.data is not None
    assert [b64decode(image.b64_json or "")[:8] for image in made.data] == [b"\x89PNG\r\n\x1a\n"] * 2
    assert made.usage is not None
    assert made.usage.output_tokens == 32
    assert made.usage.total_tokens == made.usage.input_tokens + 32


async def test_one_word_is_flagged(client: openai.AsyncOpenAI) -> None:
    made = await client.moderations.create(model="moderate", input=["hello", "a bomb"])
    assert [result.flagged for result in made.results] == [False, True]


async def test_speech_is_half_a_second_of_sound(client: openai.AsyncOpenAI) -> None:
    made = await client.audio.speech.create(model="speak", input="hello", voice="alloy", response_format="wav")
    with wave.open(io.BytesIO(made.content)) as sound:
        assert (sound.getnframes(), sound.getframerate()) == (4000, 8000)


@pytest.mark.parametrize("wrong", [{"prompt": 1}, {"prompt": "x", "n": 11}, {"prompt": "x", "response_format": "url"}])
async def test_what_is_wrong_is_refused(client: openai.AsyncOpenAI, wrong: dict[str, object]) -> None:
    with pytest.raises(openai.BadRequestError):
        await client.post("/images/generations", body={"model": "image"} | wrong, cast_to=object)

"""Every URL for clients, as the SDK that has a method for it calls it. What a format does in depth is in the SDK's own file."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import cohere
import openai
import pytest
import pytest_asyncio
from google import genai
from google.genai import types

from tests.hosts.cluster import Cluster, running
from tests.upstreams.scripted import Scripted, scripted

WAVE = b"WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00@\x1f\x00\x00\x80>\x00\x00\x02\x00\x10\x00data\x00\x00\x00\x00"
SILENCE = b"RIFF\x24\x00\x00\x00" + WAVE
USER: Any = [{"role": "user", "content": "Hello!"}]


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path, nodes=0) as started:
        await started.ready(started.start_node(WAYSTATION_SIMULATOR_URL=started.provider.url))
        yield started


@asynccontextmanager
async def openai_at(cluster: Cluster, path: str = "/v1") -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=cluster.url() + path, api_key=cluster.key, max_retries=0) as client:
        yield client


@asynccontextmanager
async def answering(cluster: Cluster, content_type: str, body: bytes) -> AsyncIterator[Scripted]:
    """A provider `own/…` that answers everything with this: what the simulator has no model for."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (content_type.encode(), len(body))
    async with scripted(head + body) as provider:
        entry = {"name": "own", "provider": "custom", "prefix": "own", "base_url": provider.url, "api_key": "env:LAB_KEY"}
        await cluster.apply(connections=[entry])
        yield provider


@pytest.mark.parametrize("path", ["/v1", "/api/v1", "/v1/providers/demo"])
async def test_openais(cluster: Cluster, path: str) -> None:
    async with openai_at(cluster, path) as client:
        chat = await client.chat.completions.create(model="demo/chat", messages=USER, max_tokens=50)
        assert chat.choices[0].message.content == "You said: Hello!"
        stream = await client.chat.completions.create(model="demo/chat", messages=USER, max_tokens=50, stream=True)
        said = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
        assert "".join(said) == "You said: Hello!"
        response = await client.responses.create(model="demo/chat", input="Hello!", max_output_tokens=50)
        assert response.output_text == "You said: Hello!"
        more = await client.responses.create(model="demo/chat", input="More!", previous_response_id=response.id)
        assert more.output_text == "You said: More!"
        events = [event async for event in await client.responses.create(model="demo/chat", input="Hello!", stream=True)]
        kinds = [event.type for event in events]
        assert (kinds[0], kinds[1], kinds[-1]) == ("response.created", "response.in_progress", "response.completed")
        assert [event.sequence_number for event in events] == list(range(len(events)))
        completion = await client.completions.create(model="demo/chat", prompt="Hello!", max_tokens=50)
        assert completion.choices[0].text == "You said: Hello!"
        vectors = await client.embeddings.create(model="demo/embed", input=["one", "two"])
        assert [len(each.embedding) > 0 for each in vectors.data] == [True, True]
        heard = await client.audio.transcriptions.create(model="demo/listen", file=("a.wav", SILENCE))
        assert heard.text
        listed = [model.id async for model in await client.models.list()]
        assert "demo/chat" in listed
        assert all(each.startswith("demo/") for each in listed) or "providers" not in path
        one = await client.models.retrieve("demo/chat")
        assert (one.id, one.owned_by) == ("demo/chat", "demo")


async def test_responses_are_stored(cluster: Cluster) -> None:
    async with openai_at(cluster) as client:
        made = await client.responses.create(model="demo/chat", input="Hello!")
        assert (await client.responses.retrieve(made.id)).output_text == made.output_text
        await client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)


@pytest.mark.parametrize("path", ["/v1", "/v1/providers/own"])
async def test_openais_pictures_moderations_speech_and_rankings(cluster: Cluster, path: str) -> None:
    async with openai_at(cluster, path) as client:
        async with answering(cluster, "application/json", b'{"created":1,"data":[{"b64_json":"QQ=="}]}') as provider:
            picture = await client.images.generate(model="own/pictures", prompt="a bridge")
            assert picture.data is not None
            assert picture.data[0].b64_json == "QQ=="
            assert provider.requests[-1].startswith(b"POST /v1/images/generations ")
        flagged = b'{"id":"m","model":"m","results":[{"flagged":false,"categories":{},"category_scores":{}}]}'
        async with answering(cluster, "application/json", flagged):
            assert (await client.moderations.create(model="own/moderation", input="Hello!")).results[0].flagged is False
        async with answering(cluster, "audio/mpeg", b"ID3\x00\xff"):
            speech = await client.audio.speech.create(model="own/voice", input="Hello!", voice="alloy")
            assert (speech.content, speech.response.headers["content-type"]) == (b"ID3\x00\xff", "audio/mpeg")
        ranked = b'{"id":"r","results":[{"index":1,"relevance_score":0.9}],"meta":{"billed_units":{"search_units":1}}}'
        async with answering(cluster, "application/json", ranked):
            body = {"model": "own/rerank", "query": "q", "documents": ["a", "b"]}
            told = await client.post("/rerank", body=body, cast_to=object)
            assert told["results"][0]["index"] == 1  # type: ignore[index]


async def test_the_demo_draws_moderates_and_speaks(cluster: Cluster) -> None:
    async with openai_at(cluster) as client:
        picture = await client.images.generate(model="demo/image", prompt="a bridge")
        assert picture.data is not None
        assert b64decode(picture.data[0].b64_json or "").startswith(b"\x89PNG")
        assert (await client.moderations.create(model="demo/moderate", input="a bomb")).results[0].flagged is True
        speech = await client.audio.speech.create(model="demo/speak", input="Hello!", voice="alloy", response_format="wav")
        assert speech.content.startswith(b"RIFF")


@pytest.mark.parametrize("path", ["", "/api", "/v1/providers/demo-messages"])
async def test_anthropics(cluster: Cluster, path: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=cluster.url() + path, api_key=cluster.key, max_retries=0) as client:
        model = "demo-messages/chat"
        message = await client.messages.create(model=model, max_tokens=50, messages=USER)
        assert message.content[0].type == "text"
        assert message.content[0].text == "You said: Hello!"
        async with client.messages.stream(model=model, max_tokens=50, messages=USER) as stream:
            assert await stream.get_final_text() == "You said: Hello!"
        assert (await client.messages.count_tokens(model=model, messages=USER)).input_tokens > 0
        assert model in [each.id async for each in await client.models.list()]
        assert (await client.models.retrieve(model)).id == model


@pytest.mark.parametrize(
    ("path", "version"), [("", "v1beta"), ("", "v1"), ("", "v1alpha"), ("/v1/providers/demo-gemini", "v1beta")]
)
@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
async def test_googles(cluster: Cluster, path: str, version: str) -> None:
    options = types.HttpOptions(base_url=cluster.url() + path, api_version=version)
    client = genai.Client(api_key=cluster.key, http_options=options).aio
    model = "demo-gemini/chat"
    assert (await client.models.generate_content(model=model, contents="Hello!")).text == "You said: Hello!"
    stream = await client.models.generate_content_stream(model=model, contents="Hello!")
    said: list[Any] = [chunk async for chunk in stream]
    assert "".join(chunk.text or "" for chunk in said) == "You said: Hello!"
    assert (await client.models.count_tokens(model=model, contents="Hello!")).total_tokens
    vectors = await client.models.embed_content(model="demo-gemini/embed", contents=["one", "two"])
    assert len(vectors.embeddings or []) == 2
    assert f"models/{model}" in [each.name async for each in await client.models.list()]
    assert (await client.models.get(model=model)).name == f"models/{model}"
    await client.aclose()


@pytest.mark.parametrize("path", ["", "/v1/providers/demo-cohere"])
async def test_coheres(cluster: Cluster, path: str) -> None:
    async with cohere.AsyncClientV2(api_key=cluster.key, base_url=cluster.url() + path) as client:
        chat = await client.chat(model="demo-cohere/chat", messages=USER)
        assert chat.message.content is not None
        assert chat.message.content[0].text == "You said: Hello!"
        said = [each async for each in client.chat_stream(model="demo-cohere/chat", messages=USER)]
        assert (said[0].type, said[-1].type) == ("message-start", "message-end")
        vectors = await client.embed(
            model="demo-cohere/embed", texts=["one"], input_type="search_query", embedding_types=["float"]
        )
        assert vectors.embeddings.float_
        ranked = await client.rerank(model="demo-cohere/rerank", query="one", documents=["one", "two"])
        assert len(ranked.results) == 2


async def got(cluster: Cluster, path: str) -> Any:
    headers = {"Authorization": f"Bearer {cluster.key}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(cluster.url() + path) as reply:
        assert reply.status == 200, path
        return await reply.json()


async def test_openrouters_own(cluster: Cluster) -> None:
    """`/api/v1`: chat and its fields are in tests/hosts/test_openrouter.py, OpenRouter's SDKs in `make test-clients`."""
    models = await got(cluster, "/api/v1/models")
    one = next(each for each in models["data"] if each["id"] == "demo/chat")
    assert (one["pricing"]["prompt"], one["context_length"], models["total_count"]) == (
        "0.00000015",
        128_000,
        len(models["data"]),
    )
    pages: list[Any] = []
    path = "/api/v1/models?offset=0&limit=3"
    while path:
        page = await got(cluster, path)
        assert (len(page["data"]) <= 3, page["total_count"]) == (True, models["total_count"])
        pages += page["data"]
        path = page["links"]["next"]
    assert pages == models["data"]
    (endpoint,) = (await got(cluster, "/api/v1/models/demo/chat/endpoints"))["data"]["endpoints"]
    assert (endpoint["provider_name"], endpoint["tag"].split("/")[0], endpoint["pricing"]) == ("Demo", "demo", one["pricing"])
    assert (await got(cluster, "/api/v1/key"))["data"]["usage"] == 0
    assert (await got(cluster, "/api/v1/credits"))["data"]["total_usage"] == 0
    async with openai_at(cluster, "/api/v1") as client:
        chat = await client.chat.completions.create(model="demo/chat", messages=USER, max_tokens=50)
    await cluster.booked(1)
    told = (await got(cluster, f"/api/v1/generation?id={chat.id}"))["data"]
    assert (told["id"], told["model"], told["total_cost"]) == (chat.id, "demo/chat", chat.usage.cost)  # type: ignore[union-attr]


async def test_the_catalogue_is_grouped_by_provider_and_says_what_kind_a_model_is(cluster: Cluster) -> None:
    groups = {group["provider"]: group["models"] for group in (await got(cluster, "/api/models/catalog"))["data"]}
    kinds = {model["id"]: model["type"] for models in groups.values() for model in models}
    assert kinds["demo/chat"] == "chat"
    assert [kinds[f"demo/{name}"] for name in ("listen", "image", "moderate", "speak")] == [
        "transcription", "image", "moderation", "speech",
    ]  # fmt: skip
    assert {model["id"].split("/")[0] for model in groups["demo"]} == {"demo"}

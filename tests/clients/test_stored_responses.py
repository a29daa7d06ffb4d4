"""Stored responses through the OpenAI SDK: a conversation goes on by its id, at any provider, on any node, for its team."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from services.matrix.capabilities import WEATHER
from shared.store import tenants
from tests.hosts.cluster import Cluster, running

MODELS = ["demo", "demo-responses", "demo-messages"]
TOOL: Any = {
    "type": "function", "name": WEATHER.name, "description": WEATHER.description, "parameters": WEATHER.schema, "strict": False,
}  # fmt: skip


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path, nodes=2, demo=True) as started:
        yield started


def sdk(cluster: Cluster, node: int = 0, key: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{cluster.url(node)}/v1", api_key=key or cluster.key, max_retries=0)


async def streamed(client: openai.AsyncOpenAI, **asked: Any) -> Any:
    async with client.responses.stream(**asked) as stream:
        async for _ in stream:
            pass
        return await stream.get_final_response()


@pytest.mark.parametrize("provider", MODELS)
async def test_a_conversation_goes_on_by_its_id_on_another_node(cluster: Cluster, provider: str) -> None:
    here, there = sdk(cluster), sdk(cluster, 1)
    first = await here.responses.create(model=f"{provider}/chat", input="one", instructions="Be brief.")
    second = await streamed(there, model=f"{provider}/chat", input="two", previous_response_id=first.id)
    third = await here.responses.create(model=f"{provider}/chat", input="three", previous_response_id=second.id)
    assert third.output_text == "You said: three"
    sent = cluster.provider.last.body
    told = str(sent.get("messages", sent.get("input")))
    places = [told.index(text) for text in ("one", "You said: one", "two", "You said: two", "three")]
    assert places == sorted(places)
    assert "previous_response_id" not in sent
    assert "Be brief." not in str(sent)  # instructions are each call's own
    if provider != "demo-responses":
        assert third.previous_response_id == second.id
    again = await there.responses.retrieve(third.id)
    assert again.output_text == third.output_text
    items = await here.responses.input_items.list(third.id)
    assert len(items.data) == 5
    await here.close()
    await there.close()


@pytest.mark.parametrize("provider", MODELS)
async def test_a_tools_result_needs_nothing_but_the_id(cluster: Cluster, provider: str) -> None:
    client = sdk(cluster)
    called = await streamed(client, model=f"{provider}/tools", input="Warm?", tools=[TOOL])
    call = next(item for item in called.output if item.type == "function_call")
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}]
    said = await client.responses.create(model=f"{provider}/tools", input=result, tools=[TOOL], previous_response_id=called.id)
    assert said.output_text == "The tool answered: 18 degrees"
    await client.close()


async def test_an_item_can_be_referred_to(cluster: Cluster) -> None:
    client = sdk(cluster)
    first = await client.responses.create(model="demo/chat", input="one")
    items: Any = [
        {"role": "user", "content": "one"}, {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "two"},
    ]  # fmt: skip
    await client.responses.create(model="demo/chat", input=items)
    messages = cluster.provider.last.body["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    items[1]["id"] = "msg_unknown"
    with pytest.raises(openai.BadRequestError, match="msg_unknown"):
        await client.responses.create(model="demo/chat", input=items)
    await client.close()


async def test_nobody_else_can_reach_it_and_nothing_can_be_read_in_redis(cluster: Cluster, redis_url: str) -> None:
    mine = sdk(cluster)
    canary = "the canary sings at midnight"
    first = await mine.responses.create(model="demo/chat", input=canary)
    await cluster.apply(organisations=[{"name": "default", "teams": ["rivals"]}, {"name": "other", "teams": ["default"]}])
    for organisation, team in (("default", "rivals"), ("other", "default")):
        made = await tenants.create_key(cluster.pool, cluster.vault, team=team, organisation=organisation)
        theirs = sdk(cluster, key=made.key)
        await cluster.taken_in()
        for attempt in (
            theirs.responses.create(model="demo/chat", input="go on", previous_response_id=first.id),
            theirs.responses.retrieve(first.id),
            theirs.responses.delete(first.id),
            theirs.responses.input_items.list(first.id),
        ):
            with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
                await attempt
        await theirs.close()
    async with Redis.from_url(redis_url) as redis:
        keys = [key async for key in redis.scan_iter(match="*:resp:*")]
        (key,) = keys
        raw = await redis.get(key)
        assert isinstance(raw, bytes)
        assert canary.encode() not in raw
        assert 0 < await redis.ttl(key) <= 86_400
    assert (await mine.responses.retrieve(first.id)).id == first.id
    await mine.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await mine.responses.retrieve(first.id)
    await mine.close()


async def test_what_is_not_to_be_stored_is_not(cluster: Cluster) -> None:
    client = sdk(cluster)
    for asked in ({"store": False}, {"store": False, "stream": True}):
        if asked.pop("stream", False):
            made = await streamed(client, model="demo/chat", input="hush", **asked)
        else:
            made = await client.responses.create(model="demo/chat", input="hush", **asked)  # type: ignore[call-overload]
        with pytest.raises(openai.BadRequestError, match="never stored"):
            await client.responses.create(model="demo/chat", input="go on", previous_response_id=made.id)
    with pytest.raises(openai.BadRequestError, match="conversation"):
        await client.responses.create(model="demo/chat", input="x", conversation="conv_1")
    await client.close()

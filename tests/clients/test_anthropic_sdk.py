"""The real Anthropic SDK at a provider of OpenAI's format: chat, stream, tool round trip, errors, a 429 that it retries."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.hosts.cluster import Cluster

HELLO: Any = [{"role": "user", "content": "Hello!"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "Weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def sdk(cluster: Cluster, key: str | None = None, **more: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=cluster.url(), api_key=key or cluster.key, **({"max_retries": 0} | more))


async def test_it_chats_streams_and_calls_tools(cluster: Cluster) -> None:
    client = sdk(cluster)
    whole = await client.messages.create(model="lab/chat", max_tokens=100, system="Be brief.", messages=HELLO)
    assert whole.content[0].type == "text"
    assert whole.content[0].text == "You said: Hello!"
    assert (whole.role, whole.stop_reason, whole.model) == ("assistant", "end_turn", "lab/chat")
    assert whole.usage.input_tokens > 0 < whole.usage.output_tokens
    assert cluster.provider.last.body["messages"][0] == {"role": "system", "content": "Be brief."}

    async with client.messages.stream(model="lab/chat", max_tokens=100, messages=HELLO) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == "You said: Hello!"
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens

    asked: Any = [{"role": "user", "content": "Weather in Paris?"}]
    called = await client.messages.create(model="lab/tools", max_tokens=100, messages=asked, tools=[WEATHER])
    assert called.stop_reason == "tool_use"
    use = next(block for block in called.content if block.type == "tool_use")
    assert use.name == "get_weather"
    assert isinstance(use.input, dict)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    history: Any = [*asked, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    told = await client.messages.create(model="lab/tools", max_tokens=100, messages=history, tools=[WEATHER])
    assert told.stop_reason == "end_turn"
    assert told.content[0].type == "text"
    await client.close()
    rows = await cluster.booked(4)
    assert {(row["kind"], row["source"]) for row in rows} == {("actual", "provider")}


async def test_reasoning_comes_as_thinking(cluster: Cluster) -> None:
    client = sdk(cluster)
    made = await client.messages.create(
        model="lab/reasoning", max_tokens=4000, messages=HELLO, thinking={"type": "enabled", "budget_tokens": 2000}
    )
    assert [block.type for block in made.content] == ["thinking", "text"]
    async with client.messages.stream(
        model="lab/reasoning", max_tokens=4000, messages=HELLO, thinking={"type": "enabled", "budget_tokens": 2000}
    ) as stream:
        final = await stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    await client.close()


async def test_errors_are_its_own_classes(cluster: Cluster) -> None:
    client = sdk(cluster)
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.create(model="nobody/nothing", max_tokens=5, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        await client.messages.create(model="lab/too-long", max_tokens=5, messages=HELLO)
    odd: Any = [{"role": "robot", "content": "x"}]
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].role"):
        await client.messages.create(model="lab/chat", max_tokens=5, messages=odd)
    with pytest.raises(anthropic.RateLimitError) as limited:
        await client.messages.create(model="lab/fail-429-retry-7", max_tokens=5, messages=HELLO)
    assert limited.value.response.headers["retry-after"] == "7"
    with pytest.raises(anthropic.APIStatusError) as overloaded:
        await client.messages.create(model="lab/fail-503", max_tokens=5, messages=HELLO)
    assert overloaded.value.status_code == 529
    with pytest.raises(anthropic.APIStatusError, match="failed in the middle"):
        async with client.messages.stream(model="lab/error-event-after-2", max_tokens=50, messages=HELLO) as stream:
            await stream.get_final_message()
    await client.close()
    stranger = sdk(cluster, key="sk-ant-unknown")
    with pytest.raises(anthropic.AuthenticationError):
        await stranger.messages.create(model="lab/chat", max_tokens=5, messages=HELLO)
    await stranger.close()


async def test_a_429_is_retried_and_then_answered(cluster: Cluster) -> None:
    cluster.provider.fail("fail-429-retry-0", times=1)
    client = sdk(cluster, max_retries=2)
    made = await client.messages.create(model="lab/chat", max_tokens=100, messages=HELLO)
    assert made.stop_reason == "end_turn"
    assert len(cluster.provider.requests) == 2
    await client.close()


async def test_it_counts_tokens_and_lists_models(cluster: Cluster) -> None:
    client = sdk(cluster)
    counted = await client.messages.count_tokens(model="lab/chat", messages=HELLO)
    assert counted.input_tokens > 0
    assert cluster.provider.requests == []
    listed = await client.models.list(limit=1000)
    assert isinstance(listed.data, list)
    await client.close()


async def test_a_prewarming_call_costs_nothing_where_there_is_nothing_to_warm(cluster: Cluster) -> None:
    client = sdk(cluster)
    warmed = await client.messages.create(model="lab/chat", max_tokens=0, messages=HELLO)
    assert (warmed.content, warmed.stop_reason, warmed.usage.input_tokens) == ([], "max_tokens", 0)
    assert warmed._request_id is not None
    told = (await client.messages.with_raw_response.create(model="lab/chat", max_tokens=0, messages=HELLO)).headers
    assert told["request-id"] == told["x-request-id"]
    assert (told["x-waystation-model"], told.get("x-waystation-attempts")) == ("lab/chat", None)
    async with client.messages.stream(model="lab/chat", max_tokens=0, messages=HELLO) as stream:
        assert stream.response.headers["request-id"] == stream.response.headers["x-request-id"]
        assert stream.response.headers["cache-control"] == "no-cache, no-transform"
        assert [event.type async for event in stream] == ["message_start", "message_delta", "message_stop"]
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.create(model="nobody/chat", max_tokens=0, messages=HELLO)
    assert cluster.provider.requests == []
    await client.close()

"""OpenAI's SDK with its Responses API at a provider of Chat's format: text, streams, tools, structured output, errors."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.hosts.cluster import Cluster

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


class City(BaseModel):
    name: str
    people: int


def sdk(cluster: Cluster, **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{cluster.url()}/v1", api_key=cluster.key, **({"max_retries": 0} | more))


async def test_it_answers_streams_and_calls_tools(cluster: Cluster) -> None:
    client = sdk(cluster)
    whole = await client.responses.create(model="lab/chat", input="Hello!", instructions="Be brief.")
    assert whole.output_text == "You said: Hello!"
    assert (whole.status, whole.model, whole.object) == ("completed", "lab/chat", "response")
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    assert cluster.provider.last.body["messages"][0] == {"role": "system", "content": "Be brief."}

    kinds, numbers = [], []
    async with client.responses.stream(model="lab/chat", input="Hello!") as stream:
        async for event in stream:
            kinds.append(event.type)
            numbers.append(event.sequence_number)
        final = await stream.get_final_response()
    assert final.output_text == "You said: Hello!"
    assert numbers == list(range(len(numbers)))
    without_deltas = [kind for kind in kinds if not kind.endswith(".delta")]
    assert without_deltas == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert kinds.count("response.output_text.delta") > 1

    called = await client.responses.create(model="lab/tools", input="Weather in Paris?", tools=[WEATHER])
    call = next(item for item in called.output if item.type == "function_call")
    assert call.name == "get_weather"
    history: Any = [
        {"role": "user", "content": "Weather in Paris?"},
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]
    told = await client.responses.create(model="lab/tools", input=history, tools=[WEATHER])
    assert told.output_text
    await client.close()
    await cluster.booked(4)


async def test_reasoning_and_structured_output(cluster: Cluster) -> None:
    client = sdk(cluster)
    thought = await client.responses.create(
        model="lab/reasoning", input="Hello!", reasoning={"effort": "low", "summary": "auto"}
    )
    assert [item.type for item in thought.output] == ["reasoning", "message"]
    parsed = await client.responses.parse(model="lab/json", input="Which city?", text_format=City)
    assert isinstance(parsed.output_parsed, City)
    await client.close()


async def test_limits_and_errors(cluster: Cluster) -> None:
    client = sdk(cluster)
    short = await client.responses.create(model="lab/long-50", input="Hello!", max_output_tokens=16)
    assert (short.status, short.incomplete_details and short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        await client.responses.create(model="lab/chat", input="Hello!", previous_response_id="resp_unknown")
    with pytest.raises(openai.BadRequestError) as too_long:
        await client.responses.create(model="lab/too-long", input="Hello!")
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="nobody/nothing", input="Hello!")
    with pytest.raises(openai.RateLimitError) as limited:
        await client.responses.create(model="lab/fail-429-retry-7", input="Hello!")
    assert limited.value.response.headers["retry-after"] == "7"
    kinds = [
        event.type
        async for event in await client.responses.create(model="lab/error-event-after-2", input="Hello!", stream=True)
    ]
    assert kinds[-1] == "response.failed"
    await client.close()
    cluster.provider.fail("fail-429-retry-0", times=1)
    patient = sdk(cluster, max_retries=2)
    assert (await patient.responses.create(model="lab/chat", input="Hello!")).output_text
    await patient.close()

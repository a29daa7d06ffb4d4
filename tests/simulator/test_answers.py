"""What the simulator answers when nothing is wrong, seen through the real OpenAI SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from enum import Enum
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from services.simulator.tokens import count_prompt_tokens, count_tokens
from tests.upstreams import Upstream, upstream

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city"],
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


def say(text: str) -> Any:
    return [{"role": "user", "content": text}]


@pytest.fixture
async def provider() -> AsyncIterator[Upstream]:
    async with upstream(any_model=False) as running:
        yield running


@pytest.fixture
async def client(provider: Upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=provider.url, api_key="unused", max_retries=0) as made:
        yield made


async def test_chat_answers_with_what_it_was_told(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="chat", messages=say("say pong"))
    assert reply.choices[0].message.content == "You said: say pong"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "chat"


@pytest.mark.parametrize("flag", ["prefix", "partial", "continue_final_message"])
async def test_an_answer_that_was_begun_is_gone_on_with_where_it_is_asked_for(client: openai.AsyncOpenAI, flag: str) -> None:
    begun: Any = {"role": "assistant", "content": "You said: one"}
    more: Any = {flag: True} if flag == "continue_final_message" else {}
    if not more:
        begun[flag] = True
    call: Any = {"model": "chat", "messages": [*say("one two three"), begun]}
    reply = await client.chat.completions.create(**call, extra_body=more)
    assert reply.choices[0].message.content == " two three"
    begun.pop(flag, None)
    reply = await client.chat.completions.create(**call)
    assert reply.choices[0].message.content == "You said: one two three"


async def test_usage_can_be_computed_beforehand(client: openai.AsyncOpenAI) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *say("How are you today, simulator?")]
    reply = await client.chat.completions.create(model="chat", messages=messages)
    content = reply.choices[0].message.content or ""
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == count_prompt_tokens(messages)
    assert reply.usage.completion_tokens == count_tokens(content)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


async def test_a_stream_says_the_same_as_a_whole_reply_and_one_token_at_a_time(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="chat", messages=say("one two three"))
    stream = await client.chat.completions.create(
        model="chat", messages=say("one two three"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == whole.choices[0].message.content
    assert all(count_tokens(piece) == 1 for piece in pieces)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


async def test_a_stream_has_no_usage_unless_asked_for(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="chat", messages=say("hello"), stream=True)
    assert [chunk.usage async for chunk in stream if chunk.usage] == []


async def test_thoughts_come_first_and_are_counted(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="reasoning", messages=say("think"))
    message = reply.choices[0].message.model_dump()
    assert reply.usage is not None
    assert reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == count_tokens(message["reasoning_content"])
    assert reply.usage.completion_tokens == count_tokens(message["reasoning_content"]) + count_tokens(message["content"])
    stream = await client.chat.completions.create(model="reasoning", messages=say("think"), stream=True)
    kinds = ["content" if chunk.choices[0].delta.content else "reasoning" async for chunk in stream if _has_token(chunk)]
    assert kinds == sorted(kinds, reverse=True)


def _has_token(chunk: Any) -> bool:
    delta = chunk.choices[0].delta.model_dump()
    return bool(delta.get("content") or delta.get("reasoning_content"))


async def test_reasoning_effort_none_means_no_thoughts(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="reasoning", messages=say("x"), reasoning_effort="none")
    assert "reasoning_content" not in reply.choices[0].message.model_dump()


async def test_tools_calls_the_first_tool_with_arguments_that_fit_its_schema(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="tools", messages=say("weather?"), tools=[WEATHER, CLOCK])
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert [_called(call) for call in message.tool_calls or ()] == [
        ("get_weather", {"city": "Paris", "unit": "celsius", "days": 1})
    ]


async def test_tools_answers_in_text_once_it_has_the_result(client: openai.AsyncOpenAI) -> None:
    first = await client.chat.completions.create(model="tools", messages=say("weather?"), tools=[WEATHER])
    calls = first.choices[0].message.tool_calls or []
    history = [
        *say("weather?"),
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": calls[0].id, "content": "18 degrees"},
    ]
    second = await client.chat.completions.create(model="tools", messages=history, tools=[WEATHER])
    assert second.choices[0].message.content == "The tool answered: 18 degrees"
    assert second.choices[0].finish_reason == "stop"


async def test_parallel_calls_are_made_when_asked_for(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model="tools", messages=say("both"), tools=[WEATHER, CLOCK], parallel_tool_calls=True
    )
    calls = reply.choices[0].message.tool_calls or []
    assert [_called(call)[0] for call in calls] == ["get_weather", "get_time"]
    assert len({call.id for call in calls}) == 2


async def test_a_streamed_tool_call_is_the_same_call_in_pieces(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="tools", messages=say("both"), tools=[WEATHER, CLOCK], parallel_tool_calls=True, stream=True
    )
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    finish = None
    async for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or ():
            assert call.function is not None
            if call.id:
                names[call.index] = call.function.name or ""
            arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
        finish = chunk.choices[0].finish_reason or finish
    assert names == {0: "get_weather", 1: "get_time"}
    assert [json.loads(arguments[index]) for index in (0, 1)] == [{"city": "Paris", "unit": "celsius", "days": 1}, {}]
    assert finish == "tool_calls"


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("none", None),
        ("auto", None),
        ("required", "get_weather"),
        ({"type": "function", "function": {"name": "get_time"}}, "get_time"),
    ],
)
async def test_the_choice_of_tool_binds_every_model(client: openai.AsyncOpenAI, choice: Any, called: str | None) -> None:
    reply = await client.chat.completions.create(
        model="chat", messages=say("hello"), tools=[WEATHER, CLOCK], tool_choice=choice
    )
    calls = reply.choices[0].message.tool_calls or []
    assert [_called(call)[0] for call in calls] == ([called] if called else [])


def _called(call: Any) -> tuple[str, Any]:
    return call.function.name, json.loads(call.function.arguments)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    name: str
    colour: Colour
    parts: list[Part] | None


class Machine(BaseModel):
    title: str
    weight_kg: float = Field(gt=0, le=10)
    wheels: int = Field(ge=3, multiple_of=2)
    owner: str | None
    tags: list[str] = Field(min_length=2, max_length=3)
    body: Part


@pytest.mark.parametrize("model", ["json", "chat"])
async def test_a_json_schema_is_answered_with_a_valid_instance(client: openai.AsyncOpenAI, model: str) -> None:
    reply = await client.chat.completions.parse(model=model, messages=say("describe the machine"), response_format=Machine)
    machine = reply.choices[0].message.parsed
    assert machine is not None
    assert machine.wheels == 4
    assert machine.title == "describe the machine"


async def test_a_json_object_is_one(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="chat", messages=say("hello"), response_format={"type": "json_object"})
    assert json.loads(reply.choices[0].message.content or "") == {"answer": "hello"}


async def test_several_choices_are_counted_together(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="chat", messages=say("hello"), n=3)
    contents = [choice.message.content or "" for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len(set(contents)) == 3
    assert reply.usage is not None
    assert reply.usage.completion_tokens == sum(count_tokens(content) for content in contents)


async def test_several_choices_stream_in_turn_and_each_finishes(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="chat", messages=say("hello"), n=2, stream=True)
    texts = {0: "", 1: ""}
    finished: list[int] = []
    async for chunk in stream:
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            finished.append(choice.index)
    assert texts == {0: "You said: hello", 1: "(Choice 2) You said: hello"}
    assert finished == [0, 1]


async def test_a_stop_sequence_ends_the_text_before_it(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="chat", messages=say("one STOP two"), stop=["STOP", "two"])
    assert reply.choices[0].message.content == "You said: one "
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == count_tokens("You said: one ")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_cap_cuts_the_answer_and_says_so(client: openai.AsyncOpenAI, field: str, stream: bool) -> None:
    cap: Any = {field: 3}
    if not stream:
        reply = await client.chat.completions.create(model="long-50", messages=say("x"), **cap)
        assert reply.usage is not None
        assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (3, "length")
        return
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="long-50", messages=say("x"), stream=True, stream_options={"include_usage": True}, **cap
        )
    ]
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) == 3
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


async def test_a_cap_counts_thoughts_too(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="reasoning", messages=say("x"), max_completion_tokens=2)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 2
    assert reply.choices[0].message.content == ""
    assert reply.choices[0].finish_reason == "length"


async def test_no_answer_is_longer_than_the_model_allows(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="long-5000", messages=say("x"), max_tokens=100_000)
    assert reply.usage is not None
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (4096, "length")


async def test_cached_tokens_are_part_of_the_prompt(client: openai.AsyncOpenAI) -> None:
    for asked, cached in ((2, 2), (999, 5)):
        reply = await client.chat.completions.create(model=f"chat+cached-{asked}", messages=say("hello"))
        assert reply.usage is not None
        assert reply.usage.prompt_tokens_details is not None
        assert (reply.usage.prompt_tokens, reply.usage.prompt_tokens_details.cached_tokens) == (5, cached)


async def test_pictures_and_texts_in_parts_are_counted(client: openai.AsyncOpenAI) -> None:
    parts: Any = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    reply = await client.chat.completions.create(model="chat", messages=[{"role": "user", "content": parts}])
    assert reply.choices[0].message.content == "You said: what is this [image/png, 3 bytes]"
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 4 + 3 + 85


async def test_models_can_be_listed_and_asked_for(client: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]
    assert {"chat", "tools", "json", "reasoning"} <= set(listed)
    assert (await client.models.retrieve("chat+fail-503")).id == "chat+fail-503"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing")

"""What is tried in each cell: a short conversation, and what has to come of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

from services.matrix.conversation import PNG, PNG_BYTES, Ask, Heard, Tool, Wrong

Say = Callable[[Ask], Awaitable[Heard]]
Model = Callable[[str], str]

WEATHER = Tool(
    name="get_weather",
    description="The weather in a city.",
    schema={
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["city"],
    },
)
CLOCK = Tool(name="get_time", description="The time.", schema={"type": "object", "properties": {}})
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
LOOSE = {name: value for name, value in SCHEMA.items() if name in ("type", "properties")}


def check(met: bool, problem: str) -> None:
    if not met:
        raise Wrong(problem)


def answered(heard: Heard, text: str) -> None:
    check(heard.error is None, f"an error: {heard.error}")
    check(heard.text == text, f"heard {heard.text[:100]!r}, not {text!r}")
    check(heard.finish == "end", f"it ended with {heard.finish!r}")
    check(heard.input_tokens > 0 and heard.output_tokens > 0, f"usage {heard.input_tokens}/{heard.output_tokens}")


async def text(say: Say, model: Model, *, stream: bool = False) -> None:
    ask = Ask(model=model("chat"), text="say pong", system="Be brief.", stream=stream)
    heard = await say(ask)
    answered(heard, "You said: say pong")
    check(not stream or heard.deltas >= 3, f"only {heard.deltas} deltas")
    following = await say(replace(ask, text="and ping", before=(ask, heard)))
    answered(following, "You said: and ping")
    check(following.input_tokens > heard.input_tokens, "the history did not travel")


async def streamed_text(say: Say, model: Model) -> None:
    await text(say, model, stream=True)


async def tools(say: Say, model: Model, *, stream: bool = False) -> None:
    ask = Ask(model=model("tools"), text="How warm is it?", tools=(WEATHER, CLOCK), stream=stream)
    heard = await say(ask)
    called = [(call.name, call.arguments) for call in heard.calls]
    wanted = [("get_weather", {"city": "Paris", "unit": "celsius"})]
    check(called in (wanted, [*wanted, ("get_time", {})]), f"called {called}")
    check(heard.finish == "tools", f"it ended with {heard.finish!r}")
    results = tuple(f"{18 + at} degrees" for at in range(len(called)))
    answered(await say(replace(ask, before=(ask, heard), results=results)), f"The tool answered: {results[-1]}")


async def streamed_tools(say: Say, model: Model) -> None:
    await tools(say, model, stream=True)


async def images(say: Say, model: Model) -> None:
    ask = Ask(model=model("chat"), text="look", image=PNG)
    seen = f"[image/png, {PNG_BYTES} bytes]"
    heard = await say(ask)
    check("look" in heard.text and seen in heard.text, f"heard {heard.text[:100]!r}")


async def json_schema(say: Say, model: Model) -> None:
    """Closed and strict, and as loose as people write them."""
    for schema in (SCHEMA, LOOSE):
        heard = await say(Ask(model=model("json"), text="the forecast", schema=schema))
        told = json.loads(heard.text)
        check(set(told) == {"city", "unit", "days"}, f"fields {sorted(told)}")
        check(told["city"] == "Paris" and told["unit"] == "celsius", str(told))
        check(bool(told["days"]) and all(type(day) is int for day in told["days"]), str(told))


async def reasoning(say: Say, model: Model) -> None:
    for stream in (False, True):
        ask = Ask(model=model("reasoning"), text="think", think=True, stream=stream)
        heard = await say(ask)
        answered(heard, "You said: think")
        check(heard.thoughts.startswith("The user wrote"), f"thoughts {heard.thoughts[:60]!r}")
        answered(await say(replace(ask, text="again", before=(ask, heard))), "You said: again")


async def errors(say: Say, model: Model) -> None:
    """Refused before the first byte, and failed in mid-stream."""
    for name, status in (("fail-400", 400), ("fail-429", 429)):
        heard = await say(Ask(model=model(name), text="hello"))
        check(heard.finish == f"status {status}", f"{name} gave {heard.finish!r}")
        check(bool(heard.error), "an error without a message")
    broken = await say(Ask(model=model("error-event-after-3"), text="hello, is anybody there?", stream=True))
    check(broken.error is not None, "a failure in mid-stream was not told")
    check(broken.deltas >= 1, "nothing before the failure")


CAPABILITIES: dict[str, Callable[[Say, Model], Awaitable[None]]] = {
    "text": text,
    "stream": streamed_text,
    "tools": tools,
    "stream+tools": streamed_tools,
    "images": images,
    "json schema": json_schema,
    "reasoning": reasoning,
    "error": errors,
}

"""OpenRouter's own SDK at a gateway, run in an environment of its own by test_python_clients.py: URL and key in, JSON out. It
checks every answer against OpenRouter's schema, to the last key."""

from __future__ import annotations

import json
import sys
import time

from openrouter import OpenRouter, errors

URL, KEY = sys.argv[1:3]
QUESTION = {"role": "user", "content": "Hello!"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def conversation(router: OpenRouter) -> dict:
    whole = router.chat.send(model="lab/chat", messages=[QUESTION])
    streamed, cost = "", None
    with router.chat.send(model="lab/chat", messages=[QUESTION], stream=True) as stream:
        for chunk in stream:
            streamed += "".join(choice.delta.content or "" for choice in chunk.choices)
            cost = chunk.usage.cost if chunk.usage else cost
    called = router.chat.send(model="lab/tools", messages=[QUESTION], tools=[WEATHER]).choices[0].message
    asked = {"role": "assistant", "content": None, "tool_calls": [call.model_dump() for call in called.tool_calls]}
    results = [{"role": "tool", "tool_call_id": call.id, "content": "18 degrees"} for call in called.tool_calls]
    answered = router.chat.send(model="lab/tools", messages=[QUESTION, asked, *results], tools=[WEATHER])
    failed = []
    for model in ("lab/fail-400", "nobody/nothing"):
        try:
            router.chat.send(model=model, messages=[QUESTION])
        except errors.OpenRouterError as error:
            failed.append((type(error).__name__, error.status_code))
    return {
        "said": whole.choices[0].message.content,
        "streamed": streamed,
        "costs": [whole.usage.cost, cost],
        "calls": [call.function.name for call in called.tool_calls],
        "answered": answered.choices[0].message.content,
        "failed": failed,
        "generation": generation(router, whole.id),
        "models": [model.id for model in router.models.list().result.data],
        "key": router.api_keys.get_current_key_metadata().data.usage >= 0,
        "credits": router.credits.get_credits().data.total_credits,
    }


def generation(router: OpenRouter, generation_id: str) -> float:
    """Its cost, once it is booked."""
    for _ in range(100):
        try:
            return router.generations.get_generation(id=generation_id).data.total_cost
        except errors.NotFoundResponseError:
            time.sleep(0.2)
    raise AssertionError("it was never booked")


with OpenRouter(server_url=f"{URL}/api/v1", api_key=KEY) as client:
    print(json.dumps(conversation(client)))

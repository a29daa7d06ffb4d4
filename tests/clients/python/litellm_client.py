"""LiteLLM's SDK at a gateway, run in an environment of its own by test_python_clients.py: URL and key in, JSON out."""

from __future__ import annotations

import json
import sys

import litellm

URL, KEY = sys.argv[1:3]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
QUESTION = {"role": "user", "content": "Hello!"}


def ask(kind: str, name: str, messages=None, retries=0, **more):
    base = f"{URL}/v1" if kind == "openai" else URL
    return litellm.completion(
        model=f"{kind}/{name}", messages=messages or [QUESTION], api_base=base, api_key=KEY, num_retries=retries, **more
    )


def conversation(kind: str) -> dict:
    said = ask(kind, "lab/chat").choices[0].message.content
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(kind, "lab/chat", stream=True))
    called = ask(kind, "lab/tools", tools=[WEATHER]).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "18 degrees"} for call in called.tool_calls]
    answered = ask(kind, "lab/tools", [QUESTION, called.model_dump(), *results], tools=[WEATHER]).choices[0].message.content
    try:
        ask(kind, "lab/fail-400")
        error = ""
    except litellm.BadRequestError as failure:
        error = type(failure).__name__
    try:
        ask(kind, "lab/fail-429")
        limited = ""
    except litellm.RateLimitError as failure:
        limited = type(failure).__name__
    patient = ask(kind, f"lab/patient-{kind}", retries=2).choices[0].message.content
    calls = [call.function.name for call in called.tool_calls]
    return {
        "said": said,
        "streamed": streamed,
        "calls": calls,
        "answered": answered,
        "error": error,
        "limited": limited,
        "patient": patient,
    }


print(json.dumps({kind: conversation(kind) for kind in ("openai", "anthropic")}))

"""LangChain at a gateway, run in an environment of its own by test_python_clients.py: URL and key in, JSON out."""

from __future__ import annotations

import json
import sys

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"18 degrees in {city}"


def model(kind: str, name: str, **more):
    url, key = sys.argv[1:3]
    if kind == "openai":
        return ChatOpenAI(model=name, base_url=f"{url}/v1", api_key=key, **({"max_retries": 0} | more))
    if kind == "responses":
        return ChatOpenAI(model=name, base_url=f"{url}/v1", api_key=key, use_responses_api=True, **({"max_retries": 0} | more))
    return ChatAnthropic(model=name, base_url=url, api_key=key, max_tokens=500, **({"max_retries": 0} | more))


def text(message) -> str:
    content = message.content
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def conversation(kind: str) -> dict:
    said = text(model(kind, "lab/chat").invoke("Hello!"))
    streamed = "".join(text(chunk) for chunk in model(kind, "lab/chat").stream("Hello!"))
    asking = model(kind, "lab/tools").bind_tools([get_weather])
    question = HumanMessage("How warm is it?")
    called = asking.invoke([question])
    results = [
        ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"], name=call["name"]) for call in called.tool_calls
    ]
    answered = text(asking.invoke([question, called, *results]))
    try:
        model(kind, "lab/fail-400").invoke("Hello!")
        error = ""
    except Exception as failure:
        error = type(failure).__name__
    patient = text(model(kind, f"lab/patient-{kind}", max_retries=2).invoke("again"))
    return {
        "said": said,
        "streamed": streamed,
        "calls": [call["name"] for call in called.tool_calls],
        "answered": answered,
        "error": error,
        "patient": patient,
        "usage": called.usage_metadata["total_tokens"] > 0,
    }


print(json.dumps({kind: conversation(kind) for kind in ("openai", "responses", "anthropic")}))

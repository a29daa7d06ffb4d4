"""What the simulator answers: for each choice its thoughts, text or tool calls, already cut into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from services.simulator.behaviour import Answer, Behaviour
from services.simulator.call import Call
from services.simulator.schema import make_instance
from services.simulator.tokens import count_tokens, split_tokens

MAX_TOOL_CALLS = 3
ECHO_CHARACTERS = 400
LONG_WORDS = (" over", " and", " again", " the", " same", " few", " words")
UNICODE_TEXT = "Grüße 👋🏽 from 東京: ça va? Ω≈ç√∫ — naïve café, 👩‍👩‍👧 e\u0301."


@dataclass(slots=True)
class ToolCall:
    call_id: str
    name: str
    arguments: list[str]


@dataclass(slots=True)
class Choice:
    """One choice in tokens; `content` is None where a model would send null."""

    index: int
    reasoning: list[str] = field(default_factory=list)
    content: list[str] | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: str = "stop"

    @property
    def reasoning_tokens(self) -> int:
        return len(self.reasoning)

    @property
    def tokens(self) -> int:
        """Everything this choice costs, tool names included."""
        calls = sum(count_tokens(call.name) + len(call.arguments) for call in self.tool_calls)
        return len(self.reasoning) + len(self.content or ()) + calls


@dataclass(slots=True)
class Reply:
    """All choices, and what usage says of them (None: nothing)."""

    reply_id: str
    model: str
    created: int
    choices: list[Choice]
    usage: dict[str, Any]
    show_thoughts: bool = True
    seal_thoughts: bool = False


def compose(call: Call, behaviour: Behaviour, *, reply_id: str, created: int) -> Reply:
    """The whole reply, the same for the same call."""
    choices = [_choice(index, call, behaviour, reply_id) for index in range(call.choices)]
    completion = sum(choice.tokens for choice in choices)
    reasoning = sum(choice.reasoning_tokens for choice in choices)
    usage = usage_object(call.prompt_tokens, completion, reasoning, min(behaviour.cached_tokens, call.prompt_tokens))
    if behaviour.reported is not None:
        usage = usage_object(*behaviour.reported, 0, 0)
    return Reply(reply_id, call.model, created, choices, usage, call.show_thoughts, call.seal_thoughts)


def usage_object(prompt: int, completion: int, reasoning: int, cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _choice(index: int, call: Call, behaviour: Behaviour, reply_id: str) -> Choice:
    choice = Choice(index)
    if tools := _tools_to_call(call, behaviour):
        text = user_text(call)
        choice.tool_calls = [
            ToolCall(f"call_{reply_id[-12:]}{index:02d}{number:02d}", tool["name"], _arguments(tool, text))
            for number, tool in enumerate(tools)
        ]
        choice.finish_reason = "tool_calls"
    else:
        if behaviour.answer is Answer.REASONING and call.think:
            choice.reasoning = split_tokens(f"The user wrote {count_tokens(user_text(call))} tokens. An echo will do.")
        choice.content = _until_stop(_rest(_content(index, call, behaviour), call.begun), call.stop)
    _cut(choice, call.max_tokens)
    if behaviour.content_filter:
        choice.finish_reason = "content_filter"
    return choice


def _rest(pieces: list[str], begun: str) -> list[str]:
    """What is still to be said of an answer that was begun; all of it, if this is not how it begins."""
    text = "".join(pieces)
    return split_tokens(text[len(begun) :]) if begun and text.startswith(begun) else pieces


def _tools_to_call(call: Call, behaviour: Behaviour) -> Sequence[dict[str, Any]]:
    """The functions to call now: none after a tool's result, unless the choice of tool leaves no other way."""
    functions = [tool["function"] for tool in call.tools]
    if not functions or call.tool_choice == "none":
        return ()
    if call.tool_choice.startswith("="):
        return [function for function in functions if function["name"] == call.tool_choice[1:]]
    eager = behaviour.answer is Answer.TOOLS and call.last["role"] not in ("tool", "function")
    if not eager and call.tool_choice != "required":
        return ()
    if not call.parallel:
        return functions[:1]
    return functions[:MAX_TOOL_CALLS] if len(functions) > 1 else functions * 2


def _arguments(function: dict[str, Any], text: str) -> list[str]:
    made = make_instance(function.get("parameters") or {"type": "object"}, text)
    return split_tokens(orjson.dumps(made).decode())


def _content(index: int, call: Call, behaviour: Behaviour) -> list[str]:
    if call.response_format is not None:
        return split_tokens(_structured(call))
    match behaviour.answer:
        case Answer.LONG:
            words = LONG_WORDS * (behaviour.length_tokens // len(LONG_WORDS) + 1)
            return list(islice(words, behaviour.length_tokens))
        case Answer.UNICODE:
            return split_tokens(UNICODE_TEXT)
        case Answer.JSON:
            return split_tokens(_structured(call))
        case _:
            return split_tokens(_echo(index, call))


def _structured(call: Call) -> str:
    wanted = call.response_format
    if wanted is not None and wanted["type"] == "json_schema":
        return orjson.dumps(make_instance(wanted["json_schema"]["schema"], user_text(call))).decode()
    return orjson.dumps({"answer": user_text(call)[:ECHO_CHARACTERS]}).decode()


def _echo(index: int, call: Call) -> str:
    which = "" if index == 0 else f"(Choice {index + 1}) "
    if call.last["role"] in ("tool", "function"):
        return f"{which}The tool answered: {_text(call.last)[:ECHO_CHARACTERS]}"
    said = user_text(call)[:ECHO_CHARACTERS]
    if not said:
        return f"{which}Hello! This is the simulator; say something and it comes back."
    return f"{which}You said: {said}"


def user_text(call: Call) -> str:
    """What the user said last."""
    return next((_text(message) for message in reversed(call.messages) if message["role"] == "user"), "")


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(part["text"] if part.get("type") == "text" else seen(part) for part in content)
    return content or ""


def seen(part: dict[str, Any]) -> str:
    """What is told of a part that is no text: `[image/png, 70 bytes]`, `[https://…]`."""
    inner = part.get(str(part.get("type")))
    inner = inner if isinstance(inner, dict) else {}
    url = str(inner.get("url") or inner.get("file_data") or inner.get("file_url") or inner.get("file_id") or "")
    if part.get("type") == "input_audio":
        url = f"data:audio/{inner.get('format')};base64,{inner.get('data')}"
    if not url.startswith("data:"):
        return f"[{url or part.get('type')}]"
    head, _, data = url[5:].partition(",")
    return f"[{head.partition(';')[0]}, {len(data) * 3 // 4 - data.count('=')} bytes]"


def _until_stop(pieces: list[str], stops: Sequence[str]) -> list[str]:
    """The tokens before the first stop sequence."""
    if not stops:
        return pieces
    text = "".join(pieces)
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return split_tokens(text[: min(found)]) if found else pieces


def _cut(choice: Choice, most: int) -> None:
    """Leave at most `most` tokens: thoughts first, then text or calls; say so in finish_reason."""
    if choice.tokens <= most:
        return
    choice.finish_reason = "length"
    choice.reasoning = choice.reasoning[:most]
    left = most - len(choice.reasoning)
    if choice.content is not None:
        choice.content = choice.content[:left]
    kept: list[ToolCall] = []
    for call in choice.tool_calls:
        left -= count_tokens(call.name)
        if left < 0:
            break
        call.arguments = call.arguments[:left]
        left -= len(call.arguments)
        kept.append(call)
    choice.tool_calls = kept

"""A call as every format comes to it, in the terms of OpenAI's chat completions; and a chat completion's body, checked the
way OpenAI checks it: a wrong field is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from services.simulator.tokens import count_prompt_tokens

CONTEXT_TOKENS = 128_000
MAX_OUTPUT_TOKENS = 4096
MAX_CHOICES = 128
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class BadCall(Exception):
    """An error reply: status, and the four fields of an OpenAI error object; each format has its own words for them."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code, self.kind = param, code, kind


@dataclass(slots=True, kw_only=True)
class Call:
    """What the simulator needs of a body that was found right."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool
    include_usage: bool
    max_tokens: int
    """Per choice; the request's cap, at most MAX_OUTPUT_TOKENS."""
    choices: int
    stop: tuple[str, ...]
    tools: list[dict[str, Any]]
    tool_choice: str
    """`none`, `auto`, `required`, or the name of one tool with `=` before it."""
    parallel: bool
    """Whether parallel tool calls were asked for by name, not only allowed."""
    response_format: Mapping[str, Any] | None
    think: bool
    prompt_tokens: int
    show_thoughts: bool = True
    """Whether thoughts are told in words."""
    seal_thoughts: bool = False
    """Whether thoughts are given out encrypted as well (Responses)."""
    begun: str = ""
    """The beginning of the answer, to be gone on from: Anthropic's prefill, others' `prefix` or `partial`."""
    sse: bool = True
    """Whether a stream is server-sent events; Gemini also has one growing JSON array."""

    @property
    def last(self) -> dict[str, Any]:
        return self.messages[-1]


def read_call(raw: bytes) -> tuple[dict[str, Any], Call]:
    """The parsed body and the Call. Raises BadCall."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadCall(400, f"We could not parse the JSON body of your request: {error}") from error
    if not isinstance(body, dict):
        raise BadCall(400, "The JSON body of your request must be an object.")
    model = _field(body, "model", str, required=True)
    messages = _messages(body)
    tools = _tools(body)
    stream = bool(_field(body, "stream", bool))
    call = Call(
        model=model,
        messages=messages,
        stream=stream,
        include_usage=_include_usage(body, stream),
        max_tokens=_max_tokens(body),
        choices=_whole(body, "n", 1, MAX_CHOICES) or 1,
        stop=_stop(body),
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        parallel=bool(_field(body, "parallel_tool_calls", bool)),
        response_format=_response_format(body),
        think=body.get("reasoning_effort") != "none",
        begun=_begun(body, messages[-1]),
        prompt_tokens=count_prompt_tokens(messages, tools),
    )
    for name, most in (("temperature", 2), ("top_p", 1)):
        _number(body, name, most)
    if call.prompt_tokens > CONTEXT_TOKENS:
        raise BadCall(
            400,
            f"This model's maximum context length is {CONTEXT_TOKENS} tokens, your messages have {call.prompt_tokens}.",
            param="messages",
            code="context_length_exceeded",
        )
    return body, call


def _begun(body: Mapping[str, Any], last: dict[str, Any]) -> str:
    """What DeepSeek and Mistral mark with `prefix`, Kimi and Qwen with `partial`, vLLM with a field of the call. A last message
    of the assistant without any is history, as at OpenAI."""
    flags = [last.get("prefix"), last.get("partial"), body.get("continue_final_message")]
    if True not in flags:
        return ""
    if last["role"] != "assistant":
        raise BadCall(400, "The last message must be the assistant's.", param="messages", code="invalid_value")
    content = last.get("content")
    return content if isinstance(content, str) else ""


def _wrong(field: str, expected: str, value: Any) -> BadCall:
    return BadCall(
        400,
        f"Invalid type for '{field}': expected {expected}, but got {type(value).__name__} instead.",
        param=field,
        code="invalid_type",
    )


def _field(body: Mapping[str, Any], name: str, kind: type, *, required: bool = False) -> Any:
    value = body.get(name)
    if value is None:
        if required:
            raise BadCall(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong(name, kind.__name__, value)
    return value


def _whole(body: Mapping[str, Any], name: str, least: int, most: int | None = None) -> int | None:
    value: int | None = _field(body, name, int)
    if value is not None and (value < least or (most is not None and value > most)):
        bounds = f"at least {least}" if most is None else f"between {least} and {most}"
        raise BadCall(400, f"Invalid '{name}': must be {bounds}, got {value}.", param=name, code="invalid_value")
    return value


def _number(body: Mapping[str, Any], name: str, most: int) -> None:
    value = body.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "a number", value)
    if not 0 <= value <= most:
        raise BadCall(400, f"Invalid '{name}': must be between 0 and {most}, got {value}.", param=name, code="invalid_value")


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = _field(body, "messages", list, required=True)
    if not messages:
        raise BadCall(400, "Invalid 'messages': empty array.", param="messages", code="empty_array")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise _wrong(where, "an object", message)
        if message.get("role") not in ROLES:
            raise BadCall(400, f"Invalid value: {message.get('role')!r}.", param=f"{where}.role", code="invalid_value")
        _content(message.get("content"), f"{where}.content")
        if message["role"] == "tool" and not isinstance(message.get("tool_call_id"), str):
            raise BadCall(
                400,
                f"Missing required parameter: '{where}.tool_call_id'.",
                param=f"{where}.tool_call_id",
                code="missing_required_parameter",
            )
    return messages


def _content(content: Any, where: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise _wrong(where, "a string or an array", content)
    for index, part in enumerate(content):
        if not isinstance(part, dict):
            raise _wrong(f"{where}[{index}]", "an object", part)
        if part.get("type") == "text" and not isinstance(part.get("text"), str):
            raise _wrong(f"{where}[{index}].text", "a string", part.get("text"))


def _include_usage(body: Mapping[str, Any], stream: bool) -> bool:
    options = _field(body, "stream_options", dict)
    if options is None:
        return False
    if not stream:
        raise BadCall(
            400,
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    wanted = options.get("include_usage")
    if wanted is not None and not isinstance(wanted, bool):
        raise _wrong("stream_options.include_usage", "bool", wanted)
    return bool(wanted)


def _max_tokens(body: Mapping[str, Any]) -> int:
    cap = _whole(body, "max_completion_tokens", 1)
    older = _whole(body, "max_tokens", 1)
    asked = cap if cap is not None else older
    return MAX_OUTPUT_TOKENS if asked is None else min(asked, MAX_OUTPUT_TOKENS)


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(entry, str) and entry for entry in stops):
        raise _wrong("stop", "a string or an array of strings", stop)
    if len(stops) > 4:
        raise BadCall(400, "Invalid 'stop': at most 4 sequences.", param="stop", code="array_above_max_length")
    return tuple(stops)


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = _field(body, "tools", list) or []
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise _wrong(f"tools[{index}]", "an object", tool)
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise BadCall(400, "Only tools of type 'function' are known.", param=f"tools[{index}].type")
        if not isinstance(function.get("name"), str):
            raise BadCall(
                400,
                f"Missing required parameter: 'tools[{index}].function.name'.",
                param=f"tools[{index}].function.name",
                code="missing_required_parameter",
            )
    return tools


def _tool_choice(body: Mapping[str, Any], tools: list[dict[str, Any]]) -> str:
    choice = body.get("tool_choice")
    if choice is None:
        return "auto"
    if choice in ("none", "auto", "required"):
        return str(choice)
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        name = choice["function"].get("name")
        if any(tool["function"]["name"] == name for tool in tools):
            return f"={name}"
        raise BadCall(400, f"Tool {name!r} is not among 'tools'.", param="tool_choice", code="invalid_value")
    raise BadCall(400, f"Invalid value: {choice!r}.", param="tool_choice", code="invalid_value")


def _response_format(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    wanted: dict[str, Any] | None = _field(body, "response_format", dict)
    if wanted is None or wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_object":
        return wanted
    schema = wanted.get("json_schema")
    if wanted.get("type") == "json_schema" and isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        return wanted
    raise BadCall(400, "Invalid 'response_format'.", param="response_format", code="invalid_value")

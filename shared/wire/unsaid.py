"""Unsaid: what a translated call loses within its messages and tools, for `x-waystation-dropped`. Two causes: the client's
format knows a field that the hub has no word for (`unread`), or the hub has a word that the provider's format lacks
(`unspoken`).

Each kind of thing is named once, however often it occurs, in the client's own words: `messages[].content[].cache_control`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from shared.domain.catalogue import WireFormat
from shared.wire import loose
from shared.wire.canonical import Call, Media, Part, Text, ToolCall, ToolResult
from shared.wire.fields import camel

CHAT, RESPONSES, MESSAGES, GEMINI = (
    WireFormat.OPENAI_CHAT, WireFormat.OPENAI_RESPONSES, WireFormat.ANTHROPIC_MESSAGES, WireFormat.GEMINI,
)  # fmt: skip
Values = dict[str, Any]
Found = Iterator[str]

_CACHED = {"type", "cache_control"}
CHAT_MESSAGE = {
    "role", "content", "name", "tool_calls", "tool_call_id", "refusal", "reasoning_content", "reasoning", "reasoning_details",
    "function_call",
}  # fmt: skip
CHAT_PARTS = {
    "text": _CACHED | {"text"}, "image_url": _CACHED | {"image_url"}, "input_audio": {"type", "input_audio"},
    "file": _CACHED | {"file"}, "video_url": _CACHED | {"video_url"}, "refusal": {"type", "refusal"},
    "thinking": {"type", "thinking", "closed"},
}  # fmt: skip
BLOCKS = {
    "text": _CACHED | {"text"}, "image": _CACHED | {"source"}, "document": _CACHED | {"source", "title"},
    "tool_use": _CACHED | {"id", "name", "input"}, "tool_result": _CACHED | {"tool_use_id", "content", "is_error"},
    "thinking": {"type", "thinking", "signature"}, "redacted_thinking": {"type", "data"},
    "search_result": _CACHED | {"source", "title", "content"},
}  # fmt: skip
ITEMS = frozenset(
    {
        "message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning",
        "additional_tools",
    }
)  # fmt: skip
GOOGLE_PARTS = {
    "text", "inlineData", "fileData", "functionCall", "functionResponse", "thought", "thoughtSignature", "executableCode",
    "codeExecutionResult",
}  # fmt: skip


def unread(client: WireFormat, values: Values) -> list[str]:
    """Fields of the body that decoding passed over, below its top level."""
    read = READERS.get(client)
    return [] if read is None else list(dict.fromkeys(read(values)))


def _more(values: Values, known: set[str] | frozenset[str], at: str) -> Found:
    """What is there and not known. A field that says nothing loses nothing."""
    for name, value in values.items():
        if name not in known and value not in (None, False, "", [], {}):
            yield f"{at}{_shown(name)}"


def _shown(name: Any) -> str:
    return re.sub(r"[^\w.-]", "_", str(name), flags=re.ASCII)[:40]


def _parts(content: Any, kinds: Mapping[str, set[str]], at: str) -> Found:
    """Content in parts: their unknown fields, and parts of an unknown kind as `…content[]:kind`."""
    for part in loose.tables(content):
        known = kinds.get(loose.text(part.get("type")))
        if known is not None:
            yield from _more(part, known, f"{at}.")
        elif part.get("type"):
            yield f"{at}:{_shown(part['type'])}"


def _chat(values: Values) -> Found:
    for message in loose.tables(values.get("messages")):
        yield from _more(message, CHAT_MESSAGE, "messages[].")
        yield from _parts(message.get("content"), CHAT_PARTS, "messages[].content[]")
    for tool in loose.tables(values.get("tools")):
        yield from _more(tool, {"type", "function", "custom", "cache_control"}, "tools[].")
        yield from _more(
            loose.table(tool.get("function")), {"name", "description", "parameters", "strict"}, "tools[].function."
        )


def _messages(values: Values) -> Found:
    yield from _parts(values.get("system"), {"text": BLOCKS["text"]}, "system[]")
    for message in loose.tables(values.get("messages")):
        yield from _more(message, {"role", "content"}, "messages[].")
        yield from _parts(message.get("content"), BLOCKS, "messages[].content[]")
    for tool in loose.tables(values.get("tools")):
        if tool.get("type") in (None, "custom"):
            yield from _more(
                tool, {"type", "name", "description", "input_schema", "cache_control", "strict", "defer_loading"}, "tools[]."
            )  # fmt: skip


def _responses(values: Values) -> Found:
    for item in loose.tables(values.get("input")):
        kind = item.get("type")
        if kind is not None and kind not in ITEMS:
            yield f"input[]:{_shown(kind)}"
    for tool in loose.tables(values.get("tools")):
        if tool.get("type") in ("function", "custom"):
            yield from _more(tool, {"type", "name", "description", "parameters", "strict", "format"}, "tools[].")


def _google(values: Values) -> Found:
    contents = values.get("contents")
    for content in loose.tables([contents] if type(contents) is dict else contents):
        for part in loose.tables(content.get("parts")):
            yield from _more(camel(part), GOOGLE_PARTS, "contents[].parts[].")
    for tool in loose.tables(values.get("tools")):
        for declared in loose.tables(camel(tool).get("functionDeclarations")):
            known = {"name", "description", "parameters", "parametersJsonSchema"}
            yield from _more(camel(declared), known, "tools[].functionDeclarations[].")


READERS: dict[WireFormat, Callable[[Values], Found]] = {
    CHAT: _chat, RESPONSES: _responses, MESSAGES: _messages, GEMINI: _google,
}  # fmt: skip


# -- the hub's words that a provider's format lacks

SPOKEN: dict[WireFormat, frozenset[str]] = {
    CHAT: frozenset({"name", "detail", "strict", "strict_schema", "title"}),
    RESPONSES: frozenset({"detail", "strict", "strict_schema", "title"}),
    MESSAGES: frozenset({"cache", "title"}),
    WireFormat.BEDROCK: frozenset({"cache", "title"}),
}
WORDS: dict[str, dict[str, str]] = {
    "openai-chat": {
        "name": "messages[].name", "detail": "messages[].content[].image_url.detail", "cache": "cache_control",
        "strict": "tools[].function.strict", "strict_schema": "response_format.json_schema.strict",
        "title": "messages[].content[].file.filename",
    },
    "openai-responses": {
        "detail": "input[].content[].detail", "strict": "tools[].strict", "strict_schema": "text.format.strict",
        "title": "input[].content[].filename",
    },
    "anthropic-messages": {"cache": "cache_control", "strict": "tools[].strict", "title": "messages[].content[].title"},
}  # fmt: skip
"""The hub's word → the client's. What a format's clients cannot say is not in it."""


def unspoken(call: Call, provider: WireFormat) -> list[str]:
    words, spoken = WORDS.get(call.format, {}), SPOKEN.get(provider, frozenset())
    wanted = [word for word in words if word not in spoken]
    return [words[word] for word in wanted if any(USED[word](call))] if wanted else []


def _every_part(call: Call) -> Iterator[Part]:
    yield from call.system
    for turn in call.turns:
        for part in turn.parts:
            yield part
            if isinstance(part, ToolResult):
                yield from part.parts


def _cached(call: Call) -> Iterator[bool]:
    yield any(tool.cache is not None for tool in call.tools)
    for part in _every_part(call):
        if isinstance(part, (Text, Media, ToolCall, ToolResult)):
            yield part.cache is not None


USED: dict[str, Callable[[Call], Iterator[bool]]] = {
    "name": lambda call: (bool(turn.name) for turn in call.turns),
    "detail": lambda call: (isinstance(part, Media) and bool(part.detail) for part in _every_part(call)),
    "title": lambda call: (isinstance(part, Media) and bool(part.name) for part in _every_part(call)),
    "cache": _cached,
    "strict": lambda call: (tool.strict is True for tool in call.tools),
    "strict_schema": lambda call: iter((call.output is not None and call.output.strict is True,)),
}

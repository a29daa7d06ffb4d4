"""A Converse reply → a canonical Reply."""

from __future__ import annotations

from typing import Any

import orjson

from shared.domain.usage import MAX_TOKENS, Usage
from shared.wire import loose
from shared.wire.canonical import Choice, Media, Reply, Stop, Text, Thinking, ToolCall
from shared.wire.reply import MalformedReply

ORIGIN = "anthropic"
"""Whose reasoning signatures Bedrock carries: Claude's own."""
STOPS: dict[str, Stop] = {
    "end_turn": Stop.END, "tool_use": Stop.TOOL, "max_tokens": Stop.LENGTH, "stop_sequence": Stop.SEQUENCE,
    "guardrail_intervened": Stop.FILTER, "content_filtered": Stop.FILTER, "refusal": Stop.REFUSAL,
    "model_context_window_exceeded": Stop.LENGTH, "malformed_model_output": Stop.ERROR, "malformed_tool_use": Stop.ERROR,
}  # fmt: skip


def decode_reply(body: bytes) -> Reply:
    """Raises MalformedReply."""
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedReply("answered with something that is no JSON object") from None
    output = reply.get("output") if type(reply) is dict else None
    message = output.get("message") if type(output) is dict else None
    if type(message) is not dict:
        raise MalformedReply("answered without a message")
    content = message.get("content")
    blocks = [block for block in content if type(block) is dict] if type(content) is list else []
    parts = tuple(part for block in blocks if (part := block_part(block)) is not None)
    reason = loose.text(reply.get("stopReason"))
    return Reply(
        choices=(Choice(parts=parts, stop=STOPS.get(reason, Stop.END), native=reason or None),),
        usage=read_usage(reply.get("usage")),
    )


def block_part(block: dict[str, Any]) -> Text | Media | Thinking | ToolCall | None:
    if type(block.get("text")) is str:
        return Text(block["text"]) if block["text"] else None
    called = block.get("toolUse")
    if type(called) is dict:
        arguments = orjson.dumps(called.get("input") or {}).decode()
        return ToolCall(id=str(called.get("toolUseId") or ""), name=str(called.get("name") or ""), arguments=arguments)
    thought = block.get("reasoningContent")
    return thinking_part(thought) if type(thought) is dict else None


def thinking_part(thought: dict[str, Any]) -> Thinking | None:
    redacted = thought.get("redactedContent")
    if type(redacted) is str and redacted:
        return Thinking(signature=redacted, origin=ORIGIN, redacted=True)
    told = thought.get("reasoningText")
    if type(told) is not dict:
        return None
    signature = told.get("signature")
    signed = type(signature) is str and bool(signature)
    text = told.get("text")
    return Thinking(
        text=text if type(text) is str else "",
        signature=signature if signed else None,
        origin=ORIGIN if signed else None,
    )


def read_usage(raw: Any) -> Usage | None:
    """Bedrock counts what it read from and wrote to the cache apart from `inputTokens`; we count it in."""
    if type(raw) is not dict or "inputTokens" not in raw:
        return None
    read, written = loose.count(raw.get("cacheReadInputTokens")), loose.count(raw.get("cacheWriteInputTokens"))
    written = min(written, MAX_TOKENS - read)
    details = loose.tables(raw.get("cacheDetails"))
    for_an_hour = sum(loose.count(each.get("inputTokens")) for each in details if each.get("ttl") == "1h")
    return Usage(
        input_tokens=min(loose.count(raw.get("inputTokens")) + read + written, MAX_TOKENS),
        output_tokens=loose.count(raw.get("outputTokens")),
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(for_an_hour, written),
    )

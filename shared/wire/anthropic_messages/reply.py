"""Anthropic Messages' whole answers, both ways."""

from __future__ import annotations

from typing import Any

import orjson

from shared.domain.usage import MAX_TOKENS, Usage
from shared.wire import datauri, loose
from shared.wire.canonical import (
    SIGNED,
    Choice,
    Citation,
    Media,
    Reply,
    Stamp,
    Stop,
    Text,
    Thinking,
    ToolCall,
    pack_signature,
)
from shared.wire.reply import MalformedReply

REASONS: dict[Stop, str] = {
    Stop.END: "end_turn", Stop.ERROR: "end_turn", Stop.LENGTH: "max_tokens", Stop.TOOL: "tool_use",
    Stop.SEQUENCE: "stop_sequence", Stop.FILTER: "refusal", Stop.REFUSAL: "refusal", Stop.PAUSE: "pause_turn",
}  # fmt: skip
OUR_INDEX = f"{SIGNED}source"
STOPS: dict[str, Stop] = {
    "end_turn": Stop.END, "max_tokens": Stop.LENGTH, "model_context_window_exceeded": Stop.LENGTH, "tool_use": Stop.TOOL,
    "stop_sequence": Stop.SEQUENCE, "refusal": Stop.REFUSAL, "pause_turn": Stop.PAUSE,
}  # fmt: skip


def decode_reply(body: bytes) -> Reply:
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedReply("answered with something that is no message") from None
    if type(reply) is not dict or type(reply.get("content")) is not list:
        raise MalformedReply("answered without content")
    parts = tuple(part for block in reply["content"] if type(block) is dict and (part := block_part(block)) is not None)
    reason = loose.text(reply.get("stop_reason"))
    stop = STOPS.get(reason, Stop.END)
    sequence = reply.get("stop_sequence")
    choice = Choice(parts=parts, stop=stop, stop_sequence=sequence if type(sequence) is str else None, native=reason or None)
    model = reply.get("model")
    return Reply(choices=(choice,), usage=read_usage(reply.get("usage")), model=model if type(model) is str else None)


def block_part(block: dict[str, Any]) -> Text | Thinking | ToolCall | None:
    """A content block; None for those that only Anthropic's own tools make."""
    match block.get("type"):
        case "text":
            text = str(block.get("text") or "")
            return Text(text) if text else None
        case "thinking":
            signature = str(block.get("signature") or "") or None
            return Thinking(
                text=str(block.get("thinking") or ""), signature=signature, origin="anthropic" if signature else None
            )
        case "redacted_thinking":
            return Thinking(signature=str(block.get("data") or ""), origin="anthropic", redacted=True)
        case "tool_use":
            arguments = orjson.dumps(block.get("input") or {}).decode()
            return ToolCall(id=str(block.get("id") or "toolu_0"), name=str(block.get("name") or ""), arguments=arguments)
    return None


def read_usage(raw: Any) -> Usage | None:
    """Anthropic's input_tokens leave the cache out; ours hold it."""
    if type(raw) is not dict:
        return None
    plain, made = loose.count(raw.get("input_tokens")), loose.count(raw.get("output_tokens"))
    read, written = loose.count(raw.get("cache_read_input_tokens")), loose.count(raw.get("cache_creation_input_tokens"))
    for_an_hour = loose.count(loose.table(raw.get("cache_creation")).get("ephemeral_1h_input_tokens"))
    details = raw.get("output_tokens_details")
    thought = loose.count(details.get("thinking_tokens")) if type(details) is dict else 0
    if not any((plain, made, read, written)) and "output_tokens" not in raw and "input_tokens" not in raw:
        return None
    written = min(written, MAX_TOKENS - read)
    return Usage(
        input_tokens=min(plain + read + written, MAX_TOKENS),
        output_tokens=made,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=min(thought, made),
        cache_write_1h_tokens=min(for_an_hour, written),
    )


# -- to the client


def encode_reply(reply: Reply, stamp: Stamp) -> bytes:
    choice = reply.choices[0] if reply.choices else Choice(parts=(), stop=Stop.END)
    content = [block for part in choice.parts for block in blocks_of(part, stamp)]
    texts = [block for block in content if block["type"] == "text"]
    if reply.citations and texts:
        texts[-1]["citations"] = [citation_of(each) for each in reply.citations]
    body = message_head(stamp) | {
        "content": content,
        "stop_reason": REASONS[choice.stop],
        "stop_sequence": choice.stop_sequence,
        "usage": usage_object(reply.usage or Usage()),
    }
    return orjson.dumps(body)


def citation_of(citation: Citation) -> dict[str, Any]:
    """As of a web search of Anthropic's own; its index is ours, so that it can be told from theirs when it comes back."""
    return {
        "type": "web_search_result_location",
        "cited_text": citation.quote,
        "url": citation.url,
        "title": citation.title or None,
        "encrypted_index": OUR_INDEX,
    }


def message_head(stamp: Stamp) -> dict[str, Any]:
    return {"id": "msg_" + stamp.event_id.replace("-", ""), "type": "message", "role": "assistant", "model": stamp.model}


def blocks_of(part: Text | Media | Thinking | ToolCall, stamp: Stamp) -> list[dict[str, Any]]:
    match part:
        case Text():
            return [{"type": "text", "text": part.text}] if part.text else []
        case Thinking():
            return [thinking_block(part)] if stamp.show_thinking or part.signature else []
        case ToolCall():
            block = {"type": "tool_use", "id": part.id, "name": part.full_name, "input": tool_input(part)}
            return [*signature_block(part), block]
        case Media():
            return [{"type": "text", "text": f"![]({part.url or datauri.join(part.media_type, part.data or '')})"}]
    return []


def thinking_block(part: Thinking) -> dict[str, Any]:
    signature = pack_signature(part.signature or "", part.origin, "anthropic") if part.signature else ""
    if part.redacted:
        return {"type": "redacted_thinking", "data": signature}
    return {"type": "thinking", "thinking": part.text, "signature": signature}


def signature_block(part: ToolCall) -> list[dict[str, Any]]:
    """Messages has no place for the signature of a tool call: a redacted block before it brings it back."""
    if part.signature is None:
        return []
    return [{"type": "redacted_thinking", "data": pack_signature(part.signature, "gemini", "anthropic")}]


def tool_input(part: ToolCall) -> dict[str, Any]:
    if part.custom:
        return {"input": part.arguments}
    try:
        given = orjson.loads(part.arguments) if part.arguments.strip() else {}
    except orjson.JSONDecodeError:
        given = None
    return given if type(given) is dict else {"_raw": part.arguments}


def usage_object(usage: Usage) -> dict[str, Any]:
    plain = max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens)
    told: dict[str, Any] = {
        "input_tokens": plain,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.cache_write_1h_tokens:
        told["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens - usage.cache_write_1h_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        }
    return told

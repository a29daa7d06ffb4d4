"""OpenAI Responses' whole answers, both ways."""

from __future__ import annotations

from typing import Any

import orjson

from shared.domain.usage import Usage
from shared.wire import datauri, loose
from shared.wire.canonical import (
    Call,
    Choice,
    Citation,
    Media,
    Reply,
    Stamp,
    Stop,
    Text,
    Thinking,
    Tool,
    ToolCall,
    pack_signature,
)
from shared.wire.openai_chat.sources import located
from shared.wire.openai_responses.sources import annotated, searched
from shared.wire.reply import MalformedReply

INCOMPLETE: dict[Stop, str] = {Stop.LENGTH: "max_output_tokens", Stop.FILTER: "content_filter"}
STOPS: dict[str, Stop] = {"max_output_tokens": Stop.LENGTH, "content_filter": Stop.FILTER}


def decode_reply(body: bytes) -> Reply:
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedReply("answered with something that is no response") from None
    if type(reply) is not dict or type(reply.get("output")) is not list:
        raise MalformedReply("answered without output")
    parts = [part for item in reply["output"] if type(item) is dict for part in item_parts(item)]
    model = reply.get("model")
    items = loose.tables(reply["output"])
    found = [each for item in items for each in annotated(item)] or [each for item in items for each in searched(item)]
    text = next((part.text for part in reversed(parts) if isinstance(part, Text)), "")
    return Reply(
        choices=(Choice(parts=tuple(parts), stop=stop_of(reply, parts), native=native_of(reply)),),
        usage=read_usage(reply.get("usage")),
        model=model if type(model) is str else None,
        citations=located(found, text) if text else (),
    )


def stop_of(reply: dict[str, Any], parts: list[Any]) -> Stop:
    details = reply.get("incomplete_details")
    if reply.get("status") == "incomplete":
        reason = details.get("reason") if type(details) is dict else None
        return STOPS.get(reason if type(reason) is str else "", Stop.LENGTH)
    if reply.get("status") == "failed":
        return Stop.ERROR
    if any(isinstance(part, ToolCall) for part in parts):
        return Stop.TOOL
    refused = any(isinstance(part, Text) and part.refusal for part in parts)
    return Stop.REFUSAL if refused else Stop.END


def native_of(reply: dict[str, Any]) -> str | None:
    """How it ended in OpenAI's word: the reason of an incomplete one, else its status."""
    details = loose.table(reply.get("incomplete_details"))
    return loose.text(details.get("reason")) or loose.text(reply.get("status")) or None


def item_parts(item: dict[str, Any]) -> list[Text | Media | Thinking | ToolCall]:
    """An output item's parts; none for those of hosted tools."""
    match item.get("type"):
        case "message":
            return [part for raw in loose.tables(item.get("content")) if (part := _content(raw)) is not None]
        case "function_call":
            return [call_part(item, "arguments")]
        case "custom_tool_call":
            return [call_part(item, "input")]
        case "reasoning":
            return [reasoning_part(item)]
        case "image_generation_call" if type(item.get("result")) is str:
            return [Media(kind="image", media_type="image/png", data=item["result"])]
    return []


def call_part(item: dict[str, Any], field: str) -> ToolCall:
    namespace = item.get("namespace")
    return ToolCall(
        id=str(item.get("call_id") or item.get("id") or ""),
        name=str(item.get("name") or ""),
        arguments=str(item.get(field) or ""),
        custom=field == "input",
        namespace=namespace if type(namespace) is str else None,
    )


def reasoning_part(item: dict[str, Any]) -> Thinking:
    told = [*loose.tables(item.get("summary")), *loose.tables(item.get("content"))]
    text = "\n\n".join(str(raw.get("text") or "") for raw in told)
    secret = item.get("encrypted_content")
    signature = secret if type(secret) is str and secret else None
    item_id = item.get("id")
    return Thinking(
        text=text,
        signature=signature,
        origin="openai" if signature else None,
        redacted=signature is not None and not text,
        item_id=item_id if type(item_id) is str and signature else None,
    )


def _content(raw: dict[str, Any]) -> Text | None:
    if raw.get("type") == "refusal":
        return Text(str(raw.get("refusal") or ""), refusal=True)
    text = raw.get("text")
    return Text(text) if type(text) is str and text else None


def read_usage(raw: Any) -> Usage | None:
    if type(raw) is not dict or type(raw.get("input_tokens")) is not int:
        return None
    given, made = loose.count(raw.get("input_tokens")), loose.count(raw.get("output_tokens"))
    inputs, outputs = raw.get("input_tokens_details"), raw.get("output_tokens_details")
    cached = min(loose.count(inputs.get("cached_tokens")), given) if type(inputs) is dict else 0
    new = (inputs.get("cache_write_tokens") or inputs.get("cache_creation_input_tokens")) if type(inputs) is dict else 0
    written = min(loose.count(new), given - cached)
    thought = min(loose.count(outputs.get("reasoning_tokens")), made) if type(outputs) is dict else 0
    return Usage(
        input_tokens=given, output_tokens=made, cache_read_tokens=cached, cache_write_tokens=written, reasoning_tokens=thought
    )


# -- to the client


def encode_reply(reply: Reply, stamp: Stamp) -> bytes:
    choice = reply.choices[0] if reply.choices else Choice(parts=(), stop=Stop.END)
    items = output_items(choice.parts, stamp)
    if reply.citations:
        texts = [part for item in items for part in item.get("content", ()) if part["type"] == "output_text"]
        if texts:
            texts[-1]["annotations"] = [annotation(each) for each in reply.citations]
    return orjson.dumps(response_object(stamp, items, choice.stop, reply.usage))


def output_items(parts: tuple[Any, ...] | list[Any], stamp: Stamp) -> list[dict[str, Any]]:
    """Parts as items: each its own, but texts that follow one another share a message."""
    items: list[dict[str, Any]] = []
    for part in parts:
        last = items[-1] if items else None
        if isinstance(part, (Text, Media)) and last is not None and last["type"] == "message":
            last["content"].append(content_part(part))
        elif not isinstance(part, Thinking) or stamp.show_thinking or part.signature is not None:
            items.append(item_of(part, len(items), stamp))
    return items


PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}


def item_id(stamp: Stamp, kind: str, index: int) -> str:
    return f"{PREFIXES[kind]}_{stamp.event_id.replace('-', '')}{index:04x}"


def item_of(part: Text | Media | Thinking | ToolCall, index: int, stamp: Stamp, status: str = "completed") -> dict[str, Any]:
    match part:
        case ToolCall():
            kind = "custom_tool_call" if part.custom else "function_call"
            item: dict[str, Any] = {"id": item_id(stamp, kind, index), "type": kind, "status": status, "call_id": part.id}
            item |= {"name": part.name, "input" if part.custom else "arguments": part.arguments}
            return item | ({"namespace": part.namespace} if part.namespace else {})
        case Thinking():
            shown = part.text if stamp.show_thinking else ""
            summary = [{"type": "summary_text", "text": shown}] if shown else []
            item = {"id": part.item_id or item_id(stamp, "reasoning", index), "type": "reasoning", "summary": summary}
            if part.signature is not None:
                item["encrypted_content"] = pack_signature(part.signature, part.origin, "openai")
            return item
    content = [content_part(part)] if isinstance(part, Media) or part.text else []
    return {
        "id": item_id(stamp, "message", index), "type": "message", "status": status, "role": "assistant", "content": content,
    }  # fmt: skip


def content_part(part: Text | Media) -> dict[str, Any]:
    if isinstance(part, Media):
        url = part.url or datauri.join(part.media_type, part.data or "")
        return {"type": "output_text", "text": f"![]({url})", "annotations": [], "logprobs": []}
    if part.refusal:
        return {"type": "refusal", "refusal": part.text}
    return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}


def annotation(citation: Citation) -> dict[str, Any]:
    place = {"start_index": citation.start or 0, "end_index": citation.end or 0}
    return {"type": "url_citation", "url": citation.url, "title": citation.title} | place


def response_object(
    stamp: Stamp, items: list[dict[str, Any]], stop: Stop | None, usage: Usage | None, error: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The response; `stop` None: it is in progress."""
    reason = INCOMPLETE.get(stop) if stop is not None else None
    status = "in_progress" if stop is None else "incomplete" if reason else "failed" if error else "completed"
    return (
        {
            "id": "resp_" + stamp.event_id.replace("-", ""),
            "object": "response",
            "created_at": stamp.created_s,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": stamp.model,
            "output": items,
            "usage": None if usage is None else usage_object(usage),
        }
        | _echo(stamp.call)
        | {"previous_response_id": stamp.previous_response_id, "store": stamp.stored}
    )


def _echo(call: Call | None) -> dict[str, Any]:
    """What the call asked for, as the API repeats it."""
    reasoning = call.reasoning if call is not None else None
    return {
        "instructions": None,
        "max_output_tokens": call.max_tokens if call is not None else None,
        "metadata": (call.metadata if call is not None else None) or {},
        "parallel_tool_calls": call.parallel_tool_calls is not False if call is not None else True,
        "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": reasoning.summary if reasoning else None},
        "temperature": call.temperature if call is not None else None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [tool_object(tool) for tool in call.tools if not tool.namespace] if call is not None else [],
        "top_p": call.top_p if call is not None else None,
        "truncation": "disabled",
        "user": call.user if call is not None else None,
    }


def tool_object(tool: Tool) -> dict[str, Any]:
    if tool.custom:
        return {
            "type": "custom",
            "name": tool.name,
            "description": tool.description or "",
            "format": tool.grammar or {"type": "text"},
        }
    return {
        "type": "function", "name": tool.name, "description": tool.description, "parameters": tool.schema or {},
        "strict": tool.strict is True,
    }  # fmt: skip


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cache_read_tokens, "cache_write_tokens": usage.cache_write_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }

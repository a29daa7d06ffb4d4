"""Chat Completions' whole answers, both ways."""

from __future__ import annotations

from typing import Any

import orjson

from shared.domain.usage import Usage
from shared.wire import datauri, loose
from shared.wire.canonical import (
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
    unpack_signature,
)
from shared.wire.openai_chat.sources import annotated, listed, located, url_citations
from shared.wire.openai_chat.usage import read_usage
from shared.wire.reply import MalformedReply

FINISH: dict[Stop, str] = {
    Stop.END: "stop", Stop.SEQUENCE: "stop", Stop.PAUSE: "stop", Stop.LENGTH: "length", Stop.TOOL: "tool_calls",
    Stop.FILTER: "content_filter", Stop.REFUSAL: "content_filter", Stop.ERROR: "error",
}  # fmt: skip
STOPS: dict[str, Stop] = {
    "stop": Stop.END, "eos": Stop.END, "end_turn": Stop.END, "stop_sequence": Stop.SEQUENCE, "length": Stop.LENGTH,
    "max_tokens": Stop.LENGTH, "model_length": Stop.LENGTH, "tool_calls": Stop.TOOL, "tool_use": Stop.TOOL,
    "function_call": Stop.TOOL, "content_filter": Stop.FILTER, "sensitive": Stop.FILTER, "refusal": Stop.REFUSAL,
    "error": Stop.ERROR, "network_error": Stop.ERROR, "insufficient_system_resource": Stop.ERROR,
}  # fmt: skip
"""OpenAI's reasons, and those of its imitators (Mistral, Together, Z.ai, DeepSeek)."""
BROKEN = frozenset(reason for reason, stop in STOPS.items() if stop is Stop.ERROR)
FORMATS = {"anthropic": "anthropic-claude-v1", "gemini": "google-gemini-v1", "openai": "openai-responses-v1"}


def finish_of(stop: Stop, refused: bool) -> str:
    """A refusal in words ends with `stop` at OpenAI; one without words is a content filter's."""
    return "stop" if refused and stop is Stop.REFUSAL else FINISH[stop]


def stop_of(finish: Any, *, called: bool) -> Stop:
    """xAI finishes with "" after tool calls; some say `stop`."""
    stop = STOPS.get(finish, Stop.END) if type(finish) is str and finish else Stop.END
    return Stop.TOOL if called and stop is Stop.END else stop


def matched_stop(choice: dict[str, Any], stop: Stop) -> str | None:
    """The stop sequence that ended it, where a server tells: vLLM's `stop_reason`, SGLang's `matched_stop`. A number there is a
    token, and no sequence of the client's."""
    if stop is not Stop.END:
        return None
    return loose.text(choice.get("stop_reason")) or loose.text(choice.get("matched_stop")) or None


def decode_reply(body: bytes) -> Reply:
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedReply("answered with something that is no chat completion") from None
    if type(reply) is not dict or type(reply.get("choices")) is not list or failed(reply):
        raise MalformedReply("answered without choices")
    choices = [_choice(choice) for choice in reply["choices"] if type(choice) is dict]
    usage = reply.get("usage")
    if not usage and reply["choices"] and type(reply["choices"][0]) is dict:
        usage = reply["choices"][0].get("usage")
    return Reply(
        choices=tuple(choices),
        usage=read_usage(orjson.dumps(usage)) if type(usage) is dict else None,
        model=reply.get("model") if type(reply.get("model")) is str else None,
        citations=_citations(reply, choices[0] if choices else None),
    )


def _citations(reply: dict[str, Any], choice: Choice | None) -> tuple[Citation, ...]:
    found = [each for raw in loose.tables(reply["choices"])[:1] for each in annotated(loose.table(raw.get("message")))]
    found = found or listed(reply)
    if not found or choice is None:
        return ()
    text = next((part.text for part in reversed(choice.parts) if isinstance(part, Text)), "")
    return located(found, text)


def failed(answer: dict[str, Any]) -> bool:
    """Whether it is an error after all: MiniMax says so in `base_resp` (providers/failure.py)."""
    return "base_resp" in answer and loose.table(answer["base_resp"]).get("status_code", 0) != 0


def _choice(choice: dict[str, Any]) -> Choice:
    message = choice.get("message")
    message = message if type(message) is dict else {}
    parts: list[Text | Media | Thinking | ToolCall] = list(_thinking(message))
    parts += _content(message.get("content"))
    refusal = message.get("refusal")
    if type(refusal) is str and refusal:
        parts.append(Text(refusal, refusal=True))
    calls = [_tool_call(call, at) for at, call in enumerate(loose.tables(message.get("tool_calls")))]
    legacy = message.get("function_call")
    if type(legacy) is dict and not calls:
        calls = [_tool_call({"id": f"call_{legacy.get('name')}", "function": legacy}, 0)]
    parts += calls
    logprobs = choice.get("logprobs")
    stop = stop_of(choice.get("finish_reason"), called=bool(calls))
    if type(refusal) is str and refusal and stop is Stop.END:
        stop = Stop.REFUSAL
    native = loose.text(choice.get("finish_reason")) or None
    matched = matched_stop(choice, stop)
    return Choice(
        parts=tuple(parts),
        stop=stop if matched is None else Stop.SEQUENCE,
        stop_sequence=matched,
        logprobs=logprobs if type(logprobs) is dict else None,
        native=native,
    )


def _thinking(message: dict[str, Any]) -> list[Thinking]:
    signature, origin = signature_in(message) or (None, None)
    for name in ("reasoning_content", "reasoning"):
        text = message.get(name)
        if type(text) is str and text:
            return [Thinking(text=text, signature=signature, origin=origin)]
    content = message.get("content")
    found = [
        "".join(str(item.get("text") or "") for item in loose.tables(part.get("thinking")))
        for part in loose.tables(content)
        if part.get("type") == "thinking"
    ]
    return [Thinking(text="".join(found))] if found else []


def signature_in(message: dict[str, Any]) -> tuple[str, str] | None:
    """The signature in OpenRouter's reasoning_details, and whose it is."""
    families = {form: origin for origin, form in FORMATS.items()}
    for item in loose.tables(message.get("reasoning_details")):
        signature, origin = item.get("signature"), families.get(str(item.get("format") or "anthropic-claude-v1"))
        if item.get("type") == "reasoning.text" and type(signature) is str and signature and origin is not None:
            return unpack_signature(signature, origin)
    return None


def _content(content: Any) -> list[Text | Media]:
    if type(content) is str:
        return [Text(content)] if content else []
    text = "".join(
        part["text"] for part in loose.tables(content) if part.get("type") == "text" and type(part.get("text")) is str
    )
    return [Text(text)] if text else []


def _tool_call(call: dict[str, Any], at: int) -> ToolCall:
    custom = call.get("custom")
    if type(custom) is dict:
        return ToolCall(
            id=_id(call, at), name=str(custom.get("name") or ""), arguments=str(custom.get("input") or ""), custom=True
        )
    function = call.get("function")
    function = function if type(function) is dict else {}
    arguments = function.get("arguments")
    if type(arguments) is dict:
        arguments = orjson.dumps(arguments).decode()
    return ToolCall(
        id=_id(call, at), name=str(function.get("name") or ""), arguments=arguments if type(arguments) is str else ""
    )


def _id(call: dict[str, Any], at: int) -> str:
    return call["id"] if type(call.get("id")) is str and call["id"] else f"call_{at}"


# -- to the client


def encode_reply(reply: Reply, stamp: Stamp) -> bytes:
    body: dict[str, Any] = {
        "id": completion_id(stamp),
        "object": "chat.completion",
        "created": stamp.created_s,
        "model": stamp.model,
        "choices": [_encode_choice(choice, index, reply, stamp) for index, choice in enumerate(reply.choices)],
        "system_fingerprint": None,
    }
    if reply.usage is not None:
        body["usage"] = usage_object(reply.usage)
    return orjson.dumps(body)


def completion_id(stamp: Stamp) -> str:
    return "chatcmpl-" + stamp.event_id.replace("-", "")


def _encode_choice(choice: Choice, index: int, reply: Reply, stamp: Stamp) -> dict[str, Any]:
    text = "".join(part.text for part in choice.parts if isinstance(part, Text) and not part.refusal)
    refusal = "".join(part.text for part in choice.parts if isinstance(part, Text) and part.refusal)
    calls = [part for part in choice.parts if isinstance(part, ToolCall)]
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": refusal or None}
    thought = [part for part in choice.parts if isinstance(part, Thinking)]
    if thought and stamp.show_thinking:
        shown = "".join(part.text for part in thought)
        if shown:
            message["reasoning_content"] = shown
    details = details_of(choice.parts, show=stamp.show_thinking)
    if details:
        message["reasoning_details"] = details
    if calls:
        message["tool_calls"] = [call_object(part) for part in calls]
    images = [part for part in choice.parts if isinstance(part, Media) and part.kind == "image"]
    if images:
        message["images"] = [{"type": "image_url", "image_url": {"url": media_url(part)}} for part in images]
    if reply.citations:
        message["annotations"] = url_citations(reply.citations)
    told = {
        "index": index,
        "message": message,
        "logprobs": choice.logprobs,
        "finish_reason": finish_of(choice.stop, bool(refusal)),
    }
    return told | {"native_finish_reason": choice.native} if stamp.native_finish else told


def media_url(part: Media) -> str:
    return part.url or datauri.join(part.media_type, part.data or "")


def details_of(parts: tuple[Any, ...] | list[Any], *, show: bool = True) -> list[dict[str, Any]]:
    """OpenRouter's reasoning_details: the form in which signatures survive a Chat client's history."""
    details: list[dict[str, Any]] = []
    for part in parts:
        detail = signed_detail(part, show=show)
        if detail is not None:
            details.append(detail | {"index": len(details)})
    return details


def signed_detail(part: Any, *, show: bool = True) -> dict[str, Any] | None:
    if isinstance(part, Thinking) and part.signature is not None:
        form = FORMATS.get(part.origin or "", "unknown")
        if part.redacted or not show:
            return {"type": "reasoning.encrypted", "data": part.signature, "format": form, "id": part.item_id}
        signature = pack_signature(part.signature, part.origin, "anthropic")
        return {"type": "reasoning.text", "text": part.text, "signature": signature, "format": form}
    if isinstance(part, ToolCall) and part.signature is not None:
        return {"type": "reasoning.encrypted", "data": part.signature, "format": "google-gemini-v1", "id": part.id}
    return None


def call_object(part: ToolCall) -> dict[str, Any]:
    if part.custom:
        return {"id": part.id, "type": "custom", "custom": {"name": part.name, "input": part.arguments}}
    return {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments or "{}"}}


def usage_object(usage: Usage) -> dict[str, Any]:
    details: dict[str, Any] = {"cached_tokens": usage.cache_read_tokens}
    if usage.cache_write_tokens:
        details["cache_write_tokens"] = usage.cache_write_tokens
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }

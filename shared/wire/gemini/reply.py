"""Gemini's whole answers, both ways. Tool calls end with STOP; a blocked prompt is an answer without candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from shared.domain.usage import MAX_TOKENS, Usage
from shared.wire import loose
from shared.wire.canonical import Choice, Citation, Media, Reply, Stamp, Stop, Text, Thinking, ToolCall
from shared.wire.reply import MalformedReply

REASONS: dict[Stop, str] = {
    Stop.END: "STOP", Stop.TOOL: "STOP", Stop.SEQUENCE: "STOP", Stop.PAUSE: "STOP", Stop.LENGTH: "MAX_TOKENS",
    Stop.FILTER: "SAFETY", Stop.REFUSAL: "SAFETY", Stop.ERROR: "OTHER",
}  # fmt: skip
STOPS: dict[str, Stop] = {
    "STOP": Stop.END, "MAX_TOKENS": Stop.LENGTH, "SAFETY": Stop.FILTER, "RECITATION": Stop.FILTER, "LANGUAGE": Stop.FILTER,
    "BLOCKLIST": Stop.FILTER, "PROHIBITED_CONTENT": Stop.FILTER, "SPII": Stop.FILTER, "MODEL_ARMOR": Stop.FILTER,
    "IMAGE_SAFETY": Stop.FILTER, "MALFORMED_FUNCTION_CALL": Stop.ERROR, "UNEXPECTED_TOOL_CALL": Stop.ERROR,
    "MALFORMED_RESPONSE": Stop.ERROR, "OTHER": Stop.ERROR, "TOO_MANY_TOOL_CALLS": Stop.ERROR,
    "MISSING_THOUGHT_SIGNATURE": Stop.ERROR, "FINISH_REASON_UNSPECIFIED": Stop.END,
}  # fmt: skip


def stop_of(reason: Any, *, called: bool, empty: bool = False) -> Stop:
    """`empty`: the candidate holds nothing at all. With STOP that is a known fault of the model's, not an answer."""
    stop = STOPS.get(reason, Stop.END) if type(reason) is str else Stop.END
    if stop is not Stop.END:
        return stop
    return Stop.TOOL if called else Stop.ERROR if empty else stop


def decode_reply(body: bytes) -> Reply:
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedReply("answered with something that is no JSON object") from None
    if type(reply) is not dict or not ("candidates" in reply or "promptFeedback" in reply or "usageMetadata" in reply):
        raise MalformedReply("answered without candidates")
    candidates = loose.tables(reply.get("candidates"))
    choices = tuple(_choice(candidate, at) for at, candidate in enumerate(candidates))
    model, refused = reply.get("modelVersion"), blocked(reply)
    return Reply(
        choices=choices or (Choice(parts=(), stop=Stop.FILTER if refused else Stop.ERROR, native=refused),),
        usage=read_usage(reply.get("usageMetadata")),
        model=model if type(model) is str else None,
    )


def _choice(candidate: dict[str, Any], at: int) -> Choice:
    parts: list[Text | Media | Thinking | ToolCall] = []
    content = candidate.get("content")
    calls = 0
    empty = True
    for raw in loose.tables(content.get("parts") if type(content) is dict else None):
        empty = empty and says_nothing(raw)
        part = reply_part(raw, calls)
        calls += isinstance(part, ToolCall)
        last = parts[-1] if parts else None
        if isinstance(part, Text) and isinstance(last, Text):
            parts[-1] = Text(last.text + part.text)
        elif isinstance(part, Thinking) and isinstance(last, Thinking) and last.signature is None:
            parts[-1] = Thinking(text=last.text + part.text, signature=part.signature, origin=part.origin)
        elif part is not None:
            parts.append(part)
    reason = loose.text(candidate.get("finishReason"))
    return Choice(parts=tuple(parts), stop=stop_of(reason, called=calls > 0, empty=empty), native=reason or None)


def says_nothing(raw: dict[str, Any]) -> bool:
    """A part that is only an empty text. A signature alone is something: it belongs to a thought."""
    return raw.get("text") == "" and "thoughtSignature" not in raw


def blocked(reply: dict[str, Any]) -> str | None:
    """Why the prompt itself was refused, if it was."""
    return loose.text(loose.table(reply.get("promptFeedback")).get("blockReason")) or None


def reply_part(raw: dict[str, Any], calls: int) -> Text | Media | Thinking | ToolCall | None:
    """One part; `calls`: how many tool calls came before it, for ids that Gemini leaves out."""
    signature = raw.get("thoughtSignature")
    signature = signature if type(signature) is str and signature else None
    call = raw.get("functionCall")
    if type(call) is dict:
        given, told = call.get("args"), call.get("id")
        return ToolCall(
            id=told if type(told) is str and told else f"call_{calls}",
            name=str(call.get("name") or ""),
            arguments=orjson.dumps(given if type(given) is dict else {}).decode(),
            signature=signature,
        )
    text = raw.get("text")
    if type(text) is str:
        if raw.get("thought") is True:
            return Thinking(text=text, signature=signature, origin="gemini" if signature else None)
        return Text(text) if text else None
    blob = raw.get("inlineData")
    if type(blob) is dict and type(blob.get("data")) is str:
        media_type = str(blob.get("mimeType") or "image/png")
        return Media(kind="audio" if media_type.startswith("audio/") else "image", media_type=media_type, data=blob["data"])
    return None


def read_usage(raw: Any) -> Usage | None:
    """Thoughts are told apart from candidates, and tool use from the prompt: ours hold them."""
    if type(raw) is not dict or type(raw.get("promptTokenCount")) is not int:
        return None
    given = loose.count(raw.get("promptTokenCount")) + loose.count(raw.get("toolUsePromptTokenCount"))
    thought = loose.count(raw.get("thoughtsTokenCount"))
    made = loose.count(raw.get("candidatesTokenCount")) + thought
    return Usage(
        input_tokens=min(given, MAX_TOKENS),
        output_tokens=min(made, MAX_TOKENS),
        cache_read_tokens=min(loose.count(raw.get("cachedContentTokenCount")), given, MAX_TOKENS),
        reasoning_tokens=min(thought, MAX_TOKENS),
        audio_input_tokens=min(heard(raw.get("promptTokensDetails")), given, MAX_TOKENS),
    )


def heard(details: Any) -> int:
    """Tokens of sound in a prompt: what Google charges more for."""
    listed = details if type(details) is list else []
    return sum(loose.count(each.get("tokenCount")) for each in listed if type(each) is dict and each.get("modality") == "AUDIO")


# -- to the client


def encode_reply(reply: Reply, stamp: Stamp) -> bytes:
    body: dict[str, Any] = {
        "candidates": [
            {
                "content": {"role": "model", "parts": [raw for part in choice.parts for raw in raw_parts(part, stamp)]},
                "finishReason": REASONS[choice.stop],
                "index": index,
            }
            | grounding(reply.citations)
            for index, choice in enumerate(reply.choices)
        ],
        "usageMetadata": usage_object(reply.usage or Usage()),
    }
    return orjson.dumps(body | tail(stamp))


def grounding(citations: Sequence[Citation]) -> dict[str, Any]:
    """A candidate's sources, without their places: Google counts bytes where we count characters."""
    if not citations:
        return {}
    return {"groundingMetadata": {"groundingChunks": [{"web": {"uri": each.url, "title": each.title}} for each in citations]}}


def tail(stamp: Stamp) -> dict[str, Any]:
    return {"modelVersion": stamp.model, "responseId": stamp.event_id}


def raw_parts(part: Text | Media | Thinking | ToolCall, stamp: Stamp) -> list[dict[str, Any]]:
    match part:
        case Text():
            return [{"text": part.text}] if part.text else []
        case Thinking():
            if not stamp.show_thinking or not part.text:
                return []
            signed = {"thoughtSignature": part.signature} if part.signature and part.origin == "gemini" else {}
            return [{"text": part.text, "thought": True} | signed]
        case ToolCall():
            made: dict[str, Any] = {"functionCall": {"id": part.id, "name": part.full_name, "args": _args(part)}}
            return [made | ({"thoughtSignature": part.signature} if part.signature else {})]
        case Media() if part.data is not None:
            return [{"inlineData": {"mimeType": part.media_type or "image/png", "data": part.data}}]
        case Media():
            return [{"fileData": {"fileUri": part.url or "", "mimeType": part.media_type or "image/png"}}]
    return []


def _args(part: ToolCall) -> dict[str, Any]:
    if part.custom:
        return {"input": part.arguments}
    try:
        given = orjson.loads(part.arguments) if part.arguments.strip() else {}
    except orjson.JSONDecodeError:
        given = None
    return given if type(given) is dict else {"_raw": part.arguments}


def usage_object(usage: Usage) -> dict[str, Any]:
    made: dict[str, Any] = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens,
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }
    if usage.reasoning_tokens:
        made["thoughtsTokenCount"] = usage.reasoning_tokens
    if usage.cache_read_tokens:
        made["cachedContentTokenCount"] = usage.cache_read_tokens
    return made

"""A client of Anthropic's Messages."""

from __future__ import annotations

import json
from typing import Any

from services.matrix.conversation import Ask, Called, Heard, Sent, Wrong, need

FINISHES = {"end_turn": "end", "tool_use": "tools", "max_tokens": "length"}
DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("json", "partial_json"),
}


class MessagesClient:
    name = "anthropic-messages"

    def headers(self, key: str) -> dict[str, str]:
        return {"x-api-key": key, "anthropic-version": "2023-06-01"}

    def request(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        for each, heard in ask.turns():
            messages.append({"role": "user", "content": self._said(each)})
            if heard is not None:
                messages.append({"role": "assistant", "content": heard.turn})
        body: dict[str, Any] = {"model": ask.model, "messages": messages, "max_tokens": 2048}
        if ask.system:
            body["system"] = ask.system
        if ask.stream:
            body["stream"] = True
        if ask.tools:
            body["tools"] = [
                {"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in ask.tools
            ]
        if ask.schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": {**ask.schema, "additionalProperties": False}}}
        if ask.think:
            body["thinking"] = {"type": "enabled", "budget_tokens": 1024}
        return "/v1/messages", body

    def _said(self, ask: Ask) -> Any:
        if ask.results and ask.before is not None:
            calls = ask.before[1].calls
            return [
                {"type": "tool_result", "tool_use_id": call.call_id, "content": result}
                for call, result in zip(calls, ask.results, strict=True)
            ]
        if ask.image is None:
            return ask.text
        source = {"type": "base64", "media_type": "image/png", "data": ask.image}
        return [{"type": "image", "source": source}, {"type": "text", "text": ask.text}]

    def read(self, body: Any) -> Heard:
        if (need(body, "type"), need(body, "role")) != ("message", "assistant"):
            raise Wrong("no message of the assistant")
        return self._heard(need(body, "content"), need(body, "stop_reason"), need(body, "usage"), deltas=0)

    def _heard(self, content: list[Any], stop: str, usage: Any, *, deltas: int) -> Heard:
        calls = [
            Called(call_id=need(block, "id"), name=need(block, "name"), arguments=need(block, "input"))
            for block in content
            if block["type"] == "tool_use"
        ]
        return Heard(
            text="".join(need(block, "text") for block in content if block["type"] == "text"),
            thoughts="".join(need(block, "thinking") for block in content if block["type"] == "thinking"),
            calls=tuple(calls),
            finish=FINISHES.get(stop, stop),
            input_tokens=need(usage, "input_tokens") + (usage.get("cache_read_input_tokens") or 0),
            output_tokens=need(usage, "output_tokens"),
            deltas=deltas,
            turn=content,
        )

    def listen(self, events: list[Sent]) -> Heard:
        """Every block begins, goes on and stops under its index before the next one begins."""
        content: list[dict[str, Any]] = []
        pieces: list[str] = []
        usage: dict[str, Any] = {}
        stop, open_, deltas = "", False, 0
        for number, event in enumerate(events):
            data = json.loads(event.data)
            kind = need(data, "type")
            if kind != event.name:
                raise Wrong(f"event {event.name!r} is of type {kind!r}")
            if (kind == "message_start") != (number == 0):
                raise Wrong(f"event {number} is {kind}")
            match kind:
                case "error":
                    return Heard(error=str(need(data, "error", "message")), deltas=deltas)
                case "message_start":
                    usage = dict(need(data, "message", "usage"))
                case "content_block_start":
                    if open_ or need(data, "index") != len(content):
                        raise Wrong("a block begins out of order")
                    open_, pieces = True, []
                    content.append(dict(need(data, "content_block")))
                case "content_block_delta":
                    if not open_ or need(data, "index") != len(content) - 1:
                        raise Wrong("a delta for a block that is not open")
                    deltas += 1
                    field, name = DELTAS[need(data, "delta", "type")]
                    if field == "json":
                        pieces.append(need(data, "delta", name))
                    else:
                        content[-1][field] = content[-1].get(field, "") + need(data, "delta", name)
                case "content_block_stop":
                    open_ = False
                    if content[-1]["type"] == "tool_use":
                        content[-1]["input"] = json.loads("".join(pieces) or "{}")
                case "message_delta":
                    stop = need(data, "delta", "stop_reason")
                    usage |= need(data, "usage")
                case "message_stop":
                    if open_ or number + 1 < len(events):
                        raise Wrong("the message stops too early")
                    return self._heard(content, stop, usage, deltas=deltas)
        raise Wrong("a stream without message_stop")

    def error(self, status: int, body: Any) -> str:
        if need(body, "type") != "error" or not need(body, "error", "type"):
            raise Wrong("an error without its type")
        return str(need(body, "error", "message"))

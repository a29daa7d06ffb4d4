"""A client of OpenAI's chat completions."""

from __future__ import annotations

import json
from typing import Any

from services.matrix.conversation import Ask, Building, Called, Heard, Sent, Wrong, need, openai_error

FINISHES = {"stop": "end", "tool_calls": "tools", "length": "length"}


class ChatClient:
    name = "openai-chat"

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def request(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        messages: list[dict[str, Any]] = [{"role": "system", "content": ask.system}] if ask.system else []
        for each, heard in ask.turns():
            messages += self._said(each)
            if heard is not None:
                messages.append(heard.turn)
        body: dict[str, Any] = {"model": ask.model, "messages": messages, "max_completion_tokens": 2048}
        if ask.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if ask.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema},
                }
                for tool in ask.tools
            ]
        if ask.schema is not None:
            wanted = {"name": "answer", "schema": ask.schema, "strict": "additionalProperties" in ask.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        if ask.think:
            body["reasoning_effort"] = "medium"
        return "/v1/chat/completions", body

    def _said(self, ask: Ask) -> list[dict[str, Any]]:
        if ask.results and ask.before is not None:
            calls = ask.before[1].calls
            return [
                {"role": "tool", "tool_call_id": call.call_id, "content": result}
                for call, result in zip(calls, ask.results, strict=True)
            ]
        if ask.image is None:
            return [{"role": "user", "content": ask.text}]
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{ask.image}"}}
        return [{"role": "user", "content": [{"type": "text", "text": ask.text}, picture]}]

    def read(self, body: Any) -> Heard:
        if need(body, "object") != "chat.completion":
            raise Wrong("object is not chat.completion")
        message = need(body, "choices", 0, "message")
        return self._heard(
            message,
            need(body, "choices", 0, "finish_reason"),
            need(body, "usage"),
            deltas=0,
            error=None,
        )

    def _heard(self, message: Any, finish: str, usage: Any, *, deltas: int, error: str | None) -> Heard:
        calls = []
        for call in message.get("tool_calls") or ():
            arguments = json.loads(need(call, "function", "arguments"))
            calls.append(Called(call_id=need(call, "id"), name=need(call, "function", "name"), arguments=arguments))
        return Heard(
            text=message.get("content") or "",
            thoughts=message.get("reasoning_content") or "",
            calls=tuple(calls),
            finish=FINISHES.get(finish, finish),
            input_tokens=usage.get("prompt_tokens", 0),
            output_tokens=usage.get("completion_tokens", 0),
            deltas=deltas,
            turn=message,
            error=error,
        )

    def listen(self, events: list[Sent]) -> Heard:
        made, calls, usage = Building(), {}, {}  # type: tuple[Building, dict[int, dict[str, Any]], dict[str, Any]]
        message: dict[str, Any] = {"role": "assistant", "content": None}
        for event in events[:-1] if events and events[-1].data == "[DONE]" else events:
            chunk = json.loads(event.data)
            if "error" in chunk:
                made.error = need(chunk, "error", "message")
                break
            usage = chunk.get("usage") or usage
            for choice in need(chunk, "choices"):
                delta = choice["delta"]
                self._delta(made, calls, message, delta)
                made.finish = choice.get("finish_reason") or made.finish
        if made.error is None and (not events or events[-1].data != "[DONE]"):
            raise Wrong("a stream without [DONE]")
        if calls:
            message["tool_calls"] = [calls[index] for index in sorted(calls)]
        return self._heard(message, made.finish, usage, deltas=made.deltas, error=made.error)

    def _delta(self, made: Building, calls: dict[int, dict[str, Any]], message: dict[str, Any], delta: Any) -> None:
        for name in ("content", "reasoning_content"):
            if delta.get(name):
                message[name] = (message.get(name) or "") + delta[name]
                made.deltas += 1
        if delta.get("reasoning_details"):
            message.setdefault("reasoning_details", []).extend(delta["reasoning_details"])
        for call in delta.get("tool_calls") or ():
            made.deltas += 1
            index = need(call, "index")
            if index not in calls:
                named = {"name": need(call, "function", "name"), "arguments": ""}
                calls[index] = {"id": need(call, "id"), "type": "function", "function": named}
            calls[index]["function"]["arguments"] += call["function"].get("arguments") or ""

    def error(self, status: int, body: Any) -> str:
        return openai_error(body)

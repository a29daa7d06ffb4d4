"""A client of OpenAI's Responses that stores nothing: it sends every output item back."""

from __future__ import annotations

import json
from typing import Any

from services.matrix.conversation import Ask, Called, Heard, Sent, Wrong, need, openai_error

TERMINAL = ("response.completed", "response.incomplete", "response.failed")


class ResponsesClient:
    name = "openai-responses"

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def request(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        items: list[dict[str, Any]] = []
        for each, heard in ask.turns():
            items += self._said(each)
            if heard is not None:
                items += heard.turn
        body: dict[str, Any] = {"model": ask.model, "input": items, "store": False, "max_output_tokens": 2048}
        if ask.system:
            body["instructions"] = ask.system
        if ask.stream:
            body["stream"] = True
        if ask.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.schema,
                    "strict": False,
                }
                for tool in ask.tools
            ]
        if ask.schema is not None:
            wanted = {"name": "answer", "schema": ask.schema, "strict": "additionalProperties" in ask.schema}
            body["text"] = {"format": {"type": "json_schema"} | wanted}
        if ask.think:
            body["reasoning"] = {"effort": "medium", "summary": "auto"}
            body["include"] = ["reasoning.encrypted_content"]
        return "/v1/responses", body

    def _said(self, ask: Ask) -> list[dict[str, Any]]:
        if ask.results and ask.before is not None:
            calls = ask.before[1].calls
            return [
                {"type": "function_call_output", "call_id": call.call_id, "output": result}
                for call, result in zip(calls, ask.results, strict=True)
            ]
        content: list[dict[str, Any]] = [{"type": "input_text", "text": ask.text}]
        if ask.image is not None:
            url = f"data:image/png;base64,{ask.image}"
            content.append({"type": "input_image", "image_url": url, "detail": "auto"})
        return [{"type": "message", "role": "user", "content": content}]

    def read(self, body: Any) -> Heard:
        if need(body, "object") != "response":
            raise Wrong("object is not response")
        return self._heard(body, deltas=0)

    def _heard(self, response: Any, *, deltas: int) -> Heard:
        text = thoughts = ""
        calls = []
        for item in need(response, "output"):
            match need(item, "type"):
                case "message":
                    text += "".join(need(part, "text") for part in need(item, "content"))
                case "reasoning":
                    thoughts += "".join(need(part, "text") for part in need(item, "summary"))
                case "function_call":
                    arguments = json.loads(need(item, "arguments"))
                    calls.append(Called(call_id=need(item, "call_id"), name=need(item, "name"), arguments=arguments))
        usage, status = need(response, "usage"), need(response, "status")
        finish = "tools" if calls else "end"
        if status == "incomplete":
            finish = {"max_output_tokens": "length"}.get(need(response, "incomplete_details", "reason"), "incomplete")
        return Heard(
            text=text,
            thoughts=thoughts,
            calls=tuple(calls),
            finish=finish,
            input_tokens=need(usage, "input_tokens"),
            output_tokens=need(usage, "output_tokens"),
            deltas=deltas,
            turn=response["output"],
        )

    def listen(self, events: list[Sent]) -> Heard:
        """The terminal event has everything; what the deltas said before must be the same."""
        told: dict[int, str] = {}
        deltas = 0
        for number, event in enumerate(events):
            data = json.loads(event.data)
            kind = need(data, "type")
            if kind == "error":
                return Heard(error=str(need(data, "message")), deltas=deltas)
            if event.name != kind or need(data, "sequence_number") != number:
                raise Wrong(f"event {number} is {event.name!r}/{kind!r}, number {data.get('sequence_number')}")
            if number == 0 and kind != "response.created":
                raise Wrong(f"a stream begins with {kind}")
            if kind.endswith(".delta"):
                deltas += 1
                index = need(data, "output_index")
                told[index] = told.get(index, "") + need(data, "delta")
            elif kind == "response.output_item.done":
                self._check_item(need(data, "item"), told.get(need(data, "output_index"), ""))
            elif kind == "response.failed":
                return Heard(error=str(need(data, "response", "error", "message")), deltas=deltas)
            elif kind in TERMINAL:
                if number + 1 < len(events):
                    raise Wrong("events after the terminal one")
                return self._heard(need(data, "response"), deltas=deltas)
        raise Wrong("a stream without a terminal event")

    def _check_item(self, item: Any, told: str) -> None:
        match item["type"]:
            case "message":
                whole = "".join(part["text"] for part in item["content"])
            case "reasoning":
                whole = "".join(part["text"] for part in item["summary"])
            case _:
                whole = item["arguments"]
        if whole != told:
            raise Wrong(f"an item says {whole[:60]!r}, its deltas said {told[:60]!r}")

    def error(self, status: int, body: Any) -> str:
        return openai_error(body)

"""A client of Gemini's generateContent and streamGenerateContent."""

from __future__ import annotations

import json
from typing import Any

from services.matrix.conversation import Ask, Called, Heard, Sent, Wrong, need

FINISHES = {"STOP": "end", "MAX_TOKENS": "length"}


class GeminiClient:
    name = "gemini"

    def headers(self, key: str) -> dict[str, str]:
        return {"x-goog-api-key": key}

    def request(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        contents: list[dict[str, Any]] = []
        for each, heard in ask.turns():
            contents.append({"role": "user", "parts": self._said(each)})
            if heard is not None:
                contents.append({"role": "model", "parts": heard.turn})
        config: dict[str, Any] = {"maxOutputTokens": 2048}
        body: dict[str, Any] = {"contents": contents, "generationConfig": config}
        if ask.system:
            body["systemInstruction"] = {"parts": [{"text": ask.system}]}
        if ask.tools:
            declared = [
                {"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.schema} for tool in ask.tools
            ]
            body["tools"] = [{"functionDeclarations": declared}]
        if ask.schema is not None:
            config |= {"responseMimeType": "application/json", "responseJsonSchema": ask.schema}
        if ask.think:
            config["thinkingConfig"] = {"thinkingBudget": 1024, "includeThoughts": True}
        method = "streamGenerateContent?alt=sse" if ask.stream else "generateContent"
        return f"/v1beta/models/{ask.model}:{method}", body

    def _said(self, ask: Ask) -> list[dict[str, Any]]:
        if ask.results and ask.before is not None:
            calls = ask.before[1].calls
            return [
                {"functionResponse": {"name": call.name, "response": {"result": result}} | _identified(call)}
                for call, result in zip(calls, ask.results, strict=True)
            ]
        parts: list[dict[str, Any]] = [{"text": ask.text}]
        if ask.image is not None:
            parts.append({"inlineData": {"mimeType": "image/png", "data": ask.image}})
        return parts

    def read(self, body: Any) -> Heard:
        return self._heard([body], streamed=False)

    def listen(self, events: list[Sent]) -> Heard:
        chunks = [json.loads(event.data) for event in events]
        for number, chunk in enumerate(chunks):
            if "error" in chunk:
                return Heard(error=str(need(chunk, "error", "message")), deltas=number)
        return self._heard(chunks, streamed=True)

    def _heard(self, chunks: list[Any], *, streamed: bool) -> Heard:
        parts: list[Any] = []
        finish = ""
        for chunk in chunks:
            candidate = need(chunk, "candidates", 0)
            parts += candidate.get("content", {}).get("parts", [])
            finish = candidate.get("finishReason") or finish
        if not finish:
            raise Wrong("no finishReason")
        usage = need(chunks[-1], "usageMetadata")
        calls = tuple(
            Called(
                call_id=str(part["functionCall"].get("id") or ""),
                name=need(part, "functionCall", "name"),
                arguments=part["functionCall"].get("args", {}),
            )
            for part in parts
            if "functionCall" in part
        )
        output = usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0)
        return Heard(
            text="".join(part["text"] for part in parts if "text" in part and not part.get("thought")),
            thoughts="".join(part["text"] for part in parts if part.get("thought")),
            calls=calls,
            finish="tools" if calls and finish == "STOP" else FINISHES.get(finish, finish),
            input_tokens=need(usage, "promptTokenCount"),
            output_tokens=output,
            deltas=len(chunks) if streamed else 0,
            turn=[part for part in parts if part.get("text") != ""] or parts,
        )

    def error(self, status: int, body: Any) -> str:
        if need(body, "error", "code") != status or not need(body, "error", "status"):
            raise Wrong("an error without its code and status")
        return str(need(body, "error", "message"))


def _identified(call: Called) -> dict[str, str]:
    return {"id": call.call_id} if call.call_id else {}

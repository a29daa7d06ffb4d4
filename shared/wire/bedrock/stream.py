"""ConverseStream's events → canonical events.

Text begins without a contentBlockStart; usage comes in `metadata`, after `messageStop`.
"""

from __future__ import annotations

from typing import Any

from shared.wire import loose
from shared.wire.bedrock.eventstream import Message, Splitter
from shared.wire.bedrock.reply import ORIGIN, STOPS, read_usage
from shared.wire.canonical import Event, Failed, Start, Stop, Stopped, Thinking, ToolCall, Used
from shared.wire.parts import Parts


class StreamDecoder:
    def __init__(self) -> None:
        self._splitter = Splitter()
        self._parts = Parts()
        self._signature = ""
        self._stop: Stopped | None = None
        self._failed = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Raises MalformedReply."""
        return [event for message in self._splitter.feed(chunk) for event in self._message(message)]

    def close(self) -> list[Event]:
        if self._stop is None or self._failed:
            return []
        stop, self._stop = self._stop, None
        return [*self._ended(), stop]

    def _message(self, message: Message) -> list[Event]:
        if self._failed:
            return []
        kind = message.headers.get(":message-type", "event")
        event = loose.event(message.payload) if kind == "event" else loose.table(loose.parsed(message.payload))
        if kind != "event":
            self._failed = True
            name = message.headers.get(":exception-type") or message.headers.get(":error-code") or "an error"
            said = event.get("message") or message.headers.get(":error-message")
            return [Failed(f"{name}: {said}" if said else name, message.payload or b"{}")]
        match message.headers.get(":event-type"):
            case "messageStart":
                return [Start()]
            case "contentBlockStart":
                return self._begin(loose.table(loose.table(event.get("start")).get("toolUse")))
            case "contentBlockDelta":
                return self._delta(loose.table(event.get("delta")))
            case "contentBlockStop":
                return self._ended()
            case "messageStop":
                reason = loose.text(event.get("stopReason"))
                self._stop = Stopped(STOPS.get(reason, Stop.END), native=reason or None)
                return self._ended()
            case "metadata":
                usage = read_usage(event.get("usage"))
                return [Used(usage)] if usage is not None else []
        return []

    def _begin(self, called: dict[str, Any]) -> list[Event]:
        if not called:
            return self._ended()
        ended = self._ended()
        return ended + self._parts.begin(ToolCall(id=loose.text(called.get("toolUseId")), name=loose.text(called.get("name"))))

    def _delta(self, delta: dict[str, Any]) -> list[Event]:
        if "text" in delta:
            before = self._ended() if isinstance(self._parts.open, Thinking) else []
            return before + self._parts.text(loose.text(delta["text"]))
        if "toolUse" in delta:
            text = loose.text(loose.table(delta["toolUse"]).get("input"))
            return [self._parts.more(text)] if text and isinstance(self._parts.open, ToolCall) else []
        return self._thought(loose.table(delta.get("reasoningContent")))

    def _thought(self, thought: dict[str, Any]) -> list[Event]:
        redacted = loose.text(thought.get("redactedContent"))
        if redacted:
            return self._ended() + self._parts.whole(Thinking(signature=redacted, origin=ORIGIN, redacted=True))
        events = self._parts.thinking(loose.text(thought.get("text")))
        signature = loose.text(thought.get("signature"))
        if signature and not isinstance(self._parts.open, Thinking):
            events += self._parts.begin(Thinking())
        self._signature += signature
        return events

    def _ended(self) -> list[Event]:
        """Complete the open part: a thought with the signature that came for it, a call without arguments with none."""
        opened, signature = self._parts.open, self._signature
        self._signature = ""
        if isinstance(opened, Thinking) and signature:
            return self._parts.end(signature=signature, origin=ORIGIN)
        if isinstance(opened, ToolCall) and not self._parts.content():
            return [self._parts.more("{}"), *self._parts.end()]
        return self._parts.end()

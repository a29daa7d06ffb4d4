"""OpenAI's streamed transcriptions: `transcript.text.delta`, `transcript.text.segment`, and `transcript.text.done` with the
usage. They pass through; this only listens (wire/passthrough.py ListeningTap).
"""

from __future__ import annotations

from shared.wire import loose
from shared.wire.canonical import Delta, Event, Failed, Stop, Stopped, Used
from shared.wire.decoder import EventDecoder
from shared.wire.transcription.openai import usage_of


class StreamDecoder(EventDecoder):
    def _data(self, data: bytes) -> list[Event]:
        if data.lstrip().startswith(b"[DONE]"):
            return []
        event = loose.event(data)
        if event.get("error"):
            return [Failed(loose.text(loose.table(event["error"]).get("message")) or "an error", data)]
        match event.get("type"):
            case "transcript.text.delta":
                text = loose.text(event.get("delta"))
                return [Delta(0, text)] if text else []
            case "transcript.text.done":
                usage = usage_of(event.get("usage"))
                return [Used(usage), Stopped(Stop.END)] if usage is not None else [Stopped(Stop.END)]
            case "error":
                return [Failed(loose.text(event.get("message")) or "an error", data)]
        return []

    def _ended(self) -> list[Event]:
        return []

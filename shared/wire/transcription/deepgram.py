"""Deepgram's pre-recorded audio (https://developers.deepgram.com/reference/listen-file): the sound is the body, the rest is in
the URL, one answer.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import orjson

from shared.domain.catalogue import Model
from shared.wire.reply import MalformedReply
from shared.wire.transcription.canonical import Step, TranscribeCall, Transcript, Word

REFUSED = ("callback", "callback_method", "multichannel")
"""The answer would go elsewhere; each channel would be billed, and all but the first be lost."""


def first(call: TranscribeCall, model: Model) -> tuple[Step, list[str]]:
    """The request, and the client's fields that are not in it."""
    asked: dict[str, Any] = {"model": model.sent_id, "smart_format": "true"}
    asked |= {"language": call.language} if call.language else {"detect_language": "true"}
    for name, value in call.extra.items():
        asked[name] = str(value).lower() if type(value) is bool else value
    dropped = [name for name in ("prompt", "temperature") if getattr(call, name) is not None]
    query = urlencode({name: value for name, value in asked.items() if type(value) in (str, int, float, list)}, doseq=True)
    return Step(method="POST", path=f"/listen?{query}", body=call.audio.data, content_type=call.audio.media_type), dropped


def decode_reply(body: bytes) -> Transcript:
    """Raises MalformedReply."""
    try:
        reply = orjson.loads(body)
        channel = reply["results"]["channels"][0]
        heard = channel["alternatives"][0]
        words = tuple(
            Word(str(word.get("punctuated_word") or word["word"]), float(word["start"]), float(word["end"]))
            for word in heard.get("words") or ()
        )
        duration = reply.get("metadata", {}).get("duration")
        return Transcript(
            text=str(heard["transcript"]),
            language=channel.get("detected_language"),
            duration_s=float(duration) if duration is not None else None,
            words=words,
        )
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise MalformedReply("answered without a transcript") from None


def error_message(body: bytes) -> str | None:
    try:
        said = orjson.loads(body).get("err_msg")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    return said if type(said) is str else None

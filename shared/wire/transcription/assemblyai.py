"""AssemblyAI (https://www.assemblyai.com/docs/api-reference): the sound is uploaded, a transcript is ordered, and asked for
until it is done.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson

from shared.domain.catalogue import Model
from shared.wire.reply import MalformedReply
from shared.wire.transcription.canonical import Step, TranscribeCall, Transcript, Word
from shared.wire.translate import json_error_message

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 3.0
ANY_MODEL = "best"
"""A model name that leaves the choice to them."""


REFUSED = ("webhook_url", "webhook_auth_header_name", "webhook_auth_header_value", "multichannel", "audio_url")
"""The answer would go elsewhere; each channel would be billed; another sound than the one that was reserved for."""


class Failed(Exception):
    """The order came to nothing; the message is AssemblyAI's."""


def first(call: TranscribeCall, model: Model) -> tuple[Step, list[str]]:
    dropped = [name for name in ("prompt", "temperature") if getattr(call, name) is not None]
    return Step(method="POST", path="/upload", body=call.audio.data, content_type="application/octet-stream"), dropped


def order(upload_url: str, call: TranscribeCall, model: Model) -> Step:
    asked: dict[str, Any] = {"audio_url": upload_url}
    if model.sent_id != ANY_MODEL:
        asked["speech_models"] = [model.sent_id]
    asked |= {"language_code": call.language} if call.language else {"language_detection": True}
    for name, value in call.extra.items():
        asked[name] = {"true": True, "false": False}.get(value, value) if type(value) is str else value
    return Step(method="POST", path="/transcript", body=orjson.dumps(asked))


def following(body: bytes, asked: Step, call: TranscribeCall, model: Model) -> Step | None:
    """The next request after an answer; None when it is the transcript. Raises MalformedReply, Failed."""
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        reply = None
    if type(reply) is not dict:
        raise MalformedReply("answered with something that is no JSON object")
    if asked.path == "/upload":
        if type(reply.get("upload_url")) is not str:
            raise MalformedReply("took the sound and gave no upload_url")
        return order(reply["upload_url"], call, model)
    status, number = reply.get("status"), reply.get("id")
    if status == "completed":
        return None
    if status == "error":
        raise Failed(str(reply.get("error") or "the transcription failed"))
    if status not in ("queued", "processing") or type(number) is not str:
        raise MalformedReply("answered without a transcript's status")
    wait_s = min(LONGEST_WAIT_S, asked.wait_s * 1.5 if asked.wait_s else FIRST_WAIT_S)
    return Step(method="GET", path=f"/transcript/{quote(number, safe='')}", wait_s=wait_s)


def decode_reply(body: bytes) -> Transcript:
    """Times are milliseconds here. Raises MalformedReply."""
    try:
        reply = orjson.loads(body)
        words = tuple(Word(str(word["text"]), word["start"] / 1000, word["end"] / 1000) for word in reply.get("words") or ())
        duration = reply.get("audio_duration")
        return Transcript(
            text=str(reply["text"] or ""),
            language=reply.get("language_code"),
            duration_s=float(duration) if duration is not None else None,
            words=words,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise MalformedReply("answered without a transcript") from None


error_message = json_error_message

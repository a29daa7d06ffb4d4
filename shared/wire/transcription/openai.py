"""OpenAI's transcriptions (https://platform.openai.com/docs/api-reference/audio): a form, or OpenRouter's JSON with the sound
in base64; answered as JSON, text or subtitles.
"""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from shared.domain.usage import MAX_TOKENS, Usage
from shared.wire import loose, openai_json
from shared.wire.envelope import Envelope, invalid_field, wrong_type
from shared.wire.multipart import Form, Upload
from shared.wire.reply import MalformedReply
from shared.wire.transcription import subtitles
from shared.wire.transcription.canonical import FORMATS, TranscribeCall, Transcript, Word

KNOWN = frozenset(
    {
        "model",
        "file",
        "input_audio",
        "language",
        "prompt",
        "response_format",
        "temperature",
        "timestamp_granularities",
        "stream",
    }
)
CONTENT_TYPES = {"text": "text/plain; charset=utf-8", "srt": "text/plain; charset=utf-8", "vtt": "text/vtt; charset=utf-8"}


def upload_of(envelope: Envelope) -> Upload:
    """Raises Refused."""
    if isinstance(envelope, Form):
        if "file" not in envelope.uploads:
            raise invalid_field("file", "Missing required field 'file': the sound, as a file of the form.")
        return envelope.uploads["file"]
    sound = orjson.loads(envelope.body).get("input_audio")
    if type(sound) is not dict or type(sound.get("data")) is not str:
        raise invalid_field("input_audio", "Missing required field 'input_audio': {data, format}, or send a form with 'file'.")
    kind = sound.get("format")
    kind = kind if type(kind) is str and kind.isalnum() else "wav"
    try:
        data = b64decode(sound["data"], validate=True)
    except ValueError:
        raise invalid_field("input_audio.data", "'input_audio.data' is not base64.") from None
    return Upload(data=data, name=f"audio.{kind}", media_type=f"audio/{kind}")


def values_of(envelope: Envelope) -> dict[str, Any]:
    return {name: orjson.loads(bytes(raw)) for name, raw in envelope.fields.items()}


def decode_call(envelope: Envelope, *, model: str) -> TranscribeCall:
    """Raises Refused, naming the field."""
    values = values_of(envelope)
    wanted = values.get("response_format") or "json"
    if wanted not in FORMATS:
        raise invalid_field("response_format", f"{str(wanted)[:64]!r} is none of {', '.join(FORMATS)}.")
    granularities = values.get("timestamp_granularities") or ()
    if type(granularities) is str:
        granularities = [granularities]
    if any(each not in ("word", "segment") for each in granularities):
        raise invalid_field("timestamp_granularities", "'timestamp_granularities' holds 'word' and 'segment'.")
    return TranscribeCall(
        model=model,
        audio=upload_of(envelope),
        language=_text(values, "language"),
        prompt=_text(values, "prompt"),
        response_format=wanted,
        temperature=None if values.get("temperature") is None else str(values["temperature"]),
        granularities=tuple(granularities),
        extra={name: value for name, value in values.items() if name not in KNOWN},
    )


def _text(values: dict[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and type(value) is not str:
        raise wrong_type(name, "a string", value)
    return value or None


def usage_of(told: Any) -> Usage | None:
    """Tokens where the model is billed by them; whisper tells seconds."""
    if type(told) is not dict:
        return None
    if type(told.get("seconds")) in (int, float):
        return Usage(audio_ms=milliseconds(told["seconds"]))
    return openai_json.read_usage(msgspec.Raw(orjson.dumps(told)))


def read_usage(body: bytes) -> Usage | None:
    """From `usage`, or from the duration of `verbose_json`."""
    reply = loose.table(loose.parsed(body))
    usage = usage_of(reply.get("usage"))
    duration = seconds_of(reply)
    return Usage(audio_ms=milliseconds(duration)) if usage is None and duration is not None else usage


def seconds_of(reply: dict[str, Any]) -> float | None:
    """Groq and others tell a number, OpenAI has also told one as text."""
    try:
        seconds = float(reply.get("duration"))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < MAX_TOKENS else None


def milliseconds(seconds: float) -> int:
    """Whole milliseconds of a length that a provider told, rounded up; 0 for one that cannot be."""
    return min(math.ceil(round(seconds * 1000, 6)), MAX_TOKENS) if 0 < seconds < MAX_TOKENS else 0


def decode_reply(body: bytes) -> Transcript:
    """`verbose_json`. Raises MalformedReply."""
    reply = loose.parsed(body)
    if type(reply) is not dict or type(reply.get("text")) is not str:
        raise MalformedReply("answered without a transcript")
    try:
        segments = tuple(
            Word(str(each["text"]).strip(), float(each["start"]), float(each["end"]))
            for each in loose.tables(reply.get("segments"))
        )
    except (KeyError, TypeError, ValueError):
        raise MalformedReply("answered with segments that have no times") from None
    return Transcript(
        text=reply["text"],
        language=loose.text(reply.get("language")) or None,
        duration_s=seconds_of(reply),
        segments=segments,
    )


def encode_reply(transcript: Transcript, call: TranscribeCall) -> tuple[bytes, str]:
    """Body and Content-Type."""
    kind = CONTENT_TYPES.get(call.response_format, "application/json")
    match call.response_format:
        case "text":
            return f"{transcript.text}\n".encode(), kind
        case "srt":
            return subtitles.srt(_segments(transcript)).encode(), kind
        case "vtt":
            return subtitles.vtt(_segments(transcript)).encode(), kind
        case "verbose_json":
            return orjson.dumps(_verbose(transcript, call)), kind
    told: dict[str, Any] = {"text": transcript.text}
    if transcript.duration_s is not None:
        told["usage"] = {"type": "duration", "seconds": math.ceil(transcript.duration_s)}
    return orjson.dumps(told), kind


def _segments(transcript: Transcript) -> Sequence[Word]:
    return transcript.segments or subtitles.segments(transcript.words)


def _verbose(transcript: Transcript, call: TranscribeCall) -> dict[str, Any]:
    made: dict[str, Any] = {
        "task": "transcribe",
        "language": transcript.language or call.language or "",
        "duration": transcript.duration_s or (transcript.words[-1].end_s if transcript.words else 0.0),
        "text": transcript.text,
    }
    if "word" in call.granularities:
        made["words"] = [{"word": each.text, "start": each.start_s, "end": each.end_s} for each in transcript.words]
    if not call.granularities or "segment" in call.granularities:
        made["segments"] = [
            {"id": at, "start": each.start_s, "end": each.end_s, "text": each.text}
            for at, each in enumerate(_segments(transcript))
        ]
    return made

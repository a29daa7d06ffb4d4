"""What the gateway reads of a transcription, a form or JSON: the model, whether it streams, and how long the sound can be."""

from __future__ import annotations

from base64 import b64decode

from shared.wire.envelope import Envelope, wrong_type
from shared.wire.facts import call_facts
from shared.wire.multipart import Form
from shared.wire.openai_chat.facts import ChatCall, Sound, checked_model
from shared.wire.transcription.length import HEAD_BYTES, length

FLAGS = {None: False, False: False, "false": False, True: True, "true": True}
"""`stream` as JSON has it, and as a form does."""


def facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """Raises Refused."""
    told = envelope.value("stream")
    if type(told) not in (bool, str, type(None)) or told not in FLAGS:
        raise wrong_type("stream", "a boolean", told)
    return call_facts(
        envelope,
        model=checked_model(envelope.text("model")),
        stream=FLAGS[told],
        include_usage=True,
        sound=_sound(envelope),
    )


def _sound(envelope: Envelope) -> Sound:
    """What has no sound in it is refused later, by name (openai.upload_of)."""
    if isinstance(envelope, Form):
        upload = envelope.uploads.get("file")
        return length(upload.data[:HEAD_BYTES], len(upload.data)) if upload is not None else length(b"", 0)
    given = envelope.value("input_audio")
    data = given.get("data") if type(given) is dict else None
    if type(data) is not str:
        return length(b"", 0)
    try:
        head = b64decode(data[: HEAD_BYTES // 3 * 4])
    except ValueError:
        head = b""
    return length(head, len(data) * 3 // 4)

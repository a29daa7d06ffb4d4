"""Images, moderations and speech in OpenAI's format: always the same, and small.

demo/image      a PNG of one pixel for each of `n`, with usage as the images API tells it
demo/moderate   flags what holds the word "bomb"
demo/speak      half a second of silence as WAV, whatever was to be said
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from typing import Any

from services.simulator.formats.base import a_string, bad, only, parsed, strings, whole
from services.simulator.tokens import count_tokens

RATE = 8000
IMAGE_TOKENS = 16


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PIXEL = b64encode(
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\0\0"))
    + _chunk(b"IEND", b"")
).decode()
SILENCE = (
    struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + RATE, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    + struct.pack("<4sI", b"data", RATE)
    + bytes(RATE)
)


def images(raw: bytes) -> dict[str, Any]:
    body = parsed(raw)
    only(body, ("model", "prompt", "n", "size", "quality", "response_format", "user", "background", "output_format"), "")
    a_string(body.get("model"), "model")
    given = count_tokens(a_string(body.get("prompt"), "prompt"))
    number = whole(body.get("n", 1), "n", 1, 10)
    if body.get("response_format") not in (None, "b64_json"):
        raise bad("response_format", "only b64_json is simulated")
    made = number * IMAGE_TOKENS
    usage = {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}
    return {"created": 0, "data": [{"b64_json": PIXEL}] * number, "usage": usage}


def moderations(raw: bytes) -> dict[str, Any]:
    body = parsed(raw)
    only(body, ("model", "input"), "")
    model, given = a_string(body.get("model"), "model"), body.get("input")
    texts = [given] if isinstance(given, str) else list(strings(given, "input", most=100))
    results = []
    for text in texts:
        flagged = "bomb" in text.lower().split()
        results.append(
            {"flagged": flagged, "categories": {"violence": flagged}, "category_scores": {"violence": float(flagged)}}
        )
    return {"id": "modr-simulated", "model": model, "results": results}


def speech(raw: bytes) -> bytes:
    body = parsed(raw)
    only(body, ("model", "input", "voice", "response_format", "speed", "instructions"), "")
    for name in ("model", "input", "voice"):
        a_string(body.get(name), name)
    if body.get("response_format") not in (None, "wav"):
        raise bad("response_format", "only wav is simulated")
    return SILENCE

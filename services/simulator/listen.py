"""Transcription in OpenAI's, Deepgram's and AssemblyAI's formats. What is heard is the same everywhere: `HEARD`, a word each
half second. Sound that begins with `BROKEN` cannot be transcribed.
"""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from services.simulator.call import BadCall
from services.simulator.formats.base import a_string, bad, parsed

HEARD = ("Hello,", "this", "is", "a", "sound.", "It", "has", "two", "sentences.")
TEXT = " ".join(HEARD)
SECONDS = len(HEARD) / 2
BROKEN = b"broken"
TOKENS = {"type": "tokens", "input_tokens": 50, "output_tokens": 12, "total_tokens": 62}
POLLS = 2
"""How often an order is asked for before it is done."""

_orders: web.AppKey[dict[str, tuple[bytes, int]]] = web.AppKey("orders", dict)


async def openai(request: web.Request) -> web.StreamResponse:
    """A form with file and model. `listen` is billed by its length, `listen-tokens` by tokens: that one streams."""
    form = await request.post()
    sound = form.get("file")
    if not isinstance(sound, web.FileField):
        raise bad("file", "must be a file")
    _hear(sound.file.read())
    a_string(form.get("model"), "model")
    by_tokens = form.get("model") == "listen-tokens"
    if by_tokens and form.get("stream") == "true":
        return await _stream(request)
    usage = TOKENS if by_tokens else {"type": "duration", "seconds": SECONDS}
    match form.get("response_format", "json"):
        case "text":
            return web.Response(text=TEXT + "\n")
        case "json":
            return web.json_response({"text": TEXT, "usage": usage})
        case "verbose_json":
            segments = [
                {"id": 0, "start": 0.0, "end": 2.4, "text": " Hello, this is a sound."},
                {"id": 1, "start": 2.5, "end": 4.4, "text": " It has two sentences."},
            ]
            told = {"task": "transcribe", "language": "english", "duration": SECONDS, "text": TEXT, "segments": segments}
            return web.json_response(told | {"usage": usage})
        case other:
            raise bad("response_format", f"{other!r} is not simulated")


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    deltas = [HEARD[0], *(f" {word}" for word in HEARD[1:])]
    events: list[dict[str, Any]] = [{"type": "transcript.text.delta", "delta": delta} for delta in deltas]
    events.append({"type": "transcript.text.done", "text": TEXT, "usage": TOKENS})
    for event in events:
        await response.write(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)))
    return response


async def deepgram(request: web.Request) -> web.Response:
    if "model" not in request.query:
        return _refused(400, "model is missing")
    if "language" not in request.query and request.query.get("detect_language") != "true":
        return _refused(400, "say language or detect_language")
    data = await request.read()
    if not request.content_type.startswith(("audio/", "video/", "application/octet-stream")):
        return _refused(400, f"{request.content_type} is no sound")
    if data.startswith(BROKEN):
        return _refused(400, "Bad Request: failed to process audio: corrupt or unsupported data")
    words = [
        {"word": word.strip(".,").lower(), "punctuated_word": word, "start": at / 2, "end": at / 2 + 0.4, "confidence": 1.0}
        for at, word in enumerate(HEARD)
    ]
    heard = {"transcript": TEXT, "confidence": 1.0, "words": words}
    channel = {"alternatives": [heard], "detected_language": request.query.get("language", "en")}
    return web.json_response({"metadata": {"duration": SECONDS}, "results": {"channels": [channel]}})


def _refused(status: int, message: str) -> web.Response:
    return web.json_response({"err_code": "Bad Request", "err_msg": message, "request_id": "simulated"}, status=status)


def _hear(sound: bytes) -> None:
    if not sound or sound.startswith(BROKEN):
        raise BadCall(400, "The audio file could not be decoded or its format is not supported.", param="file")


async def upload(request: web.Request) -> web.Response:
    sound = await request.read()
    number = f"{len(request.app[_orders]) + 1}"
    request.app[_orders][number] = (sound, 0)
    return web.json_response({"upload_url": f"https://cdn.simulated/upload/{number}"})


async def order(request: web.Request) -> web.Response:
    body = parsed(await request.read())
    number = a_string(body.get("audio_url"), "audio_url").rpartition("/")[2]
    if number not in request.app[_orders]:
        return web.json_response({"error": "audio_url leads nowhere"}, status=400)
    if "language_code" not in body and body.get("language_detection") is not True:
        return web.json_response({"error": "say language_code or language_detection"}, status=400)
    return web.json_response({"id": number, "status": "queued"})


async def ask(request: web.Request) -> web.Response:
    number = request.match_info["order"]
    if number not in request.app[_orders]:
        return web.json_response({"error": "Transcript lookup error"}, status=404)
    sound, asked = request.app[_orders][number]
    request.app[_orders][number] = (sound, asked + 1)
    made: dict[str, Any] = {"id": number, "status": "processing"}
    if asked + 1 >= POLLS and sound.startswith(BROKEN):
        made |= {"status": "error", "error": "Transcoding failed. File does not appear to contain audio."}
    elif asked + 1 >= POLLS:
        words = [{"text": word, "start": at * 500, "end": at * 500 + 400} for at, word in enumerate(HEARD)]
        made |= {"status": "completed", "text": TEXT, "words": words, "audio_duration": SECONDS, "language_code": "en"}
    return web.json_response(made)


def add_routes(app: web.Application) -> None:
    app[_orders] = {}
    app.router.add_post("/v1/audio/transcriptions", openai)
    app.router.add_post("/v1/listen", deepgram)
    app.router.add_post("/v2/upload", upload)
    app.router.add_post("/v2/transcript", order)
    app.router.add_get("/v2/transcript/{order}", ask)

"""The simulator's URL table, and a call's way through it.

    POST /v1/chat/completions     OpenAI: the model name says what happens (behaviour.py), unless a fault is in force
    POST /v1/responses            OpenAI's Responses; in the same way
    POST /v1/messages             Anthropic, and /v1/messages/count_tokens
    POST /v1beta/models/M:METHOD  Gemini: generateContent, streamGenerateContent, countTokens
    POST /v2/chat                 Cohere
    POST /model/M/converse        Bedrock, and converse-stream
    POST /v1/embeddings, /v1beta/models/M:batchEmbedContents, /v2/embed, /v2/rerank    embed.py
    POST /v1/images/generations, /v1/moderations, /v1/audio/speech                     media.py
    POST /v1/audio/transcriptions, /v1/listen, /v2/upload, /v2/transcript    listen.py
    GET  /v1/models[/ID]          the models
    GET  /_control                every behaviour with its meaning, faults in force, counters
    POST /_control                {"reset": true, "faults": [{"behaviour": …, "model": …, "times": …, "share": …}], …}
    GET  /_control/requests       the last requests with headers and body (?last=N&model=ID)

The header `x-simulator-pace-ms` sets the milliseconds between a stream's tokens for one request. When the simulator
was given a key, it is looked for where the format has it, before anything else.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from ssl import SSLContext
from typing import Any
from uuid import uuid4

import orjson
from aiohttp import web

from services.simulator import embed, listen, media
from services.simulator.answer import compose
from services.simulator.behaviour import MODELS, RULES, Behaviour, Shape, parse_behaviour
from services.simulator.call import BadCall, Call
from services.simulator.formats import bedrock, chat, cohere, gemini, messages, responses
from services.simulator.formats.base import Asked, Failure, Format
from services.simulator.play import BROKEN_BY_US, HTML, drop_connection, play_stream, play_whole
from services.simulator.state import Record, State, recordable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STATE: web.AppKey[State] = web.AppKey("state", State)
FORMAT: web.RequestKey[Format] = web.RequestKey("wire_format", Format)
MAX_BODY_BYTES = 64 * 1024 * 1024
PACE_HEADER = "x-simulator-pace-ms"
RATE_HEADERS = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-reset-requests": "6ms",
}
ERRORS = {
    400: ("invalid_request_error", None),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", None),
    404: ("not_found_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


def create_app(state: State | None = None) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[refuse])
    app[STATE] = state or State()
    app.router.add_post("/v1/chat/completions", answering(chat.FORMAT))
    app.router.add_post("/v1/responses", answering(responses.FORMAT))
    app.router.add_post("/v1/messages", answering(messages.FORMAT))
    app.router.add_post("/v1/messages/count_tokens", counting(messages.FORMAT, messages.read_count, "input_tokens"))
    for version in ("v1", "v1beta"):
        place = f"/{version}/models/{{model:[^:/]+}}"
        app.router.add_post(f"{place}:generateContent", answering(gemini.FORMAT, stream=False))
        app.router.add_post(f"{place}:streamGenerateContent", answering(gemini.FORMAT, stream=True))
        app.router.add_post(f"{place}:countTokens", counting(gemini.FORMAT, gemini.read_count, "totalTokens"))
    app.router.add_post("/v1beta/models/{model}:batchEmbedContents", embedding(gemini.FORMAT, embed.gemini))
    app.router.add_post("/v1/embeddings", embedding(chat.FORMAT, embed.openai))
    app.router.add_post("/v1/images/generations", embedding(chat.FORMAT, media.images))
    app.router.add_post("/v1/moderations", embedding(chat.FORMAT, media.moderations))
    app.router.add_post("/v1/audio/speech", embedding(chat.FORMAT, media.speech))
    app.router.add_post("/v2/chat", answering(cohere.FORMAT))
    app.router.add_post("/v2/embed", embedding(cohere.FORMAT, embed.cohere))
    app.router.add_post("/v2/rerank", embedding(cohere.FORMAT, embed.rerank))
    app.router.add_post("/model/{model}/converse", answering(bedrock.FORMAT, stream=False))
    app.router.add_post("/model/{model}/converse-stream", answering(bedrock.FORMAT, stream=True))
    listen.add_routes(app)
    app.router.add_get("/v1/models", list_models)
    app.router.add_get("/v1/models/{model:.+}", show_model)
    app.router.add_get("/_control", show_control)
    app.router.add_post("/_control", set_control)
    app.router.add_get("/_control/requests", show_requests)
    return app


@asynccontextmanager
async def serving(
    state: State, *, host: str = "127.0.0.1", port: int = 0, ssl_context: SSLContext | None = None
) -> AsyncIterator[int]:
    """The simulator on a real socket; yields its port (0 asks for a free one). Raises OSError when the port is taken.

    A client that leaves cancels its request: that is how the records know when it left.
    """
    runner = web.AppRunner(create_app(state), handler_cancellation=True, access_log=None, shutdown_timeout=0.25)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=ssl_context, backlog=1024)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@web.middleware
async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A BadCall from any endpoint becomes an error in the format of the URL."""
    try:
        return await handler(request)
    except BadCall as refused:
        wire_format = request.get(FORMAT, chat.FORMAT)
        body, headers = wire_format.encode_error(
            Failure(status=refused.status, message=refused.message, kind=refused.kind, code=refused.code, param=refused.param)
        )
        return web.Response(body=body, status=refused.status, content_type="application/json", headers=headers)


def answering(wire_format: Format, *, stream: bool | None = None) -> Handler:
    """The endpoint that takes calls in one format. `stream`: what the URL says of it."""

    async def answer(request: web.Request) -> web.StreamResponse:
        request[FORMAT] = wire_format
        state = request.app[STATE]
        raw = await request.read()
        asked = _asked(request, stream)
        record = state.receive(request.method, request.path_qs, dict(asked.headers), None)
        try:
            response = await _answer(request, state, record, raw, wire_format, asked)
            record.status = response.status
            state.end(record, "complete" if response.status < 400 else "refused")
        except BadCall as refused:
            record.status = refused.status
            state.end(record, "refused")
            raise
        except asyncio.CancelledError:
            state.end(record, "client_gone")
            raise
        except ConnectionError:
            state.end(record, "client_gone")
            return web.Response()
        return response

    return answer


def counting(wire_format: Format, read: Callable[[bytes, Asked], tuple[dict[str, Any], int]], field: str) -> Handler:
    """The endpoint that only counts a call's tokens."""

    async def count(request: web.Request) -> web.StreamResponse:
        request[FORMAT] = wire_format
        _check_key(request, wire_format)
        body, tokens = read(await request.read(), _asked(request, None))
        model = request.match_info.get("model") or str(body.get("model"))
        if parse_behaviour(request.app[STATE].behaviour_name(model)) is None:
            raise _unknown(model)
        return _json({field: tokens})

    return count


def embedding(wire_format: Format, answer: Callable[..., dict[str, Any] | bytes]) -> Handler:
    """An endpoint of embed.py or media.py."""

    async def embedded(request: web.Request) -> web.StreamResponse:
        request[FORMAT] = wire_format
        _check_key(request, wire_format)
        raw = await request.read()
        state, asked = request.app[STATE], _asked(request, None)
        record = state.receive(request.method, request.path_qs, dict(asked.headers), None)
        record.body = recordable(raw, raw.decode(errors="replace"))
        try:
            made = answer(raw, asked.model) if asked.model else answer(raw)
        except BadCall as refused:
            record.status = refused.status
            state.end(record, "refused")
            raise
        record.status, record.body = 200, recordable(raw, orjson.loads(raw))
        state.end(record, "complete")
        return web.Response(body=made, content_type="audio/wav") if isinstance(made, bytes) else _json(made)

    return embedded


def _asked(request: web.Request, stream: bool | None) -> Asked:
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Asked(model=request.match_info.get("model"), stream=stream, headers=headers, query=request.query)


async def _answer(
    request: web.Request, state: State, record: Record, raw: bytes, wire_format: Format, asked: Asked
) -> web.StreamResponse:
    _check_key(request, wire_format)
    body, call = _read(record, raw, wire_format, asked)
    record.behaviour = state.behaviour_name(call.model)
    behaviour = parse_behaviour(record.behaviour)
    if behaviour is None:
        raise _unknown(call.model)
    if behaviour.tail_ms:
        behaviour = replace(behaviour, first_token_delay_ms=state.first_token_delay_ms(behaviour))
    for name in behaviour.refused_fields:
        if name in body:
            raise BadCall(400, f"Unsupported parameter: '{name}'.", param=name, code="unsupported_parameter")
    await asyncio.sleep(behaviour.head_delay_ms / 1000)
    reply_headers = {"x-request-id": f"req_{record.number}", **RATE_HEADERS}
    if behaviour.shape not in (Shape.NORMAL, Shape.TRUNCATED, Shape.JSON):
        return await _misshapen(request, state, record, call, behaviour, reply_headers, wire_format)
    reply = compose(call, behaviour, reply_id=f"chatcmpl-{uuid4().hex}", created=int(time.time()))
    record.status = 200
    if not call.stream or behaviour.shape is Shape.JSON:
        return await play_whole(request, state, record, reply, behaviour, reply_headers, wire_format=wire_format)
    return await play_stream(
        request,
        state,
        record,
        reply,
        behaviour,
        reply_headers,
        wire_format=wire_format,
        call=call,
        pace_ms=_pace_ms(request, state, behaviour),
    )


def _unknown(model: str) -> BadCall:
    return BadCall(404, f"The model '{model}' does not exist.", param="model", code="model_not_found")


def _check_key(request: web.Request, wire_format: Format = chat.FORMAT) -> None:
    state = request.app[STATE]
    if state.api_key is None:
        return
    sent = wire_format.key({name.lower(): value for name, value in request.headers.items()})
    if not hmac.compare_digest(sent.encode(), state.api_key.encode()):
        raise BadCall(401, "Incorrect API key provided.", code="invalid_api_key", kind="authentication_error")


def _read(record: Record, raw: bytes, wire_format: Format, asked: Asked) -> tuple[dict[str, Any], Call]:
    try:
        body, call = wire_format.read(raw, asked)
    except BadCall:
        record.body = recordable(raw, raw.decode(errors="replace"))
        raise
    record.body = recordable(raw, body)
    record.model, record.stream = call.model, call.stream
    return body, call


def _pace_ms(request: web.Request, state: State, behaviour: Behaviour) -> int:
    asked = request.headers.get(PACE_HEADER)
    if asked is not None and asked.isdecimal():
        return int(asked)
    return state.pace_ms if behaviour.pace_ms is None else behaviour.pace_ms


async def _misshapen(
    request: web.Request,
    state: State,
    record: Record,
    call: Call,
    behaviour: Behaviour,
    headers: dict[str, str],
    wire_format: Format,
) -> web.StreamResponse:
    """Everything that is no answer."""
    if behaviour.retry_after_s is not None:
        headers["Retry-After"] = behaviour.retry_after_s
    status = behaviour.status
    match behaviour.shape:
        case Shape.ERROR:
            kind, code = ERRORS.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
            code = behaviour.code or code
            kind = "insufficient_quota" if code == "insufficient_quota" else kind
            body, more = wire_format.encode_error(Failure(status=status, message=BROKEN_BY_US, kind=kind, code=code))
            return web.Response(body=body, status=status, content_type="application/json", headers={**headers, **more})
        case Shape.BARE:
            if 300 <= status < 400:
                headers["Location"] = "http://127.0.0.1:9/"
            text = None if status in (204, 304) else f"{status}\n"
            return web.Response(text=text, status=status, headers=headers)
        case Shape.HTML:
            return web.Response(body=HTML, status=status, content_type="text/html", headers=headers)
        case Shape.EMPTY:
            kind = wire_format.stream_type.partition(";")[0] if call.stream else "application/json"
            return web.Response(body=b"", content_type=kind, headers=headers)
        case Shape.HANG:
            await asyncio.Event().wait()
    state.end(record, "broken")
    drop_connection(request)
    return web.Response()


async def list_models(request: web.Request) -> web.Response:
    _check_key(request)
    return _json({"object": "list", "data": [_model(name) for name in MODELS]})


async def show_model(request: web.Request) -> web.Response:
    _check_key(request)
    name = request.match_info["model"]
    if parse_behaviour(name) is None:
        raise _unknown(name)
    return _json(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "simulator"}


async def show_control(request: web.Request) -> web.Response:
    return _json(
        {
            "models": {name: meaning for name, (meaning, _) in MODELS.items()},
            "behaviours": {rule.name: rule.meaning for rule in RULES},
            "combine": "MODEL+BEHAVIOUR+BEHAVIOUR, e.g. chat+stall-after-5+pace-20",
            "pace_header": PACE_HEADER,
            **request.app[STATE].summary(),
        }
    )


async def set_control(request: web.Request) -> web.Response:
    state = request.app[STATE]
    try:
        wanted = orjson.loads(await request.read())
        if not isinstance(wanted, dict):
            raise ValueError("the body must be a JSON object")
        if unknown := set(wanted) - {"reset", "faults", "pace_ms"}:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        pace_ms = wanted.get("pace_ms", state.pace_ms)
        if not isinstance(pace_ms, int) or isinstance(pace_ms, bool) or pace_ms < 0:
            raise ValueError("pace_ms: must be a whole number from 0")
        if wanted.get("reset"):
            state.reset()
        if "faults" in wanted:
            state.set_faults(wanted["faults"])
        state.pace_ms = pace_ms
    except ValueError as error:
        raise BadCall(400, str(error)) from error
    return _json(state.summary())


async def show_requests(request: web.Request) -> web.Response:
    last, model = request.query.get("last", ""), request.query.get("model")
    records = [record for record in request.app[STATE].records if model is None or record.model == model]
    if last.isdecimal():
        records = records[len(records) - min(int(last), len(records)) :]
    return _json({"requests": [asdict(record) for record in records]})


def _json(body: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")

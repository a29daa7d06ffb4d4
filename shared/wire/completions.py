"""Legacy completions (https://platform.openai.com/docs/api-reference/completions) at providers that only chat: the prompt
becomes the user's one message, the answer's text the completion.
"""

from __future__ import annotations

from typing import Any

import orjson
from msgspec.structs import replace

from shared.domain.usage import Usage
from shared.wire import openai_chat
from shared.wire.canonical import Begin, Call, Choice, Delta, Event, Reply, Stamp, Start, Stop, Stopped, Text, Used
from shared.wire.envelope import invalid_field, wrong_type
from shared.wire.fields import Values
from shared.wire.openai_chat.facts import DONE
from shared.wire.openai_chat.reply import usage_object

__all__ = ["PING", "StreamEncoder", "decode_call", "encode_refusal", "encode_reply", "encode_stream_error"]

PING = openai_chat.PING
encode_refusal, encode_stream_error = openai_chat.encode_refusal, openai_chat.encode_stream_error

FINISH = {Stop.LENGTH: "length", Stop.FILTER: "content_filter", Stop.REFUSAL: "content_filter"}
NAMES = {"turns": "prompt", "system": "prompt", "choices": "n"}


def decode_call(values: Values, *, model: str | None = None, stream: bool | None = None) -> Call:
    """Raises Refused, naming the field: a chat has no word for `suffix`, `echo` and several prompts at once."""
    for name, harmless in (("suffix", ("",)), ("echo", (False,)), ("best_of", (1, values.get("n", 1)))):
        if values.get(name) is not None and values[name] not in harmless:
            raise invalid_field(name, f"This model chats, and a chat has no {name!r}: leave it out.")
    left_out = tuple(name for name in ("logprobs",) if values.get(name) is not None)
    rest = {name: value for name, value in values.items() if name not in ("prompt", "suffix", "echo", "best_of", "logprobs")}
    chat = rest | {"messages": [{"role": "user", "content": _prompt(values.get("prompt"))}]}
    call = openai_chat.decode_call(chat, model=model, stream=stream)
    return replace(call, names=call.names | NAMES, left_out=(*call.left_out, *left_out))


def _prompt(given: Any) -> str:
    if type(given) is list and len(given) == 1:
        given = given[0]
    if type(given) is list:
        raise invalid_field("prompt", "This model chats: 'prompt' must be one string, neither several nor token ids.")
    if type(given) is not str:
        raise wrong_type("prompt", "a string", given)
    return given


def _head(stamp: Stamp) -> dict[str, Any]:
    number = stamp.event_id.replace("-", "")
    return {"id": f"cmpl-{number}", "object": "text_completion", "created": stamp.created_s, "model": stamp.model}


def _choice(index: int, text: str, stop: Stop | None) -> dict[str, Any]:
    finish = None if stop is None else FINISH.get(stop, "stop")
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def encode_reply(reply: Reply, stamp: Stamp) -> bytes:
    choices = [_choice(at, _text(choice), choice.stop) for at, choice in enumerate(reply.choices)]
    return orjson.dumps(_head(stamp) | {"choices": choices, "usage": usage_object(reply.usage or Usage())})


def _text(choice: Choice) -> str:
    return "".join(part.text for part in choice.parts if isinstance(part, Text))


class StreamEncoder:
    """Text alone; the usage, if it was asked for, in a chunk of its own at the end."""

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        self._head = _head(stamp)
        self._text: dict[int, bool] = {}
        self._usage: Usage | None = None

    def feed(self, event: Event) -> bytes:
        match event:
            case Begin():
                self._text[event.choice] = isinstance(event.part, Text)
            case Delta() if self._text.get(event.choice):
                return self._chunk([_choice(event.choice, event.text, None)])
            case Stopped():
                return self._chunk([_choice(event.choice, "", event.stop)])
            case Used():
                self._usage = event.usage
            case Start() if event.usage is not None:
                self._usage = event.usage
        return b""

    def close(self) -> bytes:
        if not self._stamp.include_usage or self._usage is None:
            return DONE
        return self._chunk([], usage_object(self._usage)) + DONE

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        body = self._head | {"choices": choices}
        if self._stamp.include_usage:
            body["usage"] = usage
        return b"data: " + orjson.dumps(body) + b"\n\n"

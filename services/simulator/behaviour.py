"""What a model name makes the simulator do: a closed table of behaviours, combined with `+`.

`chat` is a model, `chat+stall-after-5+pace-20` the same model with two behaviours, `fail-503` alone is `chat+fail-503`.
A fault set at the control endpoint is added to the model's own name in the same way. The table below is the
documentation, and `GET /_control` serves it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any


class Answer(StrEnum):
    """What the reply's content is."""

    CHAT = "chat"
    TOOLS = "tools"
    JSON = "json"
    REASONING = "reasoning"
    LONG = "long"
    UNICODE = "unicode"


class Shape(StrEnum):
    """What kind of reply goes out at all."""

    NORMAL = "normal"
    ERROR = "error"
    """An OpenAI error object with `status`."""
    BARE = "bare"
    """`status` with a line of plain text, as a load balancer answers."""
    HTML = "html"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    JSON = "json"
    """The whole reply as JSON, even when a stream was asked for."""
    HANG = "hang"
    NO_REPLY = "no-reply"


class Break(StrEnum):
    """What happens after `break_after` tokens."""

    NONE = ""
    STALL = "stall"
    CUT = "cut"
    RESET = "reset"
    END = "end"
    MALFORMED = "malformed"
    ERROR = "error"


class Reporting(StrEnum):
    """How usage is reported."""

    RIGHT = "right"
    NONE = "none"
    WRONG = "wrong"
    IN_CHOICE = "in-choice"
    EVERY_CHUNK = "every-chunk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Everything that a model name may ask for. Times in milliseconds."""

    answer: Answer = Answer.CHAT
    length_tokens: int = 0
    shape: Shape = Shape.NORMAL
    status: int = 200
    code: str | None = None
    retry_after_s: str | None = None
    head_delay_ms: int = 0
    first_token_delay_ms: int = 0
    tail_ms: int = 0
    tail_percent: int = 0
    pace_ms: int | None = None
    break_kind: Break = Break.NONE
    break_after: int = 0
    reporting: Reporting = Reporting.RIGHT
    reported: tuple[int, int] | None = None
    cached_tokens: int = 0
    content_filter: bool = False
    done: bool = True
    crlf: bool = False
    comments: bool = False
    split_bytes: int = 0
    padding_kib: int = 0
    refused_fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table: its name as people write it, what it does, and how the name changes a Behaviour."""

    name: str
    meaning: str
    pattern: re.Pattern[str]
    change: Callable[..., dict[str, Any]]


def _rule(name: str, meaning: str, change: Callable[..., dict[str, Any]]) -> Rule:
    """Capitals in `name` stand for what is variable: FIELD for a word, the others for a number."""
    words = re.sub(r"\[(.*?)\]", r"(?:\1)?", name)
    words = re.sub(r"FIELD", r"([a-z_]+)", words)
    return Rule(name, meaning, re.compile(re.sub(r"[A-Z]+", r"(\\d{1,9})", words)), change)


def _error(status: int, code: str, retry_after_s: str | None = None) -> dict[str, Any]:
    return {"shape": Shape.ERROR, "status": status, "code": code, "retry_after_s": retry_after_s}


def _status(number: str, least: int) -> int:
    status = int(number)
    if not least <= status <= 599:
        raise ValueError(f"{status} is no status to answer with")
    return status


def _broken(kind: Break) -> Callable[[str], dict[str, Any]]:
    return lambda after: {"break_kind": kind, "break_after": int(after)}


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("answers with what it was told", {}),
    "tools": (
        "calls the first tool offered, with arguments made from its schema (several with parallel_tool_calls: true); "
        "answers in text once it has a tool's result",
        {"answer": Answer.TOOLS},
    ),
    "json": ("answers with a JSON object, or a valid instance of the JSON schema asked for", {"answer": Answer.JSON}),
    "slow": (
        "first token after 2 s, then one each 100 ms",
        {"first_token_delay_ms": 2000, "pace_ms": 100},
    ),
    "reasoning": (
        "reasoning_content first, then the answer; usage tells reasoning tokens",
        {"answer": Answer.REASONING},
    ),
    "unicode": ("an answer full of multi-byte characters", {"answer": Answer.UNICODE}),
}

RULES: tuple[Rule, ...] = (
    _rule("long-N", "an answer of N tokens", lambda n: {"answer": Answer.LONG, "length_tokens": int(n)}),
    _rule(
        "long-N-MS",
        "an answer of N tokens, MS apart",
        lambda n, ms: {"answer": Answer.LONG, "length_tokens": int(n), "pace_ms": int(ms)},
    ),
    _rule("pace-MS", "MS between tokens of a stream", lambda ms: {"pace_ms": int(ms)}),
    _rule("cached-N", "N of the prompt's tokens were in the cache", lambda n: {"cached_tokens": int(n)}),
    _rule(
        "fail-STATUS[-retry-S]",
        "an OpenAI error object with that status; Retry-After: S",
        lambda status, s: {"shape": Shape.ERROR, "status": _status(status, 400), "code": None, "retry_after_s": s},
    ),
    _rule(
        "status-STATUS",
        "that status with a line of plain text, as from a load balancer",
        lambda status: {"shape": Shape.BARE, "status": _status(status, 200)},
    ),
    _rule("quota-exhausted", "429 insufficient_quota", lambda: _error(429, "insufficient_quota")),
    _rule("bad-key", "401 invalid_api_key", lambda: _error(401, "invalid_api_key")),
    _rule("too-long", "400 context_length_exceeded", lambda: _error(400, "context_length_exceeded")),
    _rule("refuse-FIELD", "400 when the body has that field", lambda field: {"refused_fields": (field,)}),
    _rule("content-filter", "finish_reason content_filter", lambda: {"content_filter": True}),
    _rule("slow-head-MS", "no byte of the reply before MS", lambda ms: {"head_delay_ms": int(ms)}),
    _rule(
        "slow-first-token-MS",
        "the stream's head at once, its first event after MS (without a stream: the reply after MS)",
        lambda ms: {"first_token_delay_ms": int(ms)},
    ),
    _rule(
        "heavy-tail-MS-PERCENT",
        "first token (without a stream: the reply) after about MS, lognormal; PERCENT of the requests take 7 to 33 times MS",
        lambda ms, percent: {"tail_ms": int(ms), "tail_percent": int(percent)},
    ),
    _rule("hang", "never answers", lambda: {"shape": Shape.HANG}),
    _rule("no-reply", "reads the request and closes the connection", lambda: {"shape": Shape.NO_REPLY}),
    _rule("stall-after-N", "N tokens, then silence on an open connection", _broken(Break.STALL)),
    _rule("cut-after-N", "N tokens, then the connection is closed in the middle of the reply", _broken(Break.CUT)),
    _rule("reset-after-N", "N tokens, then the connection is reset", _broken(Break.RESET)),
    _rule("end-after-N", "N tokens, then a clean end with neither finish_reason nor [DONE]", _broken(Break.END)),
    _rule("malformed-after-N", "N tokens, then an event that is not JSON, then the rest", _broken(Break.MALFORMED)),
    _rule("error-event-after-N", "N tokens, then an event with an error object, then the end", _broken(Break.ERROR)),
    _rule("no-done", "a stream without [DONE]", lambda: {"done": False}),
    _rule("empty", "200 without a body", lambda: {"shape": Shape.EMPTY}),
    _rule("html[-STATUS]", "an HTML page", lambda status: {"shape": Shape.HTML, "status": _status(status or "200", 200)}),
    _rule(
        "truncated-json",
        "the reply stops in the middle of its JSON, the body ends cleanly",
        lambda: {"shape": Shape.TRUNCATED},
    ),
    _rule("json-for-stream", "a whole reply as JSON although a stream was asked for", lambda: {"shape": Shape.JSON}),
    _rule("no-usage", "no usage, asked for or not", lambda: {"reporting": Reporting.NONE}),
    _rule(
        "wrong-usage",
        "usage with a negative, an absurd and a non-numeric figure",
        lambda: {"reporting": Reporting.WRONG},
    ),
    _rule("usage-P-C", "usage of exactly P prompt and C completion tokens", lambda p, c: {"reported": (int(p), int(c))}),
    _rule("usage-in-choice", "usage inside choices[0] of the last chunk", lambda: {"reporting": Reporting.IN_CHOICE}),
    _rule("usage-every-chunk", "usage so far on every chunk", lambda: {"reporting": Reporting.EVERY_CHUNK}),
    _rule("big-KIB", "KIB kibibytes of padding inside the reply", lambda kib: {"padding_kib": int(kib)}),
    _rule("crlf", "a stream with CRLF line ends", lambda: {"crlf": True}),
    _rule("comments", "a comment line before every event", lambda: {"comments": True}),
    _rule("split-N", "a stream written N bytes at a time", lambda n: {"split_bytes": max(1, int(n))}),
)


@lru_cache(maxsize=4096)
def parse_behaviour(name: str) -> Behaviour | None:
    """The Behaviour that `name` asks for; None when it names no model and no behaviour."""
    behaviour = Behaviour()
    for part in name.split("+"):
        change = _change(part)
        if change is None:
            return None
        if "refused_fields" in change:
            change["refused_fields"] += behaviour.refused_fields
        behaviour = replace(behaviour, **change)
    return behaviour


def _change(part: str) -> dict[str, Any] | None:
    if part in MODELS:
        return dict(MODELS[part][1])
    for rule in RULES:
        if matched := rule.pattern.fullmatch(part):
            try:
                return rule.change(*matched.groups())
            except ValueError:
                return None
    return None

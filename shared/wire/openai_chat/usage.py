"""Usage, as OpenAI and its imitators report it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import orjson

from shared.domain.usage import MAX_TOKENS, Usage
from shared.wire.reply import UNREADABLE


def read_usage(raw: bytes | msgspec.Raw) -> Usage | None:
    """Usage from a `usage` object of OpenAI or one of its imitators; None when it has no believable counts.

    Cached tokens: OpenAI's details, DeepSeek's `prompt_cache_hit_tokens`, Moonshot's `cached_tokens`. Written to a
    cache: `cache_write_tokens` or Alibaba's `cache_creation_input_tokens`, in the details. Reasoning tokens that are not
    within the output (xAI) are added to it: the total tells. No provider's number makes a count negative or larger than
    MAX_TOKENS.
    """
    try:
        plain = _plain(raw)
    except (*UNREADABLE, OverflowError):
        plain = None
    if plain is not None and plain.total_tokens == plain.prompt_tokens + plain.completion_tokens:
        return _usage_of(plain)
    try:
        report = orjson.loads(bytes(raw))
    except orjson.JSONDecodeError:
        return None
    if type(report) is not dict:
        return None
    total = _tokens(report, "total_tokens")
    given, made = _tokens(report, "prompt_tokens"), _tokens(report, "completion_tokens")
    if given is None and made is not None and total is not None and total >= made:
        given = total - made
    if made is None and given is not None:
        if total is not None and total >= given:
            made = total - given
        elif total is None and "completion_tokens" not in report:
            made = 0
    if given is None or made is None:
        return None
    details, output_details = report.get("prompt_tokens_details"), report.get("completion_tokens_details")
    reasoning = _tokens(output_details, "reasoning_tokens") or _tokens(report, "reasoning_tokens") or 0
    if reasoning and (total == given + made + reasoning or (total is None and reasoning > made)):
        made = min(made + reasoning, MAX_TOKENS)
    cached = (
        _tokens(details, "cached_tokens") or _tokens(report, "prompt_cache_hit_tokens") or _tokens(report, "cached_tokens") or 0
    )
    cached = min(cached, given)
    return Usage(
        input_tokens=given,
        output_tokens=made,
        cache_read_tokens=cached,
        cache_write_tokens=min(_written(details), given - cached),
        reasoning_tokens=min(reasoning, made),
        audio_input_tokens=min(_tokens(details, "audio_tokens") or 0, given),
    )


Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    audio_tokens: Count | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: Count | None = None


class _Plain(msgspec.Struct, gc=False):
    """Usage as OpenAI reports it; its imitators' fields make it something to be looked at slowly."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: None = None
    cached_tokens: None = None
    reasoning_tokens: None = None


_plain = msgspec.json.Decoder(_Plain).decode


def _usage_of(plain: _Plain) -> Usage:
    """Each kind within its total. Comparisons, not min(): this runs for every call, and that costs it five times as much."""
    given, made = plain.prompt_tokens, plain.completion_tokens
    cached = written = sound = thought = 0
    if (details := plain.prompt_tokens_details) is not None:
        cached = details.cached_tokens or 0
        written = details.cache_write_tokens or details.cache_creation_input_tokens or 0
        sound = details.audio_tokens or 0
        if cached > given:
            cached = given
        if written > given - cached:
            written = given - cached
        if sound > given:
            sound = given
    if (output_details := plain.completion_tokens_details) is not None:
        thought = output_details.reasoning_tokens or 0
        if thought > made:
            thought = made
    return Usage(
        input_tokens=given,
        output_tokens=made,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=thought,
        audio_input_tokens=sound,
    )


def _written(details: object) -> int:
    return _tokens(details, "cache_write_tokens") or _tokens(details, "cache_creation_input_tokens") or 0


def _tokens(report: object, name: str) -> int | None:
    """A count that can be believed, at most MAX_TOKENS; None for anything else: absent, negative, no whole number."""
    value = report.get(name) if type(report) is dict else None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 0:
        return None
    return min(value, MAX_TOKENS)

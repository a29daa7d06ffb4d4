"""What every format says about an answer: its facts, or that it is none."""

from __future__ import annotations

import msgspec

from shared.domain.usage import Usage

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises at bytes that are no JSON of the wanted shape: bad UTF-8 and deep nesting have errors of their own."""


class MalformedReply(Exception):
    """The provider's answer is not one of its wire format. The message completes "The provider …"."""


class ReplyFacts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A whole reply: `body` is what the client gets."""

    body: bytes
    usage: Usage | None
    finish_reason: str | None
    content_type: str | None = None
    """None: JSON, or for speech what the provider says."""


GONE_WRONG = "stopped without a usable answer"


def gone_wrong(reason: str | None) -> str:
    """What is said of a provider that names a fault of its own as the reason why it stopped."""
    return f"{GONE_WRONG}: {(reason or 'no reason given')[:80]}"

"""Usage of one call, and the usage event that books it exactly once."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shared.domain.decision import Decision

MAX_TOKENS = 1_000_000_000
"""No honest call reports more; anything above is a provider's fault and is clamped (new-api CVE-2026-71479)."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Tokens of one call. `input_tokens` includes cached ones, `output_tokens` includes reasoning ones, `cache_write_tokens`
    includes those kept for an hour. `audio_ms` is sound that was transcribed, where it is billed by its length."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_1h_tokens: int = 0
    audio_ms: int = 0
    audio_input_tokens: int = 0
    """Of `input_tokens`: what was sound."""

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def within(self, most_in: int, most_out: int, most_audio_ms: int = 0) -> Usage:
        """The usage, held to what was possible: each kind of tokens within its total."""
        input_tokens, output_tokens = min(self.input_tokens, most_in), min(self.output_tokens, most_out)
        cache_read = min(self.cache_read_tokens, input_tokens)
        cache_write = min(self.cache_write_tokens, input_tokens - cache_read)
        return Usage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_read_tokens=cache_read,
            cache_write_tokens=cache_write,
            reasoning_tokens=min(self.reasoning_tokens, output_tokens),
            cache_write_1h_tokens=min(self.cache_write_1h_tokens, cache_write),
            audio_ms=min(self.audio_ms, most_audio_ms),
            audio_input_tokens=min(self.audio_input_tokens, input_tokens),
        )


class EventKind(StrEnum):
    """`estimated` books a reservation nobody settled; `adjustment` is what a late actual adds to an estimate."""

    ACTUAL = "actual"
    ESTIMATED = "estimated"
    ADJUSTMENT = "adjustment"


class UsageSource(StrEnum):
    """Where an event's token counts come from."""

    PROVIDER = "provider"
    COUNTED = "counted"
    RESERVED = "reserved"
    NONE = "none"


class Outcome(StrEnum):
    """How the call ended, as the ledger tells it."""

    OK = "ok"
    CLIENT_GONE = "client_gone"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_LIMIT = "provider_limit"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    CUT = "cut"
    HEDGE_LOST = "hedge_lost"
    """A second attempt was faster: never a call's own end."""
    UNKNOWN = "unknown"


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One call in the ledger. The id is a UUIDv7 minted before admission; its timestamp is when the call occurred.

    Encoded as a msgpack array in the local log, in the reservation and on the usage stream, so new fields go last and
    have defaults.
    """

    event_id: str
    kind: EventKind
    organisation_id: str
    team_id: str
    key_id: str
    provider: str
    connection: str
    model: str
    """`prefix/model-id`, as a client names it."""
    operation: str
    stream: bool
    outcome: Outcome
    source: UsageSource
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int = 0
    unpriced: bool = False
    price_version: str = ""
    attempts: int = 1
    duration_ms: int = 0
    first_token_ms: int | None = None
    request_id: str = ""
    """The event id of the call; another one than its own where a further attempt of a call is billed beside it."""
    node: str = ""
    decision: Decision | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(UsageEvent).decode


def encode_event(event: UsageEvent) -> bytes:
    return _encode(event)


def decode_event(raw: bytes) -> UsageEvent:
    """Raises msgspec.DecodeError (or ValidationError) on anything that is not an event."""
    return _decode(raw)

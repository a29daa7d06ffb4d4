"""Money: integer nano-USD, prices per million tokens, and what a usage costs.

1 USD = 1_000_000_000 nano-USD. A price of $0.0375 per million tokens is 37_500_000 nano-USD per million: still an
integer, so a cost is one integer sum, divided once and rounded up once. Floats never hold money.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import msgspec
from msgspec.structs import replace

from shared.domain.times import Times
from shared.domain.usage import Usage

NanoUsd = int
NANO_PER_USD = 1_000_000_000
MTOK = 1_000_000
MS_PER_MINUTE = 60_000
MAX_USD = Decimal(9_000_000)
"""Above this a double in Lua would no longer hold every nano-USD (2**53)."""


def usd_to_nano(usd: str | int | Decimal) -> NanoUsd:
    """`"5"`, `"0.0375"` → nano-USD. Raises ValueError when negative, not finite, above MAX_USD or finer than 1 nano."""
    try:
        amount = Decimal(usd)
    except (InvalidOperation, TypeError, ValueError) as error:
        raise ValueError(f"{usd!r} is not an amount of USD") from error
    if not amount.is_finite() or amount < 0 or amount > MAX_USD:
        raise ValueError(f"{usd} USD is not between 0 and {MAX_USD}")
    nano = amount * NANO_PER_USD
    if nano != nano.to_integral_value():
        raise ValueError(f"{usd} USD is finer than one nano-USD")
    return int(nano)


def nano_to_usd(nano: NanoUsd) -> Decimal:
    """Exact USD of a nano amount, for people and exports."""
    return Decimal(nano) / NANO_PER_USD


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What a model costs: nano-USD per million tokens of each kind, per request, and per minute of sound.

    `None` means "no price of its own": cache reads and writes then cost what input costs, writes for an hour what other
    writes cost, reasoning what output costs.
    """

    input_nano_per_mtok: int
    output_nano_per_mtok: int
    cache_read_nano_per_mtok: int | None = None
    cache_write_nano_per_mtok: int | None = None
    reasoning_nano_per_mtok: int | None = None
    request_nano: int = 0
    version: str = ""
    cache_write_1h_nano_per_mtok: int | None = None
    minute_nano: int = 0
    least_audio_ms: int = 0
    """Shorter sound costs as much as this."""
    audio_nano_per_mtok: int | None = None
    """Of input tokens that are sound and came from no cache; without it they cost what input costs."""
    above_tokens: int = 0
    longer: tuple[Price, ...] = ()
    """What all its tokens cost instead, once a call's prompt has more of them than a tier's `above_tokens`; in rising order."""
    times: Times | None = None
    cheaper: Price | None = None
    """What a call costs instead that was all within this price's `times`; never more than here, of any kind."""

    def with_cheaper(self, cheaper: Price, times: Times) -> Price:
        """This price, and what its tokens cost at cheaper times. Raises ValueError where they would cost more then."""
        if self.longer or cheaper.longer:
            raise ValueError("a price that depends on the prompt's length cannot depend on the time too")
        for kind, here, then in zip(KINDS, _kinds(self), _kinds(cheaper), strict=True):
            if then > here:
                raise ValueError(f"{kind} would cost more than at other times")
        rest = replace(
            cheaper, request_nano=self.request_nano, minute_nano=self.minute_nano, least_audio_ms=self.least_audio_ms,
            times=times,
        )  # fmt: skip
        return replace(self, cheaper=rest)

    def during(self, from_s: float, to_s: float) -> Price:
        """The price of a call that was sent and ended at these moments, in Unix seconds: which of them counts is often not
        said, so the cheaper one needs both, and all between."""
        cheaper = self.cheaper
        return cheaper if cheaper is not None and cheaper.times is not None and cheaper.times.hold(from_s, to_s) else self

    def at(self, input_tokens: int) -> Price:
        """The price of a call whose prompt has so many tokens."""
        found = self
        for tier in self.longer:
            if input_tokens > tier.above_tokens:
                found = tier
        return found

    def most(self, input_tokens: int) -> tuple[int, int]:
        """The most that an input and an output token can cost in a call whose prompt has at most so many tokens."""
        most_in, most_out = self.dearest_input_nano_per_mtok, self.dearest_output_nano_per_mtok
        for tier in self.longer:
            if input_tokens > tier.above_tokens:
                most_in = max(most_in, tier.dearest_input_nano_per_mtok)
                most_out = max(most_out, tier.dearest_output_nano_per_mtok)
        return most_in, most_out

    @property
    def by_length_alone(self) -> bool:
        """Whether a transcription's tokens cost nothing."""
        return self.minute_nano > 0 and self.dearest_input_nano_per_mtok == self.dearest_output_nano_per_mtok == 0

    @property
    def dearest_input_nano_per_mtok(self) -> int:
        """The most that one input token can cost, whichever way the provider's cache treats it."""
        return max(
            self.input_nano_per_mtok,
            self.cache_read_nano_per_mtok or 0,
            self.cache_write_nano_per_mtok or 0,
            self.cache_write_1h_nano_per_mtok or 0,
            self.audio_nano_per_mtok or 0,
        )

    @property
    def dearest_output_nano_per_mtok(self) -> int:
        """The most that one output token can cost, reasoning or not."""
        return max(self.output_nano_per_mtok, self.reasoning_nano_per_mtok or 0)


KINDS = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning", "audio")


def _kinds(price: Price) -> tuple[int, ...]:
    """What a token of each of KINDS costs."""

    def known(own: int | None, other: int) -> int:
        return other if own is None else own

    given, made = price.input_nano_per_mtok, price.output_nano_per_mtok
    write = known(price.cache_write_nano_per_mtok, given)
    return (
        given, made, known(price.cache_read_nano_per_mtok, given), write, known(price.cache_write_1h_nano_per_mtok, write),
        known(price.reasoning_nano_per_mtok, made), known(price.audio_nano_per_mtok, given),
    )  # fmt: skip


def cost_nano_usd(usage: Usage, price: Price) -> NanoUsd:
    """Cost of `usage` at `price`, rounded up once to a whole nano-USD (sound by itself: its unit is another)."""
    per_token = price.at(usage.input_tokens)
    millionths = _input(usage, per_token) + _output(usage, per_token)
    sound = audio_nano_usd(usage.audio_ms, price) if usage.audio_ms else 0
    return -(-millionths // MTOK) + price.request_nano + sound


def output_nano_usd(usage: Usage, price: Price) -> NanoUsd:
    """The output's part of `cost_nano_usd`, rounded down: the rest is the input's."""
    return _output(usage, price.at(usage.input_tokens)) // MTOK


def audio_nano_usd(audio_ms: int, price: Price) -> NanoUsd:
    """Cost of transcribing so much sound, rounded up to a whole nano-USD."""
    if 0 < audio_ms < price.least_audio_ms:
        audio_ms = price.least_audio_ms
    return -(-audio_ms * price.minute_nano // MS_PER_MINUTE)


def _input(usage: Usage, price: Price) -> int:
    """Millionths of a nano-USD."""
    cached, written = usage.cache_read_tokens, usage.cache_write_tokens
    if not cached and not written and not usage.audio_input_tokens:
        return usage.input_tokens * price.input_nano_per_mtok
    for_an_hour = min(usage.cache_write_1h_tokens, written)
    plain = max(0, usage.input_tokens - cached - written)
    read = price.input_nano_per_mtok if price.cache_read_nano_per_mtok is None else price.cache_read_nano_per_mtok
    write = price.input_nano_per_mtok if price.cache_write_nano_per_mtok is None else price.cache_write_nano_per_mtok
    write_1h = write if price.cache_write_1h_nano_per_mtok is None else price.cache_write_1h_nano_per_mtok
    sound = 0
    if price.audio_nano_per_mtok is not None and usage.audio_input_tokens:
        heard = min(usage.audio_input_tokens, plain)
        plain, sound = plain - heard, heard * price.audio_nano_per_mtok
    cache = cached * read + (written - for_an_hour) * write + for_an_hour * write_1h
    return plain * price.input_nano_per_mtok + sound + cache


def _output(usage: Usage, price: Price) -> int:
    """Millionths of a nano-USD."""
    if not usage.reasoning_tokens:
        return usage.output_tokens * price.output_nano_per_mtok
    thinking = price.output_nano_per_mtok if price.reasoning_nano_per_mtok is None else price.reasoning_nano_per_mtok
    plain = max(0, usage.output_tokens - usage.reasoning_tokens)
    return plain * price.output_nano_per_mtok + usage.reasoning_tokens * thinking

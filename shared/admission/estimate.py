"""Estimate (pure): the most that a call can cost, and the tokens that its rate limits are charged at admission.

Two different numbers on purpose. A budget must never be overshot, so it reserves a true upper bound: no tokenizer makes
more than one token of a UTF-8 byte, so the body's bytes bound its input, and the output cap bounds the rest. A rate limit
would be useless at that bound (a 128k cap would eat a minute's tokens), so it is charged what such calls typically use, and
corrected when the truth is known.
"""

from __future__ import annotations

import msgspec

from shared.admission.budget import Bound
from shared.domain.catalogue import Model
from shared.domain.money import MTOK, audio_nano_usd

MESSAGE_OVERHEAD_TOKENS = 16
"""Chat templates add a few tokens per message (role markers, separators): OpenAI's cookbook counts 3 to 4."""
CALL_OVERHEAD_TOKENS = 512
"""Templates' preambles, tool-use system prompts (Anthropic documents up to 346) and reply priming."""
MEDIA_URL_TOKENS = 100_000
"""What a provider can make of one image, audio or file that it fetches by URL: its bytes are not in the body, so they do
not bound it. The largest documented cost of one image is below 10k tokens; a fetched PDF of 100 pages is below 100k."""
BYTES_PER_TOKEN = 4
TYPICAL_OUTPUT_TOKENS = 512


class Quote(msgspec.Struct, frozen=True, gc=False):
    """What admission reserves. `priced` False: the price or the output maximum is unknown, so there is no bound."""

    bound: Bound
    input_tokens_bound: int
    rate_tokens: int
    priced: bool


def quote(
    *,
    body_bytes: int,
    messages: int,
    media_urls: int,
    model: Model,
    max_tokens: int | None,
    choices: int,
    typical_output_tokens: int,
    most_audio_ms: int = 0,
) -> Quote:
    """`max_tokens` is the client's cap per choice; without one the model's maximum stands. `most_audio_ms` bounds what there
    is to transcribe: a model that is billed by its length alone uses no tokens."""
    input_tokens = body_bytes + messages * MESSAGE_OVERHEAD_TOKENS + CALL_OVERHEAD_TOKENS + media_urls * MEDIA_URL_TOKENS
    cap, most = max_tokens, model.max_output_tokens
    if cap is None or (most is not None and most < cap):
        cap = most
    if most_audio_ms and model.price is not None and model.price.by_length_alone:
        full = audio_nano_usd(most_audio_ms, model.price) + model.price.request_nano
        return Quote(Bound(full, full, 0, 0, choices), 0, 0, priced=True)
    likely = typical_output_tokens if cap is None or cap > typical_output_tokens else cap
    rate_tokens = -(-body_bytes // BYTES_PER_TOKEN) + choices * likely
    price = model.price
    if price is None or cap is None:
        bound = Bound(0, 0, 0, cap, choices)
        return Quote(bound, input_tokens, rate_tokens, priced=False)
    input_price, output_price = price.most(input_tokens)
    fixed = -(-input_tokens * input_price // MTOK) + price.request_nano
    if most_audio_ms:
        fixed += audio_nano_usd(most_audio_ms, price)
    full = fixed + -(-cap * choices * output_price // MTOK)
    return Quote(Bound(fixed, full, output_price, cap, choices), input_tokens, rate_tokens, priced=True)


def dearer(one: Quote, other: Quote) -> Quote:
    """A quote that bounds both: a call may go on from one deployment to another, and pays for the one that answers.

    What is unknown of one is unknown of both. The price per token is the dearer one, so that a cut of the output is safe.
    """
    if not one.priced or not other.priced:
        return one if not one.priced else other
    caps = (one.bound.output_cap or 0, other.bound.output_cap or 0)
    bound = Bound(
        max(one.bound.fixed_nano_usd, other.bound.fixed_nano_usd),
        max(one.bound.full_nano_usd, other.bound.full_nano_usd),
        max(one.bound.output_nano_per_mtok, other.bound.output_nano_per_mtok),
        max(caps),
        one.bound.choices,
    )
    tokens = max(one.input_tokens_bound, other.input_tokens_bound)
    return Quote(bound, tokens, max(one.rate_tokens, other.rate_tokens), priced=True)


class TypicalOutput:
    """A running high estimate of how many output tokens a key's calls to a model use.

    Rises to a new maximum at once in half steps and falls slowly, so it stays near the 90th percentile of what was seen.
    """

    def __init__(self, most: int = 20_000) -> None:
        self._seen: dict[tuple[str, str], float] = {}
        self._most = most

    def estimate(self, key_id: str, model: str) -> int:
        return int(self._seen.get((key_id, model), TYPICAL_OUTPUT_TOKENS))

    def observe(self, key_id: str, model: str, output_tokens: int) -> None:
        place = (key_id, model)
        known = self._seen.get(place)
        if known is None:
            if len(self._seen) >= self._most:
                del self._seen[next(iter(self._seen))]
            known = float(TYPICAL_OUTPUT_TOKENS)
        self._seen[place] = known + (output_tokens - known) * (0.5 if output_tokens > known else 0.05)

"""Windows, budgets and estimates as pure functions: what they promise, for any input."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared.admission.budget import Bound, set_aside
from shared.admission.estimate import quote
from shared.admission.window import MINUTE_US, Passed, Rate, Wait, advance
from shared.domain.catalogue import Model
from shared.domain.money import Price, cost_nano_usd
from shared.domain.times import Times
from shared.domain.usage import Usage


@given(st.integers(1, 120), st.none() | st.integers(0, 40), st.lists(st.integers(0, 5_000_000), max_size=300))
def test_any_sixty_seconds_admit_at_most_limit_plus_burst(limit: int, burst: int | None, gaps: list[int]) -> None:
    rate, tat, now = Rate.per_minute(limit, burst), None, 1e13
    admitted: list[float] = []
    for gap in gaps:
        now += gap
        end = advance(rate, tat, 1, now)
        if isinstance(end, Passed):
            tat = end.tat_us
            admitted.append(now)
    for start in admitted:
        assert sum(start <= at < start + MINUTE_US for at in admitted) <= limit + rate.burst


@given(st.integers(1, 1000), st.integers(1, 50), st.integers(1, 60))
def test_retry_after_is_exact(limit: int, burst: int, calls: int) -> None:
    rate, tat, now = Rate.per_minute(limit, burst), None, 1e13
    for _ in range(calls):
        end = advance(rate, tat, 1, now)
        if isinstance(end, Wait):
            assert end.retry_ms is not None
            assert isinstance(advance(rate, tat, 1, now + end.retry_ms * 1000), Passed)
            assert isinstance(advance(rate, tat, 1, now + (end.retry_ms - 2) * 1000), Wait) or end.retry_ms <= 2
            return
        tat = end.tat_us


def test_what_is_above_the_burst_never_passes() -> None:
    end = advance(Rate.per_minute(100), None, 101, 1e13)
    assert isinstance(end, Wait)
    assert end.retry_ms is None


@given(
    st.integers(0, 10**9),
    st.integers(0, 10**12),
    st.none() | st.integers(0, 10**6),
    st.integers(1, 128),
    st.integers(-5, 10**15),
)
def test_nothing_is_set_aside_beyond_what_is_left(fixed: int, price: int, cap: int | None, choices: int, left: int) -> None:
    full = 0 if cap is None else fixed + -(-cap * choices * price // 10**6)
    bound = Bound(0 if cap is None else fixed, full, price, cap, choices)
    aside = set_aside(bound, left)
    if aside is None:
        return
    assert aside.reserved_nano_usd <= max(left, 0) or aside.reserved_nano_usd == full <= left
    if cap is not None and aside.output_cap != cap:
        assert aside.output_cap is not None
        assert bound.least_output_cap <= aside.output_cap < cap
        true_cost = fixed + -(-aside.output_cap * choices * price // 10**6)
        assert true_cost <= aside.reserved_nano_usd


def part_of(price: Price, eighths: int) -> Price:
    given, made = price.input_nano_per_mtok, price.output_nano_per_mtok
    write = given if price.cache_write_nano_per_mtok is None else price.cache_write_nano_per_mtok
    hour = write if price.cache_write_1h_nano_per_mtok is None else price.cache_write_1h_nano_per_mtok
    read = given if price.cache_read_nano_per_mtok is None else price.cache_read_nano_per_mtok
    thought = made if price.reasoning_nano_per_mtok is None else price.reasoning_nano_per_mtok
    sound = given if price.audio_nano_per_mtok is None else price.audio_nano_per_mtok
    return Price(
        input_nano_per_mtok=given * eighths // 8,
        output_nano_per_mtok=made * eighths // 8,
        cache_read_nano_per_mtok=read * eighths // 8,
        cache_write_nano_per_mtok=write * eighths // 8,
        cache_write_1h_nano_per_mtok=hour * eighths // 8,
        reasoning_nano_per_mtok=thought * eighths // 8,
        audio_nano_per_mtok=sound * eighths // 8,
    )


@given(
    st.integers(1, 10**6), st.integers(1, 500), st.integers(0, 5), st.none() | st.integers(1, 10**5), st.integers(1, 8),
    st.data(),
)  # fmt: skip
def test_the_reservation_is_an_upper_bound(
    body: int, messages: int, urls: int, cap: int | None, choices: int, data: st.DataObject
) -> None:
    rates = st.integers(0, 10**11)

    def drawn(**more: Any) -> Price:
        return Price(
            input_nano_per_mtok=data.draw(rates),
            output_nano_per_mtok=data.draw(rates),
            cache_read_nano_per_mtok=data.draw(st.none() | rates),
            cache_write_nano_per_mtok=data.draw(st.none() | rates),
            reasoning_nano_per_mtok=data.draw(st.none() | rates),
            cache_write_1h_nano_per_mtok=data.draw(st.none() | rates),
            audio_nano_per_mtok=data.draw(st.none() | rates),
            **more,
        )

    above = sorted(data.draw(st.sets(st.integers(1, 10**6), max_size=2)))
    price = drawn(
        request_nano=data.draw(st.integers(0, 10**6)),
        minute_nano=data.draw(st.integers(0, 10**8)),
        least_audio_ms=data.draw(st.integers(0, 20_000)),
        longer=tuple(drawn(above_tokens=each) for each in above),
    )
    if not above and data.draw(st.booleans()):
        price = price.with_cheaper(part_of(price, data.draw(st.integers(0, 8))), Times(peaks=((60, 240),)))
    audio_ms = data.draw(st.integers(0, 10**8))
    model = Model(model_id="m", max_output_tokens=50_000, price=price)
    made = quote(
        body_bytes=body, messages=messages, media_urls=urls, model=model, max_tokens=cap, choices=choices,
        typical_output_tokens=100, most_audio_ms=audio_ms,
    )  # fmt: skip
    most_out = min(cap or 50_000, 50_000) * choices
    output = data.draw(st.integers(0, most_out))
    given_in = data.draw(st.integers(0, made.input_tokens_bound))
    cached = data.draw(st.integers(0, given_in))
    written = data.draw(st.integers(0, given_in - cached))
    usage = Usage(
        input_tokens=given_in,
        output_tokens=output,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=data.draw(st.integers(0, output)),
        cache_write_1h_tokens=data.draw(st.integers(0, written)),
        audio_ms=data.draw(st.integers(0, audio_ms)),
        audio_input_tokens=data.draw(st.integers(0, given_in)),
    )
    assert made.priced
    moment_s = data.draw(st.integers(0, 86_400))
    assert (
        cost_nano_usd(usage, price.during(moment_s, moment_s + 60)) <= cost_nano_usd(usage, price) <= made.bound.full_nano_usd
    )
    assert usage.within(given_in, output, audio_ms) == usage


def test_sound_that_is_billed_by_its_length_alone_uses_no_tokens() -> None:
    price = Price(input_nano_per_mtok=0, output_nano_per_mtok=0, minute_nano=6_000_000)
    made = quote(
        body_bytes=10**7, messages=1, media_urls=0, model=Model(model_id="m", price=price), max_tokens=None, choices=1,
        typical_output_tokens=500, most_audio_ms=90_001,
    )  # fmt: skip
    assert (made.priced, made.bound.full_nano_usd, made.input_tokens_bound, made.rate_tokens) == (True, 9_000_100, 0, 0)


def test_writing_to_the_cache_for_an_hour_has_its_own_price() -> None:
    price = Price(
        input_nano_per_mtok=3 * 10**9, output_nano_per_mtok=15 * 10**9, cache_read_nano_per_mtok=3 * 10**8,
        cache_write_nano_per_mtok=3_750_000_000, cache_write_1h_nano_per_mtok=6 * 10**9,
    )  # fmt: skip
    usage = Usage(input_tokens=1000, output_tokens=10, cache_read_tokens=100, cache_write_tokens=800, cache_write_1h_tokens=300)
    # 100 plain at 3, 100 read at 0.30, 500 written at 3.75, 300 at 6, 10 out at 15 USD per million
    assert cost_nano_usd(usage, price) == 300_000 + 30_000 + 1_875_000 + 1_800_000 + 150_000
    assert price.dearest_input_nano_per_mtok == 6 * 10**9
    without = msgspec.structs.replace(price, cache_write_1h_nano_per_mtok=None)
    assert cost_nano_usd(usage, without) == 300_000 + 30_000 + 3_000_000 + 150_000
    assert usage.within(500, 5) == Usage(
        input_tokens=500, output_tokens=5, cache_read_tokens=100, cache_write_tokens=400, cache_write_1h_tokens=300
    )


def test_an_unknown_price_or_maximum_has_no_bound() -> None:
    price = Price(input_nano_per_mtok=1, output_nano_per_mtok=1)
    asked: dict[str, Any] = {"body_bytes": 10, "messages": 1, "media_urls": 0, "choices": 1, "typical_output_tokens": 9}
    assert not quote(model=Model(model_id="m", price=price), max_tokens=None, **asked).priced
    assert not quote(model=Model(model_id="m", max_output_tokens=9), max_tokens=None, **asked).priced
    assert quote(model=Model(model_id="m", price=price), max_tokens=9, **asked).priced

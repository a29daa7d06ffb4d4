"""Rate-limit headers as vendors send them: what is left, and for how long a connection is left alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.providers import registry
from shared.providers.quota import MOST_PAUSE_S, Left, left, pause_s, span_s
from shared.providers.registry import parse
from shared.providers.table import CatalogueError

CATALOGUE = registry.load()
NOW_S = datetime(2026, 11, 21, 10, 0, tzinfo=UTC).timestamp()
LEAST = 'name = "acme"\ntitle = "Acme"\nprefix = "acme"\n'


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("6ms", 0.006), ("1s", 1.0), ("6m0s", 360.0), ("1m30s", 90.0), ("2m59.56s", 179.56), ("1h2m3s", 3723.0),
        ("2h30m14s", 9014.0), ("1d", 86_400.0), ("12", 12.0), ("0.5", 0.5), (" 3 ", 3.0), (str(int(NOW_S) + 60), 60.0),
        (str(int(NOW_S * 1000) + 1500), 1.5), ("2026-11-21T10:00:30Z", 30.0), ("2026-11-21T11:00:30+01:00", 30.0),
        ("2026-11-21T10:00:30", 30.0), ("2026-11-21T09:00:00Z", 0.0), (str(int(NOW_S) - 60), 0.0), ("", None), ("soon", None),
        ("-5", None), ("1m30", None), ("nan", None), (None, None),
    ],
)  # fmt: skip
def test_times_are_read_however_they_are_said(value: str | None, seconds: float | None) -> None:
    assert span_s(value, NOW_S) == (None if seconds is None else pytest.approx(seconds, abs=1e-6))


@given(st.text(max_size=40))
def test_no_value_breaks_it(value: str) -> None:
    found = span_s(value, NOW_S)
    assert found is None or found >= 0


def test_openai_and_groq_say_when_it_will_be_whole_again() -> None:
    headers = {
        "x-ratelimit-limit-requests": "14400", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "24h",
        "x-ratelimit-limit-tokens": "18000", "x-ratelimit-remaining-tokens": "17997", "x-ratelimit-reset-tokens": "7.66s",
    }  # fmt: skip
    for name in ("openai", "groq"):
        known = CATALOGUE[name].rate_headers
        assert left(known, headers, NOW_S) == [
            Left("requests", 0.0, 14400.0, 86_400.0, True), Left("tokens", 17997.0, 18000.0, 7.66, True),
        ]  # fmt: skip
        assert pause_s(known, 200, headers, NOW_S) == pytest.approx(6.0)  # one of 14400 a day


def test_anthropic_says_it_with_dates_and_four_limits() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-11-21T10:00:02Z", "anthropic-ratelimit-output-tokens-limit": "8000",
        "anthropic-ratelimit-output-tokens-remaining": "0", "anthropic-ratelimit-output-tokens-reset": "2026-11-21T10:01:00Z",
    }  # fmt: skip
    known = CATALOGUE["anthropic"].rate_headers
    assert [each.unit for each in left(known, headers, NOW_S)] == ["requests", "output_tokens"]
    assert pause_s(known, 200, headers, NOW_S) == pytest.approx(60 / 25)


def test_cerebras_waits_for_the_day() -> None:
    headers = {"x-ratelimit-remaining-requests-day": "0", "x-ratelimit-reset-requests-day": "33011.38"}
    assert pause_s(CATALOGUE["cerebras"].rate_headers, 200, headers, NOW_S) == MOST_PAUSE_S


def test_openrouters_reset_is_a_moment_in_milliseconds() -> None:
    headers = {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW_S * 1000) + 8_000)}
    assert pause_s(CATALOGUE["openrouter"].rate_headers, 429, headers, NOW_S) == pytest.approx(8.0)


def test_what_mistral_does_not_say_is_not_guessed() -> None:
    known = CATALOGUE["mistral"].rate_headers
    headers = {"x-ratelimit-remaining-req-minute": "0", "x-ratelimit-limit-req-minute": "60"}
    assert pause_s(known, 200, headers, NOW_S) == 0.0
    assert pause_s(known, 429, headers, NOW_S) == 1.0


def test_a_refusals_retry_after_has_the_first_word() -> None:
    known = CATALOGUE["openai"].rate_headers
    headers = {"retry-after": "3", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m"}
    assert pause_s(known, 429, headers, NOW_S) == 3.0
    assert pause_s((), 529, {"retry-after": "2"}, NOW_S) == 2.0
    assert pause_s((), 503, {}, NOW_S) == 0.0
    assert pause_s((), 429, {}, NOW_S) == 1.0
    assert pause_s(known, 200, {"retry-after": "3"}, NOW_S) == 0.0
    assert pause_s(known, 500, {}, NOW_S) == 0.0


def test_every_catalogued_header_is_one_and_in_lower_case() -> None:
    named = [(name, each) for name, provider in CATALOGUE.items() for each in provider.rate_headers]
    assert len({name for name, _ in named}) >= 10
    for _, each in named:
        for header in (each.remaining, each.reset, each.limit):
            assert header == header.lower()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[rate_limits.requests]\nremaining = "x y"\n', "acme.toml:5: rate_limits.requests.remaining: is no name of a header"),
        ("[rate_limits.requests]\nrefills = true\n", "acme.toml:4: rate_limits.requests: must name a header"),
        ('[rate_limits.requests]\nleft = "x"\n', "acme.toml:4: rate_limits.requests: must name a header"),
    ],
)
def test_a_wrong_file_is_told_by_line(table: str, said: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        parse(LEAST + table, "acme.toml")
    assert str(caught.value).startswith(said)

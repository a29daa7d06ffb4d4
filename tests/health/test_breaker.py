"""The breaker's arithmetic: how long it stays open, when a share is too large, which connections are local."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.failure import Failure, FailureClass
from shared.domain.health import PROFILES, MarkState, Profile, ProfileKind
from shared.routing.breaker import REFUSED, WEIGHT, Board, Cause, Label, Strike, open_ms, profile, profile_kind

NOW_MS = 1_795_000_000_000


@given(trips=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_open_times_double_within_their_jitter_and_end(trips: int, chance: float) -> None:
    plain_s = min(300.0, 30.0 * 2 ** min(trips - 1, 60))
    assert plain_s * 800 - 1 <= open_ms(Profile(), trips, chance) <= plain_s * 1200


@pytest.mark.parametrize(
    ("base_url", "kind"),
    [
        ("http://127.0.0.1:9/v1", ProfileKind.LOCAL),
        ("http://[::1]:8000/v1", ProfileKind.LOCAL),
        ("http://192.168.1.7/v1", ProfileKind.LOCAL),
        ("http://169.254.1.1/v1", ProfileKind.LOCAL),
        ("http://ollama:11434/v1", ProfileKind.LOCAL),
        ("http://gpu.internal/v1", ProfileKind.LOCAL),
        ("https://api.openai.com/v1", ProfileKind.API_KEY),
        ("https://internal.example/v1", ProfileKind.API_KEY),
        ("https://8.8.8.8/v1", ProfileKind.API_KEY),
    ],
)
def test_what_is_local(base_url: str, kind: ProfileKind) -> None:
    assert profile_kind(base_url) is kind
    assert profile(base_url, {}) is not None
    assert profile(base_url, {"kind": "oauth"}) == PROFILES[ProfileKind.OAUTH]


def test_every_failure_has_a_meaning() -> None:
    said_nothing = {FailureClass.CLIENT_FAULT, FailureClass.CONTENT_FILTER, FailureClass.DEADLINE}
    assert set(WEIGHT) | REFUSED | {FailureClass.RATE_LIMITED} | said_nothing == set(FailureClass)


def strike(board: Board, at_ms: int, *, weight: float = 1.0, successes: int = 0) -> bool:
    """Whether it opened."""
    cause = Cause.of(Failure(failure_class=FailureClass.CUT, message="ended early"))
    made = Strike(
        subject="conn/m", label=Label("lab", "lab/m", "custom"), weight=weight, successes=successes, chance=0.5, cause=cause,
        profile=Profile(failures=100, error_share=0.5, least_calls=10, window_s=10.0),
    )  # fmt: skip
    board.do(made, at_ms)
    mark = board.marks.get("conn/m")
    return mark is not None and mark.state is MarkState.OPEN


def test_a_share_is_of_the_calls_of_one_window() -> None:
    board = Board()
    assert not any(strike(board, NOW_MS + number, successes=1) for number in range(4))
    assert strike(board, NOW_MS + 5, successes=1)
    board = Board()
    assert not any(strike(board, NOW_MS + number, successes=2) for number in range(50))
    assert not any(strike(board, NOW_MS + 60_000 + number) for number in range(9))  # the successes are out of the window
    assert strike(board, NOW_MS + 60_009)


def test_failures_far_apart_are_no_row() -> None:
    board = Board()
    opened = [strike(board, NOW_MS + number * 601_000) for number in range(150)]
    assert not any(opened)

"""Affinity: what begins alike goes to one deployment, on every node, and none is buried."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.routing.affinity import BOUND_BYTES, SHARE, fingerprint, order
from shared.wire.envelope import open_envelope

KEYS = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=12, unique=True)
PRINTS = st.integers(0, 2**64 - 1)


def of(body: dict[str, Any]) -> int | None:
    return fingerprint(open_envelope(json.dumps(body).encode()).fields)


@given(KEYS, PRINTS)
def test_the_order_is_the_same_however_the_candidates_were_listed(keys: list[str], print_: int) -> None:
    made = order(keys, print_, {})
    assert sorted(made) == sorted(keys)
    assert order(keys[::-1], print_, {}) == made


@given(KEYS.filter(lambda keys: len(keys) > 1), st.lists(PRINTS, max_size=50), st.data())
def test_one_that_leaves_moves_only_its_own(keys: list[str], prints: list[int], data: st.DataObject) -> None:
    """And so one that joins takes only what becomes its own: read it backwards."""
    gone = data.draw(st.sampled_from(keys))
    left = [key for key in keys if key != gone]
    for print_ in prints:
        before = order(keys, print_, {})
        assert order(left, print_, {}) == [key for key in before if key != gone]


@given(KEYS, PRINTS, st.data())
def test_none_gets_a_call_beyond_its_share(keys: list[str], print_: int, data: st.DataObject) -> None:
    in_flight = {key: data.draw(st.integers(0, 40)) for key in keys}
    chosen = order(keys, print_, in_flight)[0]
    fair = (sum(in_flight.values()) + 1) / len(keys)
    assert in_flight[chosen] + 1 <= math.ceil(SHARE * fair - 1e-9)


@given(KEYS, st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=300))
def test_the_bound_holds_while_calls_come_and_go(keys: list[str], steps: list[tuple[int, bool]]) -> None:
    """Few prefixes, so that all the load would go to few deployments."""
    in_flight: Counter[str] = Counter()
    for print_, ends in steps:
        if ends and in_flight.total():
            in_flight[max(in_flight, key=in_flight.__getitem__)] -= 1
        chosen = order(keys, print_ * 0x9E3779B97F4A7C15, in_flight)[0]
        in_flight[chosen] += 1
        assert in_flight[chosen] <= math.ceil(SHARE * in_flight.total() / len(keys) - 1e-9)


def test_prefixes_spread_evenly() -> None:
    keys = [f"conn_{n}/model" for n in range(8)]
    seen = Counter(order(keys, of({"messages": [{"role": "user", "content": str(n)}]}) or 0, {})[0] for n in range(8_000))
    assert min(seen.values()) > 850
    assert max(seen.values()) < 1_150


def test_the_full_one_is_passed_over_for_the_next_in_rank() -> None:
    ranked = order(["a", "b", "c"], 7, {})
    assert order(["a", "b", "c"], 7, {ranked[0]: 4, ranked[1]: 1, ranked[2]: 1}) == [ranked[1], ranked[2], ranked[0]]


SYSTEM: dict[str, Any] = {"role": "system", "content": "You are a poet."}
FIRST: dict[str, Any] = {"role": "user", "content": "A poem."}
GROWN: list[dict[str, Any]] = [{"role": "assistant", "content": "Roses"}, {"role": "user", "content": "More."}]
GEMINI: dict[str, Any] = {"role": "user", "parts": [{"text": "A poem."}]}


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ({"messages": [SYSTEM, FIRST]}, {"messages": [SYSTEM, FIRST, *GROWN]}),
        ({"messages": [FIRST]}, {"messages": [FIRST, *GROWN], "temperature": 1}),
        ({"system": "A" * 9_000, "messages": [FIRST]}, {"messages": [FIRST, *GROWN], "system": "A" * 9_000}),
        ({"contents": [GEMINI]}, {"contents": [GEMINI, {"role": "model", "parts": [{"text": "Roses"}]}]}),
        ({"instructions": "Rhyme.", "input": "A poem."}, {"instructions": "Rhyme.", "input": [FIRST, *GROWN]}),
    ],
)
def test_a_conversation_that_grows_keeps_its_deployment(first: dict[str, Any], later: dict[str, Any]) -> None:
    assert of(first) == of(later) is not None


def test_other_conversations_are_others() -> None:
    bodies: list[dict[str, Any]] = [
        {"messages": [FIRST]},
        {"messages": [SYSTEM, FIRST]},
        {"messages": [SYSTEM, {"role": "user", "content": "A song."}]},
        {"system": "Rhyme.", "messages": [FIRST]},
    ]
    assert len({of(body) for body in bodies}) == len(bodies)


def test_only_the_beginning_of_each_piece_counts() -> None:
    long = "A" * BOUND_BYTES
    assert of({"messages": [{"role": "user", "content": long + "B"}]}) == of({"messages": [{"role": "user", "content": long}]})


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": 7}, {"messages": [1]}, {"input": None}])
def test_a_body_without_a_beginning_has_no_fingerprint(body: dict[str, Any]) -> None:
    assert of(body) is None

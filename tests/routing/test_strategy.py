"""Every strategy: how often each is first, over many seeded draws; and the exact order where nothing is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count
from random import Random
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.load import Figures
from shared.domain.policy import Needs
from shared.domain.routing import Choice, Strategy
from shared.routing.strategy import RULES, Inputs, Members, arranged
from tests.routing.made import deployment, inputs

DRAWS = 20_000


def members(many: int, weights: tuple[int, ...] = (), prices: tuple[tuple[int, int] | None, ...] = ()) -> Members:
    made = [deployment(f"p{at}/m", price=prices[at] if prices else None) for at in range(many)]
    return Members("fast", made, weights or (1,) * many)


def order(strategy: Strategy, among: Members, **given: Any) -> list[int]:
    return arranged(Choice(strategy=strategy), among, inputs(**given))[0]


def drawn(strategy: Strategy, among: Members, place: int = 0, **given: Any) -> list[float]:
    """How often each is at `place`, as parts of all draws."""
    chance = Random(42).random
    made = Inputs(figures=given.pop("figures", {}), chance=chance, turn=lambda _: 0, **given)
    seen = Counter(arranged(Choice(strategy=strategy), among, made)[0][place] for _ in range(DRAWS))
    return [seen[at] / DRAWS for at in range(len(among.deployments))]


@given(st.sampled_from(list(Strategy)), st.integers(1, 12), st.integers(1, 6), st.integers(), st.data())
def test_every_strategy_names_each_once(strategy: Strategy, many: int, most: int, seed: int, data: st.DataObject) -> None:
    weights = tuple(data.draw(st.lists(st.integers(0, 9), min_size=many, max_size=many)))
    parts = data.draw(st.lists(st.none() | st.floats(0, 1), min_size=many, max_size=many))
    among = members(many, weights)
    left = {each.key: part for each, part in zip(among.deployments, parts, strict=True)}
    made = order(strategy, among, seed=seed, most=most, quota_left=lambda each: left[each.key])
    assert sorted(made) == list(range(many))


def test_there_is_a_rule_for_every_strategy() -> None:
    assert set(RULES) == set(Strategy)


def test_priority_is_the_order_of_the_list() -> None:
    assert order(Strategy.PRIORITY, members(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("sticky", "firsts"), [(1, [0, 1, 2, 0, 1, 2, 0]), (3, [0, 0, 0, 1, 1, 1, 2])])
def test_round_robin_stays_for_as_many_calls_as_it_is_sticky(sticky: int, firsts: list[int]) -> None:
    turns = count(3 * sticky * 100)
    made = Inputs(figures={}, chance=Random(1).random, turn=lambda _: next(turns))
    orders = [arranged(Choice(strategy=Strategy.ROUND_ROBIN, sticky=sticky), members(3), made)[0] for _ in firsts]
    assert [each[0] for each in orders] == firsts
    assert orders[firsts.index(1)] == [1, 2, 0]


def test_weighted_draws_in_proportion_and_the_second_among_the_rest() -> None:
    among = members(4, (6, 3, 1, 0))
    assert drawn(Strategy.WEIGHTED, among) == pytest.approx([0.6, 0.3, 0.1, 0], abs=0.015)
    second = [0.3 * 6 / 7 + 0.1 * 6 / 9, 0.6 * 3 / 4 + 0.1 * 3 / 9, 0.6 / 4 + 0.3 / 7, 0]
    assert drawn(Strategy.WEIGHTED, among, place=1) == pytest.approx(second, abs=0.015)
    assert drawn(Strategy.WEIGHTED, among, place=3) == [0, 0, 0, 1]


def test_weighted_is_exact_where_one_outweighs_all() -> None:
    """The second is hardly ever met while the first is drawn past: it is drawn from the rest."""
    among = members(3, (10**6, 3, 1))
    assert drawn(Strategy.WEIGHTED, among, place=1)[1] == pytest.approx(0.75, abs=0.015)


@pytest.mark.parametrize("strategy", [Strategy.RANDOM, Strategy.QUOTA_AWARE])
@pytest.mark.parametrize("place", [0, 2])
def test_without_weights_all_are_alike(strategy: Strategy, place: int) -> None:
    assert drawn(strategy, members(5), place) == pytest.approx([0.2] * 5, abs=0.015)
    assert drawn(Strategy.WEIGHTED, members(5, (0,) * 5), place) == pytest.approx([0.2] * 5, abs=0.015)


def test_least_used_takes_the_fewest_in_flight_then_the_longest_unused() -> None:
    among = members(5)
    uses = [(1, 5.0), (0, 9.0), (0, 3.0), (2, 1.0)]
    figures = {
        each.key: Figures(in_flight=many, last_use_s=at) for each, (many, at) in zip(among.deployments, uses, strict=False)
    }
    assert order(Strategy.LEAST_USED, among, figures=figures) == [4, 2, 1, 0, 3]


def test_power_of_two_takes_the_better_of_two() -> None:
    """The best of n is among two drawn with 2/n, and always wins; the worst never does."""
    among = members(4)
    figures = {each.key: Figures(ttft_s=at + 1.0) for at, each in enumerate(among.deployments)}
    assert drawn(Strategy.POWER_OF_TWO, among, figures=figures) == pytest.approx([3 / 6, 2 / 6, 1 / 6, 0], abs=0.015)


def test_power_of_two_weighs_time_with_what_is_in_flight() -> None:
    among = members(2)
    one, other = among.deployments
    figures = {one.key: Figures(ttft_s=0.2, in_flight=9), other.key: Figures(ttft_s=1.0, in_flight=0)}
    made, scores = arranged(Choice(strategy=Strategy.POWER_OF_TWO), among, inputs(figures=figures))
    assert (made, scores) == ([1, 0], {0: 2.0, 1: 1.0})


def test_who_was_never_measured_counts_as_the_median() -> None:
    among = members(4)
    times = [0.1, 0.5, 2.0]
    figures = {each.key: Figures(ttft_s=ttft_s) for each, ttft_s in zip(among.deployments, times, strict=False)}
    _, scores = arranged(Choice(strategy=Strategy.POWER_OF_TWO), among, inputs(figures=figures, most=4))
    assert scores[3] == median(times)
    assert order(Strategy.FASTEST, among, figures=figures, seed=1) == [0, 1, 3, 2]


def test_cheapest_asks_what_this_call_would_cost() -> None:
    """One is cheap to read to, the other cheap to write for; who has no price comes last."""
    among = members(3, prices=((1, 20), (4, 5), None))
    long_prompt, long_answer = Needs(input_tokens=100_000, output_tokens=10), Needs(input_tokens=10, output_tokens=500)
    assert order(Strategy.CHEAPEST, among, needs=long_prompt) == [0, 1, 2]
    assert order(Strategy.CHEAPEST, among, needs=long_answer) == [1, 0, 2]


def test_fastest_takes_the_least_time_and_explores_one_in_twenty() -> None:
    among = members(3)
    figures = {each.key: Figures(ttft_s=3.0 - at) for at, each in enumerate(among.deployments)}
    assert drawn(Strategy.FASTEST, among, figures=figures) == pytest.approx([0.025, 0.025, 0.95], abs=0.005)


def test_quota_aware_draws_in_proportion_to_what_is_left() -> None:
    among = members(4)
    left = dict(zip((each.key for each in among.deployments), (0.8, 0.2, 0.0, None), strict=True))
    parts = drawn(Strategy.QUOTA_AWARE, among, quota_left=lambda each: left[each.key])
    assert parts == pytest.approx([0.4, 0.1, 0, 0.5], abs=0.015)
    assert drawn(Strategy.QUOTA_AWARE, among, place=3, quota_left=lambda each: left[each.key])[2] == 1


def test_price_weighted_draws_by_the_square_of_the_price_and_an_outage_comes_last() -> None:
    """Wire.md 109: A for 1 USD, B for 2 with an outage, C for 3: A is nine times likelier to be first than C, B is last."""
    among = members(3, prices=((1, 1), (2, 2), (3, 3)))
    sick = among.deployments[1].key
    given: dict[str, Any] = {"needs": Needs(input_tokens=100), "recent_outage": lambda key: key == sick}
    assert drawn(Strategy.PRICE_WEIGHTED, among, **given) == pytest.approx([0.9, 0, 0.1], abs=0.01)
    assert drawn(Strategy.PRICE_WEIGHTED, among, place=1, **given) == pytest.approx([0.1, 0, 0.9], abs=0.01)
    assert drawn(Strategy.PRICE_WEIGHTED, among, place=2, **given) == [0, 1, 0]
    well = drawn(Strategy.PRICE_WEIGHTED, among, needs=Needs(input_tokens=100))
    assert well == pytest.approx([36 / 49, 9 / 49, 4 / 49], abs=0.01)


def test_price_weighted_begins_with_what_is_free_and_ends_with_what_is_unknown() -> None:
    among = members(6, prices=(None, (5, 5), (0, 0), (0, 0), None, (1, 1)))
    down = {among.deployments[at].key for at in (2, 5)}
    needs = Needs(input_tokens=100)
    orders = {
        tuple(order(Strategy.PRICE_WEIGHTED, among, seed=seed, needs=needs, recent_outage=down.__contains__, most=6))
        for seed in range(50)
    }
    assert orders == {(3, 1, 0, 4, 2, 5), (3, 1, 4, 0, 2, 5)}


@pytest.mark.parametrize("strategy", list(Strategy))
def test_one_alone_needs_no_strategy(strategy: Strategy) -> None:
    def never() -> float:
        raise AssertionError("drew")

    turn: Callable[[str], int] = lambda _: 1 // 0  # noqa: E731
    made = Inputs(figures={}, chance=never, turn=turn)
    assert arranged(Choice(strategy=strategy), members(1), made) == ([0], {})

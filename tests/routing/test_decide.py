"""How a plan is put together: groups and accounts, chains, seats, and OpenRouter's order, sort and models."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from shared.domain.load import Figures
from shared.domain.policy import Needs, Preferences
from shared.domain.routing import Strategy
from shared.routing.plan import MOST_ATTEMPTS, Plan, decide, refusal
from shared.routing.pool import Group, Pool, joined
from shared.routing.strategy import Inputs
from tests.routing.made import deployment, group, inputs, pool
from tests.routing.test_eligible import Marked, Standing

A1, A2, A3 = (deployment("a/m", f"a{at}") for at in (1, 2, 3))
B1, B2 = (deployment("b/m", f"b{at}") for at in (1, 2))
C = deployment("c/m")


def names(plan: Plan) -> list[str]:
    return [each.connection.name for each in plan.candidates]


def test_accounts_stand_together_in_the_place_of_their_model_then_the_chain() -> None:
    assert names(decide(pool(group(A1, A2), group(B1), chain=(C,)), inputs())) == ["a1", "a2", "b1", "c"]


def test_the_route_chooses_among_models_and_each_among_its_accounts() -> None:
    """Weights are the models'; how many accounts one has changes nothing."""
    made = pool(
        group(A1, A2, weight=1, strategy=Strategy.RANDOM), group(B1, weight=3), strategy=Strategy.WEIGHTED
    )  # fmt: skip
    chance = Random(5).random
    draws = 8_000
    asked = Inputs(figures={}, chance=chance, turn=lambda _: 0)
    firsts = Counter(names(decide(made, asked))[0] for _ in range(draws))
    assert abs(firsts["b1"] / draws - 0.75) < 0.02
    assert abs(firsts["a1"] / draws - 0.125) < 0.02


def test_a_model_counts_as_the_account_that_it_would_begin_with() -> None:
    figures = {A1.key: Figures(ttft_s=9.0), A2.key: Figures(ttft_s=0.5), B1.key: Figures(ttft_s=1.0)}
    made = pool(group(A1, A2, strategy=Strategy.FASTEST), group(B1), strategy=Strategy.FASTEST)
    plan = decide(made, inputs(figures=figures, seed=1))
    assert names(plan) == ["a2", "a1", "b1"]
    assert plan.scores == {A2.key: 0.5, A1.key: 9.0, B1.key: 1.0}


def test_seats_are_dealt_in_turn() -> None:
    many = [deployment("a/m", f"a{at}") for at in range(9)]
    assert names(decide(pool(group(*many), group(B1, B2), chain=(C,)), inputs())) == ["a0", "a1", "b1", "b2", "c"]
    plan = decide(pool(group(*many), chain=(C,)), inputs())
    assert names(plan) == ["a0", "a1", "a2", "a3", "c"]
    assert {each.connection.name for each in plan.spare} == {"a4", "a5", "a6", "a7", "a8"}


def test_a_deployment_that_stands_twice_keeps_its_first_place() -> None:
    assert names(decide(pool(group(A1), chain=(group(B1), group(A1))), inputs())) == ["a1", "b1"]


def test_order_puts_some_in_front_and_only_them_without_fallbacks() -> None:
    made = pool(group(A1), group(B1), group(C))
    assert names(decide(made, inputs(), preferences=Preferences(order=("c", "b")))) == ["c", "b1", "a1"]
    strict = Preferences(order=("c", "b"), allow_fallbacks=False)
    plan = decide(made, inputs(), preferences=strict)
    assert names(plan) == ["c", "b1"]
    assert [(each.name, each.rule) for each in plan.removed] == [("a/m", "provider.order")]
    nobody = decide(made, inputs(), preferences=Preferences(order=("nobody",), allow_fallbacks=False))
    assert (names(nobody), refusal(nobody).status) == ([], 404)


def test_without_fallbacks_panic_brings_back_one_of_those_that_are_wanted() -> None:
    made = pool(deployment("a/m"), deployment("b/m"), deployment("c/m"))
    health = Marked(a=Standing("open", 9), b=Standing("open", 5))
    wanted = Preferences(order=("a",), allow_fallbacks=False)
    assert names(decide(made, inputs(), preferences=wanted, health=health)) == ["a"]
    sick = Marked(a=Standing("open", 9), b=Standing("open", 5), c=Standing("open", 7))
    assert names(decide(made, inputs(), preferences=Preferences(allow_fallbacks=False), health=sick)) == ["b"]


def test_without_fallbacks_there_is_one_and_no_chain() -> None:
    made = pool(group(A1, A2), group(B1), chain=(C,))
    plan = decide(made, inputs(), preferences=Preferences(allow_fallbacks=False))
    assert names(plan) == ["a1"]
    assert [each.connection.name for each in plan.spare] == ["a2", "b1", "c"]


def test_sorting_by_price_latency_and_throughput_puts_the_unknown_last() -> None:
    dear, cheap, unknown = deployment("dear/m", price=(9, 9)), deployment("cheap/m", price=(1, 1)), deployment("unknown/m")
    figures = {dear.key: Figures(ttft_s=0.1, tokens_per_s=10), cheap.key: Figures(ttft_s=0.9, tokens_per_s=90)}
    made = pool(unknown, dear, cheap)

    def sorted_by(by: str) -> list[str]:
        return names(decide(made, inputs(figures=figures, needs=Needs(input_tokens=9)), preferences=Preferences(sort=by)))

    assert sorted_by("price") == ["cheap", "dear", "unknown"]
    assert sorted_by("latency") == ["dear", "cheap", "unknown"]
    assert sorted_by("throughput") == ["cheap", "dear", "unknown"]


def test_who_is_known_to_be_slow_goes_to_the_end_and_stays() -> None:
    figures = {A1.key: Figures(ttft_s=5.0, tokens_per_s=10), B1.key: Figures(ttft_s=1.0, tokens_per_s=99)}
    made = pool(group(A1), group(B1), group(C))
    assert names(decide(made, inputs(figures=figures), preferences=Preferences(max_latency_s=2))) == ["b1", "c", "a1"]
    assert names(decide(made, inputs(figures=figures), preferences=Preferences(min_tokens_per_s=50))) == ["b1", "c", "a1"]


def two_models() -> Pool:
    first = pool(deployment("a/m", price=(9, 9)), deployment("b/m", price=(2, 2)), chain=(deployment("chain/m"),))
    return joined([first, pool(deployment("c/m", price=(5, 5)), deployment("d/m", price=(1, 1)))])


def test_models_are_gone_through_one_by_one_or_sorted_together_and_replace_the_chain() -> None:
    by_price = Preferences(models=("x",), sort="price")
    assert names(decide(two_models(), inputs(), preferences=Preferences(models=("x",)))) == ["a", "b", "c", "d"]
    assert names(decide(two_models(), inputs(needs=Needs(input_tokens=9)), preferences=by_price)) == ["b", "a", "d", "c"]
    together = Preferences(models=("x",), sort="price", across_models=True)
    assert names(decide(two_models(), inputs(needs=Needs(input_tokens=9)), preferences=together)) == ["d", "b", "c", "a"]
    each = Preferences(models=("x",), allow_fallbacks=False)
    assert names(decide(two_models(), inputs(), preferences=each)) == ["a", "c"]


def test_the_deployments_of_all_models_are_sorted_by_throughput() -> None:
    """Wire.md 112."""
    made = two_models()
    speeds = {"a": 10, "b": 40, "c": 90, "d": 30}
    figures = {
        each.key: Figures(tokens_per_s=speeds[each.connection.name])
        for each in made.members[:5]
        if each.connection.name != "chain"
    }
    wanted = Preferences(models=("x",), sort="throughput", across_models=True)
    assert names(decide(made, inputs(figures=figures), preferences=wanted)) == ["c", "b", "d", "a"]
    each = Preferences(models=("x",), sort="throughput")
    assert names(decide(made, inputs(figures=figures), preferences=each)) == ["b", "a", "c", "d"]


def test_a_providers_url_leaves_only_its_own() -> None:
    plan = decide(pool(group(A1), group(B1), chain=(C,)), inputs(), provider="b")
    assert names(plan) == ["b1"]
    assert {each.rule for each in plan.removed} == {"url"}


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 3), st.integers(1, 8), st.integers(),
       st.sampled_from(list(Strategy)))  # fmt: skip
def test_every_deployment_is_a_candidate_or_spare_or_removed_and_only_one_of_them(
    accounts: list[int], chained: int, most: int, seed: int, strategy: Strategy
) -> None:
    groups: list[Group] = [
        group(*(deployment(f"g{at}/m", f"g{at}-{number}") for number in range(many)), strategy=strategy)
        for at, many in enumerate(accounts)
    ]
    made = pool(*groups, strategy=strategy, chain=tuple(deployment(f"late{at}/m") for at in range(chained)))
    plan = decide(made, inputs(seed, most=most))
    assert len(plan.candidates) == min(most, len(made.members))
    everywhere = [each.key for each in (*plan.candidates, *plan.spare)]
    assert sorted(everywhere) == sorted(each.key for each in made.members)
    assert plan == decide(made, inputs(seed, most=most))


def test_five_are_tried_at_most_unless_a_route_says_otherwise() -> None:
    assert inputs().most == MOST_ATTEMPTS == 5

"""Strategy (pure): in which order the members of a set are tried. A new strategy is one function and one row of RULES.

Every rule gets the same inputs and gives all members' positions, the one to try first in front, and the scores that it
compared. What is drawn, is drawn from `chance`; what is counted, comes from `turn`. docs/routing.md says each rule in words.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import log
from statistics import median
from typing import cast

import msgspec

from shared.domain.catalogue import Deployment
from shared.domain.load import IDLE, Figures
from shared.domain.money import MTOK
from shared.domain.policy import NO_NEEDS, Needs
from shared.domain.routing import Choice, Strategy
from shared.routing import affinity

TYPICAL_OUTPUT_TOKENS = 512
"""What a call is taken to answer with when it does not say how much it wants at most."""
EXPLORED = 0.05
"""The part of `fastest`'s calls that go to another one, so that its figures do not grow old."""

UNKNOWN = float("inf")
FOREVER_S = 1e9
"""Longer than any clock of a node's runs: one call in flight more weighs more than any time since the last use."""

Rates = tuple[int, int, float]
Order = tuple[list[int], Mapping[int, float]]


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """`chance` draws from [0, 1); `turn(name)` counts calls of a name; `quota_left` is a part from 0 to 1, None: unknown."""

    figures: Mapping[str, Figures]
    chance: Callable[[], float]
    turn: Callable[[str], int]
    needs: Needs = NO_NEEDS
    quota_left: Callable[[Deployment], float | None] | None = None
    recent_outage: Callable[[str], bool] | None = None
    """Of a deployment's key."""
    most: int = 5
    """How many will be tried: beyond them, order does not matter."""
    prefix: int | None = None
    """Of a route with affinity: what stands for the beginning of the request; it then decides instead of the strategy."""
    session: int | None = None
    """Of a call that shall go where its session went: its number stands for the counters, and `chance` draws from it."""


class Members(msgspec.Struct, frozen=True):
    """What one choice is among: one deployment each, and its weight."""

    name: str
    deployments: Sequence[Deployment]
    weights: Sequence[int]


def arranged(choice: Choice, members: Members, inputs: Inputs) -> Order:
    if len(members.deployments) == 1:
        return [0], {}
    if inputs.prefix is not None:
        return by_prefix(members, inputs.prefix, inputs.figures)
    if inputs.session is not None and choice.strategy in BY_LOAD:
        return by_prefix(members, inputs.session, inputs.figures)
    return RULES[choice.strategy](choice, members, inputs)


BY_LOAD = frozenset({Strategy.LEAST_USED, Strategy.POWER_OF_TWO})
"""What they choose changes from call to call, and a session stays: theirs go by rank, which heeds the load as well."""


def by_prefix(members: Members, prefix: int, figures: Mapping[str, Figures]) -> Order:
    """Those that have the beginning of the request in their prompt cache first, as far as they have room."""
    at = {each.key: number for number, each in enumerate(members.deployments)}
    in_flight = {key: figures[key].in_flight for key in at if key in figures}
    return [at[key] for key in affinity.order(list(at), prefix, in_flight)], {}


def priority(choice: Choice, members: Members, inputs: Inputs) -> Order:
    return list(range(len(members.deployments))), {}


def round_robin(choice: Choice, members: Members, inputs: Inputs) -> Order:
    many = len(members.deployments)
    turn = inputs.turn(members.name) // max(1, choice.sticky) if inputs.session is None else inputs.session
    first = turn % many
    return [*range(first, many), *range(first)], {}


def weighted(choice: Choice, members: Members, inputs: Inputs) -> Order:
    return _drawn(members.weights, inputs), {}


def at_random(choice: Choice, members: Members, inputs: Inputs) -> Order:
    left, chance = list(range(len(members.deployments))), inputs.chance
    order = [left.pop(int(chance() * len(left))) for _ in range(min(inputs.most, len(left)))]
    return order + left, {}


def least_used(choice: Choice, members: Members, inputs: Inputs) -> Order:
    figures = inputs.figures
    seen = [figures.get(each.key, IDLE) for each in members.deployments]
    ranks = [each.in_flight * FOREVER_S + each.last_use_s for each in seen]
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    return order, {at: float(seen[at].in_flight) for at in order[: inputs.most]}


def power_of_two(choice: Choice, members: Members, inputs: Inputs) -> Order:
    deployments, chance = members.deployments, inputs.chance
    left, scores = list(range(len(deployments))), dict[int, float]()
    order: list[int] = []
    unmeasured: float | None = None
    while len(left) > 1 and len(order) < inputs.most:
        one = int(chance() * len(left))
        other = int(chance() * (len(left) - 1))
        other += other >= one
        for at in (one, other):
            if left[at] not in scores:
                figures = inputs.figures.get(deployments[left[at]].key, IDLE)
                ttft_s = figures.ttft_s
                if ttft_s is None:
                    unmeasured = ttft_s = _median_ttft_s(members, inputs) if unmeasured is None else unmeasured
                scores[left[at]] = ttft_s * (1 + figures.in_flight)
        order.append(left.pop(one if scores[left[one]] <= scores[left[other]] else other))
    return order + left, scores


def cheapest(choice: Choice, members: Members, inputs: Inputs) -> Order:
    costs = expected_costs(members.deployments, inputs.needs)
    order = sorted(range(len(costs)), key=costs.__getitem__)
    return order, {at: costs[at] / (MTOK * 1e9) for at in order[: inputs.most]}


def fastest(choice: Choice, members: Members, inputs: Inputs) -> Order:
    seen = [inputs.figures.get(each.key, IDLE).ttft_s for each in members.deployments]
    if None in seen:
        unmeasured = _median_ttft_s(members, inputs)
        times = [unmeasured if ttft_s is None else ttft_s for ttft_s in seen]
    else:
        times = [ttft_s or 0.0 for ttft_s in seen]
    order = sorted(range(len(times)), key=times.__getitem__)
    drawn = inputs.chance()
    if drawn < EXPLORED:
        order.insert(0, order.pop(1 + int(drawn / EXPLORED * (len(order) - 1))))
    return order, {at: times[at] for at in order[: inputs.most]}


def quota_aware(choice: Choice, members: Members, inputs: Inputs) -> Order:
    asked = inputs.quota_left
    if asked is None:
        return at_random(choice, members, inputs)
    parts = [1.0 if (part := asked(each)) is None else part for each in members.deployments]
    order = _drawn(parts, inputs)
    return order, {at: parts[at] for at in order[: inputs.most]}


def price_weighted(choice: Choice, members: Members, inputs: Inputs) -> Order:
    """OpenRouter's balance. What costs nothing goes before all that costs something, an unknown price after it."""
    costs, failing = expected_costs(members.deployments, inputs.needs), inputs.recent_outage
    if failing is None and min(costs) > 0 and max(costs) < UNKNOWN:  # as nearly always
        order = _drawn(_by_square(costs), inputs)
    else:
        order = []
        for tier, among in enumerate(_tiers(costs, members, failing)):
            if len(order) >= inputs.most:
                order += among
            elif among:
                paid = tier % 3 == 1
                weights = _by_square([costs[at] for at in among]) if paid else [1.0] * len(among)
                order += [among[at] for at in _drawn(weights, inputs)]
    return order, {at: costs[at] / (MTOK * 1e9) for at in order[: inputs.most]}


def _tiers(costs: Sequence[float], members: Members, failing: Callable[[str], bool] | None) -> list[list[int]]:
    """Free, priced, of unknown price; then the same of those with a recent outage."""
    tiers: list[list[int]] = [[], [], [], [], [], []]
    for at, cost in enumerate(costs):
        tier = 1 if 0 < cost < UNKNOWN else 0 if cost <= 0 else 2
        if failing is not None and failing(members.deployments[at].key):
            tier += 3
        tiers[tier].append(at)
    return tiers


def _by_square(costs: Sequence[float]) -> list[float]:
    cheapest = min(costs)
    return [(share := cheapest / cost) * share for cost in costs]


RULES: Mapping[Strategy, Callable[[Choice, Members, Inputs], Order]] = {
    Strategy.PRIORITY: priority,
    Strategy.ROUND_ROBIN: round_robin,
    Strategy.WEIGHTED: weighted,
    Strategy.RANDOM: at_random,
    Strategy.LEAST_USED: least_used,
    Strategy.POWER_OF_TWO: power_of_two,
    Strategy.CHEAPEST: cheapest,
    Strategy.FASTEST: fastest,
    Strategy.QUOTA_AWARE: quota_aware,
    Strategy.PRICE_WEIGHTED: price_weighted,
}


def expected_costs(deployments: Sequence[Deployment], needs: Needs) -> list[float]:
    """What the call is likely to cost at each, in millionths of a nano-USD; infinite where the price is unknown."""
    given = needs.input_tokens
    made = TYPICAL_OUTPUT_TOKENS if needs.output_tokens is None else min(needs.output_tokens, TYPICAL_OUTPUT_TOKENS)
    rates: list[tuple[int, int, float] | None] = [each.rates for each in deployments]
    known = [each.rates or _rates(each, given) for each in deployments] if None in rates else cast(list[Rates], rates)
    return [given * into + made * out + call for into, out, call in known]


def _rates(deployment: Deployment, given: int) -> Rates:
    """`Deployment.rates` where they depend on the length of the prompt, or are not known."""
    price = deployment.model.price
    if price is None:
        return 0, 0, UNKNOWN
    paid = price.at(given)
    return paid.input_nano_per_mtok, paid.output_nano_per_mtok, price.request_nano * MTOK


def _median_ttft_s(members: Members, inputs: Inputs) -> float:
    """What a deployment that was never measured is taken to need; without any measurement all are alike."""
    figures = inputs.figures
    known = [seen.ttft_s for each in members.deployments if (seen := figures.get(each.key)) is not None]
    return median([ttft_s for ttft_s in known if ttft_s is not None] or [1.0])


def _drawn(weights: Sequence[float] | Sequence[int], inputs: Inputs) -> list[int]:
    """Draws without replacement, each in proportion to its weight; weight 0 comes after all others, then all are alike.

    Whoever was drawn before is drawn past. Where that does not end soon, because one weight outweighs the rest, what is left
    stands in the order of exponential waits instead (Efraimidis and Spirakis, 2006): the chances are the same.
    """
    most, chance = min(inputs.most, len(weights)), inputs.chance
    marks = list(accumulate(weights))
    order: list[int] = []
    if marks[-1] > 0:
        for _ in range(8 * most):
            at = bisect_right(marks, chance() * marks[-1])
            if at not in order:
                order.append(at)
                if len(order) == most:
                    break
    left = [at for at in range(len(weights)) if at not in order]
    if len(order) < most:
        paid = [at for at in left if weights[at] > 0]
        waits = sorted([(log(1 - chance()) / weights[at], at) for at in paid], reverse=True)
        rest = [at for at in left if not weights[at] > 0]
        if len(order) + len(paid) < most:
            rest.sort(key=lambda _: chance())
        left = [at for _, at in waits] + rest
    return order + left

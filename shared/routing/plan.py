"""Plan (pure): where a call may go, in order, and why nowhere else; and which bad ends another can cure.

One function decides, for the router and for `waystation explain` alike: `decide`. Time, chance and counters are handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shared.domain.catalogue import Deployment
from shared.domain.failure import FailureClass
from shared.domain.load import IDLE
from shared.domain.policy import Preferences
from shared.domain.refusal import Reason, Refusal
from shared.routing import eligible
from shared.routing.eligible import Health
from shared.routing.pool import Pool, Removed, Section
from shared.routing.strategy import Inputs, Members, arranged, expected_costs

MOST_ATTEMPTS = 5
MOST_TOLD = 5
EVERY = "*"
"""The fallbacks of every model that has none of its own."""

CURABLE = frozenset(
    {
        FailureClass.CONNECT, FailureClass.RATE_LIMITED, FailureClass.OVERLOADED, FailureClass.QUOTA,
        FailureClass.CREDENTIAL, FailureClass.PROVIDER_FAULT, FailureClass.FIRST_BYTE_TIMEOUT, FailureClass.IDLE_TIMEOUT,
        FailureClass.CUT, FailureClass.MALFORMED,
    }
)  # fmt: skip
"""What another deployment can cure. A client's own fault is one everywhere, and so is what a content filter refused."""


def chain_of(name: str, fallbacks: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The names to go on with after `prefix/model-id`."""
    return fallbacks.get(name) or fallbacks.get(EVERY) or ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is executed, and what `explain` shows. `scores` are what the strategies compared, by a deployment's key."""

    asked: str
    route: str | None = None
    strategy: str = "priority"
    candidates: tuple[Deployment, ...] = ()
    spare: tuple[Deployment, ...] = ()
    """Fit as well, but beyond the attempts that a call has."""
    scores: Mapping[str, float] = {}
    removed: tuple[Removed, ...] = ()
    chain: tuple[str, ...] = ()
    panic: bool = False
    """Health had removed all that was left, so what is not locked was put back."""
    states: Mapping[str, str] = {}
    """Of candidates that are not well: their health by a deployment's key."""
    held: bool = False
    """The first one is where the call's session was served."""


def decide(
    pool: Pool,
    inputs: Inputs,
    *,
    preferences: Preferences | None = None,
    provider: str | None = None,
    health: Health | None = None,
    now_s: float = 0.0,
) -> Plan:
    """`provider`: that of the URL. A plan without candidates is one that `refusal` explains."""
    needs = inputs.needs
    if provider is not None:
        pool = pool.sifted(eligible.at_provider(provider))
    pool = eligible.able(pool, needs)
    if preferences is not None:
        pool = pool.sifted(eligible.preferred(preferences, needs))
    pool = eligible.long_enough(pool, needs)
    out: tuple[Removed, ...] = ()
    if health is not None and health.marks:
        out, keys = eligible.unwell(pool, health, now_s)
        if out and len(out) == len(pool.members):
            alone = preferences is not None and not preferences.allow_fallbacks and not preferences.order
            return _with_states(_in_panic(pool, out, 1 if alone else inputs.most, health, now_s), health, now_s)
        if out:
            pool = pool.without(keys)
        return _with_states(_ordered(pool, inputs, preferences, out), health, now_s)
    return _ordered(pool, inputs, preferences, out)


def _with_states(plan: Plan, health: Health, now_s: float) -> Plan:
    found = [(each.key, health.standing(each, now_s)) for each in plan.candidates]
    states = {key: standing.state for key, standing in found if standing is not None}
    return msgspec.structs.replace(plan, states=states) if states else plan


def seated(plan: Plan, served: str, failed: str) -> Plan:
    """The plan of a call whose session was served by one deployment of it, or failed by one (keys; empty: by none): the first
    is asked first, the second last. No more are asked than before."""
    fit = (*plan.candidates, *plan.spare)
    if plan.panic or len(fit) < 2:
        return plan
    many = len(plan.candidates)
    first, last = [each for each in fit if each.key == served], [each for each in plan.candidates if each.key == failed]
    if not first and not last:
        return plan
    out = {each.key for each in (*first, *last)}
    rest = [each for each in fit if each.key not in out]
    at = max(1, many - 1)  # the last of those that are asked, not of all
    order = (*first, *rest[:at], *last, *rest[at:])
    return msgspec.structs.replace(plan, candidates=order[:many], spare=order[many:], held=bool(first))


def _ordered(pool: Pool, inputs: Inputs, preferences: Preferences | None, out: tuple[Removed, ...]) -> Plan:
    scores: dict[str, float] = {}
    first = pool.sections[0]
    spare: tuple[Deployment, ...] = ()
    if preferences is None and len(pool.sections) == 1 and first.heads:
        order, found = arranged(first.choice, Members(first.name, first.heads, first.weights), inputs)
        heads = first.heads
        scores = {heads[at].key: score for at, score in found.items()}
        ordered = tuple([heads[at] for at in order])
        candidates, spare = ordered[: inputs.most], ordered[inputs.most :]
    else:
        sections = [_arranged(section, inputs, scores) for section in pool.sections]
        if preferences is None:
            candidates = _seated(sections, inputs.most)
        else:
            candidates = _as_preferred(sections, preferences, inputs)[: inputs.most]
        if len(candidates) < len(pool.members):
            chosen = {each.key for each in candidates}
            spare = tuple(each for groups in sections for group in groups for each in group if each.key not in chosen)
    return Plan(
        asked=pool.asked,
        route=None if pool.route is None else pool.route.name,
        strategy=_strategy(pool),
        candidates=candidates,
        spare=spare,
        scores=scores,
        removed=(*pool.removed, *out),
        chain=pool.chain,
    )


def _strategy(pool: Pool) -> str:
    first = pool.sections[0]
    if pool.route is None and first.groups:
        return first.groups[0].choice.strategy.value
    return first.choice.strategy.value


def _arranged(section: Section, inputs: Inputs, scores: dict[str, float]) -> list[list[Deployment]]:
    """Its groups in the order of its strategy, each with its accounts in the order of theirs. A group counts as the account
    that it would begin with."""
    groups = []
    for group in section.groups:
        members = list(group.members)
        if len(members) > 1:
            order, found = arranged(group.choice, Members(group.name, members, [1] * len(members)), inputs)
            scores.update((members[at].key, score) for at, score in found.items())
            members = [members[at] for at in order]
        groups.append(members)
    if len(groups) < 2:
        return groups
    heads = [members[0] for members in groups]
    order, found = arranged(section.choice, Members(section.name, heads, section.weights), inputs)
    for at, score in found.items():
        scores[heads[at].key] = score
    return [groups[at] for at in order]


def _seated(sections: Sequence[Sequence[Sequence[Deployment]]], most: int) -> tuple[Deployment, ...]:
    """The first `most`. Where there are more, seats are dealt in turn, so that many accounts of one model leave some to the
    other models and to the chain."""
    groups = [group for section in sections for group in section]
    if sum(len(group) for group in groups) > most:
        dealt = [0] * len(groups)
        seats = most
        while seats:
            for at, group in enumerate(groups):
                if seats and dealt[at] < len(group):
                    dealt[at] += 1
                    seats -= 1
        groups = [group[:many] for group, many in zip(groups, dealt, strict=True)]
    return tuple(each for group in groups for each in group)


def _as_preferred(
    sections: Sequence[Sequence[Sequence[Deployment]]], preferences: Preferences, inputs: Inputs
) -> tuple[Deployment, ...]:
    """OpenRouter's order, sort and allow_fallbacks, model by model unless they are sorted across all of them."""
    flat = [[each for group in section for each in group] for section in sections]
    if preferences.across_models:
        flat = [[each for section in flat for each in section]]
    made: list[Deployment] = []
    for section in flat:
        if preferences.sort is not None:
            section = sorted(section, key=_sorting(preferences.sort, inputs))
        section = _late_last(section, preferences, inputs)
        named = [each for slug in preferences.order for each in section if eligible.answers_to(each, {slug.lower()})]
        first = {each.key: each for each in named}
        section = [*first.values(), *(each for each in section if each.key not in first)]
        alone = not preferences.allow_fallbacks and not preferences.order
        made += section[:1] if alone else section
        if not preferences.allow_fallbacks and not preferences.models:
            break  # what an operator's chain leads to is a fallback as well
    return tuple(made)


def _sorting(by: str, inputs: Inputs) -> Any:
    """What is not known comes last."""

    def rank(each: Deployment) -> float:
        seen = inputs.figures.get(each.key, IDLE)
        match by:
            case "price":
                return expected_costs((each,), inputs.needs)[0]
            case "throughput":
                return float("inf") if seen.tokens_per_s is None else -seen.tokens_per_s
            case _:
                return float("inf") if seen.ttft_s is None else seen.ttft_s

    return rank


def _late_last(section: list[Deployment], preferences: Preferences, inputs: Inputs) -> list[Deployment]:
    slowest, longest = preferences.min_tokens_per_s, preferences.max_latency_s
    if slowest is None and longest is None:
        return section

    def late(each: Deployment) -> bool:
        seen = inputs.figures.get(each.key, IDLE)
        slow = slowest is not None and seen.tokens_per_s is not None and seen.tokens_per_s < slowest
        return slow or (longest is not None and seen.ttft_s is not None and seen.ttft_s > longest)

    return sorted(section, key=late)


def _in_panic(pool: Pool, out: tuple[Removed, ...], most: int, health: Health, now_s: float) -> Plan:
    """All are out. `out` is in the order of the pool's members."""
    until_s = [eligible.due(each, health, now_s) for each in pool.members]
    back = [at for at in sorted(range(len(until_s)), key=until_s.__getitem__) if until_s[at] != float("inf")]
    found = tuple([pool.members[at] for at in back])
    return Plan(
        asked=pool.asked,
        route=None if pool.route is None else pool.route.name,
        strategy=_strategy(pool),
        candidates=found[:most],
        spare=found[most:],
        removed=(*pool.removed, *(why for at, why in enumerate(out) if until_s[at] == float("inf"))),
        chain=pool.chain,
        panic=bool(back),
    )


NOES = {
    "key": (Reason.FORBIDDEN, 403, "model"),
    "url": (Reason.INVALID_FIELD, 400, "model"),
    "capability": (Reason.INVALID_FIELD, 400, "model"),
    "provider": (Reason.NO_DEPLOYMENT, 404, "provider"),
    "foreign": (Reason.INVALID_FIELD, 400, "model"),
    "models": (Reason.UNKNOWN_MODEL, 404, "models"),
    "health": (Reason.UNAVAILABLE, 503, None),
}
"""By the first part of a rule's name: what a call is told that it left nothing for."""
FIELDS = {
    "capability.tools": "tools", "capability.json_schema": "response_format", "provider.free": "model",
    "foreign.plugins": "plugins", "foreign.preset": "preset",
}  # fmt: skip


def refusal(plan: Plan) -> Refusal:
    """What was filtered and why, when no candidate is left: the no of the last filter that took one away."""
    rule = plan.removed[-1].rule
    reason, status, field = NOES[rule.partition(".")[0]]
    told = list(dict.fromkeys(f"{each.name}: {each.why}" for each in plan.removed))
    more = f"; and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    return Refusal(
        reason=reason,
        status=status,
        message=f"Nothing is left that could serve {plan.asked[:200]!r}. {'; '.join(told[:MOST_TOLD])}{more}.",
        field=FIELDS.get(rule, field),
        retry=False,
        rule=rule,
    )


def told(plan: Plan) -> dict[str, Any]:
    """The plan as plain data: `explain`'s, and what a decision record keeps."""

    def named(each: Deployment) -> dict[str, Any]:
        entry: dict[str, Any] = {"model": each.name, "connection": each.connection.name, "provider": each.provider.name}
        if each.key in plan.scores and plan.scores[each.key] != float("inf"):
            entry["score"] = round(plan.scores[each.key], 9)
        return entry

    return {
        "asked": plan.asked,
        "route": plan.route,
        "strategy": plan.strategy,
        "candidates": [named(each) for each in plan.candidates],
        "spare": [named(each) for each in plan.spare],
        "removed": [
            {"model": each.name, "connection": each.connection or None, "rule": each.rule, "why": each.why}
            for each in plan.removed
        ],
        "chain": list(plan.chain),
        "panic": plan.panic,
        "held": plan.held,
    }

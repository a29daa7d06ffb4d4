"""Every filter: whom it takes away, by which rule, with which words; and what each makes of what nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.catalogue import Capability, Deployment
from shared.domain.policy import NO_NEEDS, KeyPolicy, Needs, Preferences
from shared.domain.refusal import Reason
from shared.flow.record import considered
from shared.routing.eligible import allowed
from shared.routing.plan import Plan, decide, refusal, told
from tests.routing.made import USD, deployment, inputs, pool

GOOD = deployment("good/m", price=(1, 2), can=frozenset(Capability), context_tokens=100_000, quantization="fp16",
                  trains=False, retention_days=0, region="eu-west-1")  # fmt: skip


class Standing:
    def __init__(self, state: str, until_s: float = 0.0) -> None:
        self.state, self.until_s, self.reason = state, until_s, f"why {state}"


class Marked:
    """A health mirror that says what a test wants."""

    def __init__(self, **states: Standing) -> None:
        self.marks = {f"conn_{name}/m": standing for name, standing in states.items()}

    def standing(self, deployment: Deployment, now_s: float) -> Standing | None:
        return self.marks.get(deployment.key)


def by_key(policy: KeyPolicy, *others: Deployment) -> Plan:
    return decide(allowed(pool(*others, GOOD), policy), inputs())


def by_call(preferences: Preferences, *others: Deployment, needs: Needs = NO_NEEDS) -> Plan:
    return decide(pool(*others, GOOD), inputs(needs=needs), preferences=preferences)


def rules(plan: Plan) -> list[tuple[str, str]]:
    return [(each.name, each.rule) for each in plan.removed]


@pytest.mark.parametrize(
    ("policy", "facts", "rule", "why"),
    [
        (KeyPolicy(models=("good/*",)), {}, "key.models", "the key may use good/*"),
        (KeyPolicy(models=("other/?",), providers=("good",)), {}, "key.providers", "the key may use the providers good"),
        (KeyPolicy(no_training=True), {"trains": True}, "key.no_training", "Other trains on prompts"),
        (KeyPolicy(no_training=True), {}, "key.no_training", "Other may train on prompts"),
        (KeyPolicy(zero_retention=True), {"retention_days": 30}, "key.zero_retention", "Other keeps prompts for 30 days"),
        (KeyPolicy(zero_retention=True), {}, "key.zero_retention", "Other does not say that it keeps nothing"),
        (KeyPolicy(regions=("eu",)), {"region": "us"}, "key.regions", "it is in us, not in eu"),
        (KeyPolicy(regions=("eu",)), {}, "key.regions", "it is in an unknown region, not in eu"),
        (KeyPolicy(max_input_nano_per_mtok=USD), {"price": (2, 1)}, "key.max_price", "its input costs more than 1 USD"),
        (KeyPolicy(max_output_nano_per_mtok=2 * USD), {"price": (1, 3)}, "key.max_price", "its output costs more than 2 USD"),
        (KeyPolicy(max_output_nano_per_mtok=2 * USD), {}, "key.max_price", "its price is not known, and the key has a ceiling"),
    ],
)  # fmt: skip
def test_what_a_key_may_not_use(policy: KeyPolicy, facts: dict[str, Any], rule: str, why: str) -> None:
    other = deployment("other/m", **facts)
    if "other/?" in policy.models:
        policy = KeyPolicy(models=("*",), providers=policy.providers)
    plan = by_key(policy, other)
    assert rules(plan) == [("other/m", rule)]
    assert plan.removed[0].why.startswith(why)
    assert plan.candidates == (GOOD,)
    alone = decide(allowed(pool(other), policy), inputs())
    assert alone.candidates == ()
    said = refusal(alone)
    assert (said.status, said.reason, said.field) == (403, Reason.FORBIDDEN, "model")
    assert why in said.message
    assert "other/m" in said.message


def test_a_key_that_may_use_a_route_may_use_what_it_leads_to() -> None:
    plan = by_key(KeyPolicy(models=("fa?t",)), deployment("other/m"))
    assert (len(plan.candidates), plan.removed) == (2, ())


@pytest.mark.parametrize(
    ("wanted", "facts", "rule", "why"),
    [
        ({"only": ("GOOD",)}, {}, "provider.only", "the call wants only good"),
        ({"ignore": ("other",)}, {}, "provider.ignore", "the call ignores it"),
        ({"quantizations": ("fp16",)}, {"quantization": "int4"}, "provider.quantizations", "its quantization is int4"),
        ({"quantizations": ("fp16",)}, {}, "provider.quantizations", "its quantization is unknown"),
        ({"deny_collection": True}, {}, "provider.data_collection", "Other does not say that it does not train"),
        ({"zdr": True}, {"retention_days": 1}, "provider.zdr", "Other keeps prompts for 1 days"),
        ({"max_input_nano_per_mtok": USD}, {"price": (2, 1)}, "provider.max_price", "its prompt price of 2 USD is above 1"),
        ({"max_output_nano_per_mtok": 2 * USD}, {"price": (1, 9)}, "provider.max_price", "its completion price of 9 USD"),
        ({"max_request_nano": 0}, {}, "provider.max_price", "its request price is not known"),
        ({"require_parameters": True}, {"can": frozenset(Capability), "drop": ("seed",)}, "provider.require_parameters",
         "it does not take 'seed'"),
        ({"require_parameters": True}, {}, "provider.require_parameters", "it is not known to do tools"),
    ],
)  # fmt: skip
def test_what_a_client_does_not_want(wanted: dict[str, Any], facts: dict[str, Any], rule: str, why: str) -> None:
    other, needs = deployment("other/m", **facts), Needs(tools=True, reasoning=True, parameters=("model", "seed"))
    plan = by_call(Preferences(**wanted), other, needs=needs)
    assert rules(plan) == [("other/m", rule)]
    assert plan.removed[0].why.startswith(why)
    alone = decide(pool(other), inputs(needs=needs), preferences=Preferences(**wanted))
    said = refusal(alone)
    assert (said.status, said.reason, said.field) == (404, Reason.NO_DEPLOYMENT, "provider")
    assert why in said.message


def test_what_is_not_known_to_be_free_is_not_free() -> None:
    free = deployment("free/m", price=(0, 0))
    plan = by_call(Preferences(free=True), deployment("other/m"), free)
    assert rules(plan) == [("other/m", "provider.free"), ("good/m", "provider.free")]
    assert plan.candidates == (free,)


def test_openrouter_applies_preferences_itself_but_for_its_own_name() -> None:
    router = deployment("openrouter/a/b", takes_routing=True)
    strict = Preferences(only=("anthropic",), zdr=True, deny_collection=True, max_input_nano_per_mtok=1)
    assert by_call(strict, router).candidates == (router,)
    assert by_call(Preferences(ignore=("openrouter",)), router).candidates == (GOOD,)


@pytest.mark.parametrize("slug", ["lab", "Lab", "acct", "lab/acct", "lab/eu"])
def test_a_slug_is_a_provider_a_connection_or_both(slug: str) -> None:
    one, other = deployment("lab/m", "acct", region="eu-west-1"), deployment("else/m")
    assert decide(pool(other, one), inputs(), preferences=Preferences(only=(slug,))).candidates == (one,)
    assert decide(pool(other, one), inputs(), preferences=Preferences(only=("lab/nobody",))).candidates == ()


@pytest.mark.parametrize(
    ("needs", "capability"),
    [
        (Needs(vision=True), "vision"), (Needs(audio=True), "audio_input"), (Needs(tools=True), "tools"),
        (Needs(json_schema=True), "json_schema"),
    ],
)  # fmt: skip
def test_what_a_call_needs_must_not_be_known_to_be_absent(needs: Needs, capability: str) -> None:
    plain = deployment("plain/m", can=frozenset())
    unknown = deployment("unknown/m")
    plan = decide(pool(plain, unknown, GOOD), inputs(needs=needs))
    assert rules(plan) == [("plain/m", f"capability.{capability}")]
    assert plan.candidates == (unknown, GOOD)
    refused = refusal(decide(pool(plain, deployment("bare/m", can=frozenset())), inputs(needs=needs)))
    assert (refused.status, refused.reason) == (400, Reason.INVALID_FIELD)
    assert capability.replace("_", " ") in refused.message


def test_a_model_that_was_named_alone_is_asked_as_it_is() -> None:
    plain = [deployment("plain/m", account, can=frozenset(), context_tokens=1) for account in ("a", "b")]
    plan = decide(pool(*plain), inputs(needs=Needs(tools=True, input_tokens=10**6)))
    assert plan.candidates == tuple(plain)


def test_an_operation_needs_a_provider_that_offers_it_and_a_model_for_it() -> None:
    mute = deployment("mute/m", endpoints={"chat": "/chat"})
    chat_only, vectors = deployment("chat/m", can=frozenset()), deployment("vectors/m", can=frozenset({Capability.EMBEDDINGS}))
    plan = decide(pool(mute, chat_only, vectors), inputs(needs=Needs(operation="embeddings")))
    assert [(each.name, each.why) for each in plan.removed] == [
        ("mute/m", "Mute offers no embeddings"), ("chat/m", "it is no model for embeddings"),
    ]  # fmt: skip
    assert plan.candidates == (vectors,)
    assert decide(pool(mute, vectors), inputs(needs=Needs(operation="completions"))).candidates == (mute, vectors)


def test_a_context_that_is_too_short_goes_unless_all_are() -> None:
    short, middle = deployment("short/m", context_tokens=1000), deployment("middle/m", context_tokens=5000)
    unknown = deployment("unknown/m")
    plan = decide(pool(short, unknown, GOOD), inputs(needs=Needs(input_tokens=900, output_tokens=101)))
    assert rules(plan) == [("short/m", "context")]
    assert plan.removed[0].why == "its context of 1000 tokens is too short for about 1001"
    assert decide(pool(short, middle), inputs(needs=Needs(input_tokens=9000))).candidates == (middle,)
    assert decide(pool(short, middle), inputs(needs=Needs(input_tokens=1000))).candidates == (short, middle)


@pytest.mark.parametrize("state", ["open", "cooling", "locked"])
def test_who_is_unwell_goes_and_says_why(state: str) -> None:
    plan = decide(pool(deployment("other/m"), GOOD), inputs(), health=Marked(other=Standing(state)))
    assert rules(plan) == [("other/m", f"health.{state}")]
    assert plan.removed[0].why == f"why {state}"
    assert (plan.candidates, plan.panic) == ((GOOD,), False)


def test_whose_probe_is_due_stays_in_its_place() -> None:
    other = deployment("other/m")
    plan = decide(pool(other, GOOD), inputs(), health=Marked(other=Standing("half_open_due")))
    assert plan.candidates == (other, GOOD)
    assert [each.state for each in considered(plan)] == ["half_open_due", ""]


def test_when_all_are_unwell_those_come_back_that_are_not_locked_the_soonest_first() -> None:
    names = {"late": Standing("open", 30), "soon": Standing("cooling", 10), "shut": Standing("locked", 1)}
    ill = [deployment(f"{name}/m") for name in names]
    plan = decide(pool(*ill), inputs(), health=Marked(**names))
    assert (plan.candidates, plan.panic) == ((ill[1], ill[0]), True)
    assert [(each.deployment, each.state) for each in considered(plan)] == [("soon/m", "cooling"), ("late/m", "open")]
    assert rules(plan) == [("shut/m", "health.locked")]


def test_panic_brings_back_nobody_that_another_filter_took() -> None:
    named, other = deployment("named/m"), deployment("other/m")
    health = Marked(named=Standing("open", 5), other=Standing("open", 1))
    plan = decide(pool(named, other), inputs(), preferences=Preferences(only=("named",)), health=health)
    assert plan.candidates == (named,)
    assert rules(plan) == [("other/m", "provider.only")]


def test_when_all_are_locked_the_call_is_told_so() -> None:
    plan = decide(
        pool(deployment("a/m"), deployment("b/m")), inputs(), health=Marked(a=Standing("locked"), b=Standing("locked"))
    )
    said = refusal(plan)
    assert (said.status, said.reason, plan.panic) == (503, Reason.UNAVAILABLE, False)
    assert "a/m: why locked; b/m: why locked" in said.message


def test_a_refusal_is_that_of_the_last_filter_and_names_five_at_most() -> None:
    many = [deployment(f"p{at}/m", can=frozenset()) for at in range(8)]
    policy = KeyPolicy(providers=("p[!0]", "p1", "p2"))
    plan = decide(allowed(pool(*many), policy), inputs(needs=Needs(tools=True)))
    said = refusal(plan)
    assert (said.status, said.field) == (400, "tools")
    assert said.message.count("p") > 4
    assert "; and 3 more." in said.message


def test_a_plan_is_plain_data_for_those_who_read_it() -> None:
    plan = decide(
        pool(deployment("other/m", can=frozenset()), GOOD, chain=(deployment("late/m"),)), inputs(needs=Needs(tools=True))
    )
    assert told(plan) == {
        "asked": "fast", "route": "fast", "strategy": "priority", "panic": False, "held": False, "spare": [],
        "chain": ["late/m"],
        "candidates": [
            {"model": "good/m", "connection": "good", "provider": "good"},
            {"model": "late/m", "connection": "late", "provider": "late"},
        ],
        "removed": [
            {"model": "other/m", "connection": "other", "rule": "capability.tools",
             "why": "it cannot do tools, which the call needs"},
        ],
    }  # fmt: skip

"""Eligible (pure): the filters that go before every strategy. Each no has a rule's name and a reason for people.

They run in this order, and the refusal of a call that nothing is left for is that of the last one that took something away:
key, url, capability, provider (a client's preferences), context, health. docs/routing.md has every rule, and what each does
about what nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

from shared.domain.catalogue import Capability, Deployment
from shared.domain.money import NANO_PER_USD
from shared.domain.policy import KeyPolicy, Needs, Preferences
from shared.domain.usage import MAX_TOKENS
from shared.routing.aliases import wildcard
from shared.routing.pool import Pool, Removed, Sift

OPERATIONS: Mapping[str, Capability] = {
    "chat": Capability.TEXT,
    "completions": Capability.TEXT,
    "embeddings": Capability.EMBEDDINGS,
    "rerank": Capability.RERANK,
    "transcriptions": Capability.TRANSCRIPTION,
    "images": Capability.IMAGES,
    "moderations": Capability.MODERATION,
    "speech": Capability.SPEECH,
}
"""What a model must be good for, where somebody described it."""
LOCKED = "locked"
OUT = frozenset({"open", "cooling", LOCKED})
"""States of health that keep a deployment out; one whose probe is due stays in, and the attempt asks for the probe."""


class Standing(Protocol):
    """How a deployment is. `until_s` is when it may be asked again."""

    @property
    def state(self) -> str: ...

    @property
    def until_s(self) -> float: ...

    @property
    def reason(self) -> str: ...


class Health(Protocol):
    """upstream/health.py's mirror. `marks` is empty when all is well."""

    @property
    def marks(self) -> Mapping[str, object]: ...

    def standing(self, deployment: Deployment, now_s: float) -> Standing | None: ...


def allowed(pool: Pool, policy: KeyPolicy | None) -> Pool:
    """What a key may use of it."""
    if not policy:
        return pool
    by_route = pool.route is not None and any(_matches(pattern, pool.asked) for pattern in policy.models)
    return pool.sifted(key_rules(policy, by_route=by_route))


def key_rules(policy: KeyPolicy, *, by_route: bool = False) -> Sift:
    def sift(each: Deployment) -> tuple[str, str] | None:
        says, price = each.data_policy, each.model.price
        if policy.models and not by_route and not any(_matches(pattern, each.name) for pattern in policy.models):
            return "key.models", f"the key may use {', '.join(policy.models)}"
        names = (each.provider.name, each.connection.prefix)
        if policy.providers and not any(_matches(pattern, name) for pattern in policy.providers for name in names):
            return "key.providers", f"the key may use the providers {', '.join(policy.providers)}"
        if policy.no_training and says.trains is not False:
            return "key.no_training", f"{each.provider.title} {'trains' if says.trains else 'may train'} on prompts"
        if policy.zero_retention and says.retention_days != 0:
            return "key.zero_retention", f"{each.provider.title} {_kept(says.retention_days)}"
        if policy.regions and not any(_in(says.region, region) for region in policy.regions):
            return "key.regions", f"it is in {says.region or 'an unknown region'}, not in {', '.join(policy.regions)}"
        most_in, most_out = policy.max_input_nano_per_mtok, policy.max_output_nano_per_mtok
        if most_in is None and most_out is None:
            return None
        if price is None:
            return "key.max_price", "its price is not known, and the key has a ceiling"
        dearest_in, dearest_out = price.most(MAX_TOKENS)
        if most_in is not None and dearest_in > most_in:
            return "key.max_price", f"its input costs more than {_usd(most_in)} USD per million tokens"
        if most_out is not None and dearest_out > most_out:
            return "key.max_price", f"its output costs more than {_usd(most_out)} USD per million tokens"
        return None

    return sift


def at_provider(name: str) -> Sift:
    """`/v1/providers/{name}/…`."""

    def sift(each: Deployment) -> tuple[str, str] | None:
        return None if of_provider(each, name) else ("url", f"it is not at {name}")

    return sift


def of_provider(deployment: Deployment, name: str) -> bool:
    provider = deployment.provider
    return name in (provider.name, deployment.connection.prefix, *provider.aliases)


def able(pool: Pool, needs: Needs) -> Pool:
    """Those that can do what is needed. A model that was named alone, with nothing to go on to, is asked as it is: its
    provider knows best. Kept with the pool: there are few kinds of calls."""
    if pool.one_model:
        return pool
    kind = (needs.operation, needs.vision, needs.audio, needs.tools, needs.json_schema)
    found = pool.able.get(kind)
    if found is None:
        found = pool.able[kind] = pool.sifted(capabilities(needs))
    return found


def wanted(needs: Needs) -> tuple[Capability, ...]:
    asked = (
        (needs.vision, Capability.VISION), (needs.audio, Capability.AUDIO_INPUT), (needs.tools, Capability.TOOLS),
        (needs.json_schema, Capability.JSON_SCHEMA),
    )  # fmt: skip
    return tuple(capability for needed, capability in asked if needed)


def capabilities(needs: Needs) -> Sift:
    """Of a model that nobody described, nothing is known to be absent."""
    operation, kind, needed = needs.operation, OPERATIONS.get(needs.operation), wanted(needs)

    def sift(each: Deployment) -> tuple[str, str] | None:
        endpoints = each.provider.endpoints
        if operation not in endpoints and not (operation == "completions" and "chat" in endpoints):
            return "capability.operation", f"{each.provider.title} offers no {operation}"
        if not each.model.described:
            return None
        has = each.model.capabilities
        if kind is not None and kind not in has:
            return "capability.operation", f"it is no model for {operation}"
        for capability in needed:
            if capability not in has and not (capability is Capability.JSON_SCHEMA and each.schema_by_tool):
                return f"capability.{capability}", f"it cannot do {capability.replace('_', ' ')}, which the call needs"
        return None

    return sift


def long_enough(pool: Pool, needs: Needs) -> Pool:
    """Those whose context holds the prompt and the answer that is asked for, as far as both are known. The tokens are an
    estimate, so it refuses nobody: when none is long enough, the longest stay."""
    least = pool.least_context_tokens
    tokens = needs.input_tokens + (needs.output_tokens or 0)
    if needs.compressible:
        tokens //= 2
    if least is None or tokens <= least or pool.one_model:
        return pool
    longest = max(each.model.context_tokens or 0 for each in pool.members)
    unknown = any(each.model.context_tokens is None for each in pool.members)
    enough = tokens if unknown else min(tokens, longest)

    def sift(each: Deployment) -> tuple[str, str] | None:
        context = each.model.context_tokens
        if context is None or context >= enough:
            return None
        return "context", f"its context of {context} tokens is too short for about {tokens}"

    return pool.sifted(sift)


def preferred(preferences: Preferences, needs: Needs) -> Sift:
    """OpenRouter's hard filters. A deployment at OpenRouter keeps all but its own name: it applies them itself."""
    strict = () if preferences.allow_fallbacks else preferences.order
    only, ignore, order = ({slug.lower() for slug in slugs} for slugs in (preferences.only, preferences.ignore, strict))
    quantizations = set(preferences.quantizations)
    foreign = next(iter(preferences.foreign), None)

    def sift(each: Deployment) -> tuple[str, str] | None:
        if ignore and answers_to(each, ignore):
            return "provider.ignore", "the call ignores it"
        if each.provider.quirks.takes_routing:
            return None
        if foreign is not None:
            return f"foreign.{foreign.field}", foreign.why
        if only and not answers_to(each, only):
            return "provider.only", f"the call wants only {', '.join(sorted(only))}"
        if order and not answers_to(each, order):
            return "provider.order", f"the call wants {', '.join(preferences.order)} and no fallbacks"
        if quantizations and (each.model.quantization or "unknown") not in quantizations:
            return "provider.quantizations", f"its quantization is {each.model.quantization or 'unknown'}"
        if preferences.deny_collection and each.data_policy.trains is not False:
            return "provider.data_collection", f"{each.provider.title} does not say that it does not train on prompts"
        if preferences.zdr and each.data_policy.retention_days != 0:
            return "provider.zdr", f"{each.provider.title} {_kept(each.data_policy.retention_days)}"
        dear = _too_dear(each, preferences)
        if dear is not None:
            return dear
        if preferences.require_parameters:
            return _unsupported(each, needs)
        return None

    return sift


def answers_to(deployment: Deployment, slugs: set[str]) -> bool:
    """A slug is a provider's name, prefix, alias or title, or a connection's prefix or name; `provider/connection` is both,
    and `provider/region` that region there."""
    provider, connection = deployment.provider, deployment.connection
    names = {
        name.lower()
        for name in (provider.name, provider.prefix, provider.title, *provider.aliases, connection.prefix, connection.name)
    }
    if not names.isdisjoint(slugs):
        return True
    for slug in slugs:
        base, slash, rest = slug.partition("/")
        if slash and base in names and (rest == connection.name.lower() or _in(deployment.data_policy.region, rest)):
            return True
    return False


def _too_dear(each: Deployment, preferences: Preferences) -> tuple[str, str] | None:
    price = each.model.price
    ceilings = (
        (preferences.max_input_nano_per_mtok, "prompt", 0 if price is None else price.input_nano_per_mtok),
        (preferences.max_output_nano_per_mtok, "completion", 0 if price is None else price.output_nano_per_mtok),
        (preferences.max_request_nano, "request", 0 if price is None else price.request_nano),
    )
    for ceiling, kind, costs in ceilings:
        if ceiling is not None and (price is None or costs > ceiling):
            said = "is not known" if price is None else f"of {_usd(costs)} USD is above {_usd(ceiling)}"
            return "provider.max_price", f"its {kind} price {said}"
    if preferences.free and (price is None or any(price.most(MAX_TOKENS))):
        return "provider.free", "it is not known to be free"
    if preferences.free and price is not None and price.request_nano:
        return "provider.free", "it is not known to be free"
    return None


def _unsupported(each: Deployment, needs: Needs) -> tuple[str, str] | None:
    dropped = {*each.provider.quirks.drop, *(each.params.drop if each.params is not None else ())}
    for name in needs.parameters:
        if name in dropped:
            return "provider.require_parameters", f"it does not take {name!r}"
    asked = (*wanted(needs), *((Capability.REASONING,) if needs.reasoning else ()))
    for capability in asked:
        if capability not in each.model.capabilities:
            return "provider.require_parameters", f"it is not known to do {capability.replace('_', ' ')}"
    return None


def unwell(pool: Pool, health: Health, now_s: float) -> tuple[tuple[Removed, ...], frozenset[str]]:
    """Who is out, and why; and their keys."""
    out = [
        (each, standing)
        for each in pool.members
        if (standing := health.standing(each, now_s)) is not None and standing.state in OUT
    ]
    removed = tuple(
        Removed(each.name, each.connection.name, f"health.{standing.state}", standing.reason or str(standing.state))
        for each, standing in out
    )
    return removed, frozenset(each.key for each, _ in out)


def due(deployment: Deployment, health: Health, now_s: float) -> float:
    """When it may be asked again; infinite while it is locked."""
    standing = health.standing(deployment, now_s)
    if standing is None:
        return 0.0
    return float("inf") if standing.state == LOCKED else standing.until_s


@lru_cache(maxsize=10_000)
def _matches(pattern: str, name: str) -> bool:
    return wildcard(pattern).fullmatch(name) is not None


def _in(region: str | None, wanted: str) -> bool:
    region, wanted = (region or "").lower(), wanted.lower()
    return region == wanted or (bool(wanted) and region.startswith(f"{wanted}-"))


def _kept(retention_days: int | None) -> str:
    return "does not say that it keeps nothing" if retention_days is None else f"keeps prompts for {retention_days} days"


def _usd(nano: int) -> str:
    whole, rest = divmod(nano, NANO_PER_USD)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")

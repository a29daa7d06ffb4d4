"""Preferences: OpenRouter's `models` and `provider` in a body, and the suffixes of a model's name.

Source: OpenRouter's documentation, provider selection and model variants. They are the gateway's own business: taken out of the
body, and put back only for a provider that understands them itself (quirk `takes_routing`).
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from shared.domain.catalogue import WireFormat
from shared.domain.money import usd_to_nano
from shared.domain.policy import Foreign, Preferences
from shared.wire.envelope import Envelope, invalid_field, wrong_type

CLIENTS = frozenset({WireFormat.OPENAI_CHAT, WireFormat.OPENAI_RESPONSES, WireFormat.ANTHROPIC_MESSAGES})
"""Whose bodies may have them."""
OWN = ("models", "provider", "route")
VARIANTS = {"nitro": "throughput", "floor": "price", "exacto": None, "free": None, "online": None}
"""Suffix → what it sorts by."""
SORTS = ("price", "throughput", "latency", "exacto")
QUANTIZATIONS = frozenset(
    {"int4", "int8", "fp4", "mxfp4", "nvfp4", "fp6", "fp8", "mxfp8", "fp16", "bf16", "fp32", "unknown"}
)  # fmt: skip
MOST_NAMES = 20
KNOWN = frozenset(
    {
        "order", "allow_fallbacks", "require_parameters", "data_collection", "zdr", "enforce_distillable_text", "only",
        "ignore", "quantizations", "sort", "preferred_min_throughput", "preferred_max_latency", "max_price", "options",
    }
)  # fmt: skip
PRICES = ("prompt", "completion", "request", "image", "audio")
QUANTILES = ("p50", "p75", "p90", "p99")


def variants_of(name: str) -> tuple[str, tuple[str, ...]]:
    """`a/b:free:nitro` → `a/b`, (`free`, `nitro`). Other suffixes are part of the name."""
    found: list[str] = []
    while True:
        base, colon, suffix = name.rpartition(":")
        if not colon or not base or suffix not in VARIANTS:
            return name, tuple(reversed(found))
        found.append(suffix)
        name = base


def read_preferences(
    client: WireFormat, envelope: Envelope, suffixes: tuple[str, ...] = (), foreign: tuple[Foreign, ...] = ()
) -> Preferences | None:
    """None when the call has none. Raises Refused, naming the field."""
    fields = envelope.fields
    carried = client in CLIENTS and type(envelope) is Envelope
    models = _models(_value(fields, "models")) if carried and "models" in fields else ()
    given = _value(fields, "provider") if carried and "provider" in fields else None
    if not models and given is None and not suffixes and not foreign:
        return None
    if given is not None and type(given) is not dict:
        raise wrong_type("provider", "an object", given)
    if "online" in suffixes:
        raise invalid_field("model", "There is no web search here: leave ':online' out of the model's name.")
    made = _preferences(given or {}, models, suffixes)
    return msgspec.structs.replace(made, foreign=foreign) if foreign else made


def taken_out(envelope: Envelope) -> Envelope:
    """The body without them; the envelope remembers `provider` for a provider that takes it."""
    if not any(name in envelope.fields for name in OWN):
        return envelope
    body = envelope.edited(drop=OWN)
    fields = {name: raw for name, raw in envelope.fields.items() if name not in OWN}
    made = Envelope(body, fields, {})
    if "provider" in envelope.fields:
        made.routing = bytes(envelope.fields["provider"])
    return made


def _value(fields: dict[str, msgspec.Raw], name: str) -> Any:
    return orjson.loads(bytes(fields[name]))


def _models(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    names = _texts(value, "models")
    if len(names) > MOST_NAMES:
        raise invalid_field("models", f"Invalid value for 'models': expected at most {MOST_NAMES} names.")
    return names


def _preferences(given: dict[str, Any], models: tuple[str, ...], suffixes: tuple[str, ...]) -> Preferences:
    unknown = next((name for name in given if name not in KNOWN), None)
    if unknown is not None:
        raise invalid_field(f"provider.{unknown[:64]}", f"Unknown field 'provider.{unknown[:64]}': {', '.join(sorted(KNOWN))}.")
    if _flag(given, "enforce_distillable_text"):
        raise invalid_field(
            "provider.enforce_distillable_text",
            "Nothing is known here of who may be distilled: leave 'provider.enforce_distillable_text' out.",
        )
    sort, across = _sort(given.get("sort"))
    by_suffix = next((VARIANTS[suffix] for suffix in suffixes if VARIANTS[suffix]), None)
    prices = _prices(given.get("max_price"))
    return Preferences(
        models=models,
        order=_slugs(given, "order"),
        only=_slugs(given, "only"),
        ignore=_slugs(given, "ignore"),
        quantizations=_quantizations(given),
        allow_fallbacks=_flag(given, "allow_fallbacks") is not False,
        require_parameters=_flag(given, "require_parameters") is True,
        deny_collection=_one_of(given, "data_collection", ("allow", "deny")) == "deny",
        zdr=_flag(given, "zdr") is True,
        sort=sort or by_suffix,
        across_models=across,
        max_input_nano_per_mtok=prices.get("prompt"),
        max_output_nano_per_mtok=prices.get("completion"),
        max_request_nano=prices.get("request"),
        min_tokens_per_s=_measure(given, "preferred_min_throughput"),
        max_latency_s=_measure(given, "preferred_max_latency"),
        free="free" in suffixes,
    )


def _sort(value: Any) -> tuple[str | None, bool]:
    """A name, or `{by, partition}`. `exacto` ranks by measurements that nobody here makes: it changes nothing."""
    partition = None
    if type(value) is dict:
        partition = _one_of(value, "partition", ("model", "none"), "provider.sort.")
        value = _one_of(value, "by", SORTS, "provider.sort.")
    elif value is not None:
        value = _one_of({"sort": value}, "sort", SORTS)
    return (None if value == "exacto" else value), partition == "none"


def _prices(value: Any) -> dict[str, int]:
    """USD per million tokens (`request`: USD each), as strings or numbers."""
    if value is None:
        return {}
    if type(value) is not dict:
        raise wrong_type("provider.max_price", "an object", value)
    found = {}
    for name, amount in value.items():
        field = f"provider.max_price.{name[:64]}"
        if name not in PRICES:
            raise invalid_field(field, f"Unknown field {field!r}: {', '.join(PRICES)}.")
        if type(amount) not in (str, int, float):
            raise wrong_type(field, "USD as a string or number", amount)
        try:
            found[name] = usd_to_nano(str(amount))
        except ValueError as error:
            raise invalid_field(field, f"Invalid value for {field!r}: {error}.") from None
    return found


def _measure(given: dict[str, Any], name: str) -> float | None:
    """A number, or one for each quantile, of which the first stands."""
    value, field = given.get(name), f"provider.{name}"
    if type(value) is dict:
        odd = next((each for each in value if each not in QUANTILES), None)
        if odd is not None:
            raise invalid_field(f"{field}.{odd[:64]}", f"Unknown field '{field}.{odd[:64]}': {', '.join(QUANTILES)}.")
        value = next((value[each] for each in QUANTILES if value.get(each) is not None), None)
    if value is None:
        return None
    if type(value) not in (int, float):
        raise wrong_type(field, "a number", value)
    if not 0 < value < 1e9:
        raise invalid_field(field, f"Invalid value for {field!r}: expected a number above 0.")
    return float(value)


def _quantizations(given: dict[str, Any]) -> tuple[str, ...]:
    values = _slugs(given, "quantizations")
    odd = next((value for value in values if value not in QUANTIZATIONS), None)
    if odd is not None:
        raise invalid_field(
            "provider.quantizations",
            f"Invalid value for 'provider.quantizations': {odd[:64]!r} is none of {', '.join(sorted(QUANTIZATIONS))}.",
        )
    return values


def _slugs(given: dict[str, Any], name: str) -> tuple[str, ...]:
    value = given.get(name)
    return () if value is None else _texts(value, f"provider.{name}")


def _texts(value: Any, field: str) -> tuple[str, ...]:
    if type(value) is not list:
        raise wrong_type(field, "an array of strings", value)
    for at, each in enumerate(value):
        if type(each) is not str:
            raise wrong_type(f"{field}[{at}]", "a string", each)
        if not 0 < len(each) <= 256 or not each.isprintable():
            raise invalid_field(f"{field}[{at}]", f"Invalid value for '{field}[{at}]': expected 1 to 256 printable characters.")
    return tuple(value)


def _flag(given: dict[str, Any], name: str) -> bool | None:
    value = given.get(name)
    if value is not None and type(value) is not bool:
        raise wrong_type(f"provider.{name}", "a boolean", value)
    return value


def _one_of(given: dict[str, Any], name: str, allowed: tuple[str, ...], before: str = "provider.") -> str | None:
    value = given.get(name)
    if value is None:
        return None
    if type(value) is not str:
        raise wrong_type(before + name, "a string", value)
    if value not in allowed:
        raise invalid_field(before + name, f"Invalid value for '{before}{name}': expected one of {', '.join(allowed)}.")
    return value

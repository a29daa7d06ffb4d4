"""Registry: the provider catalogue, read from TOML files and checked to the last key.

A file is one provider; `openai.toml` shows every table. Facts that nobody verified are left out, never guessed: an
unknown price or maximum makes a hard budget refuse the model. Prices are strings of USD per million tokens (a TOML
number would be a float) and are dated: each comes from `source`, read on `verified_on`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from msgspec.structs import replace

from shared.domain.catalogue import (
    API_VERSION,
    Auth,
    Capability,
    DataPolicy,
    Model,
    Params,
    Provider,
    Quirks,
    RateHeaders,
    WireFormat,
)
from shared.domain.money import Price
from shared.domain.times import read_times
from shared.providers.table import CatalogueError, Table
from shared.wire.params import guarded

CATALOGUE = Path(__file__).parent / "catalogue"
HEADER_NAME, HEADER_VALUE = re.compile(r"[A-Za-z0-9-]{1,128}"), re.compile(r"[\x20-\x7e]{1,4096}")
MAX_TOKENS_OF_A_MODEL = 100_000_000
ENDPOINTS = {
    "chat": "/chat/completions",
    "models": "/models",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "images": "/images/generations",
    "moderations": "/moderations",
    "rerank": "/rerank",
    "speech": "/audio/speech",
    "transcriptions": "/audio/transcriptions",
}
"""Where OpenAI and its imitators have their operations. A provider that lacks one answers so itself, unless its file
says `false`."""
MORE_ENDPOINTS = ("chat_stream", "chat_prefix", "count_tokens")
"""`{model}` in a path stands for the model's id, `{api_version}` for the connection's or the file's own. `chat_stream` is for
streams, where they have a path of their own, and `chat_prefix` for calls that go on from the beginning of an answer
(quirks.continues)."""
PRICE_KEYS = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning", "request", "minute", "audio")
TIER_KEYS = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning", "audio")


@cache
def load(directory: Path = CATALOGUE) -> Mapping[str, Provider]:
    """Every `*.toml` of a directory, by name; read once in a process. Raises CatalogueError when one is wrong or two claim
    one prefix."""
    providers: dict[str, Provider] = {}
    claimed: dict[str, str] = {}
    for path in sorted(directory.glob("*.toml")):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CatalogueError(f"{path.name}: not UTF-8: {error.reason} at byte {error.start}") from None
        provider = parse(text, path.name)
        if provider.name != path.stem:
            Table.of(text, path.name).fail(("name",), f"must be the file's own name, {path.stem!r}")
        keyed = [(provider.prefix, ("prefix",)), *((alias, ("aliases",)) for alias in provider.aliases)]
        for prefix, key in keyed:
            if prefix in claimed:
                Table.of(text, path.name).fail(key, f"{prefix!r} already belongs to {claimed[prefix]}")
            claimed[prefix] = path.name
        providers[provider.name] = provider
    return MappingProxyType(providers)


def parse(text: str, file: str) -> Provider:
    """One catalogue file. `file` is only for messages. Raises CatalogueError."""
    top = Table.of(text, file)
    source, verified_on = top.optional_text("source") or "", top.day("verified_on")
    wire_format = top.choice("wire_format", WireFormat, WireFormat.OPENAI_CHAT)
    provider = Provider(
        name=top.slug("name"),
        title=top.text("title"),
        prefix=top.slug("prefix"),
        aliases=tuple(top.slugs("aliases")),
        base_url=top.url("base_url"),
        wire_format=wire_format,
        auth=top.choice("auth", Auth, Auth.BEARER),
        endpoints=_endpoints(top.table("endpoints"), openai=wire_format is WireFormat.OPENAI_CHAT),
        api_version=_api_version(top),
        headers=_headers(top.table("headers")),
        rate_headers=_rate_headers(top.table("rate_limits")),
        quirks=_quirks(top.table("quirks")),
        params=_params(top),
        data_policy=_data_policy(top.table("data_policy")),
        models=_models(top.table("models"), source, verified_on),
        source=source,
        verified_on=verified_on,
    )
    top.done()
    return provider


def _endpoints(table: Table, *, openai: bool) -> dict[str, str]:
    """`false`: an imitator of OpenAI is known to lack this one."""
    told = [name for name in (*ENDPOINTS, *MORE_ENDPOINTS) if name in table.values]
    lacks = {name for name in told if table.values[name] is False and table.flag(name) is False}
    given = {name: table.path(name) for name in told if name not in lacks}
    table.done()
    return {name: path for name, path in ((ENDPOINTS if openai else {}) | given).items() if name not in lacks}


def _api_version(table: Table) -> str:
    version = table.optional_text("api_version") or ""
    if version and API_VERSION.fullmatch(version) is None:
        table.fail(("api_version",), f"{version!r} must be letters, digits, dots and dashes")
    return version


def _headers(table: Table) -> dict[str, str]:
    headers = {name: table.text(name) for name in table.values}
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            table.fail((name,), "is no header that can be sent")
    return headers


def _rate_headers(table: Table) -> tuple[RateHeaders, ...]:
    found = []
    for unit in table.values:
        entry = table.table(unit)
        names = {key: (entry.optional_text(key) or "").lower() for key in ("remaining", "reset", "limit")}
        for key, name in names.items():
            if name and not HEADER_NAME.fullmatch(name):
                entry.fail((key,), "is no name of a header")
        if not any(names.values()):
            entry.fail((), "must name a header: remaining, reset or limit")
        refills = entry.flag("refills") is True
        entry.done()
        found.append(RateHeaders(unit=unit, refills=refills, **names))
    return tuple(found)


def _quirks(table: Table) -> Quirks:
    drop, rename = table.texts("drop"), table.table("rename")
    for name in ("model", "messages", "stream"):
        if name in drop or name in rename.values:
            table.fail(("drop" if name in drop else "rename",), f"{name!r} cannot be dropped or renamed")
    message_drop = table.texts("message_drop")
    for name in ("role", "content"):
        if name in message_drop:
            table.fail(("message_drop",), f"{name!r} cannot be dropped")
    quirks = Quirks(
        drop=tuple(drop),
        rename={name: rename.text(name) for name in rename.values},
        stream_usage=table.flag("stream_usage") is not False,
        usage_in_choice=table.flag("usage_in_choice") is True,
        output_cap_field=table.optional_text("output_cap_field") or "max_tokens",
        reasoning=table.one_of("reasoning", ("effort", "object", "thinking", "enable_thinking", "none"), "effort"),
        replay_reasoning=table.optional_text("replay_reasoning") or "",
        replay_needed=table.flag("replay_needed") is True,
        custom_tools=table.flag("custom_tools") is True,
        tool_ids=table.one_of("tool_ids", ("", "nine"), ""),
        forced_tools=tuple(table.texts("forced_tools", default=["required", "named"])),
        text_only_content=table.flag("text_only_content") is True,
        think_tags=table.flag("think_tags") is True,
        takes_routing=table.flag("takes_routing") is True,
        forbids_by_model=table.flag("forbids_by_model") is True,
        most_messages=table.count("most_messages", most=10**9),
        most_stops=table.count("most_stops", most=100) or 4,
        developer_role=table.flag("developer_role") is True,
        schema_tool=table.flag("schema_tool") is True,
        schema_drop=tuple(table.texts("schema_drop")),
        message_drop=tuple(message_drop),
        no_nulls=table.flag("no_nulls") is True,
        alternating=table.flag("alternating") is True,
        citations=table.flag("citations") is True,
        response_format=table.flag("response_format") is True,
        continues=table.one_of("continues", ("", "turn", "prefix", "partial", "continue_final_message"), ""),
    )
    table.done()
    return quirks


def _params(table: Table) -> Params:
    params = Params(tuple(table.texts("drop_params")), dict(table.table("set_params").values))
    name = guarded(params)
    if name is not None:
        key = "drop_params" if guarded(Params(params.drop)) else "set_params"
        table.fail((key,), f"{name!r} decides about routing or money and cannot be dropped or set")
    return params


def _data_policy(table: Table) -> DataPolicy:
    policy = DataPolicy(
        trains=table.flag("trains"),
        retention_days=table.count("retention_days", most=36_500, least=0),
        region=table.optional_text("region"),
    )
    table.done()
    return policy


def _models(table: Table, source: str, verified_on: str) -> dict[str, Model]:
    models = {}
    for model_id in table.values:
        entry = table.table(model_id)
        models[model_id] = Model(
            model_id=model_id,
            upstream=entry.optional_text("upstream") or "",
            context_tokens=entry.count("context_tokens", most=MAX_TOKENS_OF_A_MODEL),
            max_output_tokens=entry.count("max_output_tokens", most=MAX_TOKENS_OF_A_MODEL),
            capabilities=_capabilities(entry),
            described="capabilities" in entry.values,
            quantization=entry.optional_text("quantization"),
            price=_price(entry.table("price"), source, verified_on) if "price" in entry.values else None,
            params=_params(entry),
        )
        entry.done()
    return models


def _capabilities(table: Table) -> frozenset[Capability]:
    names = table.texts("capabilities", default=["text"])
    known = {capability.value for capability in Capability}
    for name in names:
        if name not in known:
            table.fail(("capabilities",), f"{name!r} is none of {', '.join(sorted(known))}")
    return frozenset(Capability(name) for name in names)


def _price(table: Table, source: str, verified_on: str) -> Price:
    source = table.optional_text("source") or source
    verified_on = table.day("verified_on") or verified_on
    if not source or not verified_on:
        table.fail((), "a price needs a source and a verified_on date, its own or the file's")
    nano = {key: table.usd(key) for key in PRICE_KEYS if key in table.values}
    if "minute" not in nano:
        for key in ("input", "output"):
            if key not in nano:
                table.fail((key,), "missing")
    least_seconds = table.count("least_seconds", most=3_600) or 0
    price = replace(_priced(nano, f"catalogue {verified_on}"), least_audio_ms=least_seconds * 1000)
    tiers: list[Price] = []
    for tier in table.tables("longer"):
        above = tier.count("above", least=tiers[-1].above_tokens + 1 if tiers else 1, most=MAX_TOKENS_OF_A_MODEL)
        if above is None:
            tier.fail(("above",), "missing")
        for key in ("input", "output"):
            if key not in tier.values:
                tier.fail((key,), "missing")
        own = {key: tier.usd(key) for key in TIER_KEYS if key in tier.values}
        tiers.append(replace(_priced(own, ""), above_tokens=above))
        tier.done()
    price = _at_cheaper_times(table, replace(price, longer=tuple(tiers)) if tiers else price)
    table.done()
    return price


def _at_cheaper_times(table: Table, price: Price) -> Price:
    if "cheaper" not in table.values:
        return price
    cheaper = table.table("cheaper")
    for key in ("input", "output"):
        if key not in cheaper.values:
            cheaper.fail((key,), "missing")
    own = {key: cheaper.usd(key) for key in TIER_KEYS if key in cheaper.values}
    peaks, weekends = cheaper.texts("peaks"), bool(cheaper.flag("weekends"))
    days, until = cheaper.days("days"), cheaper.optional_day("until")
    cheaper.done()
    try:
        return price.with_cheaper(_priced(own, ""), read_times(peaks, weekends=weekends, days=days, until=until))
    except ValueError as error:
        cheaper.fail((), str(error))


def _priced(nano: Mapping[str, int], version: str) -> Price:
    return Price(
        input_nano_per_mtok=nano.get("input", 0),
        output_nano_per_mtok=nano.get("output", 0),
        cache_read_nano_per_mtok=nano.get("cache_read"),
        cache_write_nano_per_mtok=nano.get("cache_write"),
        reasoning_nano_per_mtok=nano.get("reasoning"),
        request_nano=nano.get("request", 0),
        cache_write_1h_nano_per_mtok=nano.get("cache_write_1h"),
        minute_nano=nano.get("minute", 0),
        audio_nano_per_mtok=nano.get("audio"),
        version=version,
    )

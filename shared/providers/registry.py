"""Registry: the provider catalogue, read from TOML files and checked to the last key.

A file is one provider; `openai.toml` shows every table. Facts that nobody verified are left out, never guessed: an
unknown price or maximum makes a hard budget refuse the model. Prices are strings of USD per million tokens (a TOML
number would be a float) and are dated: each comes from `source`, read on `verified_on`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

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
from shared.domain.money import Price, usd_to_nano
from shared.wire.params import guarded

CATALOGUE = Path(__file__).parent / "catalogue"
SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
URL = re.compile(r"https?://[A-Za-z0-9.\-_\[\]:]+(/[\x21\x22\x24-\x3e\x40-\x7e]*)?")
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


_Choice = TypeVar("_Choice", bound=StrEnum)


class CatalogueError(Exception):
    """`groq.toml:12: models."x".price.input: …`: the file, the line, the key, what is wrong."""


def load(directory: Path = CATALOGUE) -> dict[str, Provider]:
    """Every `*.toml` of a directory, by name. Raises CatalogueError when one is wrong or two claim one prefix."""
    providers: dict[str, Provider] = {}
    claimed: dict[str, str] = {}
    for path in sorted(directory.glob("*.toml")):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CatalogueError(f"{path.name}: not UTF-8: {error.reason} at byte {error.start}") from None
        provider = parse(text, path.name)
        if provider.name != path.stem:
            _Table.of(text, path.name).fail(("name",), f"must be the file's own name, {path.stem!r}")
        keyed = [(provider.prefix, ("prefix",)), *((alias, ("aliases",)) for alias in provider.aliases)]
        for prefix, key in keyed:
            if prefix in claimed:
                _Table.of(text, path.name).fail(key, f"{prefix!r} already belongs to {claimed[prefix]}")
            claimed[prefix] = path.name
        providers[provider.name] = provider
    return providers


def parse(text: str, file: str) -> Provider:
    """One catalogue file. `file` is only for messages. Raises CatalogueError."""
    top = _Table.of(text, file)
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


def _endpoints(table: _Table, *, openai: bool) -> dict[str, str]:
    """`false`: an imitator of OpenAI is known to lack this one."""
    told = [name for name in (*ENDPOINTS, *MORE_ENDPOINTS) if name in table.values]
    lacks = {name for name in told if table.values[name] is False and table.flag(name) is False}
    given = {name: table.path(name) for name in told if name not in lacks}
    table.done()
    return {name: path for name, path in ((ENDPOINTS if openai else {}) | given).items() if name not in lacks}


def _api_version(table: _Table) -> str:
    version = table.optional_text("api_version") or ""
    if version and API_VERSION.fullmatch(version) is None:
        table.fail(("api_version",), f"{version!r} must be letters, digits, dots and dashes")
    return version


def _headers(table: _Table) -> dict[str, str]:
    headers = {name: table.text(name) for name in table.values}
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            table.fail((name,), "is no header that can be sent")
    return headers


def _rate_headers(table: _Table) -> tuple[RateHeaders, ...]:
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


def _quirks(table: _Table) -> Quirks:
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
        continues=table.one_of("continues", ("", "turn", "prefix", "partial", "continue_final_message"), ""),
    )
    table.done()
    return quirks


def _params(table: _Table) -> Params:
    params = Params(tuple(table.texts("drop_params")), dict(table.table("set_params").values))
    name = guarded(params)
    if name is not None:
        key = "drop_params" if guarded(Params(params.drop)) else "set_params"
        table.fail((key,), f"{name!r} decides about routing or money and cannot be dropped or set")
    return params


def _data_policy(table: _Table) -> DataPolicy:
    policy = DataPolicy(
        trains=table.flag("trains"),
        retention_days=table.count("retention_days", most=36_500, least=0),
        region=table.optional_text("region"),
    )
    table.done()
    return policy


def _models(table: _Table, source: str, verified_on: str) -> dict[str, Model]:
    models = {}
    for model_id in table.values:
        entry = table.table(model_id)
        models[model_id] = Model(
            model_id=model_id,
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


def _capabilities(table: _Table) -> frozenset[Capability]:
    names = table.texts("capabilities", default=["text"])
    known = {capability.value for capability in Capability}
    for name in names:
        if name not in known:
            table.fail(("capabilities",), f"{name!r} is none of {', '.join(sorted(known))}")
    return frozenset(Capability(name) for name in names)


def _price(table: _Table, source: str, verified_on: str) -> Price:
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
    table.done()
    return replace(price, longer=tuple(tiers)) if tiers else price


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


class _Table:
    """One TOML table that is read key by key; `done` refuses the keys that nobody read."""

    def __init__(self, values: Mapping[str, Any], path: tuple[str, ...], file: str, lines: dict[tuple[str, ...], int]):
        self.values = values
        self._path = path
        self._file = file
        self._lines = lines
        self._read: set[str] = set()

    @staticmethod
    def of(text: str, file: str) -> _Table:
        try:
            return _Table(tomllib.loads(text), (), file, _line_numbers(text))
        except tomllib.TOMLDecodeError as error:
            raise CatalogueError(f"{file}: not TOML: {error}") from None

    def fail(self, key: tuple[str, ...], problem: str) -> NoReturn:
        path = (*self._path, *key)
        line = next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), 1)
        name = ".".join(part if re.fullmatch(r"[\w-]+", part) else f'"{part}"' for part in path)
        raise CatalogueError(f"{self._file}:{line}: {name}: {problem}")

    def done(self) -> None:
        for key in self.values:
            if key not in self._read:
                known = ", ".join(sorted(self._read)) or "no keys"
                self.fail((key,), f"unknown key (known here: {known})")

    def _take(self, key: str, kind: type, called: str) -> Any:
        self._read.add(key)
        value = self.values.get(key)
        if value is not None and type(value) is not kind:
            self.fail((key,), f"must be {called}")
        return value

    def table(self, key: str) -> _Table:
        values = self._take(key, dict, "a table")
        return _Table(values or {}, (*self._path, key), self._file, self._lines)

    def tables(self, key: str) -> list[_Table]:
        values = self._take(key, list, "an array of tables") or []
        if any(type(value) is not dict for value in values):
            self.fail((key,), "must be an array of tables")
        return [_Table(value, (*self._path, key), self._file, self._lines) for value in values]

    def text(self, key: str) -> str:
        value = self.optional_text(key)
        if value is None:
            self.fail((key,), "missing")
        return value

    def optional_text(self, key: str) -> str | None:
        value: str | None = self._take(key, str, "a string")
        if value is not None and not value.strip():
            self.fail((key,), "must not be empty")
        return value

    def texts(self, key: str, *, default: list[str] | None = None) -> list[str]:
        values = self._take(key, list, "an array of strings")
        if values is None:
            return default or []
        if any(type(value) is not str or not value for value in values):
            self.fail((key,), "must be an array of strings")
        if len(set(values)) != len(values):
            self.fail((key,), "names something twice")
        return list(values)

    def slug(self, key: str) -> str:
        value = self.text(key)
        if SLUG.fullmatch(value) is None:
            self.fail((key,), f"{value!r} must be lower-case letters, digits and single dashes")
        return value

    def slugs(self, key: str) -> list[str]:
        values = self.texts(key)
        for value in values:
            if SLUG.fullmatch(value) is None:
                self.fail((key,), f"{value!r} must be lower-case letters, digits and single dashes")
        return values

    def flag(self, key: str) -> bool | None:
        value: bool | None = self._take(key, bool, "true or false")
        return value

    def count(self, key: str, *, most: int, least: int = 1) -> int | None:
        value: int | None = self._take(key, int, "a whole number")
        if value is not None and not least <= value <= most:
            self.fail((key,), f"{value} is not between {least} and {most}")
        return value

    def usd(self, key: str) -> int:
        value = self._take(key, str, 'a string of USD, like "0.15"')
        try:
            return usd_to_nano(value)
        except ValueError as error:
            self.fail((key,), str(error))

    def day(self, key: str) -> str:
        value: date | None = self._take(key, date, "a date, like 2026-11-20")
        return "" if value is None else value.isoformat()

    def url(self, key: str) -> str | None:
        value = self.optional_text(key)
        if value is not None:
            try:
                parts = urlsplit(value)
                usable = bool(parts.hostname) and parts.port != 0
            except ValueError:
                usable = False
            if not usable or not URL.fullmatch(value) or value.endswith("/"):
                self.fail((key,), f"{value!r} must be an http(s) URL without credentials, query or final slash")
        return value

    def path(self, key: str) -> str:
        value = self.text(key)
        if not value.startswith("/") or any(sign in value for sign in "# "):
            self.fail((key,), f"{value!r} must be a path that begins with a slash")
        return value

    def one_of(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        value = self.optional_text(key)
        if value is not None and value not in allowed:
            self.fail((key,), f"{value!r} is none of {', '.join(filter(None, allowed))}")
        return default if value is None else value

    def choice(self, key: str, kind: type[_Choice], default: _Choice) -> _Choice:
        value = self.optional_text(key)
        if value is None:
            return default
        if value not in {member.value for member in kind}:
            self.fail((key,), f"{value!r} is none of {', '.join(member.value for member in kind)}")
        return kind(value)


_HEADER = re.compile(r"\s*\[([^\[\]].*?)\]\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_KEY = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def _line_numbers(text: str) -> dict[tuple[str, ...], int]:
    """Where each key stands: tomllib does not say. Keys of inline tables are found on their table's line."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _keys(header[1])
            lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            path = (*table, *_keys(assignment[1]))
            lines.setdefault(path, number)
    return lines


def _keys(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _KEY.findall(dotted))

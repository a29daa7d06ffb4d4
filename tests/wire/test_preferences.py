"""OpenRouter's preferences as they are read, refused and taken out; and what a call needs, read off its raw fields."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from shared.domain.catalogue import Connection, Deployment, Model, Provider, Quirks, WireFormat
from shared.domain.policy import Needs, Preferences
from shared.domain.refusal import Refused
from shared.wire.codec import bridge, read_facts
from shared.wire.envelope import Envelope, open_envelope
from shared.wire.multipart import open_form
from shared.wire.needs import read_needs
from shared.wire.preferences import read_preferences, taken_out, variants_of
from tests.wire.translation import STAMP

CHAT, USD = WireFormat.OPENAI_CHAT, 1_000_000_000
MESSAGES = [{"role": "user", "content": "Hello"}]


def envelope(**fields: Any) -> Envelope:
    return open_envelope(orjson.dumps({"model": "a/b", "messages": MESSAGES} | fields))


def read(**provider: Any) -> Preferences | None:
    return read_preferences(CHAT, envelope(provider=provider))


def test_a_call_without_them_has_none() -> None:
    assert read_preferences(CHAT, envelope()) is None
    assert read_preferences(CHAT, envelope(provider=None, models=[], route="fallback")) is None


def test_all_of_them_are_read() -> None:
    made = read_preferences(
        CHAT,
        envelope(
            models=["c/d", "e"],
            provider={
                "order": ["x"], "only": ["y"], "ignore": ["z"], "quantizations": ["fp8"], "allow_fallbacks": False,
                "require_parameters": True, "data_collection": "deny", "zdr": True,
                "sort": {"by": "price", "partition": "none"},
                "max_price": {"prompt": "0.5", "completion": 2, "request": 0.01},
                "preferred_min_throughput": 50, "preferred_max_latency": {"p50": 1.5, "p99": 9}, "options": {"x": 1},
            },
        ),
    )  # fmt: skip
    assert made == Preferences(
        models=("c/d", "e"), order=("x",), only=("y",), ignore=("z",), quantizations=("fp8",), allow_fallbacks=False,
        require_parameters=True, deny_collection=True, zdr=True, sort="price", across_models=True,
        max_input_nano_per_mtok=USD // 2, max_output_nano_per_mtok=2 * USD, max_request_nano=USD // 100,
        min_tokens_per_s=50.0, max_latency_s=1.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "base", "suffixes"),
    [
        ("a/b", "a/b", ()), ("a/b:nitro", "a/b", ("nitro",)), ("a/b:free:floor", "a/b", ("free", "floor")),
        ("a/b:0", "a/b:0", ()), ("a/b:latest:nitro", "a/b:latest", ("nitro",)), (":free", ":free", ()),
        ("fast:nitro", "fast", ("nitro",)),
    ],
)  # fmt: skip
def test_suffixes_are_told_from_names(name: str, base: str, suffixes: tuple[str, ...]) -> None:
    assert variants_of(name) == (base, suffixes)


def test_suffixes_sort_unless_the_body_says_how() -> None:
    def by(*suffixes: str, **provider: Any) -> Preferences | None:
        return read_preferences(CHAT, envelope(**({"provider": provider} if provider else {})), suffixes)

    assert by("nitro") == Preferences(sort="throughput")
    assert by("floor") == Preferences(sort="price")
    assert by("free") == Preferences(free=True)
    assert by("exacto") == Preferences()
    assert by("nitro", sort="latency") == Preferences(sort="latency")
    with pytest.raises(Refused, match="invalid_field"):
        by("online")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"models": "a"}, "models"), ({"models": [1]}, "models[0]"), ({"models": ["a"] * 21}, "models"),
        ({"models": [""]}, "models[0]"), ({"provider": "x"}, "provider"), ({"provider": []}, "provider"),
        ({"provider": {"onyl": []}}, "provider.onyl"), ({"provider": {"only": "x"}}, "provider.only"),
        ({"provider": {"order": [None]}}, "provider.order[0]"), ({"provider": {"ignore": {}}}, "provider.ignore"),
        ({"provider": {"sort": "speed"}}, "provider.sort"), ({"provider": {"sort": 1}}, "provider.sort"),
        ({"provider": {"sort": {"by": "x"}}}, "provider.sort.by"),
        ({"provider": {"sort": {"by": "price", "partition": 1}}}, "provider.sort.partition"),
        ({"provider": {"max_price": 1}}, "provider.max_price"),
        ({"provider": {"max_price": {"prompt": -1}}}, "provider.max_price.prompt"),
        ({"provider": {"max_price": {"prompt": True}}}, "provider.max_price.prompt"),
        ({"provider": {"max_price": {"tokens": 1}}}, "provider.max_price.tokens"),
        ({"provider": {"data_collection": "maybe"}}, "provider.data_collection"),
        ({"provider": {"zdr": "yes"}}, "provider.zdr"), ({"provider": {"allow_fallbacks": 0}}, "provider.allow_fallbacks"),
        ({"provider": {"require_parameters": []}}, "provider.require_parameters"),
        ({"provider": {"quantizations": ["fp7"]}}, "provider.quantizations"),
        ({"provider": {"preferred_max_latency": "1"}}, "provider.preferred_max_latency"),
        ({"provider": {"preferred_max_latency": {"p42": 1}}}, "provider.preferred_max_latency.p42"),
        ({"provider": {"preferred_min_throughput": 0}}, "provider.preferred_min_throughput"),
        ({"provider": {"enforce_distillable_text": True}}, "provider.enforce_distillable_text"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as caught:
        read_preferences(CHAT, envelope(**fields))
    assert (caught.value.refusal.status, caught.value.refusal.field) == (400, field)
    assert field.partition("[")[0] in caught.value.refusal.message


def test_other_formats_and_forms_keep_fields_of_those_names() -> None:
    body = envelope(provider=1, models=2)
    assert read_preferences(WireFormat.GEMINI, body) is None
    assert read_preferences(WireFormat.COHERE, body) is None
    form = open_form(
        b'--x\r\nContent-Disposition: form-data; name="provider"\r\n\r\n{"zdr": 1}\r\n--x--', "multipart/form-data; boundary=x"
    )
    assert read_preferences(CHAT, form) is None


def to(*, takes_routing: bool, wire_format: WireFormat = CHAT) -> Deployment:
    return Deployment(
        provider=Provider(
            name="p", title="P", prefix="p", base_url="", wire_format=wire_format, quirks=Quirks(takes_routing=takes_routing),
            endpoints={"chat": "/", "embeddings": "/"},
        ),
        connection=Connection(connection_id="c", name="c", provider="p", prefix="p", base_url=""),
        model=Model(model_id="m"),
    )  # fmt: skip


@pytest.mark.parametrize("client", [CHAT, WireFormat.OPENAI_RESPONSES, WireFormat.ANTHROPIC_MESSAGES])
@pytest.mark.parametrize(
    ("provider", "takes"),
    [(CHAT, True), (CHAT, False), (WireFormat.ANTHROPIC_MESSAGES, False), (WireFormat.OPENAI_RESPONSES, False)],
)
def test_only_a_provider_that_takes_them_gets_them(client: WireFormat, provider: WireFormat, takes: bool) -> None:
    wanted = {"only": ["x"], "sort": "price"}
    body: dict[str, Any] = {"model": "a/b", "messages": MESSAGES, "input": "Hi", "max_tokens": 5}
    body |= {"provider": wanted, "models": ["c/d"], "route": "fallback"}
    opened = open_envelope(orjson.dumps(body))
    call = read_facts(client, "chat", opened, None, None)
    deployment = to(takes_routing=takes, wire_format=provider)
    sent, dropped = bridge(client, deployment, STAMP).request_body(taken_out(opened), deployment, call, None)
    made = json.loads(sent)
    assert made.get("provider") == (wanted if takes else None)
    assert not {"models", "route"} & set(made)
    assert not {"models", "route", "provider"} & set(dropped)


def test_embeddings_take_them_along_too() -> None:
    opened = open_envelope(orjson.dumps({"model": "a/b", "input": "x", "provider": {"zdr": True}, "models": []}))
    call = read_facts(CHAT, "embeddings", opened, None, None)
    for takes in (True, False):
        deployment = to(takes_routing=takes)
        sent, _ = bridge(CHAT, deployment, STAMP, "embeddings").request_body(taken_out(opened), deployment, call, None)
        assert json.loads(sent).get("provider") == ({"zdr": True} if takes else None)


def test_a_body_without_them_stays_the_object_that_it_was() -> None:
    opened = envelope()
    assert taken_out(opened) is opened


IMAGE = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AA"}}
SCHEMA = {"type": "object"}
SCHEMATIC = {"type": "json_schema", "schema": SCHEMA}


@pytest.mark.parametrize(
    ("client", "fields", "needed"),
    [
        (CHAT, {}, set()),
        (CHAT, {"messages": [{"role": "user", "content": [IMAGE]}]}, {"vision"}),
        (CHAT, {"messages": [{"role": "user", "content": [SOUND]}]}, {"audio"}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}]}, {"tools"}),
        (CHAT, {"tools": [], "functions": None}, set()),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, {"json_schema"}),
        (CHAT, {"response_format": {"type": "json_object"}}, set()),
        (CHAT, {"reasoning_effort": "high"}, {"reasoning"}),
        (WireFormat.OPENAI_RESPONSES, {"input": "x", "text": {"format": SCHEMATIC}}, {"json_schema"}),
        (WireFormat.OPENAI_RESPONSES, {"input": "x", "text": {"verbosity": "low"}}, set()),
        (WireFormat.ANTHROPIC_MESSAGES, {"max_tokens": 5, "output_format": SCHEMATIC}, {"json_schema"}),
        (WireFormat.ANTHROPIC_MESSAGES, {"max_tokens": 5, "tools": [{"name": "f"}], "thinking": {"type": "enabled"}},
         {"tools", "reasoning"}),
        (WireFormat.GEMINI, {"contents": [], "generationConfig": {"responseSchema": SCHEMA}}, {"json_schema"}),
        (WireFormat.GEMINI, {"contents": [], "generationConfig": {"topK": 1}}, set()),
        (WireFormat.COHERE, {"response_format": {"type": "json_object", "schema": SCHEMA}}, {"json_schema"}),
        (WireFormat.COHERE, {"response_format": {"type": "json_object"}}, set()),
    ],
)  # fmt: skip
def test_what_a_call_needs(client: WireFormat, fields: dict[str, Any], needed: set[str]) -> None:
    opened = envelope(**fields)
    call = read_facts(client, "chat", opened, "a/b", False)
    made = read_needs(client, "chat", opened, call)
    kinds = {name for name in ("vision", "audio", "tools", "json_schema", "reasoning") if getattr(made, name)}
    assert kinds == needed


def test_tokens_are_estimated_from_text_and_media() -> None:
    long = envelope(messages=[{"role": "user", "content": [{"type": "text", "text": "x" * 4_000}, IMAGE]}], max_tokens=77)
    made: Needs = read_needs(CHAT, "chat", long, read_facts(CHAT, "chat", long, None, None))
    assert 2_000 < made.input_tokens < 2_100
    assert (made.output_tokens, made.parameters) == (77, ("model", "messages", "max_tokens"))

"""From a name to deployments: what configuration, key, body and URL make of it; and what is explained is what is executed."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.clock import Clock, SystemClock
from shared.domain.catalogue import Capability, Connection, DataPolicy, Deployment, Model, Provider, Quirks, WireFormat
from shared.domain.configuration import KeyRow
from shared.domain.limits import Budget, Period, Scope
from shared.domain.money import Price
from shared.domain.policy import KeyPolicy
from shared.domain.refusal import Reason, Refused
from shared.domain.routing import Choice, Route, Strategy, Target
from shared.domain.times import read_times
from shared.flow import choose as choosing
from shared.flow import sessions
from shared.flow.admit import covered
from shared.flow.choose import choose, decided, unbounded
from shared.flow.explain import explain
from shared.flow.explain import price as price_told
from shared.flow.sessions import Seat, Sessions, numbered
from shared.routing.eligible import Health
from shared.routing.plan import told
from shared.snapshot.snapshot import KeyEntry, Snapshot, build
from shared.upstream.load import Load
from shared.wire.codec import read_facts
from shared.wire.envelope import open_envelope
from shared.wire.extensions import read_extensions
from tests.routing.test_eligible import Standing
from tests.snapshot.test_snapshot import configuration

USD = 1_000_000_000
CHEAP, DEAR = (Price(input_nano_per_mtok=each * USD, output_nano_per_mtok=each * USD) for each in (1, 9))
SEES = frozenset({Capability.TEXT, Capability.VISION})


def provider(name: str, **fields: Any) -> Provider:
    return Provider(name=name, title=name.title(), prefix=name, base_url="http://x", **fields)


PROVIDERS = {
    "a": provider(
        "a",
        models={"m": Model(model_id="m", price=CHEAP, described=True, max_output_tokens=9)},
        data_policy=DataPolicy(trains=False),
    ),
    "b": provider("b", models={"m": Model(model_id="m", price=DEAR, capabilities=SEES, described=True, max_output_tokens=9)}),
    "c": provider("c", quirks=Quirks(drop=("seed",)), endpoints=dict.fromkeys(("chat", "embeddings", "rerank"), "/")),
    "openrouter": provider("openrouter", quirks=Quirks(takes_routing=True)),
}


def connection(name: str, at: str | None = None) -> Connection:
    return Connection(connection_id=f"conn_{name}", name=name, provider=at or name, prefix=at or name, base_url="http://x")


CONNECTIONS = (*(connection(name) for name in PROVIDERS), connection("a2", "a"))


def key(policy: KeyPolicy | None = None) -> KeyRow:
    return KeyRow("key_1", "public", "org", "team", "", b"", None, False, False, policy)


def snapshot(*, policy: KeyPolicy | None = None, budgets: tuple[Budget, ...] = (), **fields: Any) -> Snapshot:
    made = {"connections": CONNECTIONS, "keys": (key(policy),), "budgets": budgets} | fields
    return build(configuration(**made), PROVIDERS)


def route(*targets: str, name: str = "fast", strategy: Strategy = Strategy.PRIORITY, **fields: Any) -> Route:
    return Route(
        name=name, targets=tuple(Target(model=each) for each in targets), choice=Choice(strategy=strategy), **fields
    )  # fmt: skip


@dataclass
class World:
    """What a node would know."""

    load: Load = field(default_factory=lambda: Load(chance=lambda: 0.0))
    health: Health | None = None
    quota_left: Any = None
    clock: Clock = field(default_factory=SystemClock)
    sessions: Sessions = field(default_factory=Sessions)


class Marks:
    def __init__(self, **states: Standing) -> None:
        self.marks: dict[str, Standing] = {f"conn_{name}/m": state for name, state in states.items()}

    def standing(self, deployment: Any, now_s: float) -> Standing | None:
        return self.marks.get(deployment.key)


def body(model: str = "fast", **fields: Any) -> bytes:
    return orjson.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]} | fields)


def exchange(made: Snapshot, raw: bytes, world: World | None = None, at: str | None = None, *, openrouter: bool = False) -> Any:
    """As much of an Exchange as `choose` looks at. `openrouter`: at /api/v1."""
    opened = open_envelope(raw)
    arrival = SimpleNamespace(wire_format=WireFormat.OPENAI_CHAT, operation="chat", provider=at)
    entry = made.key("public")
    call = read_facts(WireFormat.OPENAI_CHAT, "chat", opened, None, None)
    x = SimpleNamespace(
        gateway=world or World(),
        snapshot=made,
        arrival=arrival,
        key=entry,
        envelope=opened,
        call=call,
        decision=None,
        extensions=read_extensions(opened) if openrouter else None,
        session=None,
    )
    if x.extensions is not None and x.extensions.session is not None:
        x.session = sessions.begin(cast(Any, x), x.extensions.session)
    return x


def names(
    made: Snapshot, raw: bytes, world: World | None = None, at: str | None = None, *, openrouter: bool = False
) -> list[str]:
    x = exchange(made, raw, world, at, openrouter=openrouter)
    return [f"{each.connection.name}:{each.model.model_id}" for each in choose(cast(Any, x))]


def refused(made: Snapshot, raw: bytes, world: World | None = None, at: str | None = None) -> tuple[int, Reason, str]:
    with pytest.raises(Refused) as caught:
        names(made, raw, world, at)
    refusal = caught.value.refusal
    return refusal.status, refusal.reason, refusal.message


def test_one_model_without_conditions_makes_no_plan() -> None:
    x = exchange(snapshot(), body("b/m", tools=[{"type": "function"}]))
    first = choose(x)
    assert ([each.connection.name for each in first], x.decision) == (["b"], None)
    x.plan = first
    assert told(decided(x))["candidates"] == [{"model": "b/m", "connection": "b", "provider": "b"}]
    assert [each.connection.name for each in choose(exchange(snapshot(), body("a/m")))] == ["a", "a2"]


def test_a_sick_deployment_elsewhere_changes_nothing_and_one_here_is_seen() -> None:
    world = World(health=Marks(c=Standing("open", 9)))
    x = exchange(snapshot(), body("a/m"), world)
    choose(x)
    assert x.decision is None
    world.health = Marks(a=Standing("open", 9))
    assert names(snapshot(), body("a/m"), world) == ["a2:m"]


def test_a_route_is_called_by_its_name_or_an_alias_or_as_a_fallback() -> None:
    made = snapshot(
        routes=(route("b/m", "a/m", fallbacks=("c/x",)), route("b/m", name="theirs", organisation_id="other")),
        aliases={"quick": "fast", "gpt-*": "fast"}, fallbacks={"c/y": ("fast",), "*": ("c/z",)},
    )  # fmt: skip
    assert names(made, body("fast")) == ["b:m", "a:m", "a2:m", "c:x"]
    assert names(made, body("quick")) == names(made, body("gpt-9")) == names(made, body("fast"))
    assert names(made, body("c/y")) == ["c:y", "b:m", "a:m", "a2:m"]  # a route as a fallback brings no chain of its own
    assert names(made, body("b/m")) == ["b:m", "c:z"]
    assert refused(made, body("theirs"))[:2] == (404, Reason.UNKNOWN_MODEL)
    assert "Did you mean fast?" in refused(made, body("fasst"))[2]


def test_a_chain_of_a_route_is_its_own_or_the_common_one() -> None:
    made = snapshot(routes=(route("b/m"),), fallbacks={"*": ("c/z",), "fast": ("a/m",)})
    assert names(made, body("fast")) == ["b:m", "a:m", "a2:m"]


def test_accounts_of_a_prefix_are_chosen_among_as_it_says() -> None:
    made = snapshot(accounts={"a": Choice(strategy=Strategy.ROUND_ROBIN, sticky=1)})
    world = World()
    assert [names(made, body("a/m"), world)[0] for _ in range(4)] == ["a:m", "a2:m", "a:m", "a2:m"]


def test_a_route_may_have_its_own_number_of_attempts() -> None:
    assert names(snapshot(routes=(route("b/m", "a/m", "c/x", max_attempts=2),)), body()) == ["b:m", "a:m"]
    assert names(snapshot(routes=(route("a/m", max_attempts=1, strategy=Strategy.RANDOM),)), body()) == ["a:m"]


def test_what_a_call_needs_decides_among_a_routes_models() -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]}]
    made = snapshot(routes=(route("a/m", "b/m"),))
    assert names(made, body()) == ["a:m", "a2:m", "b:m"]
    assert names(made, body(messages=picture)) == ["b:m"]
    status, reason, message = refused(made, body(messages=picture, provider={"ignore": ["b"]}))
    assert (status, reason) == (404, Reason.NO_DEPLOYMENT)
    assert "a/m: it cannot do vision" in message
    assert "b/m: the call ignores it" in message


def test_a_key_may_use_what_its_policy_says_and_lists_only_that() -> None:
    routes = (route("a/m", "b/m"), route("b/m", name="other"))
    made = snapshot(policy=KeyPolicy(providers=("a",)), routes=routes)
    entry = cast(KeyEntry, made.key("public"))
    assert names(made, body()) == ["a:m", "a2:m"]
    assert names(made, body("a/m")) == ["a:m", "a2:m"]
    assert refused(made, body("b/m"))[:2] == (403, Reason.FORBIDDEN)
    assert [each.name for each in made.models("org", entry.policy)] == ["a/m"]
    assert [each.name for each, _ in made.routes(entry)] == ["fast"]
    assert refused(made, body("b/m"), at="b")[:2] == (403, Reason.FORBIDDEN)


def test_what_is_listed_is_what_one_of_the_accounts_may_serve() -> None:
    """One account's contract forbids training: the model is listed for a key that wants that, as that account has it."""
    contract = msgspec.structs.replace(connection("b2", "b"), data_policy=DataPolicy(trains=False))
    made = snapshot(policy=KeyPolicy(no_training=True), connections=(*CONNECTIONS, contract), routes=(route("b/m"),))
    entry = cast(KeyEntry, made.key("public"))
    listed = made.models("org", entry.policy)
    assert [(each.name, each.connection.name) for each in listed] == [("a/m", "a"), ("b/m", "b2")]
    assert names(made, body("b/m")) == names(made, body()) == ["b2:m"]
    only_chain = snapshot(
        policy=KeyPolicy(models=("a/*",)), routes=(route("b/m"),), fallbacks={"b/m": ("a/m",), "fast": ("a/m",)}
    )
    entry = cast(KeyEntry, only_chain.key("public"))
    assert only_chain.routes(entry) == []
    assert names(only_chain, body("b/m")) == ["a:m", "a2:m"]


def test_models_and_provider_of_the_body_are_followed_and_taken_out() -> None:
    made = snapshot(fallbacks={"*": ("c/z",)})
    x = exchange(made, body("b/m", models=["nobody/x", "a/m"], provider={"sort": "price"}, route="fallback", seed=1))
    assert [each.connection.name for each in choose(x)] == ["b", "a", "a2"]
    assert list(x.envelope.fields) == ["model", "messages", "seed"]
    assert x.envelope.routing == b'{"sort":"price"}'
    assert [(each.name, each.rule) for each in x.decision.removed] == [("nobody/x", "models")]
    together = body("b/m", models=["a/m"], provider={"sort": {"by": "price", "partition": "none"}})
    assert names(made, together) == ["a:m", "a2:m", "b:m"]


@pytest.mark.parametrize("wanted", ["nitro", "floor", "free", "exacto"])
def test_a_suffix_is_read_off_a_name_that_is_none_with_it(wanted: str) -> None:
    made = snapshot(routes=(route("b/m", "a/m"),))
    if wanted == "free":
        assert refused(made, body("fast:free"))[:2] == (404, Reason.NO_DEPLOYMENT)
    else:
        expected = {"floor": ["a:m", "a2:m", "b:m"]}.get(wanted, ["b:m", "a:m", "a2:m"])
        assert names(made, body(f"fast:{wanted}")) == expected
    assert names(made, body(f"openrouter/x/y:{wanted}")) == [f"openrouter:x/y:{wanted}"]
    assert names(made, body("c/llama:8b")) == ["c:llama:8b"]
    exact = snapshot(routes=(route("b/m"),), aliases={f"fast:{wanted}": "a/m"})
    assert names(exact, body(f"fast:{wanted}")) == ["a:m", "a2:m"]


@pytest.mark.parametrize("wanted", ["a/m:zzz", "a/m:free:zzz", "a/m:zzz:nitro", "fast:zzz", "listed/m:zzz", "b/m:online:zzz"])
def test_a_variant_that_nobody_knows_is_refused(wanted: str) -> None:
    """Wire.md 114."""
    listed = msgspec.structs.replace(connection("listed", "c"), prefix="listed", models={"m": Model(model_id="m")})
    made = snapshot(routes=(route("b/m"),), connections=(*CONNECTIONS, listed))
    status, reason, message = refused(made, body(wanted))
    assert (status, reason) == (400, Reason.UNKNOWN_MODEL)
    assert message.endswith("has no variant ':zzz' here: there are :nitro, :floor, :exacto, :free.")


@pytest.mark.parametrize(
    "own",
    [
        "c/llama3:8b", "c/llama3:latest", "c/x-v2:0", "a/m:8b", "a/m:300k", "a/ft:m:org::id", "tags/llama3:instruct",
        "openrouter/a/b:thinking", "added/llama3:instruct",
    ],
)  # fmt: skip
def test_ids_with_a_colon_of_their_own_keep_working(own: str) -> None:
    """Of Ollama (tags), Bedrock (versions), OpenAI (fine-tuned models) and OpenRouter (its own variants)."""
    tags = msgspec.structs.replace(
        connection("tags", "c"), prefix="tags",
        models={each: Model(model_id=each) for each in ("llama3", "llama3:instruct")},
    )  # fmt: skip
    added = msgspec.structs.replace(connection("added"), prefix="added")
    providers = {"added": provider("added", models={each: Model(model_id=each) for each in ("llama3", "phi:mini")})}
    made = build(configuration(connections=(*CONNECTIONS, tags, added), keys=(key(),)), PROVIDERS | providers)
    prefix, _, model_id = own.partition("/")
    assert names(made, body(own))[0] == f"{prefix}:{model_id}"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"plugins": [{"id": "web"}]}, "plugins"), ({"preset": "mine"}, "preset"), ({"model": "fast@preset/mine"}, "model"),
        ({"model": "@preset/mine"}, "model"), ({"model": "a/m@preset/mine"}, "model"), ({"model": "fast:free:online"}, "model"),
        ({"model": "a/m:online"}, "model"), ({"model": "c/m@preset/mine"}, "model"),
    ],
)  # fmt: skip
def test_what_only_openrouter_has_is_refused_by_name_and_asked_of_openrouter(fields: dict[str, Any], field: str) -> None:
    """Wire.md 114: nothing that was asked for is left out in silence."""
    made = snapshot(routes=(route("b/m", "a/m"), route("b/m", "openrouter/x/y", name="both")))
    with pytest.raises(Refused) as caught:
        names(made, body(**fields), openrouter=True)
    refusal = caught.value.refusal
    assert (refusal.status, refusal.reason, refusal.field) == (400, Reason.INVALID_FIELD, field)
    assert "leave" in refusal.message or "without '@preset/" in refusal.message
    if "model" not in fields:
        assert names(made, body("both", **fields), openrouter=True) == ["openrouter:x/y"]
        assert names(made, body("openrouter/x/y", **fields), openrouter=True) == ["openrouter:x/y"]
        assert names(made, body(**fields)) == ["b:m", "a:m", "a2:m"]  # elsewhere it is a field like any other


def test_a_preset_at_openrouter_is_openrouters() -> None:
    assert names(snapshot(), body("openrouter/x/y@preset/mine")) == ["openrouter:x/y@preset/mine"]


def test_a_prompt_that_may_be_shortened_needs_half_of_its_length() -> None:
    """Wire.md §1.5. Where the call does not say, the longer one serves it whole."""
    models = {
        each: Model(model_id=each, context_tokens=context) for each, context in (("s", 4_000), ("m", 8_000), ("l", 16_000))
    }
    made = build(configuration(connections=(connection("d"),), keys=(key(),), routes=(route("d/s", "d/m", "d/l"),)),
                 {"d": provider("d", models=models)})  # fmt: skip
    long = [{"role": "user", "content": "x" * 44_000}]  # 11,000 tokens
    assert names(made, body(messages=long), openrouter=True) == ["d:l"]
    assert names(made, body(messages=long, transforms=[]), openrouter=True) == ["d:l"]
    assert names(made, body(messages=long, transforms=["middle-out"]), openrouter=True) == ["d:m", "d:l"]
    longer = [{"role": "user", "content": "x" * 440_000}]
    assert names(made, body(messages=longer, transforms=["middle-out"]), openrouter=True) == ["d:l"]


DRAWN = [each for each in Strategy if each not in (Strategy.PRIORITY, Strategy.CHEAPEST, Strategy.FASTEST)]


@pytest.mark.parametrize("strategy", DRAWN)
def test_a_session_goes_to_one_deployment_on_every_node(strategy: Strategy) -> None:
    """Wire.md 119. Each World is another node, with another chance."""
    made = snapshot(routes=(route("a/m", "b/m", "c/x", "c/y", strategy=strategy),))
    firsts = set()
    for number in range(40):
        raw = body(session_id=f"s{number}")
        (first,) = {names(made, raw, World(Load(chance=Random(seed).random)), openrouter=True)[0] for seed in range(5)}
        firsts.add(first)
    assert len(firsts) > 1 or strategy is Strategy.PRICE_WEIGHTED  # one is 81 times likelier than the next
    if strategy in (Strategy.RANDOM, Strategy.ROUND_ROBIN, Strategy.POWER_OF_TWO):
        assert len(firsts) == 4


def test_a_session_is_remembered_and_goes_elsewhere_after_an_error() -> None:
    made = snapshot(routes=(route("b/m", "c/x", "c/y"),))
    world, raw = World(), body(session_id="s")
    number = numbered("org", "fast", "s")
    now_s = world.clock.monotonic_s()

    def first(**seat: str) -> list[str]:
        world.sessions.remember(number, Seat(seat.get("served", ""), seat.get("failed", ""), now_s))
        return names(made, raw, world, openrouter=True)

    plain = names(made, raw, world, openrouter=True)
    assert plain == ["b:m", "c:x", "c:y"]
    assert first(served="conn_c/y") == ["c:y", "b:m", "c:x"]
    assert first(failed="conn_b/m") == ["c:x", "c:y", "b:m"]
    assert first(served="gone") == plain
    x = exchange(made, raw, world, openrouter=True)
    first(served="conn_c/x")
    found = explain(world, made, x.key, raw, openrouter=True)
    assert (found["held"], found["candidates"][0]["model"]) == (True, "c/x")
    assert explain(world, made, x.key, raw)["held"] is False
    assert names(made, body(session_id="other"), world, openrouter=True) == plain
    assert names(made, body(session_id="s", provider={"order": ["b"]}), world, openrouter=True)[0] == "b:m"
    world.health = Marks(c=Standing("open", 7.0))
    world.health.marks["conn_c/x"] = Standing("open", 7.0)
    assert names(made, raw, world, openrouter=True) == ["b:m", "c:y"]


def test_a_session_held_beyond_the_attempts_is_asked_first_and_no_more_are_asked() -> None:
    made = snapshot(routes=(route("b/m", "c/x", "c/y", max_attempts=2),))
    world, raw = World(), body(session_id="s")
    for seat, expected in (
        (Seat("conn_c/y", "", world.clock.monotonic_s()), ["c:y", "b:m"]),
        (Seat("", "conn_b/m", world.clock.monotonic_s()), ["c:x", "b:m"]),
    ):
        world.sessions.remember(numbered("org", "fast", "s"), seat)
        assert names(made, raw, world, openrouter=True) == expected


def test_a_session_belongs_to_its_organisation_and_model_and_is_idle_for_ten_minutes() -> None:
    assert len({numbered(*each) for each in (("o", "m", "s"), ("p", "m", "s"), ("o", "n", "s"), ("o", "m", "t"))}) == 4
    kept = Sessions(most=3)
    kept.remember(1, Seat("a", "", 1000.0))
    assert kept.of(1, 1599.9) == Seat("a", "", 1000.0)
    assert kept.of(1, 1600.0) is None
    assert kept.of(2, 1000.0) is None
    kept.remember(1, Seat("b", "", 1500.0))
    kept.remember(2, Seat("b", "", 1600.0))
    kept.remember(3, Seat("b", "", 2100.0))  # the first is idle for ten minutes now
    assert (kept.of(1, 2000.0), len(kept)) == (None, 2)
    for number in range(4, 9):
        kept.remember(number, Seat("b", "", 2100.0))
    assert len(kept) == 3


def test_at_a_providers_url_a_route_is_cut_to_it_and_a_prefix_may_be_left_out() -> None:
    made = snapshot(routes=(route("b/m", "a/m"),))
    assert names(made, body("fast"), at="a") == ["a:m", "a2:m"]
    assert names(made, body("m"), at="b") == ["b:m"]
    assert names(made, body("b/m"), at="b") == ["b:m"]
    assert refused(made, body("fast"), at="c")[:2] == (400, Reason.INVALID_FIELD)
    assert refused(made, body("nothing"), at="nowhere")[:2] == (404, Reason.UNKNOWN_MODEL)


def test_nothing_is_counted_for_an_explanation() -> None:
    made = snapshot(routes=(route("a/m", "b/m", "c/x", strategy=Strategy.ROUND_ROBIN),))
    world, entry = World(), cast(KeyEntry, made.key("public"))
    firsts = {explain(world, made, entry, body())["candidates"][0]["model"] for _ in range(9)}
    assert firsts == {"a/m"}
    assert world.load.peek("fast") == 0


def test_an_explanation_has_prices_estimates_health_and_load() -> None:
    made = snapshot(
        routes=(route("a/m", "c/x", "b/m"),),
        budgets=(Budget(budget_id="1", scope=Scope.KEY, scope_id="key_1", limit_nano_usd=USD, period=Period.DAY, hard=True),),
    )
    world = World(health=Marks(a2=Standing("open", 7.0)))
    world.load.started("conn_a/m")
    world.load.first_token("conn_a/m", 0.25)
    found = explain(world, made, cast(KeyEntry, made.key("public")), b'{"model": "fast"}')
    first = found["candidates"][0]
    assert (first["model"], first["price"]) == ("a/m", {"input": "1", "output": "1", "version": ""})
    assert first["load"] == {"in_flight": 1, "uses": 1, "ttft_s": 0.25}
    assert float(first["at_most_usd"]) > 0
    assert [(each["model"], each["rule"]) for each in found["removed"]] == [
        ("a/m", "health.open"), ("c/x", "budget.unpriced"),
    ]  # fmt: skip
    assert found["budgets"] == [{"of": "key", "usd": "1", "period": "day", "hard": True}]
    assert found["error"] is None
    assert found["needs"]["operation"] == "chat"


def test_a_price_that_depends_on_the_time_is_told_with_its_times() -> None:
    half = Price(input_nano_per_mtok=USD // 2, output_nano_per_mtok=USD)
    night = Price(input_nano_per_mtok=USD, output_nano_per_mtok=2 * USD, version="v").with_cheaper(
        half, read_times(["01:00-04:00"], weekends=False, days=[], until=None)
    )
    deployment = cast(Deployment, SimpleNamespace(model=Model(model_id="m", price=night)))
    told = {"input": "1", "output": "2", "version": "v"}
    cheaper = {"input": "0.5", "output": "1", "times": "except 01:00-04:00 UTC"}
    assert price_told(deployment, 0) == told | {"cheaper": cheaper | {"now": True}}
    assert price_told(deployment, 3600) == told | {"cheaper": cheaper | {"now": False}}


@pytest.mark.parametrize(
    ("wire_format", "operation", "fields"),
    [
        (WireFormat.OPENAI_CHAT, "embeddings", {}), (WireFormat.ANTHROPIC_MESSAGES, "chat", {}),
        (WireFormat.OPENAI_RESPONSES, "chat", {}), (WireFormat.GEMINI, "chat", {}), (WireFormat.COHERE, "chat", {}),
        (WireFormat.OPENAI_CHAT, "rerank", {}), (WireFormat.OPENAI_CHAT, "completions", {"prompt": "x"}),
    ],
)  # fmt: skip
def test_a_name_alone_is_explained_in_every_format(wire_format: WireFormat, operation: str, fields: dict[str, Any]) -> None:
    made = snapshot(routes=(route("c/x", "c/y"),))
    raw = orjson.dumps({"model": "fast"} | fields)
    found = explain(
        World(), made, cast(KeyEntry, made.key("public")), raw, wire_format=wire_format, operation=operation
    )  # fmt: skip
    assert [each["model"] for each in found["candidates"]] == ["c/x", "c/y"]


def test_an_explanation_of_nothing_says_what_the_client_would_be_told() -> None:
    made = snapshot(policy=KeyPolicy(no_training=True), routes=(route("b/m", "c/x"),))
    found = explain(World(), made, cast(KeyEntry, made.key("public")), body())
    assert found["candidates"] == []
    assert (found["error"]["status"], found["error"]["reason"]) == (403, "forbidden")
    with pytest.raises(Refused):
        explain(World(), made, cast(KeyEntry, made.key("public")), body("nobody/x"))
    with pytest.raises(Refused):
        explain(World(), made, cast(KeyEntry, made.key("public")), body(), operation="dance")


MODELS = st.sampled_from(["a/m", "b/m", "c/x", "c/y", "openrouter/x/y"])
POLICIES = st.none() | st.builds(
    KeyPolicy,
    models=st.lists(st.sampled_from(["a/*", "*", "fast", "?/m"]), max_size=2).map(tuple),
    providers=st.lists(st.sampled_from(["a", "b*", "c"]), max_size=2).map(tuple),
    no_training=st.booleans(),
    max_input_nano_per_mtok=st.none() | st.just(5 * USD),
)
PREFERENCES = st.fixed_dictionaries(
    {},
    optional={
        "only": st.lists(st.sampled_from(["a", "b", "c"]), max_size=2),
        "ignore": st.lists(st.sampled_from(["a", "b", "openrouter"]), max_size=1),
        "order": st.lists(st.sampled_from(["c", "b", "a2"]), max_size=2),
        "sort": st.sampled_from(["price", "latency", "throughput"]),
        "allow_fallbacks": st.booleans(),
        "require_parameters": st.booleans(),
        "max_price": st.just({"prompt": 5}),
    },
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(MODELS, min_size=1, max_size=5, unique=True), st.sampled_from(list(Strategy)), st.sampled_from(list(Strategy)),
    st.lists(MODELS, max_size=2), POLICIES, st.none() | PREFERENCES, st.booleans(), st.booleans(),
    st.lists(st.tuples(st.sampled_from(["a", "a2", "b"]), st.sampled_from(["open", "cooling", "locked", "half_open_due"]))),
    st.sampled_from(["fast", "fast:nitro", "fast:floor", "a/m"]), st.integers(0, 10**6),
)  # fmt: skip
def test_what_is_explained_is_what_is_executed(
    targets: list[str], strategy: Strategy, accounts: Strategy, chain: list[str], policy: KeyPolicy | None,
    preferences: dict[str, Any] | None, picture: bool, hard: bool, sick: list[tuple[str, str]], name: str, seed: int,
) -> None:  # fmt: skip
    """The same chance and counters: the same plan, or the same no."""
    budget = Budget(budget_id="1", scope=Scope.TEAM, scope_id="team", limit_nano_usd=USD, period=Period.DAY, hard=True)
    made = snapshot(
        routes=(route(*targets, strategy=strategy, fallbacks=tuple(chain)),), policy=policy,
        accounts={"a": Choice(strategy=accounts)}, budgets=(budget,) if hard else (),
    )  # fmt: skip
    part = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": [part]}]} if picture else {}
    raw = body(name, **fields, **({"provider": preferences} if preferences is not None else {}))
    world = World(load=Load(clock_s=lambda: 5.0, chance=Random(seed).random))
    world.health = Marks(**{each: Standing(state, at) for at, (each, state) in enumerate(sick)}) if sick else None
    world.load.peek("fast")
    world.load.peek("a/m")
    entry = cast(KeyEntry, made.key("public"))
    drawing = pytest.MonkeyPatch()
    try:
        drawing.setattr(choosing, "random", Random(seed).random)
        explained = explain(world, made, entry, raw)
        drawing.setattr(choosing, "random", Random(seed).random)
        x = exchange(made, raw, world)
        if not explained["candidates"]:
            with pytest.raises(Refused) as caught:
                choose(x)
            assert explained["error"]["message"] == caught.value.refusal.message
            return
        plan = choose(x)
        _, kept = covered(entry, x.call, len(raw), plan, 512)
        executed = unbounded(x.decision, kept)
    finally:
        drawing.undo()
    assert [(each["model"], each["connection"]) for each in explained["candidates"]] == [
        (each.name, each.connection.name) for each in kept
    ]
    if executed is not None:
        said = told(executed)
        assert {name: explained[name] for name in ("removed", "spare", "chain", "panic", "strategy")} == {
            name: said[name] for name in ("removed", "spare", "chain", "panic", "strategy")
        }

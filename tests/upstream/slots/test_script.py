"""slots.lua and its Python model, side by side on a real Redis: same answers, same messages, same state, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis import Redis

from shared.domain.upstream_limits import Queue, Quota, QuotaUnit, UpstreamLimits, Window
from shared.store import keys
from shared.store.redis import database_of
from shared.upstream.slots.cells import EPOCH_S, Cells, compile_cells
from shared.upstream.slots.model import Done, State
from shared.upstream.slots.script import source

NOW_US = 20_000_000_000_000.0
NODES = st.sampled_from(["a", "b", "dead"])
ORGANISATIONS = st.sampled_from(["org_1", "org_2", "org_3"])
optional = st.none
STEPS_US = [0.0, 0.4, 999.5, 20_000.0, 200_000.0, 1_000_000.0, 7_000_000.0, 25_000_000.0, 61_000_000.0, 3_000_000_000.0]
NUMBERS = {
    "r": "r", "t": "t", "g": "g", "p": "pause", "v": "virtual", "q": "queued", "era": "era", "cap": "cap", "ok": "ok",
    "hold": "hold", "seen": "seen",
}  # fmt: skip

limits = st.builds(
    UpstreamLimits,
    requests_per_minute=optional() | st.integers(1, 20) | st.integers(1, 6000),
    tokens_per_minute=optional() | st.integers(100, 100_000),
    burst_requests=optional() | st.integers(1, 20),
    burst_tokens=optional() | st.integers(1, 2_000),
    min_gap_ms=optional() | st.integers(1, 5_000),
    concurrent_requests=optional() | st.integers(1, 5),
    adaptive=st.booleans(),
    queue=st.builds(Queue, most=st.integers(0, 5) | st.just(5), wait_s=st.just(10.0)),
    quotas=st.lists(
        st.builds(Quota, unit=st.sampled_from(QuotaUnit), limit=st.integers(1, 3_000), window=st.sampled_from(Window)),
        max_size=3,
        unique_by=lambda quota: (quota.unit, quota.window),
    ).map(tuple),
)


def arguments(cells: Cells, now_us: float, node: str, op: str, *rest: object) -> list[Any]:
    constant = [
        cells.connection_id, repr(cells.request_us), cells.request_burst, repr(cells.token_us), cells.token_burst, cells.gap_us,
        cells.concurrent, int(cells.adaptive), cells.most_waiting, 30_000,
    ]  # fmt: skip
    padded = [*rest, *[""] * (9 - len(rest))]
    quotas = [value for each in cells.quotas for value in (each.unit, each.limit, each.ends_us)]
    return [repr(now_us), node, *constant, op, *padded, *quotas]


class SideBySide(RuleBasedStateMachine):
    redis: Any
    ears: Any

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushdb()
        self.script = self.redis.register_script(source(database_of(self.redis)))
        self.model = State()
        self.now_us = NOW_US
        self.taken: list[tuple[str, int, int]] = []
        self.heard()

    @initialize(limits=limits)
    def configure(self, limits: UpstreamLimits) -> None:
        self.cells = compile_cells("conn_1", limits, EPOCH_S + NOW_US / 1e6)

    @rule(limits=limits)
    def the_limits_are_edited(self, limits: UpstreamLimits) -> None:
        self.configure(limits)

    @rule(
        us=st.sampled_from(
            [0.0, 0.4, 999.5, 20_000.0, 200_000.0, 1_000_000.0, 7_000_000.0, 25_000_000.0, 61_000_000.0, 3_000_000_000.0]
        )
    )
    def time_passes(self, us: float) -> None:
        self.now_us += us

    def both(self, node: str, op: str, *rest: object) -> list[Any]:
        """Run it in both; what they answer and what other nodes are told is the same."""
        told: list[tuple[str, ...]] = []

        def tell(of: str, ticket: str, era: int, retry_ms: int, next_us: float) -> bool:
            if of == "dead":
                return False
            told.append((of, "conn_1", ticket, str(era), str(retry_ms), f"{next_us:.0f}"))
            return True

        reply = self.script(keys=self.cells.keys, args=arguments(self.cells, self.now_us, node, op, *rest))
        common = (self.cells, self.now_us, node, tell)
        match op:
            case "take":
                said = self.model.take(*common, *rest)  # type: ignore[arg-type]
            case "done":
                ticket, _, tokens, nano, pause_us, era, went, held_us, unused = rest
                end = Done(
                    tokens=tokens, nano=nano, pause_us=pause_us, era=era, went=went, held_us=held_us, unused=unused == 1,  # type: ignore[arg-type]
                )  # fmt: skip
                said = self.model.done(*common, str(ticket), end)
            case "leave":
                said = self.model.leave(*common, *rest)  # type: ignore[arg-type]
            case _:
                said = self.model.look(*common)
        assert [value.decode() if isinstance(value, bytes) else value for value in reply] == said
        assert self.heard(len(told)) == told
        return said

    def heard(self, most: int = 100) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        while len(found) <= most:
            wait_s = 1.0 if len(found) < most < 100 else 0
            message = self.ears.get_message(ignore_subscribe_messages=True, timeout=wait_s)
            if message is None:
                break
            found.append((message["channel"].decode().rpartition(":")[2], *message["data"].decode().split("\n")))
        return found

    @rule(
        node=NODES,
        organisation=ORGANISATIONS,
        tokens=st.integers(0, 3_000),
        nano=st.integers(0, 2_000),
        wait_us=st.sampled_from([0, 50_000, 5_000_000, 60_000_000]),
    )
    def take(self, node: str, organisation: str, tokens: int, nano: int, wait_us: int) -> None:
        ticket = f"t{len(self.taken):04}"
        self.taken.append((ticket, tokens, nano))
        self.both(node, "take", ticket, organisation, tokens, nano, wait_us)

    @rule(at=st.integers(0, 30), node=NODES)
    def take_again(self, at: int, node: str) -> None:
        if self.taken:
            ticket, tokens, nano = self.taken[at % len(self.taken)]
            self.both(node, "take", ticket, "org_1", tokens, nano, 5_000_000)

    @rule(
        at=st.integers(0, 30),
        node=NODES,
        tokens=st.integers(-500, 2_000),
        pause_us=st.sampled_from([0, 0, 0, 1_500_000]),
        back=st.integers(0, 1),
        went=st.sampled_from([1, 1, 0, -1]),
        held_us=st.integers(0, 3_000_000),
        unused=st.sampled_from([0, 0, 1]),
    )
    def done(self, at: int, node: str, tokens: int, pause_us: int, back: int, went: int, held_us: int, unused: int) -> None:
        if self.taken:
            ticket = self.taken[at % len(self.taken)][0]
            self.both(node, "done", ticket, "", tokens, tokens, pause_us, self.model.era - back, went, held_us, unused)

    @rule(at=st.integers(0, 30), node=NODES)
    def leave(self, at: int, node: str) -> None:
        if self.taken:
            self.both(node, "leave", self.taken[at % len(self.taken)][0])

    @rule(node=NODES, us=st.sampled_from([20_000.0, 75_000.0, 240_000.0, 260_000.0]))
    def a_queue_is_looked_after_late(self, node: str, us: float) -> None:
        self.configure(UpstreamLimits(requests_per_minute=3000, burst_requests=1, queue=Queue(most=5)))
        for organisation in ("org_1", "org_2", "org_1"):
            self.take(node, organisation, 10, 0, 5_000_000)
        self.now_us += us
        self.look(node)

    @rule(node=NODES)
    def look(self, node: str) -> None:
        self.both(node, "look")

    @invariant()
    def both_hold_the_same(self) -> None:
        if not hasattr(self, "cells"):
            return
        state_key, leases, waiting, tickets, late, tags = self.cells.keys[:6]
        held = self.redis.hgetall(state_key)
        if held:
            for short, name in NUMBERS.items():
                assert float(held.get(short.encode(), 0)) == float(getattr(self.model, name))
        model = self.model
        for key, known in ((leases, model.leases), (waiting, model.waiting), (late, model.late), (tags, model.tags)):
            assert {name.decode(): score for name, score in self.redis.zrange(key, 0, -1, withscores=True)} == known
        assert {name.decode() for name in self.redis.hkeys(tickets)} == set(self.model.tickets) == set(self.model.waiting)
        if self.cells.concurrent:
            assert len(self.model.leases) <= 5
        assert len(self.model.waiting) <= 5


@pytest.fixture
def connected(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def test_script_and_model_agree(connected: Redis) -> None:
    database = database_of(connected)
    with connected.pubsub() as ears:  # type: ignore[no-untyped-call]
        ears.subscribe(keys.slots_channel(database, "a"), keys.slots_channel(database, "b"))
        while ears.get_message(timeout=0.2) is not None:
            pass
        machine = type("Machine", (SideBySide,), {"redis": connected, "ears": ears})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=100,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )

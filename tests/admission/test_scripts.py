"""The Lua scripts and their Python model, side by side on a real Redis: same verdicts, same state, whatever happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import hiredis
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis import Redis

from shared.admission import packing
from shared.admission.budget import Bound
from shared.admission.cells import Cells, Names, compile_cells
from shared.admission.estimate import Quote
from shared.admission.model import BudgetState, No, State, Unseeded, Yes
from shared.admission.packing import Groups, script
from shared.admission.window import EPOCH_S
from shared.domain.limits import Budget, Limit, Mode, Period, Scope
from shared.store import keys

ORGANISATION = "org_test"
BOOT = "1-abc"
NOW_S = EPOCH_S + 20_000_000.0
LEASE_MS = 30_000


def cells_of(
    limit: int, burst: int | None, tokens: int, concurrent: int, nano: int, mode: Mode, *, hard: bool, key: str = "k"
) -> Cells:
    return compile_cells(
        ORGANISATION,
        [
            Limit(scope=Scope.ORGANISATION, scope_id="o", requests_per_minute=limit, tokens_per_minute=tokens),
            Limit(
                scope=Scope.KEY,
                scope_id=key,
                requests_per_minute=limit,
                burst_requests=burst,
                concurrent_requests=concurrent,
                mode=mode,
            ),
        ],
        [
            Budget(budget_id="bo", scope=Scope.ORGANISATION, scope_id="o", limit_nano_usd=nano * 2, period=Period.MONTH),
            Budget(budget_id=f"b{key}", scope=Scope.KEY, scope_id=key, limit_nano_usd=nano, period=Period.DAY, hard=hard),
        ],
        NOW_S,
    )


Wanted = tuple[int, int, int, int | None, int, int]
CALLS = st.tuples(
    st.integers(0, 2), st.integers(0, 100_000), st.integers(0, 5_000_000_000), st.none() | st.integers(0, 4_000),
    st.integers(1, 3), st.integers(0, 600),
)  # fmt: skip
"""Whose, fixed cost, price, output cap, choices, tokens."""
ENDS = st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 3_000_000), st.integers(0, 2_000))
"""Whose, which call, cost, tokens."""


def union(names: list[Names]) -> tuple[list[bytes], bytes]:
    """The keys, each once, and where each group's stand among them."""
    count, packed, at = Groups().named(names)
    found = hiredis_parts(b"*%d\r\n%b%b" % (count + 1, packed, at))
    return found[:-1], found[-1]


def hiredis_parts(command: bytes) -> list[bytes]:
    reader = hiredis.Reader()
    reader.feed(command)
    return cast(list[bytes], reader.gets())


def as_the_script_says(said: Yes | No | Unseeded) -> list[int]:
    match said:
        case Yes():
            cap = -1 if said.output_cap is None else said.output_cap
            return [1, said.reserved_nano_usd, cap, said.soft_unseeded, *said.nearest[0], *said.nearest[1]]
        case No():
            return [0, said.cell, said.retry_ms, said.wanted, said.remaining]
        case Unseeded():
            return [2, said.cell]


class SideBySide(RuleBasedStateMachine):
    """Every rule does the same to both and compares what they say; the invariant compares what they hold."""

    redis: Any

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushdb()
        self.admit_script = self.redis.register_script(script("admit.lua"))
        self.settle_script = self.redis.register_script(script("settle.lua"))
        self.model = State()
        self.now_us = 20_000_000_000_000.0
        self.ids: list[str] = []
        self.boot = BOOT

    @initialize(
        limit=st.integers(1, 300),
        burst=st.none() | st.integers(0, 20),
        tokens=st.integers(10, 5_000),
        concurrent=st.integers(1, 4),
        nano=st.integers(0, 2_000_000),
        mode=st.sampled_from(Mode),
        hard=st.booleans(),
    )
    def configure(self, limit: int, burst: int | None, tokens: int, concurrent: int, nano: int, mode: Mode, hard: bool) -> None:
        self.cells = cells_of(limit, burst, tokens, concurrent, nano, mode, hard=hard)
        other = cells_of(limit, burst, tokens, concurrent, nano, mode, hard=hard, key="k2")
        changed = cells_of(2 * limit, None, tokens + 7, concurrent + 1, nano + 50_000, Mode.SHADOW, hard=True)
        self.groups = [self.cells, other, changed]
        """Two keys that share an organisation, and the first one's limits as they are after a change."""
        self.budget_keys = list({cell.key: None for cells in self.groups for cell in cells.cells if cell.budget is not None})
        for key in self.budget_keys:
            self.seed(key)

    def seed(self, key: bytes) -> None:
        self.redis.hset(key, mapping={"boot": self.boot, "spent": 0, "reserved": 0})
        self.model.budgets[key] = BudgetState(self.boot)

    @rule(us=st.sampled_from([0.0, 0.1, 1.0, 999.5, 1_000_000.0, 7_000_000.0, 61_000_000.0]))
    def time_passes(self, us: float) -> None:
        self.now_us += us

    @rule(calls=st.lists(CALLS, min_size=1, max_size=5))
    def admit(self, calls: list[Wanted]) -> None:
        """In one run of the script; in the model one after another."""
        said, numbers, named, groups = [], list[int](), list[str | bytes](), Groups()
        for whose, fixed, price, cap, choices, tokens in calls:
            cells = self.groups[whose]
            full = 0 if cap is None else fixed + -(-cap * choices * price // 1_000_000)
            bound = Bound(0 if cap is None else fixed, full, price, cap, choices)
            event_id = f"01910000-0000-7000-8000-{len(self.ids):012d}"
            self.ids.append(event_id)
            numbers += groups.of(cells), *packing.numbers_of(Quote(bound, 0, tokens, priced=True))
            named += event_id, b"event"
            said.append(self.model.admit(event_id, self.boot, cells.cells, bound, tokens, LEASE_MS, self.now_us))
        names, at = union([cells.admit_names for cells in groups.cells])
        replies: Any = self.admit_script(
            keys=names,
            args=[
                repr(self.now_us), self.boot, LEASE_MS, at, msgspec.msgpack.encode(numbers),
                *[argument for cells in groups.cells for argument in (cells.record, cells.admit_args)], *named,
            ],
        )  # fmt: skip
        assert replies == [as_the_script_says(one) for one in said]

    @rule(ends=st.lists(ENDS, min_size=1, max_size=5), estimate=st.booleans())
    def settle(self, ends: list[tuple[int, int, int, int]], estimate: bool) -> None:
        """Also twice, also of calls that were never admitted, also after an estimate; in one run of the script."""
        if not self.ids:
            return
        said, markers, named, groups, numbers = [], list[bytes](), list[str | int](), Groups(), list[int]()
        for whose, at, cost, tokens in ends:
            cells, event_id = self.groups[whose], self.ids[at % len(self.ids)]
            markers += keys.estimate(ORGANISATION, event_id), keys.done(ORGANISATION, event_id)
            numbers.append(groups.of(cells))
            named += event_id, self.boot, cost, tokens
            said.append(self.model.settle(event_id, self.boot, cells.cells, cost, tokens, self.now_us, estimate=estimate))
        names, places = union([cells.settle_names for cells in groups.cells])
        replies: Any = self.settle_script(
            keys=[*names, *markers],
            args=[
                repr(self.now_us), "estimate" if estimate else "actual", places, msgspec.msgpack.encode(numbers),
                *[cells.settle_args for cells in groups.cells], *named,
            ],
        )  # fmt: skip
        assert replies == said

    @rule(which=st.integers(0, 2))
    def a_budget_is_lost(self, which: int) -> None:
        key = self.budget_keys[which]
        self.redis.delete(key)
        self.model.budgets.pop(key, None)

    @rule(which=st.integers(0, 2))
    def a_budget_is_seeded(self, which: int) -> None:
        key = self.budget_keys[which]
        if key not in self.model.budgets or self.model.budgets[key].boot != self.boot:
            self.redis.delete(key)
            self.seed(key)

    @rule()
    def redis_begins_a_new_life(self) -> None:
        self.boot = f"{int(self.boot.partition('-')[0]) + 1}-abc"

    @invariant()
    def both_hold_the_same(self) -> None:
        for key in getattr(self, "budget_keys", []):
            held = {name.decode(): value.decode() for name, value in self.redis.hgetall(key).items()}
            state = self.model.budgets.get(key)
            expected = {} if state is None else {"boot": state.boot, "spent": str(state.spent), "reserved": str(state.reserved)}
            assert held == expected
            waiting = {name.decode(): int(value) for name, value in self.redis.hgetall(keys.unconfirmed(key)).items()}
            assert waiting == self.model.unconfirmed.get(key, {})
        assert {name.decode() for name in self.redis.hkeys(keys.reservation_records(ORGANISATION))} == set(self.model.records)
        for cell in [cell for cells in getattr(self, "groups", ()) for cell in cells.cells]:
            if cell.kind in "cC":
                assert {name.decode() for name in self.redis.zrange(cell.key, 0, -1)} == set(self.model.slots.get(cell.key, {}))
            if cell.rate is not None:
                raw = self.redis.get(cell.key)
                tat = self.model.tats.get(cell.key)
                if raw is not None and tat is not None and tat > self.now_us:
                    assert float(raw) == tat


@pytest.fixture
def connected(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def test_scripts_and_model_agree(connected: Redis) -> None:
    machine = type("Machine", (SideBySide,), {"redis": connected})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_a_record_names_the_cells_that_a_settlement_touches() -> None:
    cells = cells_of(10, None, 100, 2, 5, Mode.ENFORCE, hard=True)
    assert [entry[0] for entry in json.loads(cells.record)] == ["t", "c", "b", "b"]


def test_a_late_settlement_of_an_empty_cell_counts_from_now(connected: Redis) -> None:
    """Whether Redis has dropped the cell yet or not: it keeps one for a second longer than it is needed."""
    machine = type("Machine", (SideBySide,), {"redis": connected})()
    machine.configure(limit=1, burst=None, tokens=10, concurrent=1, nano=0, mode=Mode.ENFORCE, hard=False)
    machine.admit([(0, 0, 0, None, 1, 0)])
    machine.time_passes(us=999_000.0)
    machine.settle([(0, 0, 0, 1)], estimate=False)
    machine.both_hold_the_same()
    (cell,) = [cell for cell in machine.cells.cells if cell.kind in "tT"]
    assert float(cast(bytes, connected.get(cell.key))) == machine.now_us + cell.rate.us_per_unit

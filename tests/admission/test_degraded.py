"""The degraded gate: each node its share, money never, and nothing plain open."""

from __future__ import annotations

import asyncio
import secrets
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.engines import EmbeddedRedis
from shared.admission.budget import Bound
from shared.admission.cells import Cells, compile_cells
from shared.admission.degraded import SHARE, DegradedGate
from shared.admission.estimate import Quote
from shared.admission.gate import Admitted, Denied, Reservation, Unready
from shared.clock import FixedClock
from shared.domain.identity import uuid7
from shared.domain.limits import Budget, Limit, Mode, Scope
from shared.domain.usage import encode_event
from tests.admission.nodes import HARD, ORGANISATION, SOFT, new_event, node

NOW_S = 1_800_000_000.0


def limit(**of: int | None) -> Limit:
    return msgspec.structs.replace(Limit(scope=Scope.KEY, scope_id="k"), **of)


def cells_of(*limits: Limit, budgets: tuple[Budget, ...] = ()) -> Cells:
    return compile_cells(ORGANISATION, limits, budgets, NOW_S)


class Gateway:
    """One node's degraded gate with a clock that the test moves."""

    def __init__(self, nodes: int = 1) -> None:
        self.nodes = nodes
        self.clock = FixedClock(NOW_S)
        self.gate = DegradedGate(self.clock, lambda: self.nodes)

    def admit(self, cells: Cells, tokens: int = 10) -> Admitted | Denied | Unready:
        event = new_event(500, event_id=uuid7(int(self.clock.now_s() * 1000), secrets.randbits(80)))
        quote = Quote(Bound(500, 500, 0, 0, 1), input_tokens_bound=tokens, rate_tokens=tokens, priced=True)
        return self.gate.admit(event.event_id, cells, quote, event, encode_event(event))

    def admitted(self, cells: Cells, tokens: int = 10) -> Reservation:
        verdict = self.admit(cells, tokens)
        assert isinstance(verdict, Admitted), verdict
        return verdict.reservation

    def denied(self, cells: Cells, tokens: int = 10) -> Denied:
        verdict = self.admit(cells, tokens)
        assert isinstance(verdict, Denied), verdict
        return verdict

    def settle(self, reservation: Reservation, tokens: int) -> None:
        event = msgspec.structs.replace(reservation.event, input_tokens=tokens, output_tokens=0)
        self.gate.settle(reservation, event)


def test_four_fifths_of_a_limit_are_shared_among_the_nodes() -> None:
    for nodes, admitted in ((1, 80), (2, 40), (4, 20), (3, 26), (1_000, 1)):
        gateway, cells = Gateway(nodes), cells_of(limit(requests_per_minute=100))
        verdicts = [gateway.admit(cells) for _ in range(100)]
        assert sum(isinstance(verdict, Admitted) for verdict in verdicts) == admitted


@given(st.integers(1, 300), st.integers(1, 6), st.lists(st.integers(0, 2_000), max_size=120))
def test_in_any_minute_a_node_admits_its_share_and_one_burst_of_it(requests: int, nodes: int, gaps_ms: list[int]) -> None:
    """A share below one call is one call."""
    gateway, cells = Gateway(nodes), cells_of(limit(requests_per_minute=requests))
    passed_s: list[float] = []
    for gap_ms in gaps_ms:
        gateway.clock.advance(gap_ms / 1000)
        if isinstance(gateway.admit(cells), Admitted):
            passed_s.append(gateway.clock.now_s())
    part = requests * SHARE / nodes
    for start_s in passed_s:
        within = sum(start_s <= at_s < start_s + 60 for at_s in passed_s)
        assert within <= max(1, int(part)) + part + 1e-6


def test_a_refusal_says_when_the_share_has_room_again() -> None:
    gateway, cells = Gateway(), cells_of(limit(requests_per_minute=10))
    for _ in range(8):
        gateway.admitted(cells)
    verdict = gateway.denied(cells)
    assert (verdict.kind, verdict.limit, verdict.scope) == ("rate", 10, Scope.KEY)
    assert verdict.retry_after_ms == 7_500
    gateway.clock.advance(7.5)
    gateway.admitted(cells)
    gateway.denied(cells)


def test_a_slot_is_free_again_when_its_call_ends_and_not_before() -> None:
    gateway, cells = Gateway(nodes=2), cells_of(limit(concurrent_requests=5))
    first, _ = gateway.admitted(cells), gateway.admitted(cells)
    assert gateway.denied(cells).kind == "concurrency"
    gateway.clock.advance(3_600)
    assert gateway.denied(cells).kind == "concurrency"
    gateway.settle(first, tokens=0)
    gateway.admitted(cells)


def test_tokens_that_were_not_used_are_given_back() -> None:
    gateway, cells = Gateway(), cells_of(limit(tokens_per_minute=1_000))
    first = gateway.admitted(cells, tokens=800)
    assert gateway.denied(cells, tokens=100).kind == "tokens"
    gateway.settle(first, tokens=300)
    gateway.admitted(cells, tokens=500)
    gateway.denied(cells, tokens=1)


def test_a_call_above_the_share_may_come_again_and_one_above_the_limit_may_not() -> None:
    gateway, cells = Gateway(nodes=4), cells_of(limit(tokens_per_minute=1_000))
    for tokens, never in ((201, False), (1_000, False), (1_001, True)):
        verdict = gateway.denied(cells, tokens=tokens)
        assert verdict.never is never
    gateway.admitted(cells, tokens=200)


def test_a_hard_budget_is_not_shared_out() -> None:
    gateway = Gateway()
    for budgets in ((HARD,), (SOFT, HARD)):
        assert gateway.admit(cells_of(limit(requests_per_minute=5), budgets=budgets)) == Unready("redis", 1_000)


def test_a_soft_budget_lets_calls_pass() -> None:
    gateway, cells = Gateway(), cells_of(limit(requests_per_minute=5), budgets=(SOFT,))
    assert gateway.admitted(cells).mode == "degraded"


def test_a_shadow_limit_refuses_nobody() -> None:
    shadow = msgspec.structs.replace(limit(requests_per_minute=1, concurrent_requests=1), mode=Mode.SHADOW)
    gateway = Gateway()
    for _ in range(10):
        gateway.admitted(cells_of(shadow))


def test_a_node_that_dies_leaves_its_share_to_the_others() -> None:
    gateway, cells = Gateway(nodes=2), cells_of(limit(concurrent_requests=10))
    for _ in range(4):
        gateway.admitted(cells)
    gateway.denied(cells)
    gateway.nodes = 1
    for _ in range(4):
        gateway.admitted(cells)
    gateway.denied(cells)


def test_organisations_do_not_share_a_share() -> None:
    gateway, mine = Gateway(), cells_of(limit(requests_per_minute=1))
    theirs = compile_cells("org_other", [limit(requests_per_minute=1)], (), NOW_S)
    gateway.admitted(mine)
    gateway.denied(mine)
    gateway.admitted(theirs)


@pytest.mark.parametrize("strike", ["pause", "stop"])
async def test_calls_of_an_outage_are_on_the_books_after_it(redis_server: EmbeddedRedis, strike: str) -> None:
    """Decided by the node alone, settled when Redis answers again; one of them is still in flight then."""
    most = Limit(scope=Scope.ORGANISATION, scope_id=ORGANISATION, requests_per_minute=100)
    async with node(redis_server.url, limits=(most,), budgets=(SOFT,), deadline_s=0.1) as one:
        await one.presence.refresh()
        assert await one.seeder.seed(one.cells)
        getattr(redis_server, strike)()
        began_s = time.monotonic()
        calls = [await one.admitted(500) for _ in range(3)]
        assert time.monotonic() - began_s < 0.3
        assert {call.mode for call in calls} == {"degraded"}
        for call in calls[:2]:
            one.settle(call, 100)
        if strike == "pause":
            redis_server.resume()
        else:
            redis_server.start()
        async with asyncio.timeout(5):
            while not one.lane.up:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await one.presence.refresh()
        one.gate.retry()
        await one.gate.drained()
        one.settle(calls[2], 20)
        await one.gate.drained()
        assert await one.seeder.seed(one.cells)
        held = await one.redis.hgetall(one.cells.cells[-1].key)  # type: ignore[misc, arg-type]
        assert (int(held[b"spent"]), int(held[b"reserved"])) == (220, 0)

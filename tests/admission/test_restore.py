"""Restore on a real Redis that is emptied, or restarted with its data: nothing is lost and nothing counted twice."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.cli.engines import EmbeddedRedis
from shared.admission import presence
from shared.admission.gate import Admitted
from shared.admission.restore import LEASE_MS
from shared.domain.limits import Budget
from shared.domain.usage import UsageEvent, decode_event
from shared.store import keys
from shared.store.redis import client
from tests.admission.nodes import (
    HARD,
    ORGANISATION,
    SOFT,
    Books,
    Node,
    beating,
    budget_cell,
    new_event,
    node,
    total_cell,
    waiting,
)

RESERVATIONS, RECORDS = keys.reservations(ORGANISATION), keys.reservation_records(ORGANISATION)
SLOTS_CELL = b"ws:{org_test}:c:o:org_test"


@pytest.fixture
def durable_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that has its data again after a restart."""
    server = EmbeddedRedis(tmp_path / "redis", durable=True)
    server.start()
    yield server
    server.stop()


async def held(redis: Redis) -> set[str]:
    """Ids that Redis has records of; the lease list must agree."""
    records = {name.decode() for name in await redis.hkeys(RECORDS)}  # type: ignore[misc, arg-type]
    assert {name.decode() for name in await redis.zrange(RESERVATIONS, 0, -1)} == records
    return records


def amounts(cell: dict[str, str]) -> tuple[int, int]:
    return int(cell["spent"]), int(cell["reserved"])


async def test_a_call_in_flight_keeps_its_reservation_and_its_slot(redis_server: EmbeddedRedis) -> None:
    async with node(redis_server.url, budgets=(HARD, SOFT)) as one:
        await one.presence.refresh()
        reservation = await one.admitted(500)
        redis_server.flush()
        await one.presence.refresh()
        event_id = reservation.event.event_id
        assert await held(one.redis) == {event_id}
        record = await one.redis.hget(RECORDS, event_id)  # type: ignore[misc, arg-type]
        boot, reserved, tokens, cells, event = record.split(b"\n", 4)
        assert (boot.decode(), reserved, tokens) == (one.presence.boot, b"500", b"10")
        assert (cells, decode_event(event)) == (one.cells.record, reservation.event)
        for lease in (await one.redis.zscore(RESERVATIONS, event_id), await one.redis.zscore(SLOTS_CELL, event_id)):
            assert abs((lease or 0) - time.time() * 1000 - LEASE_MS) < 2_000
        assert await one.seeder.seed(one.cells)
        assert amounts(await budget_cell(one.redis)) == (0, 500)
        one.settle(reservation, 123)
        await one.gate.drained()
        assert amounts(await budget_cell(one.redis)) == amounts(await budget_cell(one.redis, SOFT)) == (123, 0)
        assert await held(one.redis) == set()
        assert await one.redis.zcard(SLOTS_CELL) == 0


async def test_restoring_twice_reserves_once(redis_server: EmbeddedRedis) -> None:
    async with node(redis_server.url) as one:
        await one.presence.refresh()
        await one.admitted(500)
        redis_server.flush()
        await one.presence.refresh()
        await one.seeder.seed(one.cells)
        await one.gate.enter(one.presence.boot or "")
        assert amounts(await budget_cell(one.redis)) == (0, 500)


async def test_a_node_that_comes_late_adds_its_calls_to_a_seeded_cell(redis_server: EmbeddedRedis) -> None:
    books, url = Books(), redis_server.url
    async with node(url, books, "late") as late, node(url, books, "quick") as quick:
        await late.presence.refresh()
        await late.admitted(500)
        redis_server.flush()
        await quick.presence.refresh()  # it knows of no other
        assert await quick.seeder.seed(quick.cells)
        await late.presence.refresh()
        assert amounts(await budget_cell(quick.redis)) == (0, 500)


async def test_a_call_that_ends_while_others_are_restored_is_not_brought_back_to_life(redis_server: EmbeddedRedis) -> None:
    async with node(redis_server.url, deadline_s=2) as one:
        await one.presence.refresh()
        calls = [await one.admitted(10) for _ in range(300)]
        chance = random.Random(7)
        redis_server.flush()

        async def ends() -> None:
            while calls:
                one.settle(calls.pop(), 3)
                await asyncio.sleep(chance.choice([0, 0, 0.0002]))

        restoring = asyncio.ensure_future(one.presence.refresh())
        await ends()
        await restoring
        await one.gate.drained()
        assert await held(one.redis) == set()
        assert await one.seeder.seed(one.cells)
        assert amounts(await budget_cell(one.redis)) == (900, 0)


async def test_an_admission_that_is_answered_after_the_change_belongs_to_the_new_life(redis_url: str) -> None:
    async with node(redis_url, budgets=(SOFT,)) as one:
        await one.presence.refresh()
        underway = asyncio.ensure_future(one.admit(500))
        await asyncio.sleep(0)
        one.presence.boot = new = "9999999999999999-next"
        await asyncio.gather(one.gate.enter(new), underway)
        assert isinstance(verdict := underway.result(), Admitted)
        await one.lane.call(b"PING")
        assert (await one.redis.hget(RECORDS, verdict.reservation.event.event_id)).startswith(new.encode())  # type: ignore[misc, arg-type]
        assert verdict.reservation.boot == new


async def test_an_admission_whose_client_left_holds_nothing(redis_url: str) -> None:
    async with node(redis_url) as one:
        await one.presence.refresh()
        await one.seeder.seed(one.cells)
        underway = asyncio.ensure_future(one.admit(500))
        await asyncio.sleep(0)
        underway.cancel()
        await asyncio.gather(underway, return_exceptions=True)
        await one.gate.drained()
        assert await held(one.redis) == set()
        assert amounts(await budget_cell(one.redis)) == (0, 0)
        assert await one.redis.zcard(SLOTS_CELL) == 0


async def test_a_renewal_keeps_the_lease_and_the_cell_that_holds_it(redis_url: str) -> None:
    async with node(redis_url) as one:
        await one.presence.refresh()
        ids = [(await one.admitted(1)).event.event_id for _ in range(3)]
        await one.redis.pexpire(SLOTS_CELL, 500)
        one.gate.renew(4_000_000_000_000)
        await one.lane.call(b"PING")
        assert await one.redis.pttl(SLOTS_CELL) > LEASE_MS
        for cell in (SLOTS_CELL, RESERVATIONS):
            assert await one.redis.zrange(cell, 0, -1, withscores=True) == [
                (event_id.encode(), 4_000_000_000_000.0) for event_id in sorted(ids)
            ]


async def test_a_settled_event_that_is_not_in_the_ledger_waits_for_the_seeding(redis_server: EmbeddedRedis) -> None:
    async with node(redis_server.url) as one:
        await one.presence.refresh()
        event = one.settle(await one.admitted(500), 123)
        free = one.settle(await one.admitted(500), 0)
        await one.gate.drained()
        redis_server.flush()
        await one.presence.refresh()
        assert await waiting(one.redis) == {event.event_id: 123, free.event_id: 0}
        assert await one.redis.ttl(keys.unconfirmed(total_cell())) > 31 * 24 * 3600


async def test_a_reservation_that_a_disk_brought_back_after_its_settlement_is_no_reservation(redis_url: str) -> None:
    """An fsync each second may lose the settlement and keep the admission."""
    async with node(redis_url) as one:
        await one.presence.refresh()
        reservation = await one.admitted(500)
        record = await one.redis.hget(RECORDS, reservation.event.event_id)  # type: ignore[misc, arg-type]
        one.settle(reservation, 123)
        await one.gate.drained()
        await one.redis.hset(RECORDS, reservation.event.event_id, record)  # type: ignore[misc, arg-type]
        await one.redis.zadd(RESERVATIONS, {reservation.event.event_id: 1})
        await one.redis.set(keys.BOOT, "1-another")
        await one.presence.refresh()
        assert await held(one.redis) == set()
        assert await one.seeder.seed(one.cells)
        assert amounts(await budget_cell(one.redis)) == (123, 0)


async def test_a_settlement_that_redis_did_not_take_is_sent_before_budgets_are_rebuilt(durable_redis: EmbeddedRedis) -> None:
    async with node(durable_redis.url) as one:
        await one.presence.refresh()
        reservation = await one.admitted(500)
        durable_redis.stop()
        one.settle(reservation, 123)
        await one.gate.drained()
        durable_redis.start()
        async with asyncio.timeout(5):
            while not one.lane.up:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await one.presence.refresh()
        assert await held(one.redis) == set()
        assert await one.redis.zcard(SLOTS_CELL) == 0
        assert await waiting(one.redis) == {reservation.event.event_id: 123}


async def test_a_settlement_into_a_cell_of_an_older_life_waits_for_the_seeding(redis_url: str) -> None:
    async with node(redis_url) as one:
        await one.presence.refresh()
        reservation = await one.admitted(500)
        await one.redis.set(keys.BOOT, "1-another")  # as after a restart with all data
        await one.presence.refresh()
        one.settle(reservation, 123)
        await one.gate.drained()
        assert await waiting(one.redis) == {reservation.event.event_id: 123}
        assert await one.seeder.seed(one.cells)
        assert amounts(await budget_cell(one.redis)) == (123, 0)


async def test_a_node_whose_lane_is_down_does_not_register(redis_server: EmbeddedRedis) -> None:
    async with node(redis_server.url) as one:
        await one.presence.refresh()
        await one.admitted(500)
        await one.lane.close()
        redis_server.flush()
        with pytest.raises(ConnectionError):
            await one.presence.refresh()
        state = await one.presence.missing(one.presence.boot or "")
        assert state is not None
        assert state[0] == {"node-1"}


async def test_a_node_that_joins_tells_nothing_to_cells_that_know(redis_url: str) -> None:
    books, event = Books(), new_event(70)
    async with node(redis_url, books, "first") as first, node(redis_url, books, "second") as second:
        assert await first.seeder.seed(first.cells)
        second.log[event.event_id] = event
        await second.presence.refresh()
        assert await waiting(first.redis) == {}
        assert amounts(await budget_cell(first.redis)) == (0, 0)


async def test_ten_thousand_unconfirmed_events_are_told_without_stopping_the_node(redis_server: EmbeddedRedis) -> None:
    async with node(redis_server.url) as one:
        await one.presence.refresh()
        one.log = {event.event_id: event for event in (new_event(1) for _ in range(10_000))}
        redis_server.flush()
        longest_s = 0.0
        restoring = asyncio.ensure_future(one.presence.refresh())
        while not restoring.done():
            began_s = time.monotonic()
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.monotonic() - began_s)
        assert await one.seeder.seed(one.cells)
        assert amounts(await budget_cell(one.redis)) == (10_000, 0)
        assert longest_s < 0.2


class Traffic:
    """Calls on several nodes, a worker that books the stream, logs that confirm and send again: all at once."""

    def __init__(self, nodes: list[Node], redis: Redis, seed: int) -> None:
        self.nodes, self.redis, self.chance = nodes, redis, random.Random(seed)
        self.settled: list[UsageEvent] = []
        self.over = False

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        tasks = [asyncio.ensure_future(self._caller(one)) for one in self.nodes for _ in range(12)]
        tasks += [asyncio.ensure_future(self._worker()), *(asyncio.ensure_future(self._log(one)) for one in self.nodes)]
        try:
            yield
        finally:
            self.over = True
            await asyncio.gather(*tasks)

    async def _caller(self, one: Node) -> None:
        while not self.over:
            verdict = await one.admit(self.chance.randrange(50, 100))
            if not isinstance(verdict, Admitted):
                await asyncio.sleep(0.02)
                continue
            await asyncio.sleep(self.chance.random() * 0.03)
            self.settled.append(one.settle(verdict.reservation, self.chance.randrange(1, 50)))

    async def _worker(self) -> None:
        """Books what it read, a little later: Redis may have forgotten it by then."""
        last: bytes | str = "0"
        while not self.over:
            try:
                reply = await self.redis.xread({keys.USAGE_STREAM: last}, count=200)
                await asyncio.sleep(0.02)
                for entry_id, fields in reply[0][1] if reply else ():
                    last = entry_id
                    for raw in fields.values():
                        self.nodes[0].books.book(decode_event(raw))
                if not reply and not await self.redis.exists(keys.USAGE_STREAM):
                    last = "0"
            except (RedisError, OSError):
                last = "0"
            await asyncio.sleep(0.01)

    async def _log(self, one: Node) -> None:
        """Sends again what the ledger does not have some time after, and forgets what it has."""
        while not self.over:
            old = list(one.log.values())
            await asyncio.sleep(0.3)
            for event in old:
                one.books.book(event)
                one.log.pop(event.event_id, None)


async def quiet(nodes: list[Node], redis: Redis) -> dict[str, str]:
    """The cell after everything ended and every node has beaten."""
    for _ in range(3):
        for one in nodes:
            await one.presence.refresh()
            one.gate.retry()
            await one.gate.drained()
    assert await nodes[0].seeder.seed(nodes[0].cells)
    budget = nodes[0].cells.cells[-1].budget
    assert budget is not None
    return await budget_cell(redis, budget)


Strike = Callable[[EmbeddedRedis], None]


def emptied(server: EmbeddedRedis) -> None:
    server.flush()


def restarted(server: EmbeddedRedis) -> None:
    server.stop()
    server.start()


def killed(server: EmbeddedRedis) -> None:
    server.stop(signal.SIGKILL)
    time.sleep(0.5)
    server.start()


def hung(server: EmbeddedRedis) -> None:
    server.pause()
    time.sleep(0.8)
    server.resume()


def hung_and_emptied(server: EmbeddedRedis) -> None:
    hung(server)
    server.flush()


@pytest.fixture
def quick_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "BEAT_S", 0.2)


@pytest.mark.usefixtures("quick_heart")
@pytest.mark.parametrize(("seed", "budget"), [(1, HARD), (2, SOFT)])
async def test_a_redis_emptied_under_load_loses_no_event_and_counts_none_twice(
    redis_server: EmbeddedRedis, seed: int, budget: Budget
) -> None:
    await chaos(redis_server, seed, emptied, budget)


@pytest.mark.usefixtures("quick_heart")
@pytest.mark.parametrize(("seed", "budget"), [(3, HARD), (4, SOFT)])
async def test_a_redis_restarted_with_its_data_under_load_loses_no_event_and_counts_none_twice(
    durable_redis: EmbeddedRedis, seed: int, budget: Budget
) -> None:
    await chaos(durable_redis, seed, restarted, budget)


@pytest.mark.soak
@pytest.mark.usefixtures("quick_heart")
@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("budget", [HARD, SOFT])
@pytest.mark.parametrize("strike", [emptied, restarted, killed, hung, hung_and_emptied])
@pytest.mark.parametrize("seed", [11, 12, 13])
async def test_whatever_happens_to_redis_loses_no_event_and_counts_none_twice(
    redis_server: EmbeddedRedis, durable_redis: EmbeddedRedis, seed: int, strike: Strike, budget: Budget, durable: bool
) -> None:
    await chaos(durable_redis if durable else redis_server, seed, strike, budget, changes=4)


async def chaos(server: EmbeddedRedis, seed: int, strike: Strike, budget: Budget, changes: int = 2) -> None:
    try:
        await struck(server, seed, strike, budget, changes)
    finally:
        server.stop()  # it would end with the thread that started it last, perhaps while the next test has it


async def struck(server: EmbeddedRedis, seed: int, strike: Strike, budget: Budget, changes: int) -> None:
    books, url = Books(), server.url
    async with (
        client(url) as redis,
        node(url, books, "a", budgets=(budget,)) as a,
        node(url, books, "b", budgets=(budget,)) as b,
    ):
        nodes = [a, b]
        for one in (a, b, a):
            await one.presence.refresh()
            await one.seeder.seed(one.cells)
        traffic, lives = Traffic(nodes, redis, seed), set()
        async with beating(a.presence), beating(b.presence), traffic.flowing():
            for _ in range(changes):
                await asyncio.sleep(0.1 + traffic.chance.random() * 0.3)
                await asyncio.to_thread(strike, server)
                await asyncio.sleep(0.5)
                lives.add(a.presence.boot)
        cell = await quiet(nodes, redis)
        assert len(lives) == (1 if strike is hung else changes)
        assert len(traffic.settled) > 50 * changes
        assert await held(redis) == set()
        assert amounts(cell) == (sum(event.cost_nano_usd for event in traffic.settled), 0)
        for one in nodes:
            one.confirm()
        assert set(books.events) == {event.event_id for event in traffic.settled}

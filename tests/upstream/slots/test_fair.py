"""The proof of fairness: one organisation with fifty times the demand of another, on four nodes and a real Redis.

The light one sends bursts, so that alone it waits for itself; it must hardly wait longer beside the heavy one, and the
connection must be used to the full. The limits are short, so that seconds hold hundreds of calls.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.domain.catalogue import Connection
from shared.domain.upstream_limits import UpstreamLimits
from shared.upstream.slots.slots import NoSlot, Slots
from tests.upstream.slots.conftest import connection, limits, nodes

RUN_S = 6.0
EVERY_S = 1.5


class Tenant:
    """Sends `burst` calls every `every_s` over all nodes; each holds its slot for `hold_s`."""

    def __init__(self, name: str, burst: int, hold_s: float, every_s: float = EVERY_S) -> None:
        self.name, self.burst, self.hold_s, self.every_s = name, burst, hold_s, every_s
        self.waits: list[float] = []
        self.refused = 0
        self.went = 0
        self.held_s = 0.0

    async def run(self, made: list[Slots], name: str, setting: UpstreamLimits) -> None:
        calls, started_s, number = [], time.monotonic(), 0
        while (left_s := started_s + RUN_S - time.monotonic()) > 0:
            for _ in range(self.burst):
                number += 1
                calls.append(asyncio.ensure_future(self._call(made[number % len(made)], connection(setting, name), number)))
            await asyncio.sleep(min(self.every_s, left_s))
        await asyncio.gather(*calls)

    async def _call(self, slots: Slots, through: Connection, number: int) -> None:
        asked_s = time.monotonic()
        try:
            slot = await slots.take(through, self.name, 100, 10.0, f"{self.name}-{number}")
        except NoSlot:
            self.refused += 1
            return
        if number > self.burst:  # whoever comes for the first time shares evenly; then it is known for using little
            self.waits.append(time.monotonic() - asked_s)
        self.went += 1
        if self.hold_s:
            granted_s = time.monotonic()
            await asyncio.sleep(self.hold_s)
            self.held_s += time.monotonic() - granted_s
        slot.done(100, 200, {})

    @property
    def p99_s(self) -> float:
        return sorted(self.waits)[int(len(self.waits) * 0.99)]


class Stalls:
    """Time in which this process, all four nodes with it, did not run: the machine has other things to do."""

    def __init__(self) -> None:
        self._lost_s = 0.0
        self._task = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(0.005)
            lag_s = time.monotonic() - before_s - 0.005
            self._lost_s += lag_s if lag_s > 0.1 else 0.0

    def stop(self) -> float:
        self._task.cancel()
        return self._lost_s


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("name", "setting", "burst", "hold_s", "capacity_per_s"),
    [
        ("rpm", limits(requests_per_minute=3000, burst_requests=1, most=200), 25, 0.0, 50.0),
        ("tpm", limits(tokens_per_minute=300_000, burst_tokens=100, most=200), 25, 0.0, 50.0),
        ("concurrent", limits(concurrent_requests=6, adaptive=False, most=200), 25, 0.12, 50.0),
    ],
)
async def test_a_light_tenant_waits_hardly_longer_beside_one_of_fifty_times_its_demand(
    redis_url: str, name: str, setting: UpstreamLimits, burst: int, hold_s: float, capacity_per_s: float
) -> None:
    alone = Tenant("light", burst, hold_s)
    async with nodes(redis_url, 4) as made:
        await alone.run(made, "alone", setting)
    light, heavy = Tenant("light", burst, hold_s), Tenant("heavy", burst, hold_s, EVERY_S / 50)
    async with nodes(redis_url, 4) as made:
        started_s, stalls = time.monotonic(), Stalls()
        working = asyncio.ensure_future(heavy.run(made, "beside", setting))
        await asyncio.sleep(EVERY_S)
        await asyncio.gather(working, light.run(made, "beside", setting))
        took_s, stalled_s = time.monotonic() - started_s, stalls.stop()
    used = (light.went + heavy.went) / (capacity_per_s * (took_s - stalled_s))
    if setting.concurrent_requests is not None:  # then what is used is time, stalls and all
        used = (light.held_s + heavy.held_s) / (setting.concurrent_requests * took_s)
    print(
        f"{name}: light alone p99 {alone.p99_s * 1000:.0f} ms, beside {light.p99_s * 1000:.0f} ms "
        f"({light.p99_s / alone.p99_s:.2f} x), refused {light.refused}; heavy {heavy.went} went, {heavy.refused} refused; "
        f"used {used * 100:.1f} % of {took_s:.1f} s, stalled {stalled_s:.1f} s"
    )
    assert light.refused == 0
    assert light.p99_s <= 1.5 * alone.p99_s
    assert 0.95 <= used <= 1.05

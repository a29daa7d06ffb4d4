"""Half-open: one probe for the whole cluster in each open period, whatever becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections import Counter
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.domain.health import Profile
from shared.store import keys
from shared.store.redis import database_of
from shared.upstream.health import Probe
from tests.health.nodes import BROKEN, LIMITED, PACE, REFUSED, Node, deployment, nodes, until

CYCLES = int(os.environ.get("CHAOS_TIMES", "1")) * 100
QUICK = Profile(failures=2, open_s=0.02, longest_open_s=0.02, cooldown_s=0.02, longest_cooldown_s=0.02)
"""Breakers that open for about 20 ms."""

ENDS = Counter({"bad": 62, "well": 10, "429": 10, "client left": 10, "killed": 6, "401": 2})
"""How a hundred probes end."""


class Provider:
    """Where probes go. Each ends in another way; no two may be under way at once."""

    def __init__(self, lease_s: float, seed: int) -> None:
        self.deployment = deployment(profile=QUICK)
        self.random = random.Random(seed)
        self.lease_s = lease_s
        self.busy_until_s = 0.0
        self.epochs: list[int] = []
        self.ends: Counter[str] = Counter()
        self.coming: list[str] = []
        self.overlaps = 0

    async def call(self, node: Node, probe: Probe) -> None:
        assert probe.breaker is not None
        self.epochs.append(probe.breaker)
        now_s = time.monotonic()
        self.overlaps += now_s < self.busy_until_s
        if not self.coming:
            self.coming = self.random.sample(list(ENDS), k=ENDS.total(), counts=ENDS.values())
        end = self.coming.pop()
        self.ends[end] += 1
        self.busy_until_s = now_s + self.lease_s - 0.1  # until it ends, which is at the latest when its lease is over
        if end == "killed":
            node.health._probes.discard(probe)  # nobody renews its lease, nobody ends it
            return
        await asyncio.sleep(self.random.random() * 0.004)
        self.busy_until_s = 0.0
        failure = {"bad": BROKEN, "429": LIMITED, "401": REFUSED}.get(end)
        node.health.report(self.deployment, failure, neutral=end == "client left", probe=probe)

    async def caller(self, node: Node) -> None:
        """What the flow does, as often as it can; sometimes its client leaves while it claims."""
        while len(self.epochs) < CYCLES:
            await asyncio.sleep(self.random.random() * 0.003)
            standing = node.standing(self.deployment)
            if standing is None:
                node.fail(self.deployment)
            elif standing == "half_open_due":
                claiming = asyncio.ensure_future(node.health.claim(self.deployment))
                if self.random.random() < 0.05:
                    await asyncio.sleep(self.random.random() * 0.001)
                    claiming.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    probe = await claiming
                    if probe is not None and probe.breaker is not None:
                        await self.call(node, probe)
                    elif probe is not None:
                        node.health.report(self.deployment, None, probe=probe)


async def heard(redis: Redis, into: list[dict[str, Any]], subject: str) -> None:
    """Every change of a mark, as Redis tells it."""
    async with redis.pubsub() as channel:
        await channel.subscribe(keys.health_channel(database_of(redis)))
        while True:
            message = await channel.get_message(ignore_subscribe_messages=True, timeout=5.0)
            if message is not None:
                notice = json.loads(message["data"])
                if notice["s"] == subject and "v" in notice:
                    into.append(notice)


@pytest.mark.timeout(400)
async def test_every_open_period_has_exactly_one_probe(redis_url: str) -> None:
    pace = type(PACE)(lease_s=0.6, renew_s=0.2, tick_s=0.05, recheck_s=0.05)
    provider = Provider(pace.lease_s, seed=4)
    told: list[dict[str, Any]] = []
    async with nodes(redis_url, 4, pace=pace) as cluster, Redis.from_url(redis_url) as redis:
        listener = asyncio.ensure_future(heard(redis, told, provider.deployment.key))
        await asyncio.sleep(0.1)
        await asyncio.gather(*(provider.caller(node) for node in cluster for _ in range(3)))
        await asyncio.sleep(0.2)
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
    print(dict(provider.ends), "probes", len(provider.epochs))
    assert provider.overlaps == 0
    assert len(provider.epochs) == len(set(provider.epochs)) >= CYCLES
    assert all(provider.ends[end] >= ENDS[end] for end in ENDS)
    check_periods(told, set(provider.epochs))


def check_periods(told: list[dict[str, Any]], probed: set[int]) -> None:
    """As Redis told it: a period begins with an opening, a probe given back, or a lease that ran out. One grant ends each."""
    granted: set[int] = set()
    running: dict[str, Any] | None = None
    for notice in sorted(told, key=lambda notice: int(notice["v"])):
        mark = notice.get("m")
        if mark is not None and mark["state"] == "half_open":
            if running is not None and running["epoch"] != mark["epoch"]:
                assert notice["v"] >= running["lease_ms"], "two probes at once"
            if running is None or running["epoch"] != mark["epoch"]:
                assert mark["epoch"] not in granted
                granted.add(mark["epoch"])
            running = mark
        else:
            running = None
    assert probed <= granted  # more were granted to calls whose clients had left: those were given back unused


async def test_a_dead_nodes_probe_goes_to_another_after_its_lease(redis_url: str) -> None:
    lab = deployment(profile=QUICK)
    async with nodes(redis_url, 2) as (one, two):
        one.fail(lab, 2)
        await until(lambda: two.standing(lab) == "half_open_due")
        held = await one.claimed(lab)
        await one.die()
        began_s = time.monotonic()
        probe = None
        while probe is None:
            probe = await two.health.claim(lab)
            await asyncio.sleep(0.01)
        assert 0.6 < time.monotonic() - began_s < 3
        assert probe.breaker != held.breaker


async def test_a_probe_of_a_call_that_left_while_it_asked_is_given_back(redis_url: str) -> None:
    lab = deployment(profile=QUICK)
    async with nodes(redis_url, 2) as (one, two):
        one.fail(lab, 2)
        await until(lambda: one.standing(lab) == "half_open_due" and two.standing(lab) == "half_open_due")
        await asyncio.sleep(0.02)
        claiming = asyncio.ensure_future(one.health.claim(lab))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
        assert claiming.cancelled()
        began_s = time.monotonic()
        assert await two.claimed(lab)
        assert time.monotonic() - began_s < PACE.lease_s / 2
        assert not one.health._probes


async def test_a_long_probe_keeps_its_lease_and_a_late_end_is_not_heard(redis_url: str) -> None:
    lab = deployment(profile=QUICK)
    pace = type(PACE)(lease_s=0.4, renew_s=0.1, tick_s=0.05)
    async with nodes(redis_url, 2, pace=pace) as (one, two):
        one.fail(lab, 2)
        await until(lambda: two.standing(lab) == "half_open_due")
        probe = await one.claimed(lab)
        for _ in range(20):
            assert await two.health.claim(lab) is None
            await asyncio.sleep(0.05)
        one.health._probes.discard(probe)  # as if this node had stopped for a while
        other = None
        while other is None:
            other = await two.health.claim(lab)
            await asyncio.sleep(0.02)
        one.health._probes.add(probe)
        one.health.report(lab, None, probe=probe)
        await asyncio.sleep(0.1)
        assert two.health.marks[lab.key].epoch == other.breaker
        two.health.report(lab, None, probe=other)
        two.health.report(lab, BROKEN, probe=other)  # it is gone: an ordinary failure now
        await until(lambda: not (one.health.marks or two.health.marks))


async def test_a_probe_that_nobody_ends_is_not_renewed_for_ever(redis_url: str) -> None:
    lab = deployment(profile=QUICK)
    pace = type(PACE)(lease_s=0.2, renew_s=0.05, tick_s=0.02, probe_slack_s=-304.5)
    async with nodes(redis_url, pace=pace) as (node,):
        node.fail(lab, 2)
        await until(lambda: node.standing(lab) == "half_open_due")
        assert await node.claimed(lab)
        took_s = await until(lambda: node.standing(lab) == "half_open_due")
        assert 0.5 < took_s < 3
        assert await node.claimed(lab)


async def test_one_probe_serves_a_locked_connection_and_its_breaker(redis_url: str) -> None:
    lab, sibling = deployment(profile=QUICK), deployment("other", profile=QUICK)
    pace = type(PACE)(lease_s=1.0, renew_s=0.3, tick_s=0.05, recheck_s=0.1)
    async with nodes(redis_url, 2, pace=pace) as (one, two):
        one.fail(lab, 2)
        one.fail(sibling, 1, REFUSED)
        await until(lambda: len(two.health.marks) == 2 and two.standing(lab) == "half_open_due")
        probe = await two.claimed(lab)
        assert len(probe.claims()) == 2
        assert await one.health.claim(sibling) is None
        two.health.report(lab, BROKEN, probe=probe)  # says nothing about the credential
        await until(lambda: one.standing(sibling) == "half_open_due")
        probe = await one.claimed(sibling)
        one.health.report(sibling, None, probe=probe)
        await until(lambda: list(two.health.marks) == [lab.key])


async def test_a_429_lets_the_next_probe_go_when_the_connection_has_cooled_down(redis_url: str) -> None:
    lab = deployment(profile=QUICK)
    async with nodes(redis_url, 2) as (one, two):
        one.fail(lab, 2)
        await until(lambda: two.standing(lab) == "half_open_due")
        probe = await two.claimed(lab)
        trips = two.health.marks[lab.key].trips
        limited = type(LIMITED)(failure_class=LIMITED.failure_class, message="answered 429", status=429, retry_after_s=1.0)
        two.health.report(lab, limited, probe=probe)
        await until(lambda: one.standing(lab) == "cooling")
        assert await one.health.claim(lab) is None
        await until(lambda: one.standing(lab) == "half_open_due")
        assert one.health.marks[lab.key].trips == trips
        assert await one.claimed(lab)


async def test_a_probe_that_was_not_sent_is_due_again_when_it_is_put_off_to(redis_url: str) -> None:
    lab = deployment(profile=QUICK)
    async with nodes(redis_url, 2) as (one, two):
        one.fail(lab, 2)
        await until(lambda: one.standing(lab) == "half_open_due")
        probe = await one.claimed(lab)
        trips = two.health.marks[lab.key].trips
        one.health.give_back(probe, 0.4)
        await until(lambda: two.standing(lab) == "open")
        assert await two.health.claim(lab) is None
        assert 0.2 < await until(lambda: two.standing(lab) == "half_open_due") < 2
        assert two.health.marks[lab.key].trips == trips
        one.health.give_back(await one.claimed(lab))
        assert await two.claimed(lab)  # at once

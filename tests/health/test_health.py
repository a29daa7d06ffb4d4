"""Health of several nodes on one Redis: they agree, whatever a call met, and at once."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit, urlunsplit

import msgspec
import pytest
from redis.asyncio import Redis

from services.cli.engines import EmbeddedRedis
from shared.domain.catalogue import Model
from shared.domain.failure import Failure, FailureClass
from shared.domain.health import Profile
from shared.providers import registry
from shared.routing.breaker import WEIGHT
from tests.health.nodes import BROKEN, LIMITED, PACE, REFUSED, deployment, nodes, until, with_credential


async def test_failures_in_a_row_of_all_nodes_together_open_it_for_all(redis_url: str) -> None:
    lab, other = deployment(), deployment("other")
    async with nodes(redis_url, 3) as (one, two, three):
        assert not one.health.marks
        one.fail(lab)
        two.fail(lab)
        await asyncio.sleep(0.1)
        assert [node.standing(lab) for node in (one, two, three)] == [None] * 3
        three.fail(lab)
        await until(lambda: {node.standing(lab) for node in (one, two, three)} == {"open"})
        assert one.standing(other) is None
        standing = two.health.standing(lab, time.time())
        assert standing is not None
        assert 55 < standing.until_s - time.time() < 61
        assert standing.reason == "too many failures in a row (provider_fault, the provider answered 500)"


async def test_another_installation_on_the_same_server_hears_nothing(redis_server: EmbeddedRedis) -> None:
    """Redis' messages go to all databases of a server."""
    lab = deployment()
    urls = [urlunsplit(urlsplit(redis_server.url)._replace(path=f"/{database}")) for database in (1, 2)]
    async with nodes(urls[0], 2) as (one, two), nodes(urls[1]) as (stranger,):
        one.fail(lab, 3)
        await until(lambda: two.standing(lab) == "open")
        await asyncio.sleep(0.1)
        assert stranger.standing(lab) is None
        assert lab.key not in stranger.health._watched


async def test_a_success_anywhere_ends_the_row(redis_url: str) -> None:
    lab = deployment()
    async with nodes(redis_url, 2) as (one, two):
        for _ in range(4):
            one.fail(lab, 2)
            await until(lambda: bool(two.health._watched.get(lab.key) and two.health._watched[lab.key].strikes == 2))
            two.health.report(lab, None)
            await until(lambda: one.health._watched[lab.key].strikes == 0)
        assert one.standing(lab) is None


async def test_an_overloaded_provider_counts_half_and_a_clients_fault_not_at_all(redis_url: str) -> None:
    lab, overloaded, faulty = deployment(), deployment("overloaded"), deployment("faulty")
    answered_503 = Failure(failure_class=FailureClass.OVERLOADED, message="answered 503", status=503)
    async with nodes(redis_url) as (node,):
        node.fail(overloaded, 5, answered_503)
        for kind in (FailureClass.CLIENT_FAULT, FailureClass.CONTENT_FILTER):
            node.fail(faulty, 10, Failure(failure_class=kind, message="answered 400", status=400))
        node.fail(lab, 2)
        await asyncio.sleep(0.1)
        assert not node.health.marks
        assert faulty.key not in node.health._watched
        node.fail(overloaded, 1, answered_503)
        await until(lambda: node.standing(overloaded) == "open")


@pytest.mark.parametrize("kind", sorted(WEIGHT))
async def test_every_failure_of_the_providers_opens(redis_url: str, kind: FailureClass) -> None:
    lab = deployment()
    async with nodes(redis_url) as (node,):
        node.fail(lab, 6, Failure(failure_class=kind, message="failed"))
        await until(lambda: node.standing(lab) == "open")


async def test_a_large_share_of_failures_opens_though_some_succeed(redis_url: str) -> None:
    lab = deployment(profile=Profile(failures=100, error_share=0.5, least_calls=20))
    fine = deployment("fine", profile=Profile(failures=100, error_share=0.5, least_calls=20))
    async with nodes(redis_url, 2) as (one, two):
        for number in range(40):
            one.fail(lab)
            two.fail(fine)
            await asyncio.sleep(0.005)
            if number % 2:
                two.health.report(lab, None)
            for _ in range(3):
                one.health.report(fine, None)
        await until(lambda: one.standing(lab) == "open")
        assert one.health.marks[lab.key].rule == "share"
        assert two.standing(fine) is None


async def test_nothing_is_counted_or_posted_while_all_is_well(redis_url: str) -> None:
    lab = deployment()
    async with nodes(redis_url) as (node,):
        async with Redis.from_url(redis_url) as redis:
            before = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            for _ in range(1_000):
                node.health.report(lab, None)
                node.health.report(lab, None, neutral=True)
            await asyncio.sleep(0.2)
            after = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            assert after - before <= 1  # a look of the safety net may fall in between
            assert await redis.keys("ws:{health}:n:*") == []
        assert not node.health._watched


async def test_a_deployment_that_is_well_again_is_watched_no_longer(redis_url: str) -> None:
    lab = deployment(profile=Profile(failures=5, window_s=0.2))
    async with nodes(redis_url, 2) as (one, two):
        one.fail(lab)
        await until(lambda: lab.key in two.health._watched)
        began_s = time.monotonic()
        while one.health._watched or two.health._watched:
            one.health.report(lab, None)
            two.health.report(lab, None)
            await asyncio.sleep(0.01)
            assert time.monotonic() - began_s < 5


async def test_a_429_cools_the_connection_down_and_leaves_its_breakers_alone(redis_url: str) -> None:
    lab, sibling, elsewhere = deployment(), deployment("other"), deployment(connection="conn_b")
    async with nodes(redis_url, 2) as (one, two):
        for wait_s, expected_s in ((0.2, 1.0), (30.0, 30.0), (86_400.0, 3600.0)):
            told = Failure(failure_class=FailureClass.RATE_LIMITED, message="answered 429", status=429, retry_after_s=wait_s)
            one.fail(lab, 5, told)
            await until(lambda: {two.standing(lab), two.standing(sibling)} == {"cooling"})
            await asyncio.sleep(0.05)
            standing = two.health.standing(lab, time.time())
            assert standing is not None
            assert expected_s - 1 < standing.until_s - time.time() <= expected_s
            assert standing.reason == "the provider limits its calls (rate_limited, the provider answered 429)"
        assert two.standing(elsewhere) is None
        assert list(two.health.marks) == ["conn_lab"]


async def test_a_cooldown_that_nobody_told_doubles_and_ends_by_itself(redis_url: str) -> None:
    lab = deployment(profile=Profile(cooldown_s=0.2, longest_cooldown_s=0.8))
    lasted = []
    async with nodes(redis_url, 2) as (one, two):
        for _ in range(4):
            one.fail(lab, 3, LIMITED)  # at once: calls from before it was known are one cooldown
            await until(lambda: bool(two.health.marks))
            mark = two.health.marks["conn_lab"]
            lasted.append(mark.until_ms - mark.since_ms)
            await until(lambda: two.standing(lab) is None)
            await until(lambda: not one.health.marks and not two.health.marks)
    assert lasted == [200, 400, 800, 800]


async def test_a_refused_credential_locks_its_connection_until_it_is_changed(redis_url: str) -> None:
    lab, sibling = deployment(), deployment("other")
    async with nodes(redis_url, 3) as (one, two, three):
        one.fail(lab, 1, REFUSED)
        await until(lambda: {node.standing(sibling) for node in (one, two, three)} == {"locked"})
        standing = two.health.standing(lab, time.time())
        assert standing is not None
        assert 290 < standing.until_s - time.time() <= 300
        assert standing.reason == "the credential was refused (credential, the provider answered 401)"
        changed = with_credential(lab, 2)
        assert two.standing(changed) is None
        await until(lambda: not (one.health.marks or two.health.marks or three.health.marks))
        three.fail(lab, 1, REFUSED)  # a call from before the change
        await until(lambda: bool(one.health.marks))
        assert one.standing(changed) is None
        await until(lambda: not three.health.marks)


async def test_an_account_without_credit_is_locked_and_tried_again(redis_url: str) -> None:
    lab = deployment()
    pace = type(PACE)(lease_s=1.0, renew_s=0.3, tick_s=0.05, recheck_s=0.3)
    empty = Failure(failure_class=FailureClass.QUOTA, message="answered 402", status=402)
    async with nodes(redis_url, 2, pace=pace) as (one, two):
        one.fail(lab, 1, empty)
        await until(lambda: two.standing(lab) == "locked")
        assert await two.health.claim(lab) is None
        await until(lambda: two.standing(lab) == "half_open_due")
        probe = await one.claimed(lab)
        assert await two.health.claim(lab) is None
        assert (probe.breaker, probe.lock is not None) == (None, True)
        one.health.report(lab, empty, probe=probe)
        await until(lambda: {one.standing(lab), two.standing(lab)} == {"locked"})
        await until(lambda: two.standing(lab) == "half_open_due")
        probe = await two.claimed(lab)
        two.health.report(lab, None, probe=probe)
        await until(lambda: not (one.health.marks or two.health.marks))


async def test_a_change_reaches_every_node_within_250_ms(redis_url: str) -> None:
    """From the report that opens to the last node that knows. On a machine that does something else the median has to do."""
    reach_ms = []
    async with nodes(redis_url, 4) as cluster:
        for number in range(60):
            lab = deployment(f"model-{number}", profile=Profile(failures=1, open_s=60.0))
            began_s = time.monotonic()
            cluster[number % 4].fail(lab)
            await until(lambda lab=lab: all(lab.key in node.health.marks for node in cluster))  # type: ignore[misc]
            reach_ms.append((time.monotonic() - began_s) * 1000)
    reach_ms.sort()
    print(f"reach: p50 {reach_ms[30]:.1f} ms, max {reach_ms[-1]:.1f} ms")
    assert reach_ms[30] < 250
    assert reach_ms[-1] < 1_250


async def test_nodes_whose_clocks_are_wrong_agree_with_the_others(redis_url: str) -> None:
    lab = deployment(profile=Profile(failures=1, open_s=0.5, longest_open_s=0.5))
    async with (
        nodes(redis_url) as (right,),
        nodes(redis_url, ahead_s=3600.0) as (fast,),
        nodes(redis_url, ahead_s=-3600.0) as (slow,),
    ):
        right.fail(lab)
        await until(lambda: {node.standing(lab) for node in (right, fast, slow)} == {"open"})
        for node in (right, fast, slow):
            standing = node.health.standing(lab, node.clock.now_s())
            assert standing is not None
            assert 0 < standing.until_s - node.clock.now_s() < 0.65
        took_s = await until(lambda: {node.standing(lab) for node in (right, fast, slow)} == {"half_open_due"})
        assert took_s < 2
        assert await slow.claimed(lab)


async def test_a_node_that_comes_later_knows_what_the_others_know(redis_url: str) -> None:
    lab, other = deployment(), deployment(connection="conn_b")
    async with nodes(redis_url) as (one,):
        one.fail(lab, 3)
        one.fail(other, 1, REFUSED)
        await until(lambda: len(one.health.marks) == 2)
        async with nodes(redis_url) as (two,):
            assert dict(two.health.marks) == dict(one.health.marks)


async def test_breakers_back_off_and_a_probe_that_succeeds_begins_anew(redis_url: str) -> None:
    lab = deployment(profile=Profile(failures=1, open_s=0.1, longest_open_s=0.4))
    lasted = []
    async with nodes(redis_url) as (node,):
        node.fail(lab)
        for trips in range(1, 5):
            await until(lambda trips=trips: lab.key in node.health.marks and node.health.marks[lab.key].trips == trips)  # type: ignore[misc]
            began_s = time.monotonic()
            await until(lambda: node.standing(lab) == "half_open_due")
            lasted.append(time.monotonic() - began_s)
            probe = await node.claimed(lab)
            assert node.standing(lab) == "open"
            node.health.report(lab, BROKEN, probe=probe)
        await until(lambda: node.standing(lab) == "half_open_due")
        probe = await node.claimed(lab)
        node.health.report(lab, None, probe=probe)
        await until(lambda: not node.health.marks)
        node.fail(lab)
        await until(lambda: node.standing(lab) == "open")
        assert node.health.marks[lab.key].trips == 1
        for waited_s, wanted_s in zip(lasted, (0.1, 0.2, 0.4, 0.4), strict=True):
            assert wanted_s - 0.03 < waited_s < wanted_s + 0.5


async def test_a_clouds_403_is_about_one_model_and_locks_nobody_else_out(redis_url: str) -> None:
    forbidden = Failure(failure_class=FailureClass.CREDENTIAL, message="answered 403", status=403)
    lab = msgspec.structs.replace(deployment(), provider=registry.load()["bedrock"])
    sibling = msgspec.structs.replace(lab, model=Model(model_id="other"))
    async with nodes(redis_url, 2) as (one, two):
        one.fail(lab, 3, forbidden)
        await until(lambda: two.standing(lab) == "open")
        assert two.standing(sibling) is None
        assert list(two.health.marks) == [lab.key]
        one.fail(sibling, 1, REFUSED)
        await until(lambda: two.standing(sibling) == "locked")

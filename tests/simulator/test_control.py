"""The control endpoint: faults put in force from outside, and what the simulator saw."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from services.simulator.behaviour import MODELS, RULES, parse_behaviour
from services.simulator.state import Fault, State
from tests.upstreams import Upstream, upstream


@pytest.fixture
async def provider() -> AsyncIterator[Upstream]:
    async with upstream(any_model=False) as running:
        yield running


@pytest.fixture
async def session(provider: Upstream) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(provider.origin) as made:
        yield made


async def chat(session: aiohttp.ClientSession, model: str = "chat", **headers: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    async with session.post("/v1/chat/completions", json=body, headers=headers) as reply:
        await reply.read()
        return reply.status


async def control(session: aiohttp.ClientSession, **wanted: Any) -> Any:
    async with session.post("/_control", json=wanted) as reply:
        return await reply.json()


async def test_it_documents_every_model_and_behaviour(session: aiohttp.ClientSession) -> None:
    async with session.get("/_control") as reply:
        shown = await reply.json()
    assert set(shown["models"]) == set(MODELS)
    assert set(shown["behaviours"]) == {rule.name for rule in RULES}


async def test_a_fault_hits_its_own_model_only(session: aiohttp.ClientSession) -> None:
    await control(session, faults=[{"behaviour": "fail-503", "model": "json"}])
    assert [await chat(session, "chat"), await chat(session, "json")] == [200, 503]


async def test_a_fault_without_a_model_hits_all(session: aiohttp.ClientSession) -> None:
    await control(session, faults=[{"behaviour": "fail-503"}])
    assert [await chat(session, "chat"), await chat(session, "json")] == [503, 503]


async def test_a_fault_with_times_wears_off(session: aiohttp.ClientSession) -> None:
    await control(session, faults=[{"behaviour": "fail-503", "times": 2}, {"behaviour": "fail-429", "times": 1}])
    assert [await chat(session) for _ in range(4)] == [503, 503, 429, 200]


async def test_a_fault_with_a_share_hits_that_part_of_the_requests_the_same_each_time(session: aiohttp.ClientSession) -> None:
    await control(session, faults=[{"behaviour": "fail-503", "share": 0.25}, {"behaviour": "fail-429", "share": 0}])
    seen = [await chat(session) for _ in range(200)]
    assert set(seen) == {200, 503}
    assert 30 <= seen.count(503) <= 70
    again = State(faults=[Fault("fail-503", share=0.25), Fault("fail-429", share=0)])
    assert [again.behaviour_name("chat") for _ in range(200)] == [
        "chat" if status == 200 else "chat+fail-503" for status in seen
    ]


def test_a_heavy_tail_is_a_body_and_stragglers() -> None:
    state, behaviour = State(), parse_behaviour("chat+heavy-tail-100-3")
    assert behaviour is not None
    drawn = sorted(state.first_token_delay_ms(behaviour) for _ in range(10_000))
    assert 95 <= drawn[5_000] <= 105
    late = [delay for delay in drawn if delay >= 700]
    assert 200 <= len(late) <= 400
    assert late[-1] <= 3_300


async def test_new_faults_replace_the_old(session: aiohttp.ClientSession) -> None:
    await control(session, faults=[{"behaviour": "fail-503"}])
    assert (await control(session, faults=[]))["faults"] == []
    assert await chat(session) == 200


async def test_reset_forgets_everything(session: aiohttp.ClientSession) -> None:
    await control(session, faults=[{"behaviour": "fail-503"}])
    await chat(session)
    assert await control(session, reset=True) == {"faults": [], "counters": {"open": 0}, "pace_ms": 0}
    async with session.get("/_control/requests") as reply:
        assert await reply.json() == {"requests": []}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"faults": [{"behaviour": "explode"}]}, "faults[0].behaviour: 'explode' names no behaviour"),
        ({"faults": [{"behaviour": "fail-99"}]}, "faults[0].behaviour: 'fail-99' names no behaviour"),
        ({"faults": [{"behaviour": "empty", "times": 0}]}, "faults[0].times"),
        ({"faults": [{"behaviour": "empty", "model": 3}]}, "faults[0].model"),
        ({"faults": [{"behaviour": "empty", "share": 1.5}]}, "faults[0].share"),
        ({"faults": [{"behaviour": "empty", "share": True}]}, "faults[0].share"),
        ({"faults": {}}, "faults: must be a list"),
        ({"pace_ms": -1}, "pace_ms"),
        ({"paces": 1}, "unknown: paces"),
    ],
)
async def test_a_wrong_control_body_changes_nothing_and_is_told_why(
    session: aiohttp.ClientSession, wanted: Any, message: str
) -> None:
    await control(session, faults=[{"behaviour": "fail-503"}])
    async with session.post("/_control", json=wanted) as reply:
        assert reply.status == 400
        assert message in (await reply.json())["error"]["message"]
    assert await chat(session) == 503


async def test_requests_are_shown_with_headers_body_and_end(session: aiohttp.ClientSession) -> None:
    await chat(session, "chat", Authorization="Bearer upstream-secret")
    await chat(session, "fail-503")
    async with session.get("/_control/requests?last=5") as reply:
        first, second = (await reply.json())["requests"]
    assert first["headers"]["authorization"] == "Bearer upstream-secret"
    assert first["body"]["messages"][0]["content"] == "hello"
    assert (first["ended"], first["status"], first["path"]) == ("complete", 200, "/v1/chat/completions")
    assert (second["ended"], second["status"], second["model"]) == ("refused", 503, "fail-503")


async def test_requests_can_be_asked_for_by_model_and_number(session: aiohttp.ClientSession) -> None:
    for model in ("chat", "json", "chat", "json"):
        await chat(session, model)
    async with session.get("/_control/requests?model=json&last=1") as reply:
        assert [record["number"] for record in (await reply.json())["requests"]] == [4]


async def test_counters_add_up(session: aiohttp.ClientSession) -> None:
    await chat(session)
    await chat(session, "fail-503")
    counters = (await control(session))["counters"]
    assert {name: counters[name] for name in ("requests", "complete", "refused", "open")} == {
        "requests": 2,
        "complete": 1,
        "refused": 1,
        "open": 0,
    }


def test_the_records_are_a_bounded_ring_and_may_be_none() -> None:
    ring, none = State(keep=3), State(keep=0)
    for _ in range(10):
        ring.receive("POST", "/", {}, None)
        none.receive("POST", "/", {}, None)
    assert [record.number for record in ring.records] == [8, 9, 10]
    assert list(none.records) == []


async def test_a_key_is_demanded_when_there_is_one() -> None:
    async with upstream(api_key="right") as provider, aiohttp.ClientSession(provider.origin) as session:
        assert await chat(session) == 401
        assert await chat(session, Authorization="Bearer wrong") == 401
        assert await chat(session, Authorization="Bearer right") == 200
        async with session.get("/v1/models") as reply:
            assert reply.status == 401


async def test_an_upstream_for_tests_serves_any_model_with_its_faults() -> None:
    async with upstream("fail-429", "pace-5") as provider, aiohttp.ClientSession(provider.origin) as session:
        assert await chat(session, "gpt-4o-mini") == 429
        assert provider.last.behaviour == "chat+fail-429+pace-5"
        provider.reset()
        assert await chat(session, "gpt-4o-mini") == 200
        provider.fail("fail-500", times=1)
        assert [await chat(session, "x/y"), await chat(session, "x/y")] == [500, 200]

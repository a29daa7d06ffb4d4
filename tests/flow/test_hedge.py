"""Hedging: the faster of two attempts answers, and both are booked, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shared.domain.catalogue import WireFormat
from shared.domain.usage import Outcome, UsageEvent
from shared.routing.hedging import HedgeBudget
from shared.store.wal import INTENT, read
from tests.flow.inside import Answer, Inside, Pace, inside, route, routed


@pytest_asyncio.fixture
async def node(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Inside]:
    """`lab0/chat` and two more providers; a first token is late after 50 ms, and a hedge is always in the budget."""
    routed(monkeypatch, route(hedge=True))
    async with inside(database_url, redis_url, tmp_path, providers=3) as started:
        started.gateway.load = Pace(known_s=0.05)
        started.gateway.hedges = HedgeBudget(share=1.0)
        yield started


def by_connection(events: list[UsageEvent]) -> dict[str, UsageEvent]:
    made = {event.connection: event for event in events}
    assert len(made) == len(events)
    return made


def asked(node: Inside) -> list[int]:
    return [len(provider.requests) for provider in node.providers]


async def check_money(node: Inside) -> None:
    """What the events say is what the budget spent, and nothing stays set aside."""
    events = await node.events()
    for event in events:
        assert event.cost_nano_usd == event.input_tokens * 1_000 + event.output_tokens * 2_000
    assert await node.held() == {"spent": sum(event.cost_nano_usd for event in events), "reserved": 0}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_slow_first_attempt_is_overtaken_and_both_are_booked(node: Inside, stream: bool) -> None:
    node.providers[0].fail("slow-first-token-3000")
    answer = await node.chat(stream=stream)
    assert answer.attempts == ["lab0/chat hedge_lost", "lab1/chat ok"]
    assert b"You" in answer.body
    assert asked(node) == [1, 1, 0]
    assert (await node.providers[0].until_ended()).ended == "client_gone"
    booked = by_connection(await node.events())
    lost, own = booked["lab0"], booked["lab1"]
    assert own.event_id == own.request_id == answer.headers["x-request-id"] == lost.request_id != lost.event_id
    assert (own.outcome, lost.outcome) == (Outcome.OK, Outcome.HEDGE_LOST)
    assert own.decision is not None
    assert [each.result for each in own.decision.tried] == ["hedge_lost", "ok"]
    assert lost.input_tokens > 0  # it had the prompt, and will be billed
    assert (lost.output_tokens, lost.source) == (0, "counted")
    await check_money(node)
    assert [node.counted("hedges", result) for result in ("started", "won", "denied")] == [1, 1, 0]


@pytest.mark.parametrize("stream", [True, False])
async def test_the_second_loses_when_the_first_comes_after_all(node: Inside, stream: bool) -> None:
    node.providers[0].fail("slow-first-token-300")
    node.providers[1].fail("slow-first-token-3000")
    answer = await node.chat(stream=stream)
    assert answer.attempts == ["lab1/chat hedge_lost", "lab0/chat ok"]
    booked = by_connection(await node.events())
    assert (booked["lab0"].outcome, booked["lab1"].outcome) == (Outcome.OK, Outcome.HEDGE_LOST)
    assert booked["lab0"].event_id == answer.headers["x-request-id"]
    assert (await node.providers[1].until_ended()).ended == "client_gone"
    await check_money(node)
    assert [node.counted("hedges", result) for result in ("started", "won", "denied")] == [1, 0, 0]


async def test_a_fast_first_attempt_stays_alone_however_long_its_stream(node: Inside) -> None:
    node.providers[0].fail("long-20-20")
    answer = await node.chat()
    assert answer.attempts == ["lab0/chat"]
    assert asked(node) == [1, 0, 0]
    (event,) = await node.events()
    assert event.outcome is Outcome.OK
    assert node.counted("hedges", "started") == 0


async def test_embeddings_are_hedged_by_their_own_times(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routed(monkeypatch, route(hedge=True))
    async with inside(database_url, redis_url, tmp_path) as node:
        pace = node.gateway.load = Pace()
        for _ in range(25):
            answer = await node.call("embeddings", model="lab0/embed", input="Hello!")
            assert answer.attempts == ["lab0/embed"]
        ((key, times),) = pace.times.items()
        assert key.endswith("/embed whole")
        assert len(times) == 25


async def test_one_that_fails_leaves_the_call_to_the_other(node: Inside) -> None:
    node.providers[0].fail("slow-head-200+fail-503")
    node.providers[1].fail("slow-first-token-400")
    answer = await node.chat()
    assert answer.attempts == ["lab0/chat overloaded 503", "lab1/chat ok"]
    (event,) = await node.events()  # a refusal of the provider's costs nothing: no event
    assert (event.connection, event.event_id) == ("lab1", answer.headers["x-request-id"])
    await check_money(node)


async def test_where_both_fail_the_plan_goes_on(node: Inside) -> None:
    node.providers[0].fail("slow-head-200+fail-503")
    node.providers[1].fail("slow-head-400+fail-500")
    answer = await node.chat()
    assert answer.attempts == ["lab0/chat overloaded 503", "lab1/chat provider_fault 500", "lab2/chat ok"]
    assert asked(node) == [1, 1, 1]
    (event,) = await node.events()
    assert (event.connection, event.attempts) == ("lab2", 3)
    await check_money(node)


async def test_a_hedge_that_never_left_is_no_event(node: Inside, tmp_path: Path) -> None:
    """Its intent is in the log and void: nobody estimates it."""
    node.providers[0].fail("slow-first-token-300")
    session: Any = node.gateway.transport
    send, calls = session.send, 0

    async def refusing(request: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            from shared.upstream.transport import NothingSent

            raise NothingSent("the address does not answer")
        return await send(request)

    session.send = refusing
    answer = await node.chat()
    assert answer.attempts == ["lab1/chat connect", "lab0/chat ok"]
    (event,) = await node.events()
    assert event.connection == "lab0"
    tags = [tag for path in tmp_path.glob("usage-log/*.wal") for tag, _ in read(path)]
    assert sorted(tags) == [INTENT, INTENT, b"S", b"V"]
    await check_money(node)


async def test_a_client_that_leaves_ends_both(node: Inside) -> None:
    node.providers[0].fail("slow-first-token-3000")
    node.providers[1].fail("slow-first-token-3000")
    call = asyncio.ensure_future(node.chat())
    await node.providers[1].until_received()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    for provider in node.providers[:2]:
        assert (await provider.until_ended()).ended == "client_gone"
    booked = by_connection(await node.events())
    assert set(booked) == {"lab0", "lab1"}
    assert {event.outcome for event in booked.values()} == {Outcome.CLIENT_GONE}
    await check_money(node)


async def test_a_client_that_leaves_the_winner_is_booked_with_the_winner(node: Inside) -> None:
    node.providers[0].fail("slow-first-token-3000")
    node.providers[1].fail("long-100-50")
    answer = Answer(WireFormat.OPENAI_CHAT)
    body = {"messages": [{"role": "user", "content": "Hello!"}], "stream": True, "max_tokens": 100}
    call = asyncio.ensure_future(node.answered(answer, "chat", WireFormat.OPENAI_CHAT, body))
    await answer.first.wait()
    await asyncio.sleep(0.2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    booked = by_connection(await node.events())
    assert (booked["lab0"].outcome, booked["lab1"].outcome) == (Outcome.HEDGE_LOST, Outcome.CLIENT_GONE)
    assert booked["lab1"].event_id == answer.headers["x-request-id"]
    assert booked["lab1"].output_tokens > 0
    await check_money(node)


async def test_what_no_budget_covers_is_not_hedged(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key's budget covers the call one and a half times."""
    routed(monkeypatch, route(hedge=True))
    async with inside(database_url, redis_url, tmp_path, budget_nano=1_200_000) as node:
        node.gateway.load = Pace(known_s=0.02)
        node.gateway.hedges = HedgeBudget(share=1.0)
        node.providers[0].fail("slow-first-token-300")
        answer = await node.chat()
        assert answer.attempts == ["lab0/chat"]
        assert node.counted("hedges", "denied") == 1
        node.gateway.hedges = HedgeBudget()
        assert (await node.chat()).attempts == ["lab0/chat"]
        assert node.counted("hedges", "denied") == 2
        assert asked(node) == [2, 0]
        await check_money(node)


async def test_a_node_that_knows_no_times_does_not_hedge(node: Inside) -> None:
    node.gateway.load = Pace()
    node.providers[0].fail("slow-first-token-300")
    assert (await node.chat()).attempts == ["lab0/chat"]

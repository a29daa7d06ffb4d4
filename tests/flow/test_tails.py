"""What hedging does to the tail: providers with a lognormal body and 3 of 100 stragglers, ten times as fast as real ones."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.flow.inside import Inside, Pace, inside, route, routed

BODY_MS = 60
WARM = 100
"""Calls before anything is measured: nobody knows the times yet."""


async def first_tokens_s(node: Inside, calls: int, *, at_once: int = 8) -> list[float]:
    """Times to first token of the calls after the first WARM, sorted."""
    times: list[float] = []
    left = iter(range(calls + WARM))

    async def client() -> None:
        for number in left:
            begun_s = time.monotonic()
            answer = await node.chat()
            assert answer.ended_well
            assert answer.first_s is not None
            if number >= WARM:
                times.append(answer.first_s - begun_s)

    await asyncio.gather(*(client() for _ in range(at_once)))
    return sorted(times)


def tail(node: Inside, percent: int) -> None:
    for provider in node.providers:
        provider.state.keep = 10
        provider.fail(f"heavy-tail-{BODY_MS}-{percent}")


def extra(node: Inside) -> float:
    """Attempts beyond the calls, as a share of them."""
    requests = [provider.state.counts["requests"] for provider in node.providers]
    started = node.counted("hedges", "started")
    return started / (sum(requests) - started)


CALLS = [
    pytest.param(600, id="short", marks=pytest.mark.chaos),
    pytest.param(6_000, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
]


@pytest.mark.parametrize("calls", CALLS)
async def test_the_99th_percentile_is_a_third_at_a_twentieth_more_calls(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    async with inside(database_url, redis_url, tmp_path) as node:
        tail(node, 3)
        node.gateway.load = Pace()
        alone_s = await first_tokens_s(node, calls)
        assert extra(node) == 0
        for provider in node.providers:
            provider.state.counts.clear()
        routed(monkeypatch, route(hedge=True))
        hedged_s = await first_tokens_s(node, calls)
        p99 = int(0.99 * calls)
        print(
            f"p50 {alone_s[calls // 2]:.3f} → {hedged_s[calls // 2]:.3f} s, p99 {alone_s[p99]:.3f} → {hedged_s[p99]:.3f} s, "
            f"ratio {hedged_s[p99] / alone_s[p99]:.3f}, extra {extra(node):.4f}, denied {node.counted('hedges', 'denied')}"
        )
        assert hedged_s[p99] <= 0.35 * alone_s[p99]
        assert extra(node) <= 0.05


@pytest.mark.parametrize("calls", CALLS)
async def test_in_a_brown_out_it_stays_at_a_tenth(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """80 of 100 calls are slow, all of a sudden."""
    routed(monkeypatch, route(hedge=True))
    async with inside(database_url, redis_url, tmp_path) as node:
        tail(node, 3)
        node.gateway.load = Pace()
        await first_tokens_s(node, 300)
        started = node.counted("hedges", "started")
        for provider in node.providers:
            provider.reset()
        tail(node, 80)
        slow = calls // 3
        await first_tokens_s(node, slow, at_once=60)
        more = node.counted("hedges", "started") - started
        print(f"{more} hedges for {slow + WARM} calls: {more / (slow + WARM):.4f}")
        assert more <= 0.1 * (slow + WARM)

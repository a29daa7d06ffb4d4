"""The board's script and its Python model, side by side on a real Redis: same replies, same marks, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis import Redis

from shared.domain.health import MarkState, Profile
from shared.routing.breaker import (
    FORGET_LOCK_MS,
    Board,
    Cause,
    Claim,
    Clear,
    Cool,
    End,
    Label,
    Lock,
    Operation,
    Renew,
    Reply,
    Strike,
)
from shared.store import keys
from shared.store.redis import database_of
from shared.upstream.health.script import call_of, look_call, read_look, read_reply, source

NOW_MS = 1_795_000_000_000
CONNECTIONS = ("conn_a", "conn_b")
DEPLOYMENTS = ("conn_a/x", "conn_a/y", "conn_b/x")
CAUSES = st.builds(Cause, st.sampled_from(["provider_fault", "cut", "credential"]), st.sampled_from([0, 401, 429, 503]))
LABEL = Label('the "lab"', "lab/ä\n", "custom")
CHANCE = st.floats(0, 1, exclude_max=True)


class SideBySide(RuleBasedStateMachine):
    """Every rule does the same to both and compares what they say; the invariant compares what they hold."""

    redis: Any

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushdb()
        self.script = self.redis.register_script(source(database_of(self.redis)))
        self.board = Board()
        self.now_ms = NOW_MS
        self.claimed: list[tuple[str, int]] = []

    @initialize(
        failures=st.sampled_from([0.5, 1, 3.5, 100]),
        share=st.floats(0.1, 1),
        least=st.integers(1, 6),
        window_s=st.sampled_from([0.001, 7.3, 30.0]),
        open_s=st.floats(0.01, 40),
        longest_s=st.floats(1, 300),
        cooldown_s=st.floats(0.1, 5),
    )
    def configure(
        self, failures: float, share: float, least: int, window_s: float, open_s: float, longest_s: float, cooldown_s: float
    ) -> None:
        self.profile = Profile(
            failures=failures, error_share=share, least_calls=least, window_s=window_s, open_s=open_s,
            longest_open_s=longest_s, cooldown_s=cooldown_s, longest_cooldown_s=longest_s,
        )  # fmt: skip

    def both(self, operation: Operation) -> Reply:
        called_keys, arguments = call_of(operation, self.now_ms)
        reply = read_reply(self.script(keys=called_keys, args=arguments))
        expected = self.board.do(operation, self.now_ms)
        assert reply == expected
        return expected

    @rule(ms=st.sampled_from([0, 1, 400, 5_000, 16_000, 70_000, 700_000, 3_600_000, FORGET_LOCK_MS]))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(part=st.sampled_from([0.3, 0.5, 0.6]))
    def a_part_of_a_window_passes(self, part: float) -> None:
        self.now_ms += int(self.profile.window_s * part * 1000)

    @rule(subject=st.sampled_from(CONNECTIONS + DEPLOYMENTS))
    def something_is_due(self, subject: str) -> None:
        mark = self.board.marks.get(subject)
        self.now_ms = max(self.now_ms, 0 if mark is None else mark.due_ms)

    @rule(
        subject=st.sampled_from(DEPLOYMENTS),
        weight=st.sampled_from([0.0, 0.5, 1.0, 1.0]),
        successes=st.integers(0, 3),
        chance=CHANCE,
        cause=CAUSES,
    )
    def strike(self, subject: str, weight: float, successes: int, chance: float, cause: Cause) -> None:
        self.both(
            Strike(subject=subject, label=LABEL, weight=weight, successes=successes, chance=chance, cause=cause,
                   profile=self.profile)
        )  # fmt: skip

    @rule(deployment=st.sampled_from(DEPLOYMENTS), version=st.integers(0, 2), lease_ms=st.sampled_from([1, 500, 10_000]))
    def claim(self, deployment: str, version: int, lease_ms: int) -> None:
        connection = deployment.partition("/")[0]
        reply = self.both(Claim(deployment=deployment, connection=connection, version=version, lease_ms=lease_ms))
        self.claimed += [(change.subject, change.mark.epoch) for change in reply.changes if change.mark is not None]

    @rule(at=st.integers(0, 30), late=st.sampled_from([0, 0, 0, 1]), lease_ms=st.sampled_from([500, 10_000]))
    def renew(self, at: int, late: int, lease_ms: int) -> None:
        if self.claimed:
            subject, epoch = self.claimed[-1 - at % len(self.claimed)]
            self.both(Renew(subject=subject, epoch=epoch - late, lease_ms=lease_ms))

    @rule(
        at=st.integers(0, 30),
        verdict=st.sampled_from(["well", "bad", "bad", "free"]),
        chance=CHANCE,
        delay_ms=st.sampled_from([0, 300_000]),
        cause=CAUSES,
    )
    def end(self, at: int, verdict: str, chance: float, delay_ms: int, cause: Cause) -> None:
        """Also twice, also of probes whose lease is over."""
        if self.claimed:
            subject, epoch = self.claimed[-1 - at % len(self.claimed)]
            self.both(
                End(subject=subject, epoch=epoch, verdict=verdict, chance=chance, cause=cause, delay_ms=delay_ms,
                    profile=self.profile)
            )  # fmt: skip

    @rule(
        subject=st.sampled_from(CONNECTIONS),
        told_ms=st.none() | st.integers(0, 4_000_000),
        chance=CHANCE,
        cause=CAUSES,
    )
    def cool(self, subject: str, told_ms: int | None, chance: float, cause: Cause) -> None:
        self.both(Cool(subject=subject, label=LABEL, told_ms=told_ms, chance=chance, cause=cause, profile=self.profile))

    @rule(subject=st.sampled_from(CONNECTIONS), chance=CHANCE, cause=CAUSES)
    def a_cooldown_does_not_help(self, subject: str, chance: float, cause: Cause) -> None:
        self.cool(subject, None, chance, cause)
        self.something_is_due(subject)
        self.cool(subject, None, chance, cause)

    @rule(subject=st.sampled_from(CONNECTIONS), version=st.integers(0, 2), cause=CAUSES)
    def lock(self, subject: str, version: int, cause: Cause) -> None:
        self.both(Lock(subject=subject, label=LABEL, version=version, cause=cause, recheck_ms=300_000))

    @rule(subjects=st.lists(st.sampled_from(CONNECTIONS + DEPLOYMENTS), min_size=1, unique=True), guarded=st.booleans())
    def clear(self, subjects: list[str], guarded: bool) -> None:
        mark = self.board.marks.get(subjects[-1])
        self.both(Clear(subjects=tuple(subjects), epoch=mark.epoch if guarded and mark is not None else None))

    @rule()
    def look(self) -> None:
        called_keys, arguments = look_call(self.now_ms)
        seen = read_look(self.script(keys=called_keys, args=arguments))
        self.board.prune(self.now_ms)
        assert (seen.version, seen.now_ms, seen.marks) == (self.board.version, self.now_ms, self.board.marks)

    @invariant()
    def both_hold_the_same(self) -> None:
        counts = {name.decode() for name in self.redis.scan_iter(match="ws:{health}:n:*")}
        kept = self.board.counts.keys() | self.board.levels.keys()
        assert {keys.health_counts(subject).decode() for subject in kept} >= counts
        for subject, mark in self.board.marks.items():
            breaker = mark.state in (MarkState.OPEN, MarkState.HALF_OPEN)
            assert breaker == ("/" in subject)
            assert (mark.state is MarkState.HALF_OPEN) <= (mark.lease_ms > 0)


@pytest.fixture
def connected(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def test_script_and_model_agree(connected: Redis) -> None:
    machine = type("Machine", (SideBySide,), {"redis": connected})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )

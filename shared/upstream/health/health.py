"""Health: what a call asks of it, and tells it. All nodes agree, through the board in Redis (board.lua).

standing   may this deployment be called now?       memory only
claim      the one probe of what has been shut       one trip, and only when a probe is due
report     how a call ended                          a dictionary look-up, if it ended well and nothing was wrong
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec
from redis.asyncio import Redis

from shared.clock import Clock
from shared.domain.catalogue import Deployment
from shared.domain.failure import Failure, FailureClass
from shared.domain.health import Mark, MarkState, Standing
from shared.routing.breaker import (
    REFUSED,
    WEIGHT,
    Cause,
    Claim,
    Clear,
    Cool,
    End,
    Label,
    Lock,
    Renew,
    Reply,
    Strike,
    cooldown_ms,
)  # fmt: skip
from shared.store.redis import Lane
from shared.telemetry.metrics import Metrics
from shared.upstream.health.cluster import Cluster

log = logging.getLogger(__name__)

MOST_WATCHED = 10_000
NONE = Cause()
Verdict = Literal["well", "bad", "free"]
SPEAKS = frozenset(WEIGHT) | REFUSED | {FailureClass.RATE_LIMITED}
"""Failures that say something about deployment or connection. The others are the client's: the provider is well."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How long things take. Tests use shorter times."""

    lease_s: float = 10.0
    """A probe whose node died is given to another after so long."""
    renew_s: float = 3.0
    recheck_s: float = 300.0
    """A refused credential is tried again after so long."""
    tick_s: float = 0.25
    probe_slack_s: float = 30.0
    """A lease is renewed no longer than the connection's timeouts and this: a probe that nobody ends must not last."""


class Probe:
    """The right to one probe; hand it to `report`. `breaker`, `lock`: the epochs under which the deployment's breaker and its
    connection's lock were claimed. With neither, what was shut has opened meanwhile: simply go on."""

    __slots__ = ("breaker", "deployment", "expires_s", "lock", "renewed_s")

    def __init__(self, deployment: Deployment, breaker: int | None, lock: int | None) -> None:
        self.deployment = deployment
        self.breaker = breaker
        self.lock = lock
        self.renewed_s = self.expires_s = 0.0

    def claims(self) -> list[tuple[str, int]]:
        """Subject and epoch of what it holds."""
        held = ((self.deployment.key, self.breaker), (self.deployment.connection.connection_id, self.lock))
        return [(subject, epoch) for subject, epoch in held if epoch is not None]


class Watched:
    """A deployment that failed lately: only of those are successes counted."""

    __slots__ = ("deployment", "expires_s", "strikes", "successes")

    def __init__(self) -> None:
        self.strikes = 0.0
        self.expires_s = 0.0
        self.successes = 0
        self.deployment: Deployment | None = None


class Health:
    def __init__(
        self,
        lane: Lane,
        redis: Redis,
        clock: Clock,
        metrics: Metrics,
        live_nodes: Callable[[], int],
        *,
        pace: Pace | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._live_nodes = live_nodes
        self._pace = pace or Pace()
        self._chance = chance
        self._cluster = Cluster(lane, redis, clock, metrics, self._struck)
        self._mirror = self._cluster.mirror
        self.marks: Mapping[str, Mark] = self._mirror.marks
        """What is wrong, by Deployment.key or connection id. Empty when all is well: test that first."""
        self._watched: dict[str, Watched] = {}
        self._probes: set[Probe] = set()

    def standing(self, deployment: Deployment, now_s: float) -> Standing | None:
        """None: nothing speaks against calling it. `half_open_due`: claim its probe first. `now_s`: this node's wall clock."""
        if not self.marks:
            return None
        connection = deployment.connection
        mark = self.marks.get(connection.connection_id)
        if mark is not None and mark.state is MarkState.LOCKED and mark.version < connection.credential_version:
            self._mirror.forget(connection.connection_id)  # it has a new credential
            self._cluster.post(Clear(subjects=(connection.connection_id,), epoch=mark.epoch))
        return self._mirror.standing(deployment, now_s)

    async def claim(self, deployment: Deployment) -> Probe | None:
        """The one probe that the whole cluster sends now; None: another call has it, or it is not due. Raises nothing but
        CancelledError, and what was granted to a cancelled call is given back."""
        connection = deployment.connection
        claim = Claim(
            deployment=deployment.key, connection=connection.connection_id, version=connection.credential_version,
            lease_ms=int(self._pace.lease_s * 1000),
        )  # fmt: skip
        asked = asyncio.ensure_future(self._cluster.ask(claim))
        try:
            reply = await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(lambda done: self._end(self._granted(deployment, done.result())))
            raise
        probe = self._granted(deployment, reply)
        if probe in self._probes and self._cluster.alone and self._chance() >= 1 / self._live_nodes():
            self._end(probe, delay_ms=int(connection.profile.open_s * 1000))  # without Redis: it may be another node's turn
            return None
        return probe

    def report(
        self, deployment: Deployment, failure: Failure | None, *, neutral: bool = False, probe: Probe | None = None
    ) -> None:
        """How a call ended. Without `failure`: well, or `neutral`: nobody knows, its client left. Never waits, never raises.

        A call with a probe reports with it as soon as it is known whether the deployment answers, at its first token; what
        goes wrong after that is reported once more, without it."""
        if failure is None and probe is None and (neutral or deployment.key not in self._watched):
            return
        try:
            if neutral:
                self._end(probe)
            elif failure is None or failure.failure_class not in SPEAKS:
                self._well(deployment, probe)
            else:
                self._bad(deployment, failure, probe)
        except Exception:
            log.exception("health could not be told")

    def give_back(self, probe: Probe, put_off_s: float = 0.0) -> None:
        """It was not sent: the next call may probe, `put_off_s` from now. Never waits, never raises."""
        try:
            self._end(probe, delay_ms=int(put_off_s * 1000))
        except Exception:
            log.exception("health could not be told")

    async def look(self) -> None:
        """See the shared board now. Raises RedisError, OSError or TimeoutError."""
        await self._cluster.look()

    async def run(self) -> None:
        """Follow the shared board for ever, and do what has to be done now and then."""
        await asyncio.gather(self._cluster.listen_forever(), self._tick_forever())

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(self._pace.tick_s)
            try:
                self._tick(self._clock.now_s())
            except Exception:
                log.exception("health could not be kept")

    def _tick(self, now_s: float) -> None:
        for probe in list(self._probes):
            self._renew(probe, now_s)
        for subject, watched in list(self._watched.items()):
            if watched.expires_s <= now_s or subject in self.marks:
                del self._watched[subject]
            elif watched.successes and watched.deployment is not None:
                self._strike(watched.deployment, 0.0, NONE)
        if self.marks:
            self._mirror.prune(now_s)

    def _granted(self, deployment: Deployment, reply: Reply) -> Probe | None:
        if not reply.code:
            return None
        epochs = {change.subject: change.mark.epoch for change in reply.changes if change.mark is not None}
        connection = deployment.connection
        probe = Probe(deployment, epochs.get(deployment.key), epochs.get(connection.connection_id))
        if epochs:
            probe.renewed_s = self._clock.now_s()
            slack_s = connection.connect_timeout_s + connection.first_byte_timeout_s + self._pace.probe_slack_s
            probe.expires_s = probe.renewed_s + slack_s
            self._probes.add(probe)
        return probe

    def _renew(self, probe: Probe, now_s: float) -> None:
        if now_s >= probe.expires_s:
            self._probes.discard(probe)
            self._metrics.probe_ended("lost")
        elif now_s - probe.renewed_s >= self._pace.renew_s:
            probe.renewed_s = now_s
            for subject, epoch in probe.claims():
                self._cluster.post(Renew(subject=subject, epoch=epoch, lease_ms=int(self._pace.lease_s * 1000)))

    def _end(
        self, probe: Probe | None, breaker: Verdict = "free", lock: Verdict = "free", *, cause: Cause = NONE, delay_ms: int = 0
    ) -> None:
        """Give a probe back, with what it says about the breaker and about the lock that it holds."""
        if probe not in self._probes or probe is None:
            return
        self._probes.discard(probe)
        verdicts = {probe.deployment.key: breaker, probe.deployment.connection.connection_id: lock}
        for subject, epoch in probe.claims():
            self._metrics.probe_ended(verdicts[subject])
            self._cluster.post(
                End(subject=subject, epoch=epoch, verdict=verdicts[subject], chance=self._chance(), cause=cause,
                    delay_ms=delay_ms, profile=probe.deployment.connection.profile)
            )  # fmt: skip

    def _well(self, deployment: Deployment, probe: Probe | None) -> None:
        if probe in self._probes:
            return self._end(probe, "well", "well")
        watched = self._watched.get(deployment.key)
        if watched is None:
            return None
        watched.successes += 1
        watched.deployment = deployment
        if watched.strikes:  # no failure in a row any more: the others shall know at once; the share can wait for the tick
            watched.strikes = 0.0
            self._strike(deployment, 0.0, NONE)
        return None

    def _bad(self, deployment: Deployment, failure: Failure, probe: Probe | None) -> None:
        connection, cause = deployment.connection, Cause.of(failure)
        weight = WEIGHT.get(failure.failure_class)
        if failure.status == 403 and deployment.provider.quirks.forbids_by_model:
            weight = 1.0
        if weight is not None:
            if probe is None or probe.breaker is None:
                self._strike(deployment, weight, cause)
            return self._end(probe, "bad", cause=cause)
        label = Label(connection.name, "", deployment.provider.name)
        if failure.failure_class in REFUSED:
            recheck_ms = int(self._pace.recheck_s * 1000)
            if probe is None or probe.lock is None:
                version = connection.credential_version
                self._cluster.post(
                    Lock(subject=connection.connection_id, label=label, version=version, cause=cause, recheck_ms=recheck_ms)
                )
            return self._end(probe, "free", "bad", cause=cause, delay_ms=recheck_ms)
        told_ms = None if failure.retry_after_s is None else int(failure.retry_after_s * 1000)
        chance, profile = self._chance(), connection.profile
        self._cluster.post(
            Cool(subject=connection.connection_id, label=label, told_ms=told_ms, chance=chance, cause=cause, profile=profile)
        )
        return self._end(probe, cause=cause, delay_ms=told_ms or cooldown_ms(profile, 1, chance))

    def _strike(self, deployment: Deployment, weight: float, cause: Cause) -> None:
        """Tell the cluster of a failure (weight 0: of none) and of the successes before it."""
        if deployment.key in self.marks:
            return  # a call from before it opened, or one that had no choice: the board would not count it
        watched = self._watched.get(deployment.key)
        successes = 0
        if watched is not None:
            successes, watched.successes = watched.successes, 0
        label = Label(deployment.connection.name, deployment.name, deployment.provider.name)
        self._cluster.post(
            Strike(subject=deployment.key, label=label, weight=weight, successes=successes, chance=self._chance(), cause=cause,
                   profile=deployment.connection.profile)
        )  # fmt: skip

    def _struck(self, subject: str, strikes: float, keep_s: float) -> None:
        """Somebody in the cluster counted: `strikes` failures in a row. From now on successes count too."""
        expires_s = self._clock.now_s() + keep_s
        watched = self._watched.get(subject)
        if watched is None:
            if len(self._watched) >= MOST_WATCHED:
                return
            watched = self._watched[subject] = Watched()
        elif not strikes:
            expires_s = min(watched.expires_s, expires_s)
        watched.strikes, watched.expires_s = strikes, expires_s

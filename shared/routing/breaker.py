"""Breaker (pure): what is wrong with deployments and connections, as a function of outcomes and time.

`Board` holds marks (what keeps calls away) and counts (what may become a mark). Its operations are those of
upstream/health/board.lua, with the same replies: tests run the two side by side, and a node that has lost Redis goes on with
this one. Time comes as milliseconds, chance as a number in [0, 1).
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from shared.domain.failure import Failure, FailureClass
from shared.domain.health import PROFILES, Mark, MarkState, Profile, ProfileKind

KEEP_MS = 600_000
"""Failures in a row are forgotten when no other came for so long."""
FORGET_BREAKER_MS, FORGET_LOCK_MS = 3_600_000, 86_400_000
"""A mark that nobody probed for so long after it was due is dropped: what it was on is no longer in use."""
MOST_MARKS = 2_000
"""Beyond, no breaker opens: where any model id passes, clients can name as many deployments as they like."""
LEAST_COOLDOWN_S, MOST_COOLDOWN_S = 1.0, 3600.0
MOST_DOUBLINGS = 30

WEIGHT = {
    FailureClass.CONNECT: 1.0,
    FailureClass.FIRST_BYTE_TIMEOUT: 1.0,
    FailureClass.IDLE_TIMEOUT: 1.0,
    FailureClass.CUT: 1.0,
    FailureClass.MALFORMED: 1.0,
    FailureClass.PROVIDER_FAULT: 1.0,
    FailureClass.OVERLOADED: 0.5,
}
"""What counts against a deployment, and how much. What is not here says nothing about it, or that it is well."""
REFUSED = frozenset({FailureClass.CREDENTIAL, FailureClass.QUOTA})
"""What locks a connection."""
LOCAL_NAMES = ("localhost", "local", "internal", "lan", "home.arpa", "localdomain", "test")


class Label(msgspec.Struct, frozen=True):
    """Names for people."""

    connection: str
    model: str
    provider: str


class Cause(msgspec.Struct, frozen=True):
    failure_class: str = ""
    status: int = 0

    @staticmethod
    def of(failure: Failure) -> Cause:
        return Cause(failure.failure_class.value, failure.status or 0)


class Strike(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment's calls while its breaker is closed: `successes` of them, then a failure of this weight (0: none)."""

    subject: str
    label: Label
    weight: float
    successes: int
    chance: float
    cause: Cause
    profile: Profile


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The one probe of a deployment: of its breaker, of its connection's lock, or of both."""

    deployment: str
    connection: str
    version: int
    """Of the credential that the probe would use."""
    lease_ms: int


class Renew(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    epoch: int
    lease_ms: int


class End(msgspec.Struct, frozen=True, kw_only=True):
    """A probe's end: `well`, `bad`, or `free`, which says nothing and lets another probe go, after `delay_ms`."""

    subject: str
    epoch: int
    verdict: str
    chance: float = 0.0
    cause: Cause = Cause()
    delay_ms: int = 0
    profile: Profile = PROFILES[ProfileKind.API_KEY]


class Cool(msgspec.Struct, frozen=True, kw_only=True):
    """A 429: `told_ms` is what the provider asked for, None when it did not say."""

    subject: str
    label: Label
    told_ms: int | None
    chance: float
    cause: Cause
    profile: Profile


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    label: Label
    version: int
    cause: Cause
    recheck_ms: int


class Clear(msgspec.Struct, frozen=True, kw_only=True):
    """Take marks away; where `epoch` is given, only if it is still that one."""

    subjects: tuple[str, ...]
    epoch: int | None = None


Operation = Strike | Claim | Renew | End | Cool | Lock | Clear


class Change(msgspec.Struct, frozen=True):
    """A mark as it is from `version` on; None: it is gone."""

    version: int
    subject: str
    mark: Mark | None


class Reply(msgspec.Struct, frozen=True):
    """`code` 1: it was done. `strikes`: a deployment's failures in a row, after a Strike that was counted."""

    code: int
    strikes: float = 0.0
    changes: tuple[Change, ...] = ()


@dataclass
class Counts:
    """Failures in a row, and calls and failures in two halves of a window."""

    row: float = 0.0
    last_ms: int = 0
    half: int = 0
    calls: int = 0
    bad: float = 0.0
    calls_before: int = 0
    bad_before: float = 0.0

    def roll(self, now_ms: int, half_ms: int) -> None:
        """Forget what is older than the window."""
        half = now_ms // half_ms
        if half != self.half:
            following = half == self.half + 1
            self.calls_before, self.bad_before = (self.calls, self.bad) if following else (0, 0.0)
            self.half, self.calls, self.bad = half, 0, 0.0
        if now_ms - self.last_ms > KEEP_MS:
            self.row = 0.0

    def tripped(self, profile: Profile) -> str:
        """The rule by which a breaker opens now; empty: none."""
        if self.row >= profile.failures:
            return "row"
        calls, bad = self.calls + self.calls_before, self.bad + self.bad_before
        return "share" if calls >= profile.least_calls and bad >= profile.error_share * calls else ""


@dataclass
class Level:
    """How often in a row a connection was limited without being told for how long."""

    level: int
    until_ms: int


@dataclass
class Board:
    marks: dict[str, Mark] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    levels: dict[str, Level] = field(default_factory=dict)
    version: int = 0

    def do(self, operation: Operation, now_ms: int) -> Reply:
        match operation:
            case Strike():
                return self._strike(operation, now_ms)
            case Claim():
                return self._claim(operation, now_ms)
            case Renew():
                return self._renew(operation, now_ms)
            case End():
                return self._end(operation, now_ms)
            case Cool():
                return self._cool(operation, now_ms)
            case Lock():
                return self._lock(operation, now_ms)
            case Clear():
                return self._clear(operation, now_ms)

    def prune(self, now_ms: int) -> None:
        """Drop what is over; nobody has to be told."""
        for subject, mark in list(self.marks.items()):
            forget_ms = FORGET_LOCK_MS if mark.state is MarkState.LOCKED else FORGET_BREAKER_MS
            if (mark.until_ms if mark.state is MarkState.COOLING else mark.due_ms + forget_ms) <= now_ms:
                del self.marks[subject]

    def _strike(self, strike: Strike, now_ms: int) -> Reply:
        subject, profile = strike.subject, strike.profile
        counts = self.counts.get(subject)
        if subject in self.marks or (counts is None and strike.weight == 0):
            return Reply(0)
        counts = counts or Counts()
        counts.roll(now_ms, _half_ms(profile))
        if strike.successes:
            counts.row = 0.0
        counts.row += strike.weight
        counts.calls += strike.successes + (1 if strike.weight else 0)
        counts.bad += strike.weight
        if strike.weight:
            counts.last_ms = now_ms
            rule = counts.tripped(profile)
            if rule and len(self.marks) < MOST_MARKS:
                self.counts.pop(subject, None)
                return self._tell(1, subject, self._opened(strike, rule, now_ms), now_ms)
        self.counts[subject] = counts
        return Reply(1, counts.row)

    @staticmethod
    def _opened(strike: Strike, rule: str, now_ms: int) -> Mark:
        return Mark(
            state=MarkState.OPEN, since_ms=now_ms, until_ms=now_ms + open_ms(strike.profile, 1, strike.chance), epoch=0,
            rule=rule, cause=strike.cause.failure_class, status=strike.cause.status, connection=strike.label.connection,
            model=strike.label.model, provider=strike.label.provider,
        )  # fmt: skip

    def _claim(self, claim: Claim, now_ms: int) -> Reply:
        deployment, connection = self.marks.get(claim.deployment), self.marks.get(claim.connection)
        if deployment is not None and deployment.due_ms > now_ms:
            return Reply(0)
        if connection is not None and connection.state is MarkState.COOLING:
            if connection.until_ms > now_ms:
                return Reply(0)
            connection = None
        if connection is not None and connection.version != claim.version:
            connection = None  # the credential that was refused is not the one that will be used
        if connection is not None and connection.due_ms > now_ms:
            return Reply(0)
        lease_ms = now_ms + claim.lease_ms
        changes: tuple[Change, ...] = ()
        if deployment is not None:
            half_open = msgspec.structs.replace(deployment, state=MarkState.HALF_OPEN, lease_ms=lease_ms)
            changes += self._tell(1, claim.deployment, half_open, now_ms).changes
        if connection is not None:
            probed = msgspec.structs.replace(connection, lease_ms=lease_ms)
            changes += self._tell(1, claim.connection, probed, now_ms).changes
        return Reply(1, 0.0, changes)

    def _renew(self, renew: Renew, now_ms: int) -> Reply:
        mark = self.marks.get(renew.subject)
        if mark is None or mark.epoch != renew.epoch or mark.lease_ms == 0:
            return Reply(0)
        longer = msgspec.structs.replace(mark, lease_ms=now_ms + renew.lease_ms)
        return self._tell(1, renew.subject, longer, now_ms, epoch=mark.epoch)

    def _end(self, end: End, now_ms: int) -> Reply:
        mark = self.marks.get(end.subject)
        if mark is None or mark.epoch != end.epoch or mark.lease_ms == 0:
            return Reply(0)
        if end.verdict == "well":
            self.counts.pop(end.subject, None)
            self.levels.pop(end.subject, None)
            return self._tell(1, end.subject, None, now_ms)
        locked = mark.state is MarkState.LOCKED
        state = MarkState.LOCKED if locked else MarkState.OPEN
        if end.verdict == "free":
            until_ms = max(mark.until_ms, now_ms + end.delay_ms) if end.delay_ms else mark.until_ms
            freed = msgspec.structs.replace(mark, state=state, lease_ms=0, until_ms=until_ms)
            return self._tell(1, end.subject, freed, now_ms)
        trips = mark.trips + 1
        wait_ms = end.delay_ms if locked else open_ms(end.profile, trips, end.chance)
        again = msgspec.structs.replace(
            mark, state=state, lease_ms=0, until_ms=now_ms + wait_ms, trips=trips, rule="" if locked else "probe",
            cause=end.cause.failure_class, status=end.cause.status,
        )  # fmt: skip
        return self._tell(1, end.subject, again, now_ms)

    def _cool(self, cool: Cool, now_ms: int) -> Reply:
        before = self.marks.get(cool.subject)
        if before is not None and before.state is not MarkState.COOLING:
            return Reply(0)
        if before is not None and before.until_ms <= now_ms:
            before = None
        if cool.told_ms is not None:
            wait_ms, level = min(max(cool.told_ms, int(LEAST_COOLDOWN_S * 1000)), int(MOST_COOLDOWN_S * 1000)), 1
        elif before is not None:
            return Reply(0)  # a call from before the cooldown began
        else:
            known = self.levels.get(cool.subject)
            level = 1 if known is None or known.until_ms <= now_ms else known.level + 1
            wait_ms = cooldown_ms(cool.profile, level, cool.chance)
            quiet_ms = wait_ms + int(cool.profile.longest_cooldown_s * 1000)
            self.levels[cool.subject] = Level(level, now_ms + quiet_ms)
        until_ms = now_ms + wait_ms
        if before is not None and before.until_ms >= until_ms:
            return Reply(0)
        mark = Mark(
            state=MarkState.COOLING, since_ms=now_ms if before is None else before.since_ms, until_ms=until_ms, epoch=0,
            trips=level, cause=cool.cause.failure_class, status=cool.cause.status, connection=cool.label.connection,
            model=cool.label.model, provider=cool.label.provider,
        )  # fmt: skip
        return self._tell(1, cool.subject, mark, now_ms)

    def _lock(self, lock: Lock, now_ms: int) -> Reply:
        before = self.marks.get(lock.subject)
        if before is not None and before.state is MarkState.LOCKED and before.version >= lock.version:
            return Reply(0)
        mark = Mark(
            state=MarkState.LOCKED, since_ms=now_ms, until_ms=now_ms + lock.recheck_ms, epoch=0, version=lock.version,
            cause=lock.cause.failure_class, status=lock.cause.status, connection=lock.label.connection, model=lock.label.model,
            provider=lock.label.provider,
        )  # fmt: skip
        return self._tell(1, lock.subject, mark, now_ms)

    def _clear(self, clear: Clear, now_ms: int) -> Reply:
        changes: tuple[Change, ...] = ()
        for subject in clear.subjects:
            self.counts.pop(subject, None)
            self.levels.pop(subject, None)
            mark = self.marks.get(subject)
            if mark is not None and clear.epoch in (None, mark.epoch):
                changes += self._tell(1, subject, None, now_ms).changes
        return Reply(1, 0.0, changes)

    def _tell(self, code: int, subject: str, mark: Mark | None, now_ms: int, epoch: int | None = None) -> Reply:
        """Write a mark under a new version, which is its epoch too unless one is given."""
        self.version = max(self.version + 1, now_ms)
        if mark is None:
            self.marks.pop(subject, None)
        else:
            mark = msgspec.structs.replace(mark, epoch=self.version if epoch is None else epoch)
            self.marks[subject] = mark
        return Reply(code, 0.0, (Change(self.version, subject, mark),))


def open_ms(profile: Profile, trips: int, chance: float) -> int:
    """How long a breaker stays open the `trips`th time in a row: doubled each time, ±20 %."""
    return _backed_off_ms(profile.open_s, profile.longest_open_s, trips, chance)


def cooldown_ms(profile: Profile, level: int, chance: float) -> int:
    return _backed_off_ms(profile.cooldown_s, profile.longest_cooldown_s, level, chance)


def _backed_off_ms(first_s: float, longest_s: float, times: int, chance: float) -> int:
    wait_s = min(longest_s, first_s * 2.0 ** min(times - 1, MOST_DOUBLINGS))
    return math.floor(wait_s * 1000 * (0.8 + 0.4 * chance))


def _half_ms(profile: Profile) -> int:
    return max(1, int(profile.window_s * 500))


def profile(base_url: str, settings: Mapping[str, Any]) -> Profile:
    """A connection's: the kind that it names, or that follows from where it leads, with what it sets otherwise."""
    numbers = {name: value for name, value in settings.items() if name != "kind"}
    return msgspec.structs.replace(PROFILES[ProfileKind(settings.get("kind") or profile_kind(base_url))], **numbers)


def profile_kind(base_url: str) -> ProfileKind:
    """LOCAL for a loopback or private address, or a name that only a private network knows; else API_KEY."""
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        local = "." not in host or host.endswith(tuple(f".{name}" for name in LOCAL_NAMES))
    else:
        local = ip.is_loopback or ip.is_private or ip.is_link_local
    return ProfileKind.LOCAL if local else ProfileKind.API_KEY

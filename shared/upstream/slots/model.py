"""Model: slots.lua in Python, line for line, for two purposes.

Tests run both side by side; and while Redis is away each node runs this one with its share of the limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from shared.upstream.slots.cells import EPOCH_S, LEASE_MS, Cells, QuotaCell

CREDIT_US = 5_000_000.0
MOST_KNOWN = 1000
LATE_US = 250_000.0
BUCKET_US = 300_000_000
BUCKETS = 60
MINUTE_US = 60_000_000.0
UNKNOWN_MS = 1000
GRANTED, WAITING, REFUSED = 1, 2, 3
NOBODY = ""

Tell = Callable[[str, str, int, int, float], bool]
"""(node, ticket, era, retry_ms, next_us) → whether that node hears it."""


class Ticket(msgspec.Struct):
    node: str
    organisation: str
    tokens: int
    nano: int
    cost: float


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What a call's end changes; `tokens` and `nano` are what it used beyond what was taken."""

    tokens: int = 0
    nano: int = 0
    pause_us: int = 0
    era: int = -1
    went: int = 0
    """1: well, -1: the provider pushed back, 0: neither."""
    held_us: int = 0
    unused: bool = False


class State:
    """One connection's. Every operation answers as the script does."""

    def __init__(self) -> None:
        self.r = self.t = self.g = self.pause = self.virtual = self.queued = self.cap = self.hold = self.seen = 0.0
        self.era = self.ok = 0
        self.leases: dict[str, int] = {}
        self.waiting: dict[str, float] = {}
        self.tickets: dict[str, Ticket] = {}
        self.late: dict[str, int] = {}
        self.tags: dict[str, float] = {}
        self.quotas: dict[bytes, dict[int, int]] = {}

    def take(
        self,
        cells: Cells,
        now_us: float,
        node: str,
        tell: Tell,
        ticket: str,
        organisation: str,
        tokens: int,
        nano: int,
        wait_us: int,
    ) -> list[int | str]:
        run = _Run(self, cells, now_us, node, tell)
        return run.take(ticket, organisation, tokens, nano, wait_us)

    def done(self, cells: Cells, now_us: float, node: str, tell: Tell, ticket: str, end: Done) -> list[int | str]:
        run = _Run(self, cells, now_us, node, tell)
        run.done(ticket, end)
        return run.look()

    def leave(self, cells: Cells, now_us: float, node: str, tell: Tell, ticket: str) -> list[int | str]:
        return _Run(self, cells, now_us, node, tell).leave(ticket)

    def look(self, cells: Cells, now_us: float, node: str, tell: Tell) -> list[int | str]:
        return _Run(self, cells, now_us, node, tell).look()


class _Run:
    """One run of the script: the names are the script's."""

    def __init__(self, state: State, cells: Cells, now_us: float, node: str, tell: Tell) -> None:
        self.s, self.c, self.now, self.node, self._tell = state, cells, now_us, node, tell
        self.now_ms = math.floor(now_us / 1000) + EPOCH_S * 1000
        self.replies: list[int | str] = []
        if not cells.adaptive or state.cap <= 0 or state.cap > cells.concurrent:
            state.cap = cells.concurrent
        self.room = max(1, math.floor(state.cap))
        self.held = len(state.leases) if cells.concurrent else 0
        if cells.concurrent and self.held >= self.room:
            for ticket in [ticket for ticket, end in state.leases.items() if end <= self.now_ms]:
                del state.leases[ticket]
            self.held = len(state.leases)

    def take(self, ticket: str, organisation: str, tokens: int, nano: int, longest: int) -> list[int | str]:
        s, c = self.s, self.c
        if c.concurrent and ticket in s.leases:
            return self.answer(GRANTED, s.era, 0, -1, NOBODY)
        first, of = self.drain(False)
        if ticket in s.waiting:
            return self.answer(WAITING, 0, 0, first, of)
        if self.now - s.seen > MINUTE_US and first == -1:
            s.tags.clear()
        s.seen = self.now
        cost = self.pace_of(tokens) or UNKNOWN_MS * 1000 / self.room
        tag = max(s.virtual - CREDIT_US, s.tags.get(organisation, s.virtual))
        wait, why = self.wait_for(tokens, nano, False)
        if wait == 0 and first == -1:
            self.use(ticket, tokens, nano, False)
            s.virtual = max(s.virtual, tag)
            self.finish(organisation, tag + cost)
            return self.answer(GRANTED, s.era, 0, -1, NOBODY)
        waiting, ahead = len(s.waiting), sum(other <= tag for other in s.waiting.values())
        expected = max(wait, first)
        if expected < 0:
            expected = s.hold / self.room
        if ahead:
            expected += ahead * self.pace_of(s.queued / waiting)
        if longest <= 0 or expected > longest:
            if why == 0:
                why = 2 if c.token_us * tokens > c.request_us else 1 if c.request_us else 3 if c.gap_us else 4
            retry_ms = (expected - max(0, longest)) / 1000
            return self.answer(REFUSED, why, retry_ms if retry_ms > 0 else UNKNOWN_MS, first, of)
        if waiting >= c.most_waiting:
            retry = max(1, math.ceil(max(0, first, self.pace_of(s.queued / max(1, waiting))) / 1000))
            last = max(s.waiting.items(), key=lambda item: (item[1], item[0]), default=None)
            if last is None or last[1] <= tag:
                return self.answer(REFUSED, 7, retry, first, of)
            gone = self.out(last[0], False)
            if gone is not None:
                self.tell(gone.node, last[0], -1, retry, 0)
        s.waiting[ticket] = tag
        s.tickets[ticket] = Ticket(self.node, organisation, tokens, nano, cost)
        s.late[ticket] = self.now_ms + math.ceil(longest / 1000) + 1000
        self.finish(organisation, tag + cost)
        s.queued += tokens
        first, of = self.drain(False)
        return self.answer(WAITING, ahead, 0, first, of)

    def done(self, ticket: str, end: Done) -> None:
        s, c = self.s, self.c
        if c.concurrent and s.leases.pop(ticket, None) is not None:
            self.held -= 1
        if c.token_us:
            s.t = min(s.t + end.tokens * c.token_us, self.now + MINUTE_US + c.token_burst * c.token_us)
        if end.unused and c.request_us:
            s.r -= c.request_us
        self.count(-1 if end.unused else 0, end.tokens, end.nano)
        if end.pause_us > 0:
            s.pause = max(s.pause, self.now + end.pause_us)
        if not c.concurrent:
            return
        if end.held_us > 0:
            s.hold = float(end.held_us) if s.hold == 0 else s.hold * 0.9 + end.held_us * 0.1
        if c.adaptive and end.went < 0 and end.era == s.era:
            s.cap, s.ok, s.era = max(1.0, s.cap * 0.7), 0, s.era + 1
        elif c.adaptive and end.went > 0 and s.cap < c.concurrent:
            s.ok += 1
            if s.ok >= s.cap:
                s.cap, s.ok = min(float(c.concurrent), s.cap + 1), 0
        self.room = max(1, math.floor(s.cap))

    def leave(self, ticket: str) -> list[int | str]:
        s = self.s
        if self.c.concurrent and ticket in s.leases:
            return self.answer(GRANTED, s.era, 0, -1, NOBODY)
        first = self.first()
        self.out(ticket, False)
        next_us, of = self.drain(first == ticket)
        return self.answer(0, 0, 0, next_us, of)

    def look(self) -> list[int | str]:
        next_us, of = self.drain(False)
        return self.answer(0, 0, 0, next_us, of)

    def drain(self, changed: bool) -> tuple[float, str]:
        s = self.s
        for ticket, _ in sorted(
            ((t, ms) for t, ms in s.late.items() if ms <= self.now_ms), key=lambda each: (each[1], each[0])
        )[:100]:
            self.out(ticket, False)
            changed = True
        while (ticket_ := self.first()) is not None:
            entry, tag = s.tickets[ticket_], s.waiting[ticket_]
            wait, _ = self.wait_for(entry.tokens, entry.nano, True)
            if wait != 0:
                if not changed or self.tell(entry.node, "", 0, 0, wait):
                    return wait, entry.node
                self.out(ticket_, False)
                continue
            heard = self.tell(entry.node, ticket_, s.era, 0, 0)
            self.out(ticket_, heard)
            changed = True
            if heard:
                self.use(ticket_, entry.tokens, entry.nano, True)
                s.virtual = max(s.virtual, tag)
        return -1, NOBODY

    def first(self) -> str | None:
        return min(self.s.waiting, key=lambda ticket: (self.s.waiting[ticket], ticket), default=None)

    def pace_of(self, tokens: float) -> float:
        each = self.s.hold / self.room if self.c.concurrent else 0
        return max(self.c.request_us, tokens * self.c.token_us, self.c.gap_us, each)

    def from_(self, tat: float, late: bool) -> float:
        return tat if tat >= self.now or (late and tat > self.now - LATE_US) else self.now

    def wait_for(self, tokens: int, nano: int, late: bool) -> tuple[float, int]:
        s, c, now = self.s, self.c, self.now
        wait, why = (s.pause - now, 6) if s.pause > now else (0.0, 0)
        if c.request_us:
            over = self.from_(s.r, late) + c.request_us - now - max(c.request_burst, 1) * c.request_us
            if over > 0.5 and over > wait:
                wait, why = over, 1
        if c.token_us:
            over = self.from_(s.t, late) + tokens * c.token_us - now - max(c.token_burst, tokens) * c.token_us
            if over > 0.5 and over > wait:
                wait, why = over, 2
        if c.gap_us and s.g - now > 0.5 and s.g - now > wait:
            wait, why = s.g - now, 3
        for at, quota in enumerate(c.quotas):
            over = self.quota_wait(c.keys[6 + at], quota, self.amount(quota, tokens, nano))
            if over > wait:
                wait, why = over, 5
        if wait == 0 and c.concurrent and self.held >= self.room:
            return -2, 4
        return wait, why

    @staticmethod
    def amount(quota: QuotaCell, tokens: int, nano: int) -> int:
        return {"r": 1, "t": tokens, "u": nano}[quota.unit]

    def quota_wait(self, key: bytes, quota: QuotaCell, n: int) -> float:
        n, kept = min(n, quota.limit), self.s.quotas.setdefault(key, {})
        if quota.ends_us:
            return 0 if kept.get(0, 0) + n <= quota.limit else max(1, quota.ends_us - self.now)
        oldest = math.floor(self.now / BUCKET_US) - BUCKETS
        for bucket in [bucket for bucket in kept if bucket < oldest]:
            del kept[bucket]
        over = sum(kept.values()) + n - quota.limit
        if over <= 0:
            return 0
        for bucket in sorted(kept):
            over -= kept[bucket]
            if over <= 0:
                return max(1, (bucket + BUCKETS + 1) * BUCKET_US - self.now)
        return BUCKET_US

    def count(self, requests: int, tokens: int, nano: int) -> None:
        for at, quota in enumerate(self.c.quotas):
            n = requests if quota.unit == "r" else self.amount(quota, tokens, nano)
            if n:
                kept = self.s.quotas.setdefault(self.c.keys[6 + at], {})
                bucket = 0 if quota.ends_us else math.floor(self.now / BUCKET_US)
                kept[bucket] = kept.get(bucket, 0) + n

    def use(self, ticket: str, tokens: int, nano: int, late: bool) -> None:
        s, c = self.s, self.c
        if c.request_us:
            s.r = self.from_(s.r, late) + c.request_us
        if c.token_us:
            s.t = self.from_(s.t, late) + tokens * c.token_us
        if c.gap_us:
            s.g = self.now + c.gap_us
        if c.concurrent:
            s.leases[ticket] = self.now_ms + LEASE_MS
            self.held += 1
        self.count(1, tokens, nano)

    def finish(self, organisation: str, tag: float) -> None:
        s = self.s
        s.tags[organisation] = tag
        if len(s.tags) > MOST_KNOWN:
            del s.tags[min(s.tags, key=lambda known: (s.tags[known], known))]

    def out(self, ticket: str, went: bool) -> Ticket | None:
        s = self.s
        s.waiting.pop(ticket, None)
        s.late.pop(ticket, None)
        entry = s.tickets.pop(ticket, None)
        if entry is not None:
            s.queued = max(0.0, s.queued - entry.tokens)
            if not went and entry.organisation in s.tags:
                self.finish(entry.organisation, s.tags[entry.organisation] - entry.cost)
        return entry

    def tell(self, of: str, ticket: str, era: int, retry_ms: int, next_us: float) -> bool:
        if of != self.node:
            return self._tell(of, ticket, era, retry_ms, next_us)
        if ticket:
            self.replies += [ticket, era, retry_ms]
        return True

    def answer(self, code: int, x: int, retry_ms: float, next_us: float, of: str) -> list[int | str]:
        if self.s.cap >= self.c.concurrent:
            self.s.cap = 0.0
        return [code, x, math.ceil(retry_ms), math.ceil(next_us), int(of == self.node), *self.replies]

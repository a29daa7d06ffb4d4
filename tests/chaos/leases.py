"""Leases: what Redis told of a breaker, laid beside what reached the provider.

A breaker's life is a row of spans: closed, open, half-open (one lease each). Every arrival falls into one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.chaos.sickbed import Arrival, Told

NEWS_MS = 250.0
"""A change reaches every node within so long: what arrives until then after an opening was sent before it."""


@dataclass(slots=True)
class Span:
    """One state of a breaker; a lease that is renewed stays one."""

    state: str
    begin_ms: int
    mark: dict[str, Any]
    after: str
    """The state before it."""
    end_ms: float = float("inf")
    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def trips(self) -> int:
        return int(self.mark.get("trips", 1))


def spans(told: Iterable[Told], arrivals: Iterable[Arrival]) -> list[Span]:
    made = [Span("closed", 0, {}, "")]
    for notice in sorted(told, key=lambda notice: notice.at_ms):
        mark = notice.mark or {}
        state, last = mark.get("state", "closed"), made[-1]
        if state == last.state and mark.get("epoch") == last.mark.get("epoch"):
            last.mark = mark
            continue
        last.end_ms = notice.at_ms
        made.append(Span(state, notice.at_ms, mark, last.state))
    for arrival in arrivals:
        next(span for span in reversed(made) if span.begin_ms <= arrival.at_ms).arrivals.append(arrival)
    return made


@dataclass(slots=True)
class Books:
    """What all breakers did together. Times in milliseconds."""

    periods: int = 0
    """Open periods that ended with a verdict."""
    leases: int = 0
    unused: int = 0
    """Leases that were given back before anything was sent: the connection still kept the pause that a 429 asked for."""
    ends: Counter[str] = field(default_factory=Counter)
    """Of what arrived as a probe."""
    stragglers_ms: list[float] = field(default_factory=list)
    """How long after an opening something still arrived that had been sent before."""
    late_ms: list[float] = field(default_factory=list)
    """From the moment when a probe was due until it arrived."""
    after_death_ms: list[float] = field(default_factory=list)
    """From a holder's death until the next probe."""
    wrong: list[str] = field(default_factory=list)


def check(books: Books, name: str, row: list[Span], killed_ms: Mapping[int, float], cooldown_ms: float) -> None:
    """Adds up one breaker's spans; what must not be is told in `books.wrong`."""
    for before, span, after in zip(row, row[1:], row[2:], strict=False):
        where = f"{name} {span.state} at {span.begin_ms} (epoch {span.mark.get('epoch')})"
        if span.state == "open":
            _check_open(books, where, span)
        elif span.state == "half_open":
            books.leases += 1
            _check_lease(books, where, before, span, after, killed_ms)
    held = [span for span in row if span.state == "half_open" and span.arrivals]
    for span, following in pairwise(held):
        wait_ms = following.arrivals[0].at_ms - span.arrivals[-1].at_ms
        if span.arrivals[0].end == "429" and wait_ms < 0.8 * cooldown_ms:
            books.wrong.append(f"{name}: asked {wait_ms:.0f} ms after a 429")


def _check_open(books: Books, where: str, span: Span) -> None:
    for arrival in span.arrivals:
        late_ms = arrival.at_ms - span.begin_ms
        if span.after != "closed" or late_ms > NEWS_MS:
            books.wrong.append(f"{where}: a call arrived {late_ms:.0f} ms after the opening")
        else:
            books.stragglers_ms.append(late_ms)


def _check_lease(books: Books, where: str, before: Span, span: Span, after: Span, killed_ms: Mapping[int, float]) -> None:
    died = [at_ms for at_ms in killed_ms.values() if span.begin_ms - 50 <= at_ms <= after.begin_ms]
    verdict = after.state == "closed" or (after.state == "open" and after.trips > span.trips)
    books.periods += verdict
    given_back = after.state == "open" and not verdict
    if not span.arrivals and given_back:
        books.unused += 1
        return
    if len(span.arrivals) != 1 and not (died and not span.arrivals):
        books.wrong.append(f"{where}: {len(span.arrivals)} probes under one lease")
        return
    if after.state == "half_open" and after.begin_ms < span.mark["lease_ms"]:
        books.wrong.append(f"{where}: another lease was granted {span.mark['lease_ms'] - after.begin_ms} ms before its end")
    if not span.arrivals:
        return
    arrival = span.arrivals[0]
    books.ends[arrival.end] += 1
    if before.state == "open":
        due_ms = before.mark["until_ms"]
        books.late_ms.append(arrival.at_ms - due_ms)
        if arrival.at_ms < due_ms:
            books.wrong.append(f"{where}: its probe came {due_ms - arrival.at_ms:.0f} ms too early")
    if verdict is not (arrival.end in ("bad", "well")) and not died:
        books.wrong.append(f"{where}: a probe that ended {arrival.end} was {'' if verdict else 'not '}a verdict")
    if arrival.end == "killed":
        if after.state != "half_open":
            books.wrong.append(f"{where}: its holder died, and it became {after.state}")
        elif after.arrivals:
            books.after_death_ms.append(after.arrivals[0].at_ms - killed_ms[arrival.node])

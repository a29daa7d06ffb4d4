"""Mirror: the board's marks as this node knows them, in memory.

Marks come three ways: pushed by Redis' channel, in the replies to the node's own operations, and all at once with a look.
Every change has a version, so they may come in any order and twice; a look is the truth up to its own version.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.domain.catalogue import Deployment
from shared.domain.health import Mark, MarkState, Standing
from shared.routing.breaker import Change
from shared.upstream.health.script import Look


class Mirror:
    def __init__(self) -> None:
        self.marks: dict[str, Mark] = {}
        """By Deployment.key or connection id; empty while all is well. Always this very dictionary."""
        self.ahead_ms = 0.0
        """How far Redis' clock is ahead of this node's: marks tell Redis' time."""
        self.life = ""
        """The memory of Redis that was last looked at."""
        self._floor = 0
        self._versions: dict[str, int] = {}

    def take(self, changes: Iterable[Change]) -> None:
        """Take in what is newer than what is known."""
        for change in changes:
            subject = change.subject
            if change.version > max(self._floor, self._versions.get(subject, 0)):
                self._versions[subject] = change.version
                self._set(subject, change.mark)

    def put(self, changes: Iterable[Change]) -> None:
        """What this node decided alone, without Redis: it stands until the next look."""
        for change in changes:
            self._set(change.subject, change.mark)

    def forget(self, subject: str) -> None:
        self.marks.pop(subject, None)

    def adopt(self, look: Look, *, alone: bool) -> None:
        """`alone`: this node decided by itself before; nothing of that is kept."""
        newer = {} if alone else {s: version for s, version in self._versions.items() if version > look.version}
        kept = {subject: self.marks[subject] for subject in newer if subject in self.marks}
        found = {subject: mark for subject, mark in look.marks.items() if subject not in newer} | kept
        self.marks.clear()
        self.marks.update(found)
        self._floor, self._versions, self.life = look.version, newer, look.life

    def _set(self, subject: str, mark: Mark | None) -> None:
        if mark is None:
            self.marks.pop(subject, None)
        else:
            self.marks[subject] = mark

    def redis_ms(self, now_s: float) -> int:
        return int(now_s * 1000 + self.ahead_ms)

    def node_s(self, at_ms: int) -> float:
        return (at_ms - self.ahead_ms) / 1000

    def prune(self, now_s: float) -> None:
        """Cooldowns end by themselves; nobody tells."""
        now_ms = self.redis_ms(now_s)
        for subject, mark in list(self.marks.items()):
            if mark.state is MarkState.COOLING and mark.until_ms <= now_ms:
                del self.marks[subject]

    def lock_of(self, deployment: Deployment) -> Mark | None:
        """The mark of the connection, unless it is about a credential that the connection no longer has."""
        connection = deployment.connection
        mark = self.marks.get(connection.connection_id)
        if mark is not None and mark.state is MarkState.LOCKED and mark.version != connection.credential_version:
            return None
        return mark

    def standing(self, deployment: Deployment, now_s: float) -> Standing | None:
        """What speaks against an ordinary call to it now; None: nothing."""
        now_ms = self.redis_ms(now_s)
        connection, breaker = self.lock_of(deployment), self.marks.get(deployment.key)
        if connection is not None and connection.state is MarkState.COOLING and connection.until_ms <= now_ms:
            connection = None
        if connection is not None and connection.due_ms > now_ms:
            cooling = connection.state is MarkState.COOLING
            return Standing(
                state="cooling" if cooling else "locked", until_s=self.node_s(connection.due_ms), reason=connection.reason()
            )
        if breaker is not None and breaker.due_ms > now_ms:
            return Standing(state="open", until_s=self.node_s(breaker.due_ms), reason=breaker.reason())
        due = connection or breaker
        if due is None:
            return None
        return Standing(state="half_open_due", until_s=self.node_s(due.due_ms), reason=due.reason())

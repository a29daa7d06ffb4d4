"""Alone: the queue of one node while Redis is away, each connection's limits held at this node's share of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared.clock import Clock
from shared.upstream.slots.cells import EPOCH_S, Cells
from shared.upstream.slots.line import Line
from shared.upstream.slots.model import Done, State
from shared.upstream.slots.slot import Waiter

SHARE = 0.8
"""Of its part of each limit, what a node uses while Redis is away."""
FOR_EVER_MS = 2**53


class Alone:
    """Answers as a run of slots.lua does (model.py)."""

    def __init__(self, node_id: str, live_nodes: Callable[[], int], clock: Clock) -> None:
        self._node = node_id
        self._live_nodes = live_nodes
        self._clock = clock

    def take(self, line: Line, waiter: Waiter, wait_us: int) -> list[Any]:
        state, cells, now_us = self._of(line)
        return state.take(
            cells, now_us, self._node, _nobody, waiter.ticket, waiter.organisation_id, waiter.tokens, waiter.nano, wait_us
        )

    def done(self, line: Line, ticket: str, end: Done) -> list[Any]:
        state, cells, now_us = self._of(line)
        return state.done(cells, now_us, self._node, _nobody, ticket, end)

    def leave(self, line: Line, ticket: str) -> list[Any]:
        state, cells, now_us = self._of(line)
        return state.leave(cells, now_us, self._node, _nobody, ticket)

    def look(self, line: Line) -> list[Any]:
        state, cells, now_us = self._of(line)
        return state.look(cells, now_us, self._node, _nobody)

    def _of(self, line: Line) -> tuple[State, Cells, float]:
        """Whatever the node holds counts against its share, for as long as it is held."""
        if line.state is None:
            line.state = State()
        line.state.leases = dict.fromkeys(line.live, FOR_EVER_MS)
        return line.state, line.cells.share(max(1, self._live_nodes()), SHARE), (self._clock.now_s() - EPOCH_S) * 1_000_000


def _nobody(of: str, ticket: str, era: int, retry_ms: int, next_us: float) -> bool:
    """A queue of one node has nobody else to tell."""
    raise AssertionError(f"{of} is another node")

"""A line: one node's end of a connection's queue."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from shared.domain.catalogue import Connection
from shared.providers.quota import Left
from shared.upstream.slots.cells import Cells
from shared.upstream.slots.model import State
from shared.upstream.slots.slot import Slot, Waiter


@dataclass(slots=True)
class Line:
    connection: Connection
    cells: Cells
    waiters: dict[str, Waiter] = field(default_factory=dict)
    live: dict[str, Slot] = field(default_factory=dict)
    state: State | None = None
    """The queue of this node alone, while Redis is away."""
    left: list[Left] = field(default_factory=list)
    """What the provider last said."""
    timer: asyncio.TimerHandle | None = None
    """When to look after the queue."""

"""A crowd of clients at all nodes, and what they saw."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from tests.hosts.cluster import Client, Cluster, call, client


@dataclass(slots=True)
class Seen:
    """One call as its client saw it. Times in Unix seconds."""

    began: float
    ended: float
    status: int
    attempts: str
    body: Any


@dataclass(slots=True)
class Crowd:
    """`rate` calls a second over all nodes of a cluster, evenly, each in a task of its own: a slow answer holds up no other."""

    cluster: Cluster
    model: str = "lab/chat"
    fields: dict[str, Any] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    async def run(self, *, seconds: float, rate: float) -> list[Seen]:
        """What this run's calls saw, in the order of their beginnings."""
        before, tasks = len(self.seen), []
        async with asyncio.TaskGroup() as group:
            for node in range(len(self.cluster.nodes)):
                tasks.append(group.create_task(self._at(node, seconds, rate / len(self.cluster.nodes))))
        made = self.seen[before:]
        made.sort(key=lambda each: each.began)
        return made

    async def _at(self, node: int, seconds: float, rate: float) -> None:
        started = time.monotonic()
        async with client(self.cluster, node) as one, asyncio.TaskGroup() as group:
            for number in range(int(seconds * rate)):
                await asyncio.sleep(max(0.0, started + (number + node / 4) / rate - time.monotonic()))
                group.create_task(self._call(one))

    async def _call(self, one: Client) -> None:
        began = time.time()
        status, headers, body = await one.chat(call(self.model, max_tokens=20, **self.fields))
        self.seen.append(Seen(began, time.time(), status, headers.get("x-waystation-attempts", ""), body))


def percentile(values: list[float], part: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

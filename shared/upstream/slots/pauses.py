"""Pauses: connections without limits whose providers want to be left alone, as all nodes know them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from redis.asyncio import Redis

from shared.clock import Clock
from shared.store import keys
from shared.store.redis import Lane, bulk, database_of
from shared.upstream.slots.cells import EPOCH_S

AFTER_S = 0.25
"""How long after its end a pause still sends calls to the queue, and how often it is seen whether some still wait there."""


class Pauses:
    """`waits` says whether this node has calls that wait for a connection: until they went, others queue behind them."""

    def __init__(self, lane: Lane, redis: Redis, clock: Clock, waits: Callable[[str], bool]) -> None:
        self._lane = lane
        self._redis = redis
        self._clock = clock
        self._waits = waits
        self.until_s: dict[str, float] = {}
        """By connection id; monotonic."""

    def share(self, connection_id: str, pause_ms: int) -> None:
        """Pause here and everywhere else, also on nodes that start later."""
        self.remember(connection_id, pause_ms / 1000)
        name, until = connection_id.encode(), b"%d" % (int(self._clock.now_s() * 1000) + pause_ms)
        self._lane.post(b"*4\r\n" + bulk(b"HSET", keys.SLOTS_LEARNED, name, until))
        self._lane.post(b"*3\r\n" + bulk(b"PUBLISH", keys.slots_channel(self._lane.database), b"%b\n%d" % (name, pause_ms)))

    def hear(self, text: str) -> str | None:
        """What another node shared. The connection whose pause somebody ended, if that is it."""
        connection_id, pause_ms = text.split("\n")
        if int(pause_ms):
            self.remember(connection_id, int(pause_ms) / 1000)
            return None
        if connection_id in self.until_s:
            self.until_s[connection_id] = self._clock.monotonic_s()
            asyncio.get_running_loop().call_later(AFTER_S, self._forget, connection_id)
        return connection_id

    def remember(self, connection_id: str, pause_s: float) -> None:
        known_s = self.until_s.get(connection_id)
        self.until_s[connection_id] = max(self._clock.monotonic_s() + pause_s, known_s or 0.0)
        if known_s is None:
            asyncio.get_running_loop().call_later(pause_s + AFTER_S, self._forget, connection_id)

    async def recall(self) -> None:
        """What was shared before this node listened. Raises RedisError."""
        now_ms = self._clock.now_s() * 1000
        found: dict[bytes, bytes] = await self._redis.hgetall(keys.SLOTS_LEARNED)  # type: ignore[misc, arg-type]
        for name, until in found.items():
            if int(until) > now_ms:
                self.remember(name.decode(), (int(until) - now_ms) / 1000)
            else:
                await self._redis.hdel(keys.SLOTS_LEARNED, name)  # type: ignore[misc, arg-type]

    def _forget(self, connection_id: str) -> None:
        left_s = self.until_s.get(connection_id, 0.0) - self._clock.monotonic_s()
        if left_s > 0 or self._waits(connection_id):
            asyncio.get_running_loop().call_later(max(left_s, AFTER_S), self._forget, connection_id)
        else:
            self.until_s.pop(connection_id, None)


async def paused(redis: Redis, connection_ids: Sequence[str]) -> list[str]:
    """Those of the connections whose providers want to be left alone now. Raises RedisError."""
    pipe = redis.pipeline(transaction=False)
    pipe.time()
    for connection_id in connection_ids:
        pipe.hget(keys.slots(connection_id)[0], "p")  # type: ignore[arg-type]
    (seconds, micros), *until = await pipe.execute()
    now_us = (seconds - EPOCH_S) * 1_000_000 + micros
    return [name for name, at in zip(connection_ids, until, strict=True) if at is not None and float(at) > now_us]


async def end_pauses(redis: Redis, connection_ids: Iterable[str]) -> None:
    """An operator knows better than the provider said: on all nodes at once, also of connections with limits. Raises
    RedisError."""
    pipe = redis.pipeline(transaction=False)
    for connection_id in connection_ids:
        pipe.hdel(keys.slots(connection_id)[0], "p")  # type: ignore[arg-type]
        pipe.hdel(keys.SLOTS_LEARNED, connection_id)  # type: ignore[arg-type]
        pipe.publish(keys.slots_channel(database_of(redis)), f"{connection_id}\n0")
    await pipe.execute()

"""Presence: which nodes live, and which life of Redis this is.

A *boot* is one life of a Redis server: `<µs>-<run id>`. It ends when the server is emptied, restarted or failed over, for
then limits and budgets in it may be gone or old. Every node beats once a second; one that sees a new boot first restores
what it knows (its calls in flight, its events not yet booked), then registers under it. Budgets are rebuilt only when
every live node has registered (seeding.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.store import keys

log = logging.getLogger(__name__)

BEAT_S = 1.0
ALIVE_MS = 3_500
RENEW_S = 10.0
LEASE_MS = 30_000
REGISTERED_S = 7 * 24 * 3600

CLAIM_BOOT = """
-- KEYS[1] boot; ARGV[1] what the caller saw there ('' for nothing), ARGV[2] the boot it proposes. Returns the boot in force.
local now = redis.call('GET', KEYS[1]) or ''
if now ~= ARGV[1] then return now end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
"""

NewBoot = Callable[[str], Awaitable[None]]
Renew = Callable[[int], None]


class Presence:
    """A node's heartbeat. With `node_id` None it only watches (workers hold no reservations)."""

    def __init__(self, redis: Redis, node_id: str | None) -> None:
        self._redis = redis
        self._node_id = node_id
        self.boot: str | None = None
        self.peers: frozenset[str] = frozenset()
        self.expected: frozenset[str] = frozenset()
        """Nodes that must register under the boot before a budget may be rebuilt."""
        self._on_new_boot: list[NewBoot] = []
        self._renew: list[Renew] = []
        self._on_beat: list[Callable[[], None]] = []
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def live_nodes(self) -> int:
        """At least one: this one. While Redis is away, as last seen."""
        return max(1, len(self.peers))

    def on_new_boot(self, restore: NewBoot) -> None:
        """`restore(boot)` runs before the node registers under a new boot."""
        self._on_new_boot.append(restore)

    def on_renewal(self, renew: Renew) -> None:
        """`renew(expiry_ms)` runs every RENEW_S, with the new expiry in Redis' time."""
        self._renew.append(renew)

    def on_beat(self, act: Callable[[], None]) -> None:
        self._on_beat.append(act)

    async def run(self) -> None:
        """Beat for ever. Redis being away only stops the beats."""
        renewed_s = 0.0
        while True:
            try:
                now_ms = await self._beat()
                if time.monotonic() - renewed_s >= RENEW_S:
                    renewed_s = time.monotonic()
                    for renew in self._renew:
                        renew(now_ms + LEASE_MS)
                for act in self._on_beat:
                    act()
            except (RedisError, OSError, TimeoutError) as error:
                log.debug("heartbeat failed: %s", error)
            await asyncio.sleep(BEAT_S)

    async def refresh(self) -> None:
        """Beat now; concurrent callers share one."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.ensure_future(self._refresh())
        await asyncio.shield(self._refreshing)

    async def leave(self) -> None:
        """A clean goodbye: nobody waits for this node any more."""
        if self._node_id is not None:
            await self._redis.zrem(keys.NODES, self._node_id)

    async def registered(self, boot: str) -> frozenset[str]:
        return frozenset(name.decode() for name in await self._redis.smembers(keys.registered(boot)))  # type: ignore[misc, arg-type]

    async def _refresh(self) -> None:
        await self._beat()

    async def _beat(self) -> int:
        """One heartbeat; Redis' time in ms."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.info("server")
        pipe.time()
        pipe.get(keys.BOOT)
        server, (seconds, micros), seen = await pipe.execute()
        now_us = seconds * 1_000_000 + micros
        now_ms = now_us // 1000
        boot = "" if seen is None else seen.decode()
        run_id = server["run_id"]
        if boot.partition("-")[2] != run_id:
            proposed = f"{now_us}-{run_id}"
            boot = (await self._redis.eval(CLAIM_BOOT, 1, keys.BOOT, boot, proposed)).decode()  # type: ignore[misc, arg-type]
        pipe = self._redis.pipeline(transaction=False)
        if self._node_id is not None:
            pipe.zadd(keys.NODES, {self._node_id: now_ms})
        pipe.zremrangebyscore(keys.NODES, "-inf", now_ms - 3_600_000)
        pipe.zrangebyscore(keys.NODES, now_ms - ALIVE_MS, "+inf")
        peers = frozenset(name.decode() for name in (await pipe.execute())[-1])
        if boot != self.boot:
            await self._enter(boot, peers)
        self.peers = peers
        return int(now_ms)

    async def _enter(self, boot: str, peers: frozenset[str]) -> None:
        self.expected = (peers | self.peers) if self.boot is not None else peers
        if self.boot is not None:
            log.warning("Redis began a new life; restoring what this node knows")
        for restore in self._on_new_boot:
            await restore(boot)
        self.boot = boot
        if self._node_id is not None:
            name = keys.registered(boot)
            await self._redis.sadd(name, self._node_id)  # type: ignore[misc, arg-type]
            await self._redis.expire(name, REGISTERED_S)

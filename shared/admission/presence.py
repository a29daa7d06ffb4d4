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
from collections.abc import Awaitable, Callable, Iterable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.store import keys

log = logging.getLogger(__name__)

BEAT_S = 1.0
ALIVE_MS = 3_500
SHOWN_S = 1.5
"""By this age of a boot every live node has beaten once, so whoever came to it without a past knows its peers too."""
PATIENCE_S = 10.0
"""A node that is silent this long after a boot began is taken for dead; what it knew comes back from its log later."""
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
        """In force from the moment it is seen; this node registers under it only when everything is restored."""
        self.peers: frozenset[str] = frozenset()
        self.expected: frozenset[str] = frozenset()
        """Nodes that must register under the boot before a budget may be rebuilt."""
        self.newcomer = True
        """Whether this node knew no earlier boot, and so cannot know who else lived under one."""
        self._unheard: frozenset[str] = frozenset()
        """Those of `expected` that had not registered when last looked for: still missing if Redis is emptied again."""
        self._registered_under: str | None = None
        self._on_new_boot: list[NewBoot] = []
        self._renew: list[Renew] = []
        self._on_beat: list[Callable[[], None]] = []
        self._beating: asyncio.Task[int] | None = None

    @property
    def live_nodes(self) -> int:
        """At least one: this one. While Redis is away, as last seen."""
        return max(1, len(self.peers))

    def on_new_boot(self, restore: NewBoot) -> None:
        """`restore(boot)` runs before the node registers under a new boot; again, with the next beat, if it raises. What the
        first one does before it first waits happens in the very turn in which `boot` changes."""
        self._on_new_boot.append(restore)

    def on_renewal(self, renew: Renew) -> None:
        """`renew(expiry_ms)` runs every RENEW_S, with the new expiry in Redis' time."""
        self._renew.append(renew)

    def on_beat(self, act: Callable[[], None]) -> None:
        self._on_beat.append(act)

    async def run(self) -> None:
        """Beat for ever. Redis being away only stops the beats, and so does whatever else goes wrong: without a heartbeat a
        node's leases and its part of the limits would be lost."""
        renewed_s = 0.0
        while True:
            try:
                now_ms = await self._shared_beat()
                if time.monotonic() - renewed_s >= RENEW_S:
                    renewed_s = time.monotonic()
                    for renew in self._renew:
                        renew(now_ms + LEASE_MS)
                for act in self._on_beat:
                    act()
            except (RedisError, OSError, TimeoutError) as error:
                log.debug("heartbeat failed: %s", error)
            except Exception:
                log.exception("heartbeat failed")
            await asyncio.sleep(BEAT_S)

    async def refresh(self) -> None:
        """Beat now; concurrent callers share one."""
        await self._shared_beat()

    async def leave(self) -> None:
        """A clean goodbye: nobody waits for this node any more, and it beats no more."""
        node_id, self._node_id = self._node_id, None
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if node_id is not None:
            await self._redis.zrem(keys.NODES, node_id)

    async def missing(self, boot: str) -> tuple[frozenset[str], float] | None:
        """Expected nodes that have not registered under `boot`, and its age in s. None when it is not in force any more."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.get(keys.BOOT)
        pipe.smembers(keys.registered(boot))  # type: ignore[arg-type]
        pipe.time()
        in_force, members, (seconds, micros) = await pipe.execute()
        if in_force is None or in_force.decode() != boot:
            return None
        return self.expected - _names(members), seconds + micros / 1_000_000 - born_s(boot)

    async def _shared_beat(self) -> int:
        if self._beating is None or self._beating.done():
            self._beating = asyncio.ensure_future(self._beat())
            self._beating.add_done_callback(lambda beat: None if beat.cancelled() else beat.exception())
        return await asyncio.shield(self._beating)

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
        pipe.smembers(keys.registered(boot))  # type: ignore[arg-type]
        *_, alive, registered = await pipe.execute()
        known, self.peers = self.peers, _names(alive)
        if boot != self.boot:
            if self.boot is not None:
                log.warning("Redis began a new life; restoring what this node knows")
            self.newcomer = self.boot is None
            self.expected = self._unheard = self.peers | known | self._unheard
        else:
            age_s = now_us / 1_000_000 - born_s(boot)
            if age_s < 2 * SHOWN_S:
                self.expected |= self.peers
            self._unheard = self.expected - _names(registered) if age_s < PATIENCE_S else frozenset()
        if boot != self._registered_under:
            await self._enter(boot)
        return int(now_ms)

    async def _enter(self, boot: str) -> None:
        self.boot = boot
        for restore in self._on_new_boot:
            await restore(boot)
        if self._node_id is not None:
            name = keys.registered(boot)
            await self._redis.sadd(name, self._node_id)  # type: ignore[misc, arg-type]
            await self._redis.expire(name, REGISTERED_S)
        self._registered_under = boot


def _names(members: Iterable[bytes]) -> frozenset[str]:
    return frozenset(name.decode() for name in members)


def born_s(boot: str) -> float:
    """When a boot began, in Unix seconds of Redis' clock."""
    return int(boot.partition("-")[0]) / 1_000_000

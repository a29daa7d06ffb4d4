"""Watch: notice a new epoch, build its snapshot, swap it in; keep the last good one whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.domain.catalogue import Connection, Provider
from shared.snapshot.snapshot import Snapshot, build
from shared.store import configuration, keys
from shared.store.redis import database_of

log = logging.getLogger(__name__)

LOOK_S = 0.4
"""A node looks this often; being told by Redis only makes it sooner. A revocation is so never later than a second."""


class Watch:
    def __init__(
        self, pool: AsyncEngine, redis: Redis, providers: Mapping[str, Provider], built_in: Sequence[Connection] = ()
    ) -> None:
        self._pool = pool
        self._redis = redis
        self._providers = providers
        self._built_in = built_in
        self._snapshot: Snapshot | None = None
        self._told = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot:
        assert self._snapshot is not None, "start() comes first"
        return self._snapshot

    async def start(self) -> None:
        """The first snapshot. Raises what Postgres raises: a node that never had one has nothing to serve."""
        self._snapshot = build(await configuration.load(self._pool), self._providers, self._built_in)

    async def run(self) -> None:
        """Follow the configuration for ever."""
        listener = asyncio.ensure_future(self._listen())
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._told.wait(), LOOK_S)
                self._told.clear()
                await self.look()
        finally:
            listener.cancel()

    async def look(self) -> None:
        """Take in a new epoch, if there is one."""
        previous = self.snapshot
        try:
            async with asyncio.timeout(10):
                if await configuration.epoch(self._pool) == previous.epoch:
                    return
                changed = await configuration.load(self._pool, after_epoch=previous.epoch)
            self._snapshot = build(changed, self._providers, self._built_in, previous)
            log.info("configuration epoch %d", changed.epoch)
        except Exception as error:  # Postgres away, or rows that cannot be read: the last good snapshot stands
            log.warning("configuration cannot be read now (%s); epoch %d stands", type(error).__name__, previous.epoch)
            await asyncio.sleep(LOOK_S)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(keys.config_channel(database_of(self._redis)))
                    while True:
                        if await channel.get_message(ignore_subscribe_messages=True, timeout=5.0) is not None:
                            self._told.set()
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(1.0)

"""Cluster: puts operations to the board that all nodes share, and to this node's own while Redis is away.

Changes that others make come through Redis' channel. After (re)subscribing, and every POLL_S in any case, the whole board is
looked at. A Redis that lost its memory is told what this node knew.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.clock import Clock
from shared.domain.health import Mark, MarkState
from shared.routing.breaker import KEEP_MS, Board, Change, Clear, End, Operation, Renew, Reply, Strike
from shared.store import keys
from shared.store.redis import Lane, RedisUnavailable
from shared.telemetry.metrics import Metrics
from shared.upstream.health.mirror import Mirror
from shared.upstream.health.script import Call, call_of, look_call, read_look, read_notice, read_reply, revive_call, source

log = logging.getLogger(__name__)

POLL_S = 2.0
RETRY_S = 0.2
LOOK_DEADLINE_S = 5.0

Struck = Callable[[str, float, float], None]
"""(subject, failures in a row, how long to remember them in s)"""


class Cluster:
    def __init__(self, lane: Lane, redis: Redis, clock: Clock, metrics: Metrics, struck: Struck) -> None:
        self.mirror = Mirror()
        self._lane = lane
        self._redis = redis
        self._clock = clock
        self._metrics = metrics
        self._struck = struck
        self._script = lane.register(source(lane.database))
        self._looking = redis.register_script(source(lane.database))
        self._own: Board | None = None

    @property
    def alone(self) -> bool:
        """Whether this node decided anything by itself since it last saw the shared board."""
        return self._own is not None

    async def ask(self, operation: Operation) -> Reply:
        try:
            reply = read_reply(await self._run(call_of(operation)))
        except (RedisUnavailable, hiredis.ReplyError) as error:
            return self._decide(operation, error)
        self._took(operation, reply)
        return reply

    def post(self, operation: Operation, *, again: bool = True) -> None:
        """Without waiting. `again`: once more if Redis has forgotten the script."""
        if self._lane.up:
            self._lane.post(self._packed(call_of(operation)), partial(self._answered, operation, again))
        else:
            self._decide(operation, None)

    async def look(self) -> None:
        """Take over the shared board as it is now. Raises RedisError, OSError or TimeoutError."""
        mirror = self.mirror
        began_s = self._clock.now_s()
        look = read_look(await self._off_the_lane(look_call()))
        mirror.ahead_ms = look.now_ms - 500 * (began_s + self._clock.now_s())
        if look.life != mirror.life or not look.life:
            if mirror.life:
                log.warning("Redis forgot what is open and locked; telling it")
            known = mirror.marks if mirror.life else {}
            await self._off_the_lane(revive_call(look.life or secrets.token_hex(8), known))
            look = read_look(await self._off_the_lane(look_call()))
        mirror.adopt(look, alone=self.alone)
        self._own = None

    async def listen_forever(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(keys.health_channel(self._lane.database))
                    await self._listen(channel)
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(RETRY_S)
            except Exception:  # without this a node would know nothing of the others any more
                log.exception("health's channel cannot be read")
                await asyncio.sleep(POLL_S)

    async def _listen(self, channel: Any) -> None:
        looked_s = 0.0  # the first message is the subscription's own: whatever changes after it is heard
        while True:
            left_s = looked_s + POLL_S - time.monotonic()
            message = await channel.get_message(timeout=min(max(left_s, 0.001), POLL_S))
            if message is not None and message["type"] == "message":
                self.heard(message["data"])
            elif message is not None or left_s <= 0:
                looked_s = time.monotonic()
                if self._lane.up:
                    await self.look()
                else:  # this node's calls cannot reach the board: it goes on alone
                    looked_s -= POLL_S - RETRY_S

    def heard(self, message: bytes) -> None:
        notice = read_notice(message)
        if not notice.v:
            self._struck(notice.s, notice.n, notice.k / 1000)
        else:
            self.mirror.take([Change(notice.v, notice.s, notice.m)])

    async def _off_the_lane(self, call: Call) -> list[Any]:
        """What no call waits for stays away from the calls' own connection."""
        called_keys, arguments = call
        async with asyncio.timeout(LOOK_DEADLINE_S):
            reply: list[Any] = await self._looking(keys=called_keys, args=arguments)
            return reply

    async def _run(self, call: Call) -> list[Any]:
        called_keys, arguments = call
        for again in (True, False):
            try:
                return await self._lane.run(self._script, called_keys, arguments)  # type: ignore[no-any-return]
            except hiredis.ReplyError as error:
                if not (again and str(error).startswith("NOSCRIPT")):
                    raise
                self._lane.teach(self._script)
        raise AssertionError("unreachable")

    def _packed(self, call: Call) -> bytes:
        called_keys, arguments = call
        parts = (b"EVALSHA", self._script.sha, b"%d" % len(called_keys), *called_keys, *arguments)
        packed: bytes = hiredis.pack_command(cast(Any, parts))
        return packed

    def _answered(self, operation: Operation, again: bool, reply: Any) -> None:
        try:
            if not isinstance(reply, Exception):
                self._took(operation, read_reply(reply))
            elif again and str(reply).startswith("NOSCRIPT"):
                self._lane.teach(self._script)
                self.post(operation, again=False)
            else:
                self._decide(operation, reply)
        except Exception:  # this runs between the replies to other calls
            log.exception("health's reply cannot be used")

    def _decide(self, operation: Operation, error: Exception | None) -> Reply:
        """By this node alone, beginning with what it knew of the shared board."""
        if isinstance(error, hiredis.ReplyError):
            log.error("health's script failed: %s", error)
        if self._own is None:
            self._own = Board(marks=dict(self.mirror.marks))
        reply = self._own.do(operation, self.mirror.redis_ms(self._clock.now_s()))
        self.mirror.put(reply.changes)
        self._note(operation, reply)
        return reply

    def _took(self, operation: Operation, reply: Reply) -> None:
        self.mirror.take(reply.changes)
        self._note(operation, reply)

    def _note(self, operation: Operation, reply: Reply) -> None:
        if isinstance(operation, Strike) and reply.code and not reply.changes:
            self._struck(operation.subject, reply.strikes, KEEP_MS / 1000 if reply.strikes else operation.profile.window_s)
        if isinstance(operation, (Renew, Clear)) or (isinstance(operation, End) and operation.verdict == "free"):
            return
        for change in reply.changes:
            mark = change.mark
            if mark is None or not mark.lease_ms:
                self._metrics.health_changed("well" if mark is None else mark.state.value)
                log.log(*_said(change.subject, mark))


def _said(subject: str, mark: Mark | None) -> tuple[int, str]:
    if mark is None:
        return logging.INFO, f"{subject} is well again"
    level = logging.INFO if mark.state is MarkState.COOLING else logging.WARNING
    return level, f"{mark.model or 'connection'} of {mark.connection} is {mark.state}: {mark.reason()}"

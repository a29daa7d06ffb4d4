"""Slots: asks for leave to call a provider, waits for it, gives it back; one node's part of every connection's queue.

A call asks with one script run, in the same write as whatever else its turn of the event loop sends. If it may go, that was
all. If not, it stands in the connection's queue in Redis. Whoever runs the script lets go those who may: the node whose call
is first looks at the moment it may go, a released slot does so at once; nodes hear of their grants on a channel each.
Without Redis each node queues by itself for its share.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import hiredis
import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.clock import Clock
from shared.domain.catalogue import Connection, Provider
from shared.providers import quota
from shared.store import keys
from shared.store.redis import Lane, RedisUnavailable, bulk
from shared.telemetry.metrics import SlotMeters
from shared.upstream.slots.alone import Alone
from shared.upstream.slots.cells import LEARNED, LEASE_MS, compile_cells
from shared.upstream.slots.line import Line
from shared.upstream.slots.model import GRANTED, REFUSED, Done
from shared.upstream.slots.pauses import Pauses
from shared.upstream.slots.script import Packer, source
from shared.upstream.slots.slot import WHY, NoSlot, Slot, Waiter

log = logging.getLogger(__name__)

LOOK_S = 0.25
"""A node with waiting calls looks after the queue at least this often when nothing says when the next may go."""
OTHERS_S = 0.05
"""By how much a node lets the one whose call is first go ahead."""
MOST_LOOK_S = 5.0
LEAST_PAUSE_S = 0.05


class Slots:
    def __init__(
        self,
        lane: Lane,
        redis: Redis,
        node_id: str,
        live_nodes: Callable[[], int],
        providers: Mapping[str, Provider],
        clock: Clock,
        meters: SlotMeters,
    ) -> None:
        self._lane = lane
        self._redis = redis
        self._node = node_id
        self._alone = Alone(node_id, live_nodes, clock)
        self._rate_headers = {name: provider.rate_headers for name, provider in providers.items()}
        self._clock = clock
        self._meters = meters
        self._everyone = keys.slots_channel(lane.database)
        self._script = lane.register(source(lane.database))
        self._pack = Packer(self._script, node_id)
        self._lines: dict[str, Line] = {}
        self._pauses = Pauses(lane, redis, clock, self._waits_for)
        self._tickets = 0

    # What a call's walk uses.

    def limited(self, connection: Connection) -> bool:
        """Whether a call through it needs a slot."""
        return connection.limits is not None or (
            bool(self._pauses.until_s) and connection.connection_id in self._pauses.until_s
        )

    def take(
        self,
        connection: Connection,
        organisation_id: str,
        tokens: int,
        deadline_s: float,
        event_id: str,
        cost_nano_usd: int = 0,
    ) -> asyncio.Future[Slot]:
        """A slot, now or in time; NoSlot comes out of the future. Asks at once, before it is awaited.

        `tokens` and `cost_nano_usd` are what the call may use; it waits no longer than `deadline_s` and the queue's own
        `wait_s`, with 0 not at all. Cancelling the future leaves the queue; `drop` is for those who no longer want it.
        """
        loop, now_s = asyncio.get_running_loop(), self._clock.monotonic_s()
        line = self._line(connection)
        self._tickets += 1
        wait_s = max(0.0, min(deadline_s, line.cells.wait_us / 1_000_000))
        waiter = Waiter(
            connection,
            f"{event_id}.{self._tickets}",
            organisation_id,
            tokens,
            cost_nano_usd,
            now_s,
            now_s + wait_s,
            loop.create_future(),
        )
        waiter.future.add_done_callback(partial(self._ended, line, waiter))
        line.waiters[waiter.ticket] = waiter
        self._ask(line, waiter)
        return waiter.future

    def drop(self, taken: asyncio.Future[Slot]) -> None:
        """Give back what `take` gave or will give: the call does not go."""
        if not taken.done():
            taken.cancel()
        elif not taken.cancelled() and taken.exception() is None:
            taken.result().give_back()

    def learn(self, connection: Connection, status: int, headers: Mapping[str, str], now_s: float) -> None:
        """What a response says of a connection that no slot was taken of: when it is to be left alone, all nodes do so."""
        pause_s = quota.pause_s(self._rate_headers.get(connection.provider, ()), status, headers, now_s)
        if pause_s >= LEAST_PAUSE_S:
            self._pause(self._line(connection), "", Done(pause_us=int(pause_s * 1_000_000)))

    def spare(self, connection: Connection) -> float:
        """The part that is left of the provider's tightest limit, as it last said on this node: 0 to 1, 1 when it never did."""
        line = self._lines.get(connection.connection_id)
        parts = [each.remaining / each.limit for each in line.left if each.limit and each.remaining is not None] if line else []
        return min(1.0, *parts) if parts else 1.0

    # What the node does: its heartbeat, its channel.

    def renew(self, expiry_ms: int) -> None:
        """Extend the leases of every slot held here, in one write. `expiry_ms` is in Redis' time."""
        expiry = b"%d" % expiry_ms
        for line in self._lines.values():
            if line.cells.concurrent and line.live:
                members = [part for ticket in line.live for part in (expiry, ticket.encode())]
                leases = line.cells.keys[1]
                self._lane.post(b"*%d\r\n" % (2 + len(members)) + bulk(b"ZADD", leases, *members))
                self._lane.post(b"*3\r\n" + bulk(b"PEXPIRE", leases, b"%d" % (2 * LEASE_MS)))

    async def enter(self, boot: str) -> None:
        """Redis began a new life: tell it of the slots held here, and ask again for those that wait."""
        self.renew(int(self._clock.now_s() * 1000) + LEASE_MS)
        self._ask_again()

    async def run(self) -> None:
        """Hear of grants and pauses, for ever."""
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(keys.slots_channel(self._lane.database, self._node), self._everyone)
                    await self._pauses.recall()
                    self._ask_again()  # of what was said meanwhile nothing was heard
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=5.0)
                        if message is not None:
                            self._hear(message["channel"], message["data"].decode())
            except (RedisError, OSError, TimeoutError) as error:
                log.debug("the slots' channel was lost: %s", error)
                await asyncio.sleep(LOOK_S)

    # Asking.

    def _line(self, connection: Connection) -> Line:
        limits = connection.limits or LEARNED
        line = self._lines.get(connection.connection_id)
        now_s = self._clock.now_s()
        if line is None:
            cells = compile_cells(connection.connection_id, limits, now_s)
            line = self._lines[connection.connection_id] = Line(connection, cells)
        elif line.cells.limits is not limits or line.cells.expires_s <= now_s:
            line.connection, line.cells = connection, compile_cells(connection.connection_id, limits, now_s)
        return line

    def _ask(self, line: Line, waiter: Waiter) -> None:
        if not self._lane.up:
            self._ask_here(line, waiter)
            return
        waiter.queued = waiter.local = False
        wait_us = max(0, int((waiter.until_s - self._clock.monotonic_s()) * 1_000_000))
        self._send(line, self._pack.take(line.cells, waiter, wait_us), waiter)

    def _ask_here(self, line: Line, waiter: Waiter) -> None:
        """Redis is away: this node's own queue decides about its share."""
        waiter.local, waiter.queued = True, False
        wait_us = max(0, int((waiter.until_s - self._clock.monotonic_s()) * 1_000_000))
        self._heed(line, self._alone.take(line, waiter, wait_us), waiter)

    def _ask_again(self) -> None:
        for line in self._lines.values():
            for waiter in list(line.waiters.values()):
                if waiter.queued:
                    self._ask(line, waiter)

    def _send(self, line: Line, packed: bytes, waiter: Waiter | None, *, again: bool = True) -> None:
        answer = self._lane.send(packed)
        answer.add_done_callback(partial(self._answered, line, packed, waiter, again))

    def _answered(self, line: Line, packed: bytes, waiter: Waiter | None, again: bool, answer: asyncio.Future[Any]) -> None:
        if answer.cancelled():
            return
        error = answer.exception()
        if error is None:
            self._heed(line, answer.result(), waiter)
            return
        if isinstance(error, hiredis.ReplyError):
            if str(error).startswith("NOSCRIPT") and again:
                self._lane.teach(self._script)
                self._send(line, packed, waiter, again=False)
                return
            log.error("the slots' script failed: %s", error)
        if waiter is not None:
            self._ask_here(line, waiter)

    # Hearing.

    def _heed(self, line: Line, reply: list[Any], waiter: Waiter | None) -> None:
        """What a run of the script says: to the one who asked, to others of this node, and when to look again."""
        code, said, retry_ms, next_us, mine = reply[:5]
        if waiter is not None:
            if code == GRANTED:
                self._grant(line, waiter, said)
            elif code == REFUSED:
                self._refuse(line, waiter, WHY[said], retry_ms / 1000)
            elif waiter.future.cancelled():
                self._leave(line, waiter)
            elif waiter.ticket in line.waiters:
                self._wait(line, waiter)
        for at in range(5, len(reply), 3):
            ticket = reply[at]
            self._told(line, ticket.decode() if isinstance(ticket, bytes) else ticket, reply[at + 1], reply[at + 2])
        self._plan(line, next_us, bool(mine))

    def _hear(self, channel: bytes, text: str) -> None:
        if channel == self._everyone:
            ended = self._pauses.hear(text)
            waited_for = None if ended is None else self._lines.get(ended)
            if waited_for is not None:
                self._plan(waited_for, 0, True)
            return
        said = text.split("\n")
        line = self._lines.get(said[0])
        if line is not None and said[1]:
            self._told(line, said[1], int(said[2]), int(said[3]))
        elif line is not None:
            self._plan(line, int(said[4]), True)

    def _told(self, line: Line, ticket: str, era: int, retry_ms: int) -> None:
        """A grant or (era -1) an eviction."""
        waiter = line.waiters.get(ticket)
        if waiter is not None and era < 0:
            self._refuse(line, waiter, "full", retry_ms / 1000)
        elif waiter is not None:
            self._grant(line, waiter, era)
        elif era >= 0 and ticket not in line.live:  # it left in the meantime
            self._end_of(line, ticket, Done(era=era), local=False)

    def _wait(self, line: Line, waiter: Waiter) -> None:
        if waiter.timer is None:
            self._meters.waits(line.connection.name, 1)
            loop, left_s = asyncio.get_running_loop(), waiter.until_s - self._clock.monotonic_s()
            waiter.timer = loop.call_later(max(0.0, left_s), self._expired, line, waiter)
        waiter.queued = True

    def _grant(self, line: Line, waiter: Waiter, era: int) -> None:
        now_s, waited = self._clock.monotonic_s(), waiter.timer is not None
        if waiter.future.done() and not waiter.future.cancelled():
            return  # it asked again, and both times it was granted
        self._forget(line, waiter)
        slot = Slot(waiter.connection, waiter.ticket, waiter.tokens, waiter.nano, era, now_s, waiter.local, self._end)
        line.live[waiter.ticket] = slot
        if waiter.future.done():
            slot.give_back()
            return
        if waited:
            self._meters.waited(line.connection.name, now_s - waiter.asked_s)
        waiter.future.set_result(slot)

    def _refuse(self, line: Line, waiter: Waiter, why: str, retry_after_s: float) -> None:
        self._forget(line, waiter)
        if not waiter.future.done():
            self._meters.refused(line.connection.name, why)
            waiter.future.set_exception(NoSlot(why, max(0.001, retry_after_s)))

    def _forget(self, line: Line, waiter: Waiter) -> None:
        line.waiters.pop(waiter.ticket, None)
        waiter.queued = False
        if waiter.timer is not None:
            waiter.timer.cancel()
            waiter.timer = None
            self._meters.waits(line.connection.name, -1)

    def _ended(self, line: Line, waiter: Waiter, future: asyncio.Future[Slot]) -> None:
        """The one who waited gave up. Before the first answer nothing is known: that one finds the future cancelled."""
        if future.cancelled() and waiter.queued:
            self._leave(line, waiter)

    def _leave(self, line: Line, waiter: Waiter) -> None:
        self._forget(line, waiter)
        if waiter.local and line.state is not None:
            self._heed(line, self._alone.leave(line, waiter.ticket), None)
        elif self._lane.up:
            answer = self._lane.send(self._pack.leave(line.cells, waiter.ticket))
            answer.add_done_callback(partial(self._left, line, waiter, ""))

    def _expired(self, line: Line, waiter: Waiter) -> None:
        """Its time is over. If its grant is under way it comes with the answer, and is not lost."""
        if waiter.local or not self._lane.up:
            self._leave(line, waiter)
            self._too_late(waiter, LOOK_S)
            return
        answer = self._lane.send(self._pack.leave(line.cells, waiter.ticket))
        answer.add_done_callback(partial(self._left, line, waiter, "late"))

    def _left(self, line: Line, waiter: Waiter, why: str, answer: asyncio.Future[Any]) -> None:
        reply = None if answer.cancelled() or answer.exception() is not None else answer.result()
        if reply is not None and reply[0] == GRANTED and waiter.ticket not in line.live:
            self._grant(line, waiter, reply[1])
        elif not waiter.future.done():
            self._forget(line, waiter)
            self._too_late(waiter, max(reply[3], 0) / 1_000_000 if reply is not None else LOOK_S)
        if reply is not None:
            self._heed(line, [0, 0, 0, *reply[3:]], None)

    def _too_late(self, waiter: Waiter, retry_after_s: float) -> None:
        if not waiter.future.done():
            self._meters.refused(waiter.connection.name, "late")
            waiter.future.set_exception(NoSlot("late", max(0.001, retry_after_s)))

    # Looking after the queue.

    def _plan(self, line: Line, next_us: int, mine: bool) -> None:
        """Look again when the first in the queue may go; a little later when that is another node's to do."""
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        if not any(waiter.queued for waiter in line.waiters.values()):
            return
        wait_s = LOOK_S if next_us < 0 else next_us / 1_000_000 + (0.0 if mine else OTHERS_S)
        loop = asyncio.get_running_loop()
        line.timer = loop.call_later(min(max(wait_s, 0.001), MOST_LOOK_S), self._look, line)

    def _look(self, line: Line) -> None:
        line.timer = None
        queued = [waiter for waiter in line.waiters.values() if waiter.queued]
        if not queued:
            return
        if self._lane.up:
            for waiter in queued:
                if waiter.local:  # Redis is back
                    if line.state is not None:
                        self._alone.leave(line, waiter.ticket)
                    self._ask(line, waiter)
            answer = self._lane.send(self._pack.look(line.cells))
            answer.add_done_callback(partial(self._looked, line, queued))
        else:
            for waiter in queued:
                if not waiter.local:
                    self._ask_here(line, waiter)
            self._heed(line, self._alone.look(line), None)

    def _looked(self, line: Line, queued: list[Waiter], answer: asyncio.Future[Any]) -> None:
        failed = answer.cancelled() or answer.exception() is not None
        if not failed:
            self._heed(line, answer.result(), None)
            if answer.result()[3] != -1:
                return
        for waiter in queued:  # the queue is empty and they still wait: it was lost, or Redis was
            if waiter.queued and not waiter.local:
                self._ask(line, waiter)
        if failed:
            self._plan(line, -2, False)

    # The end of a call.

    def _end(self, slot: Slot, end: Done, status: int, headers: Mapping[str, str]) -> None:
        line = self._lines[slot.connection.connection_id]
        line.live.pop(slot.ticket, None)
        held_us = 0 if end.unused else int((self._clock.monotonic_s() - slot.since_s) * 1_000_000)
        names = self._rate_headers.get(slot.connection.provider, ())
        pause_s = 0.0
        if headers or status:
            now_s = self._clock.now_s()
            pause_s = quota.pause_s(names, status, headers, now_s)
            line.left = quota.left(names, headers, now_s) or line.left
        end = msgspec.structs.replace(end, held_us=held_us, pause_us=int(pause_s * 1_000_000))
        if pause_s >= LEAST_PAUSE_S:
            self._pause(line, slot.ticket, end, local=slot.local)
        else:
            self._end_of(line, slot.ticket, end, local=slot.local)

    def _end_of(self, line: Line, ticket: str, end: Done, *, local: bool) -> None:
        if local or not self._lane.up:
            if line.state is not None or end.pause_us:
                self._heed(line, self._alone.done(line, ticket, end), None)
            return
        packed = self._pack.done(line.cells, ticket, end)
        if line.waiters:  # somebody here may go now
            self._send(line, packed, None)
        else:
            self._lane.post(packed, partial(self._posted, line, packed))

    def _posted(self, line: Line, packed: bytes, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            self._lane.teach(self._script)
            self._send(line, packed, None, again=False)
        elif not isinstance(reply, Exception):
            self._heed(line, reply, None)

    # Pauses.

    def _pause(self, line: Line, ticket: str, end: Done, *, local: bool = False) -> None:
        """The provider wants to be left alone. A connection without limits is thereby limited, on all nodes."""
        connection = line.connection
        self._meters.paused(connection.name)
        self._end_of(line, ticket, end, local=local)
        if connection.limits is None:
            self._pauses.share(connection.connection_id, end.pause_us // 1000)

    def _waits_for(self, connection_id: str) -> bool:
        line = self._lines.get(connection_id)
        return line is not None and bool(line.waiters)


__all__ = ["NoSlot", "RedisUnavailable", "Slot", "Slots"]

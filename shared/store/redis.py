"""Redis clients: an ordinary one for everything off the hot path, and the Lane for the calls that every request makes.

The Lane exists because of a measurement: redis-py spends about 65 µs of CPU on a script call, of which the wire needs a
few. Here calls made in one turn of the event loop are packed by hiredis and leave in one write; replies resolve plain
futures in order. There is no timer per call: one sweep fails what is late.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis
import msgspec
from redis import Redis as SyncRedis
from redis.asyncio import Redis

log = logging.getLogger(__name__)

SWEEP_S = 0.02
RETRY_S = 0.2
LINGER_S = 0.002
"""How long a settlement may wait for company: under load it then shares an admission's write, and its reply that one's read."""


class RedisUnavailable(ConnectionError):
    """No answer within the deadline, or no connection. Whether the call was carried out is unknown."""


def client(url: str) -> Redis:
    """redis-py, bytes in and bytes out, for heartbeats, seeding, streams and the like."""
    made: Redis = Redis.from_url(url, decode_responses=False, socket_timeout=10.0, socket_connect_timeout=2.0)
    return made


def database_of(redis: Redis | SyncRedis) -> int:
    """The number of the database that a client speaks to."""
    return int(redis.get_connection_kwargs().get("db") or 0)


class Address(msgspec.Struct, frozen=True):
    """A Redis URL taken apart: `redis://`, `rediss://` (TLS) or `unix://`."""

    host: str
    port: int
    path: str | None
    tls: bool
    username: str | None
    password: str | None
    database: int

    @staticmethod
    def parse(url: str) -> Address:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("REDIS_URL must begin with redis://, rediss:// or unix://")
        query = parse_qs(parts.query)
        database = query.get("db", [parts.path.strip("/") if parts.scheme != "unix" else "0"])[0] or "0"
        return Address(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 6379,
            path=parts.path if parts.scheme == "unix" else None,
            tls=parts.scheme == "rediss",
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else query.get("password", [None])[0],
            database=int(database),
        )


def bulk(*parts: bytes) -> bytes:
    """Arguments in RESP, ready to be joined: what never changes is encoded once."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class Script(msgspec.Struct, frozen=True):
    """A Lua script that every connection of a lane knows."""

    source: bytes
    sha: bytes


Answered = Callable[[Any], None]
"""Gets the reply, or the exception in its place."""
Command = tuple[bytes, Answered | None]
"""A packed command, and who hears of it."""
Gathered = Callable[[], Sequence[Command]]
"""Gives commands when they are about to leave: what belongs together by then is one."""


def hand_over(answer: asyncio.Future[Any] | Answered, reply: Any) -> None:
    if not isinstance(answer, asyncio.Future):
        answer(reply)
    elif not answer.done():
        if isinstance(reply, Exception):
            answer.set_exception(reply)
        else:
            answer.set_result(reply)


class Wire(asyncio.Protocol):
    """One connection: packed commands out, replies in, matched by order."""

    def __init__(self, lost: Callable[[Wire], None]) -> None:
        self._lost = lost
        self.loop = asyncio.get_running_loop()  # kept: asking for it costs a system call each time
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Any] | Answered | None, float]] = deque()
        self._out: list[bytes] = []
        self._gathered: list[Gathered] = []
        self._soon = False
        self._later: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        while True:
            try:
                reply = reader.gets()
            except hiredis.ProtocolError:
                return self.fail("spoke no RESP")
            if reply is False:
                return None
            if not waiting:
                return self.fail("said more than it was asked")
            answer, _ = waiting.popleft()
            if answer is not None:
                hand_over(answer, reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("closed the connection")

    def call(self, parts: tuple[bytes, ...]) -> asyncio.Future[Any]:
        future = self.loop.create_future()
        if self._transport is None:
            future.set_exception(RedisUnavailable("not connected"))
            return future
        self.send(hiredis.pack_command(cast(Any, parts)), future)
        return future

    def send(self, packed: bytes, answer: asyncio.Future[Any] | Answered | None) -> None:
        """One command, already packed, in this turn's write. Its answer goes to a future, to a function, or nowhere."""
        self._leave_soon()
        self._out.append(packed)
        self._waiting.append((answer, self.loop.time()))

    def post(self, packed: bytes, answer: Answered | None) -> None:
        """One command that nobody waits for: it leaves with the next write, LINGER_S from now at the latest."""
        self._leave_later()
        self._out.append(packed)
        self._waiting.append((answer, self.loop.time()))

    def gather(self, gathered: Gathered, *, soon: bool) -> None:
        """Commands that are only made for the next write: this turn's, or LINGER_S from now at the latest."""
        if soon:
            self._leave_soon()
        else:
            self._leave_later()
        if gathered not in self._gathered:
            self._gathered.append(gathered)

    def _leave_soon(self) -> None:
        if not self._soon:
            self._soon = True
            self.loop.call_soon(self._flush)

    def _leave_later(self) -> None:
        if not self._soon and self._later is None:
            self._later = self.loop.call_later(LINGER_S, self._flush)

    @property
    def alive(self) -> bool:
        return self._transport is not None

    def oldest_s(self) -> float | None:
        """When the longest-waiting call was made."""
        return self._waiting[0][1] if self._waiting else None

    def fail(self, why: str) -> None:
        """Everything pending fails now; the connection is given up."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        transport.abort()
        self._out.clear()
        waiting, self._waiting = self._waiting, deque()
        late = [answer for _, answer in self._gather()]  # whoever gathers must not wait for a write that will never be
        for answer in (*(answer for answer, _ in waiting), *late):
            if answer is not None:
                hand_over(answer, RedisUnavailable(f"Redis {why}"))
        self._lost(self)

    def _flush(self) -> None:
        self._soon = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._transport is not None:
            for packed, answer in self._gather() if self._gathered else ():
                self._out.append(packed)
                self._waiting.append((answer, self.loop.time()))
            if self._out:
                self._transport.write(b"".join(self._out))
        self._out.clear()

    def _gather(self) -> list[Command]:
        gathered, self._gathered = self._gathered, []
        return [command for commands in gathered for command in commands()]


class Lane:
    """The hot path's connection. `up` is False from the first late answer until a fresh connection answers a PING."""

    def __init__(self, url: str, *, deadline_s: float) -> None:
        self._address = Address.parse(url)
        self._deadline_s = deadline_s
        self._scripts: dict[bytes, Script] = {}
        self._wire: Wire | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted = asyncio.Event()

    @property
    def up(self) -> bool:
        return self._wire is not None

    @property
    def database(self) -> int:
        return self._address.database

    async def open(self) -> None:
        """Connect, or keep trying in the background: a node can start while Redis is away."""
        try:
            await self._connect()
        except (OSError, TimeoutError, RedisUnavailable, hiredis.ReplyError) as error:
            log.warning("Redis cannot be reached yet: %s", error)
            self._wanted.set()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._sweep()), loop.create_task(self._reconnect())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.fail("was left")

    def register(self, source: str) -> Script:
        """A script to be loaded on every connection from now on."""
        encoded = source.encode()
        script = Script(encoded, hashlib.sha1(encoded, usedforsecurity=False).hexdigest().encode())
        self._scripts[script.sha] = script
        if self._wire is not None:
            self._wire.call((b"SCRIPT", b"LOAD", encoded)).add_done_callback(_quiet)
        return script

    def call(self, *parts: bytes) -> asyncio.Future[Any]:
        """One command; RedisUnavailable or hiredis.ReplyError comes out of the future."""
        if self._wire is None:
            return self._unavailable()
        return self._wire.call(parts)

    def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> asyncio.Future[Any]:
        """EVALSHA, in this turn's write. NOSCRIPT comes out of the future when the server forgot it: see `teach`."""
        if self._wire is None:
            return self._unavailable()
        return self._wire.call((b"EVALSHA", script.sha, b"%d" % len(keys), *keys, *args))

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """One command that the caller packed, in this turn's write."""
        wire = self._wire
        if wire is None:
            return self._unavailable()
        future = wire.loop.create_future()
        wire.send(packed, future)
        return future

    def post(self, packed: bytes, answered: Answered | None = None) -> None:
        """One packed command without a future: `answered` gets the reply or the exception, at once when Redis is away."""
        wire = self._wire
        if wire is not None:
            wire.post(packed, answered)
        elif answered is not None:
            answered(RedisUnavailable("Redis is away"))

    def gather(self, gathered: Gathered, *, soon: bool) -> None:
        """Have `gathered` asked for its commands right before the next write, or `soon` this turn's; at once, and in vain, when
        Redis is away."""
        wire = self._wire
        if wire is not None and wire.alive:
            wire.gather(gathered, soon=soon)
            return
        for _, answered in gathered():
            if answered is not None:
                answered(RedisUnavailable("Redis is away"))

    def future(self) -> asyncio.Future[Any]:
        """For an answer that is somebody else's to hand over."""
        loop = asyncio.get_running_loop() if self._wire is None else self._wire.loop
        return loop.create_future()

    def teach(self, *scripts: Script) -> None:
        """Load scripts in front of the next call, for a server that forgot them (SCRIPT FLUSH)."""
        for script in scripts:
            self.post(b"*3\r\n" + bulk(b"SCRIPT", b"LOAD", script.source))

    def _unavailable(self) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(RedisUnavailable("Redis is away"))
        return future

    async def _connect(self) -> None:
        address, loop = self._address, asyncio.get_running_loop()
        async with asyncio.timeout(max(self._deadline_s, 0.2)):
            if address.path is not None:
                _, wire = await loop.create_unix_connection(lambda: Wire(self._on_lost), address.path)
            else:
                context = ssl.create_default_context() if address.tls else None
                _, wire = await loop.create_connection(lambda: Wire(self._on_lost), address.host, address.port, ssl=context)
            try:
                await self._greet(wire)
            except BaseException:
                wire.fail("greeting failed")
                raise
        if not wire.alive:  # it ended in the turns between its last answer and our waking up
            raise RedisUnavailable("Redis closed the connection")
        self._wire = wire
        self._wanted.clear()

    async def _greet(self, wire: Wire) -> None:
        address = self._address
        hello: list[tuple[bytes, ...]] = []
        if address.password is not None:
            user = (address.username.encode(),) if address.username else ()
            hello.append((b"AUTH", *user, address.password.encode()))
        if address.database:
            hello.append((b"SELECT", b"%d" % address.database))
        hello += [(b"SCRIPT", b"LOAD", script.source) for script in self._scripts.values()]
        hello.append((b"PING",))
        await asyncio.gather(*[wire.call(parts) for parts in hello])

    def _on_lost(self, wire: Wire) -> None:
        if wire is self._wire:
            self._wire = None
            self._wanted.set()
            log.warning("Redis was lost; serving in degraded mode until it answers again")

    async def _sweep(self) -> None:
        """A call later than the deadline ends the connection: its answer could no longer be told from the next one's."""
        late: float | None = None
        while True:
            await asyncio.sleep(SWEEP_S)
            wire = self._wire
            oldest_s = wire.oldest_s() if wire is not None else None
            if wire is None or oldest_s is None or wire.loop.time() - oldest_s <= self._deadline_s:
                late = None
            elif late != oldest_s:
                late = oldest_s  # one more turn: the answer may lie unread because this process was the slow one
            else:
                wire.fail("did not answer in time")

    async def _reconnect(self) -> None:
        while True:
            await self._wanted.wait()
            try:
                await self._connect()
                log.info("Redis answers again")
            except (OSError, TimeoutError, RedisUnavailable, hiredis.ReplyError):
                await asyncio.sleep(RETRY_S)


def _quiet(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()

"""The node's own usage log: what Redis and the process may lose, the disk keeps until Postgres has it.

Before a call leaves for its provider, its *intent* (the event that stands if nobody settles) is written; when it ends, its
*settlement*. A record is copied into a mapped file whose space was allocated beforehand: no system call on the hot path, and
the page cache outlives a killed process; a sync every CONFIRM_S bounds what a power cut could take. Segments rotate; a closed
one is deleted only when Postgres has everything in it. Each process holds a lock; what a dead process left is adopted by a
live one: settlements that Postgres lacks are sent again, and intents that nobody settled become estimated events. Both are
idempotent by event id. Settlements that Redis had not heard of yet are put right there too.

    record: u32 length of the rest · u32 CRC-32 of the rest · tag (I intent, S settlement, V void) · event as msgpack
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import mmap
import os
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from shared.domain.usage import UsageEvent, decode_event

log = logging.getLogger(__name__)

HEAD = struct.Struct("<II")
INTENT, SETTLEMENT, VOID = b"I", b"S", b"V"
SEGMENT_BYTES = 16 * 1024 * 1024
ROTATE_S = 10.0
RESEND_AFTER_S = 5.0
CONFIRM_S = 2.0
ADOPT_S = 10.0
BATCH = 5_000
MOST_REMEMBERED = 4
"""Closed segments whose ids are kept in memory: more wait only while Postgres is away."""


class Missing(Protocol):
    """Which of these ids Postgres lacks (store/ledger.py)."""

    async def __call__(self, event_ids: Sequence[str], *, estimated: bool) -> set[str]: ...


Resend = Callable[[UsageEvent], Awaitable[None]]
Reap = Callable[[UsageEvent], Awaitable[None]]
Ended = Callable[[Sequence[UsageEvent]], Awaitable[None]]


class WalFull(Exception):
    """The disk does not take the record: nothing that costs money may start on this node."""


@dataclass
class Segment:
    """One file. `open` counts intents in it that have no settlement yet."""

    path: Path
    open: int = 0
    events: int = 0
    synced: bool = False
    """A closed segment that the disk has for certain."""
    closed_s: float | None = None
    resent_s: float = 0.0
    settled: list[str] | None = None
    """Ids of its settlements, where this process wrote them not long ago: else they are read from the file."""
    orphans: list[UsageEvent] = field(default_factory=list)
    """Estimated events for a dead process's unsettled intents."""


def allocate(descriptor: int, size: int) -> None:
    """Space on the disk for the whole file, so that writing to its map can never fail. Raises OSError (ENOSPC)."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    block = bytes(1024 * 1024)
    for start in range(0, size, len(block)):
        os.pwrite(descriptor, block[: size - start], start)


def sync(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(path: Path) -> Iterator[tuple[bytes, UsageEvent]]:
    """The records of a segment, up to the first that is torn or damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    at = 0
    while at + HEAD.size <= len(data):
        length, crc = HEAD.unpack_from(data, at)
        if length == 0:
            return  # space that was never written
        body = data[at + HEAD.size : at + HEAD.size + length]
        if len(body) != length or zlib.crc32(body) != crc:
            if at + HEAD.size + length < len(data):
                log.error("a record in the usage log is damaged: the rest of its segment cannot be read")
            return
        try:
            yield body[:1], decode_event(body[1:])
        except msgspec.MsgspecError:
            log.error("a record in the usage log is no event")
        at += HEAD.size + length


def ends_of(path: Path) -> Iterator[UsageEvent]:
    """Its settlements, and its void intents at no cost; those stay `estimated`."""
    for tag, event in read(path):
        if tag == VOID:
            yield msgspec.structs.replace(event, cost_nano_usd=0, input_tokens=0, output_tokens=0)
        elif tag == SETTLEMENT:
            yield event


def settled_ids(path: Path) -> list[str]:
    """Ids of a segment's settlements, without decoding them: an event is an array of at least 16 whose first item is a
    36-letter string, so the id lies between bytes 5 and 41 of its msgpack."""
    data = path.read_bytes()
    ids, at = [], 0
    while at + HEAD.size <= len(data):
        length, crc = HEAD.unpack_from(data, at)
        start = at + HEAD.size
        at = start + length
        if length == 0 or at > len(data) or zlib.crc32(data[start:at]) != crc:
            break
        if data[start : start + 1] == SETTLEMENT:
            ids.append(data[start + 6 : start + 42].decode())
    return ids


class Wal:
    def __init__(self, directory: Path, node_id: str) -> None:
        """Use `Wal.open`."""
        self._directory = directory
        self._node_id = node_id
        self._sequence = 0
        self._closed: list[Segment] = []
        self._open: dict[str, Segment] = {}
        self._locks: dict[str, int] = {}
        self._adopted: list[Segment] = []
        self._map: mmap.mmap | None = None
        self._written = 0
        self._begun_s = 0.0
        self._segment = Segment(directory)

    @staticmethod
    def open(directory: Path, node_id: str) -> Wal:
        """Raises OSError when the directory cannot be used."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        wal = Wal(directory, node_id)
        if not wal._lock(node_id):
            raise OSError(f"node id {node_id} is in use in {directory}")
        wal._next_segment()
        return wal

    def intend(self, event: UsageEvent, encoded: bytes) -> None:
        """Before the upstream call. Raises WalFull."""
        self._append(INTENT, encoded)
        self._segment.open += 1
        self._open[event.event_id] = self._segment

    def settle(self, event: UsageEvent, encoded: bytes) -> None:
        """After it. Raises WalFull; the event then travels by Redis alone."""
        intended_in = self._open.pop(event.event_id, None)
        try:
            self._append(SETTLEMENT, encoded)
            segment = self._segment
            segment.events += 1
            if segment.settled is not None:
                segment.settled.append(event.event_id)
        finally:
            if intended_in is not None:
                intended_in.open -= 1

    def void(self, event: UsageEvent, encoded: bytes) -> None:
        """The intent came to nothing: there is no settlement, and no estimate if this process dies. Never raises."""
        intended_in = self._open.pop(event.event_id, None)
        with contextlib.suppress(WalFull):  # without the record a killed process's log would estimate it
            self._append(VOID, encoded)
        if intended_in is not None:
            intended_in.open -= 1

    def unconfirmed(self) -> Iterator[UsageEvent]:
        """Events that are not known to be in Postgres: settlements, and dead processes' estimates."""
        for segment in [*self._closed, self._segment]:
            for tag, event in read(segment.path):
                if tag == SETTLEMENT:
                    yield event
            yield from segment.orphans

    def backlog(self) -> int:
        """Events that are not known to be in Postgres."""
        return self._segment.events + sum(segment.events for segment in self._closed)

    def adopt(self) -> list[UsageEvent]:
        """Take over what dead processes left in this directory; the estimated events for their unsettled intents."""
        orphans: list[UsageEvent] = []
        for lock in sorted(self._directory.glob("*.lock")):
            if lock.stem in self._locks or not self._lock(lock.stem):
                continue
            segments = [Segment(path, closed_s=0.0) for path in sorted(self._directory.glob(f"{lock.stem}-*.wal"))]
            intents: dict[str, tuple[Segment, UsageEvent]] = {}
            for segment in segments:
                for tag, event in read(segment.path):
                    if tag == INTENT:
                        intents[event.event_id] = (segment, event)
                    else:
                        segment.events += tag == SETTLEMENT
                        intents.pop(event.event_id, None)
            for segment, event in intents.values():
                segment.orphans.append(event)
                orphans.append(event)
            self._closed += segments
            self._adopted += segments
            if not segments:
                self._unlock(lock.stem)
            log.info("adopted the usage log of %s: %d segments, %d unsettled", lock.stem, len(segments), len(intents))
        return orphans

    async def run(self, missing: Missing, resend: Resend, reap: Reap, ended: Ended) -> None:
        """Rotate, confirm against Postgres, send again what is missing, adopt the dead; for ever."""
        adopted_s = time.monotonic()
        task = asyncio.current_task()
        while task is None or not task.cancelling():  # a client may have made its own error of our cancellation
            await asyncio.sleep(CONFIRM_S)
            try:
                await self._sync()
                if time.monotonic() - adopted_s > ADOPT_S:
                    adopted_s = time.monotonic()
                    await self.send_orphans(self.adopt(), resend, reap)
                    await self.tell_ends(ended)
                await self.confirm(missing, resend)
            except Exception as error:  # Redis or Postgres is away, or the disk is full: the log waits
                log.debug("the usage log waits: %s", type(error).__name__)

    async def send_orphans(self, orphans: Sequence[UsageEvent], resend: Resend, reap: Reap) -> None:
        """Dead processes' intents become estimated events, and their reservations are booked in Redis."""
        for event in orphans:
            await resend(event)
            await reap(event)

    async def tell_ends(self, ended: Ended) -> None:
        """How dead processes' calls ended, void intents as such that cost nothing: their last settlements never left."""
        while self._adopted:
            ends = list(ends_of(self._adopted[0].path))
            for start in range(0, len(ends), BATCH):
                await ended(ends[start : start + BATCH])
            self._adopted.pop(0)

    async def confirm(self, missing: Missing, resend: Resend) -> None:
        """Delete closed segments that Postgres has; send again what it lacks after RESEND_AFTER_S."""
        self._rotate_if_due()
        for segment in list(self._closed):
            now_s = time.monotonic()
            lacking = await self._lacking(segment, missing)
            if not lacking:
                if segment.open == 0:
                    self._delete(segment)
            elif now_s - (segment.closed_s or 0.0) > RESEND_AFTER_S and now_s - segment.resent_s > RESEND_AFTER_S:
                segment.resent_s = now_s
                for event in lacking:
                    await resend(event)

    def close(self) -> None:
        """Let go of the lock; what is unconfirmed is adopted by the next process."""
        if self._map is not None:
            self._map.flush()
            self._map.close()
            self._map = None
        if self._written == 0:
            self._segment.path.unlink(missing_ok=True)
        else:
            os.truncate(self._segment.path, self._written)
        for name in list(self._locks):
            self._unlock(name, remove=not list(self._directory.glob(f"{name}-*.wal")))

    async def _lacking(self, segment: Segment, missing: Missing) -> list[UsageEvent]:
        """Events of a segment that Postgres does not have."""
        ids = segment.settled
        if ids is None:
            ids = await asyncio.to_thread(settled_ids, segment.path)
        absent: set[str] = set()
        for start in range(0, len(ids), BATCH):
            absent |= await missing(ids[start : start + BATCH], estimated=False)
        lacking = (
            [event for tag, event in read(segment.path) if tag == SETTLEMENT and event.event_id in absent] if absent else []
        )
        if segment.orphans:
            absent = await missing([event.event_id for event in segment.orphans], estimated=True)
            lacking += [event for event in segment.orphans if event.event_id in absent]
        return lacking

    def _append(self, tag: bytes, encoded: bytes) -> None:
        body = tag + encoded
        record = HEAD.pack(len(body), zlib.crc32(body)) + body
        end = self._written + len(record)
        if end > SEGMENT_BYTES or self._map is None:
            self._rotate()
            end = len(record)
        assert self._map is not None
        self._map[self._written : end] = record
        self._written = end

    def _rotate_if_due(self) -> None:
        if self._written and time.monotonic() - self._begun_s >= ROTATE_S:
            with contextlib.suppress(WalFull):
                self._rotate()

    def _rotate(self) -> None:
        """Begin a new segment. Raises WalFull when the disk has no room for one."""
        old, mapped, written = self._segment, self._map, self._written
        try:
            self._next_segment()
        except OSError as error:
            raise WalFull(error.strerror) from None
        if mapped is not None:
            mapped.close()
            os.truncate(old.path, written)
            old.closed_s = time.monotonic()
            self._closed.append(old)
            if len(self._closed) > MOST_REMEMBERED:
                old.settled = None

    def _next_segment(self) -> None:
        self._sequence += 1
        path = self._directory / f"{self._node_id}-{self._sequence:08d}.wal"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            allocate(descriptor, SEGMENT_BYTES)
            mapped = mmap.mmap(descriptor, SEGMENT_BYTES)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        self._map, self._segment, self._written, self._begun_s = mapped, Segment(path, settled=[]), 0, time.monotonic()

    async def _sync(self) -> None:
        """Have the disk hold what the page cache holds."""
        for segment in [*self._closed, self._segment]:
            if not segment.synced:
                closed = segment.closed_s is not None
                await asyncio.to_thread(sync, segment.path)
                segment.synced = closed

    def _delete(self, segment: Segment) -> None:
        segment.path.unlink(missing_ok=True)
        self._closed.remove(segment)
        owner = segment.path.stem.rpartition("-")[0]
        if owner != self._node_id and not list(self._directory.glob(f"{owner}-*.wal")):
            self._unlock(owner)

    def _lock(self, name: str) -> bool:
        descriptor = os.open(self._directory / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._locks[name] = descriptor
        return True

    def _unlock(self, name: str, *, remove: bool = True) -> None:
        descriptor = self._locks.pop(name)
        if remove:
            (self._directory / f"{name}.lock").unlink(missing_ok=True)
        os.close(descriptor)

"""The board's script as a call: operations become keys and arguments, replies become what routing/breaker.py says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from shared.domain.health import Mark
from shared.routing.breaker import Change, Claim, Clear, Cool, End, Label, Lock, Operation, Renew, Reply, Strike
from shared.store import keys

Call = tuple[list[bytes], list[bytes]]
"""Keys and arguments."""

SHARED = [keys.HEALTH_MARKS, keys.HEALTH_VERSION]


class Look(msgspec.Struct, frozen=True):
    """Every mark there is, at one version. `life` tells one memory of Redis from the next; empty: it has none yet."""

    version: int
    now_ms: int
    life: str
    marks: Mapping[str, Mark]


@cache
def source(database: int) -> str:
    return keys.scripted(files("shared.upstream.health").joinpath("board.lua").read_text(), database)


def call_of(operation: Operation, now_ms: int | None = None) -> Call:
    """`now_ms`: a test's; in production Redis' own clock decides."""
    at = b"" if now_ms is None else b"%d" % now_ms
    match operation:
        case Strike(subject=subject, profile=p, cause=cause):
            name, rest = b"strike", [
                operation.weight, operation.successes, operation.chance, p.failures, p.error_share, p.least_calls, p.window_s,
                p.open_s, p.longest_open_s, cause.failure_class, cause.status, *_label(operation.label),
            ]  # fmt: skip
        case Claim(deployment=subject):
            name, rest = b"claim", [operation.connection, operation.version, operation.lease_ms]
        case Renew(subject=subject):
            name, rest = b"renew", [operation.epoch, operation.lease_ms]
        case End(subject=subject, profile=p, cause=cause):
            name, rest = b"end", [
                operation.epoch, operation.verdict, operation.chance, operation.delay_ms, p.open_s, p.longest_open_s,
                cause.failure_class, cause.status,
            ]  # fmt: skip
        case Cool(subject=subject, profile=p, cause=cause):
            told = "" if operation.told_ms is None else operation.told_ms
            name, rest = b"cool", [
                told, operation.chance, p.cooldown_s, p.longest_cooldown_s, cause.failure_class, cause.status,
                *_label(operation.label),
            ]  # fmt: skip
        case Lock(subject=subject, cause=cause):
            name, rest = b"lock", [
                operation.version, operation.recheck_ms, cause.failure_class, cause.status, *_label(operation.label)
            ]  # fmt: skip
        case Clear(subjects=subjects):
            first, *others = subjects
            epoch = "" if operation.epoch is None else operation.epoch
            arguments = [at, b"clear", first.encode(), _encoded(epoch), *map(_encoded, others)]
            return [*SHARED, *map(keys.health_counts, subjects)], arguments
    return [*SHARED, keys.health_counts(subject)], [at, name, subject.encode(), *map(_encoded, rest)]


def look_call(now_ms: int | None = None) -> Call:
    return [*SHARED, keys.HEALTH_LIFE], [b"" if now_ms is None else b"%d" % now_ms, b"look"]


def revive_call(life: str, marks: Mapping[str, Mark]) -> Call:
    """What a node knew, for a Redis that forgot it."""
    told = [part for subject, mark in marks.items() for part in (subject.encode(), msgspec.json.encode(mark))]
    return [*SHARED, keys.HEALTH_LIFE], [b"", b"revive", life.encode(), *told]


def read_reply(reply: list[Any]) -> Reply:
    changes = tuple(
        Change(int(version), subject.decode(), _mark(text) if text else None) for version, subject, text in _by(reply[2:], 3)
    )
    return Reply(int(reply[0]), float(reply[1]), changes)


def read_look(reply: list[Any]) -> Look:
    version, now_ms, life = reply[:3]
    marks = {subject.decode(): _mark(text) for subject, text in _by(reply[3:], 2)}
    return Look(int(version), int(now_ms), life.decode(), marks)


class Notice(msgspec.Struct, frozen=True):
    """A message on the channel: a mark as it is from version `v` on, or (no version) `n` failures in a row, kept `k` ms."""

    s: str
    v: int = 0
    m: Mark | None = None
    n: float = 0.0
    k: int = 0


read_notice = msgspec.json.Decoder(Notice, strict=False).decode
_mark = msgspec.json.Decoder(Mark, strict=False).decode


def _label(label: Label) -> tuple[str, str, str]:
    return label.connection, label.model, label.provider


def _encoded(value: object) -> bytes:
    return (value if isinstance(value, str) else repr(value)).encode()


def _by(parts: list[Any], size: int) -> Iterable[list[Any]]:
    return (parts[at : at + size] for at in range(0, len(parts), size))

"""The node's usage log: what it keeps, what it adopts, when it lets go."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import getrandbits

import msgspec
import pytest

from shared.domain.identity import uuid7
from shared.domain.usage import EventKind, Outcome, UsageEvent, UsageSource, encode_event
from shared.store import wal as wal_module
from shared.store.wal import Wal, WalFull, read


def event(kind: EventKind = EventKind.ACTUAL, **changes: object) -> UsageEvent:
    made = UsageEvent(
        event_id=uuid7(1_790_000_000_000, getrandbits(80)), kind=kind, organisation_id="o", team_id="t", key_id="k",
        provider="p", connection="c", model="p/m", operation="chat", stream=False, outcome=Outcome.OK,
        source=UsageSource.PROVIDER, input_tokens=3, output_tokens=4, cost_nano_usd=5,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def intend(wal: Wal, made: UsageEvent) -> None:
    planned = msgspec.structs.replace(made, kind=EventKind.ESTIMATED, cost_nano_usd=99)
    wal.intend(planned, encode_event(planned))


def settle(wal: Wal, made: UsageEvent) -> None:
    wal.settle(made, encode_event(made))


class Books:
    """Stands for Postgres and Redis: what was booked, what was sent again, what was reaped."""

    def __init__(self) -> None:
        self.booked: set[str] = set()
        self.sent: list[UsageEvent] = []
        self.reaped: list[UsageEvent] = []
        self.ends: list[UsageEvent] = []
        self.away = False

    async def missing(self, event_ids: Sequence[str], *, estimated: bool) -> set[str]:
        return set(event_ids) - self.booked

    async def resend(self, made: UsageEvent) -> None:
        self.sent.append(made)

    async def reap(self, made: UsageEvent) -> None:
        self.reaped.append(made)

    async def ended(self, made: Sequence[UsageEvent]) -> None:
        if self.away:
            raise ConnectionError
        self.ends += made


async def test_a_segment_goes_only_when_postgres_has_all_of_it_and_no_call_in_it_is_open(tmp_path: Path) -> None:
    wal, books = Wal.open(tmp_path, "n1"), Books()
    done, open_call = event(), event()
    for made in (done, open_call):
        intend(wal, made)
    settle(wal, done)
    wal._rotate()
    await wal.confirm(books.missing, books.resend)
    assert len(list(tmp_path.glob("*.wal"))) == 2
    books.booked.add(done.event_id)
    await wal.confirm(books.missing, books.resend)
    assert len(list(tmp_path.glob("*.wal"))) == 2  # open_call's intent is in it
    settle(wal, open_call)
    await wal.confirm(books.missing, books.resend)
    assert len(list(tmp_path.glob("*.wal"))) == 1
    assert [made.event_id for made in wal.unconfirmed()] == [open_call.event_id]
    wal.close()


async def test_what_postgres_lacks_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "RESEND_AFTER_S", -1.0)
    wal, books = Wal.open(tmp_path, "n1"), Books()
    made = event()
    settle(wal, made)
    wal._rotate()
    await wal.confirm(books.missing, books.resend)
    assert books.sent == [made]
    wal.close()


CHILD = """
import os, sys
from pathlib import Path
from shared.store.wal import Wal
from tests.store.test_wal import event, intend, settle
wal = Wal.open(Path(sys.argv[1]), "dead")
settled, lost = event(), event()
for made in (settled, lost):
    intend(wal, made)
settle(wal, settled)
print(settled.event_id, lost.event_id, flush=True)
os.kill(os.getpid(), 9)
"""


async def test_a_live_process_adopts_what_a_killed_one_left(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=False)
    settled_id, lost_id = child.stdout.split()
    wal, books = Wal.open(tmp_path, "n2"), Books()
    orphans = wal.adopt()
    assert [(made.event_id, made.kind, made.cost_nano_usd) for made in orphans] == [(lost_id, EventKind.ESTIMATED, 99)]
    assert {made.event_id for made in wal.unconfirmed()} == {settled_id, lost_id}
    await wal.send_orphans(orphans, books.resend, books.reap)
    assert books.sent == books.reaped == orphans
    books.away = True
    with pytest.raises(ConnectionError):
        await wal.tell_ends(books.ended)
    books.away = False
    for _ in range(2):
        await wal.tell_ends(books.ended)
    assert [(made.event_id, made.cost_nano_usd) for made in books.ends] == [(settled_id, 5)]
    books.booked |= {settled_id, lost_id}
    await wal.confirm(books.missing, books.resend)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["n2-00000001.wal", "n2.lock"]
    wal.close()


async def test_an_intent_that_came_to_nothing_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No estimate for it when the process dies, and its segment goes like any other."""
    monkeypatch.setattr(wal_module, "ROTATE_S", 0.0)
    wal, books = Wal.open(tmp_path, "n1"), Books()
    none, made = event(), event()
    intend(wal, none)
    wal.void(none, encode_event(none))
    intend(wal, made)
    settle(wal, made)
    assert wal.backlog() == 1
    assert [each.event_id for each in wal.unconfirmed()] == [made.event_id]
    books.booked = {made.event_id}
    await wal.confirm(books.missing, books.resend)
    assert books.sent == []
    assert [path for path in tmp_path.glob("*.wal") if path.stat().st_size and list(read(path))] == []
    wal.close()


async def test_a_killed_processes_void_intent_is_no_orphan(tmp_path: Path) -> None:
    dead = (
        "import sys, os; from pathlib import Path; from tests.store.test_wal import *;"
        "wal = Wal.open(Path(sys.argv[1]), 'n1'); a, b = event(), event(); intend(wal, a); intend(wal, b);"
        "wal.void(a, encode_event(a)); print(b.event_id, a.event_id, flush=True); os._exit(9)"
    )
    left = subprocess.run([sys.executable, "-c", dead, str(tmp_path)], capture_output=True, text=True, check=False)
    wal = Wal.open(tmp_path, "n2")
    lost_id, void_id = left.stdout.split()
    assert [each.event_id for each in wal.adopt()] == [lost_id]
    books = Books()
    await wal.tell_ends(books.ended)
    assert [(each.event_id, each.cost_nano_usd, each.output_tokens) for each in books.ends] == [(void_id, 0, 0)]
    wal.close()


def test_a_living_process_keeps_its_own(tmp_path: Path) -> None:
    first, second = Wal.open(tmp_path, "n1"), Wal.open(tmp_path, "n2")
    settle(first, event())
    assert second.adopt() == []
    assert list(second.unconfirmed()) == []
    with pytest.raises(OSError, match="in use"):
        Wal.open(tmp_path, "n1")
    first.close()
    second.close()


def test_a_torn_or_damaged_record_ends_its_segment_and_nothing_before_it_is_lost(tmp_path: Path) -> None:
    wal = Wal.open(tmp_path, "n1")
    made = [event() for _ in range(5)]
    for each in made:
        settle(wal, each)
    wal.close()
    path = next(tmp_path.glob("*.wal"))
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        got = [each.event_id for _, each in read(path)]
        assert got == [each.event_id for each in made[: len(got)]]
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    path.write_bytes(damaged)
    assert 1 <= len(list(read(path))) < 5


def test_a_full_disk_refuses_before_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = Wal.open(tmp_path, "n1")

    def full(_descriptor: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wal_module, "allocate", full)
    monkeypatch.setattr(wal_module, "SEGMENT_BYTES", 400)
    with pytest.raises(WalFull):
        for _ in range(5):
            intend(wal, event())
    wal.close()
    assert os.listdir(tmp_path)

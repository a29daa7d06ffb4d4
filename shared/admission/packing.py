"""Packing: admit.lua's and settle.lua's calls and the entries of the usage stream, in RESP. The argument lists are the scripts'
headers; what never changes for a key was packed when its cells were compiled."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec

from shared.admission.cells import FIRST_CELL, Cells, Names, places
from shared.admission.estimate import Quote
from shared.admission.restore import LEASE_MS
from shared.domain.usage import UsageEvent
from shared.store import keys
from shared.store.redis import Script, bulk

if TYPE_CHECKING:
    from shared.admission.gate import Ask
    from shared.admission.verdict import Reservation

MOST_TOGETHER = 50
"""Calls in one run of a script: it holds up everybody else's."""
MOST_EVENTS = 100
"""Events in one entry of the usage stream."""
XADD = bulk(b"XADD", keys.USAGE_STREAM, b"*")
FIELDS = (bulk(b"e"), *[bulk(b"e%d" % number) for number in range(1, MOST_EVENTS)])
LEASE = bulk(b"%d" % LEASE_MS)
ACTUAL = bulk(b"", b"actual")
"""settle.lua's `now` and mode."""
_packed = msgspec.msgpack.Encoder().encode


def script(name: str) -> str:
    """The source of a Lua script that lies beside this module."""
    return files("shared.admission").joinpath(name).read_text()


def head(script: Script) -> bytes:
    return bulk(b"EVALSHA", script.sha)


def numbers_of(quote: Quote) -> tuple[int, ...]:
    """admit.lua's numbers of a call, but for its group."""
    bound = quote.bound
    cap = -1 if bound.output_cap is None else bound.output_cap
    return (
        bound.fixed_nano_usd, bound.full_nano_usd, bound.output_nano_per_mtok, cap, bound.choices, bound.least_output_cap,
        quote.rate_tokens,
    )  # fmt: skip


class Groups:
    """The cells of a run's calls: those of one key are a group. Groups share cells, and a cell is named once."""

    __slots__ = ("_numbers", "cells")

    def __init__(self) -> None:
        self.cells: list[Cells] = []
        self._numbers: dict[int, int] = {}

    def of(self, cells: Cells) -> int:
        """The number of the group that has these cells, from 1."""
        number = self._numbers.get(id(cells))
        if number is None:
            self.cells.append(cells)
            number = self._numbers[id(cells)] = len(self.cells)
        return number

    def named(self, names: Sequence[Names]) -> tuple[int, bytes, bytes]:
        """How many keys, the keys, and where each group's stand among them, both in RESP."""
        first = names[0]
        if len(names) == 1:
            return len(first.keys), first.packed, first.packed_places
        every = dict(zip(first.keys, range(1, len(first.keys) + 1), strict=True))
        found = [[every.setdefault(key, len(every) + 1) for key in one.keys[FIRST_CELL - 1 :]] for one in names]
        return len(every), bulk(*every), bulk(places(found))


def admission(head: bytes, asks: Sequence[Ask], boot: str) -> bytes:
    """admit.lua for calls of one organisation."""
    groups, numbers, parts = Groups(), list[int](), list[bytes]()
    for ask in asks:
        numbers.append(groups.of(ask.cells))
        numbers += numbers_of(ask.quote)
        event = ask.encoded_event
        parts.append(b"$36\r\n%b\r\n$%d\r\n%b\r\n" % (ask.event_id.encode(), len(event), event))
    count, names, at = groups.named([cells.admit_names for cells in groups.cells])
    packed = _packed(numbers)
    return b"*%d\r\n%b%b%b$0\r\n\r\n$%d\r\n%b\r\n%b%b$%d\r\n%b\r\n%b%b" % (
        3 + count + 5 + 2 * len(groups.cells) + 2 * len(asks), head, bulk(b"%d" % count), names,
        len(boot), boot.encode(), LEASE, at, len(packed), packed,
        b"".join([cells.packed_admit_args for cells in groups.cells]), b"".join(parts),
    )  # fmt: skip


def settlement(head: bytes, ends: Sequence[tuple[Reservation, UsageEvent]]) -> bytes:
    """settle.lua, mode `actual`, for calls of one organisation."""
    groups, numbers, markers, parts = Groups(), list[int](), list[bytes](), list[bytes]()
    for reservation, event in ends:
        cells = reservation.cells
        numbers.append(groups.of(cells))
        event_id, boot = event.event_id.encode(), reservation.boot.encode()
        estimate, done = cells.estimate_prefix, cells.done_prefix
        markers.append(
            b"$%d\r\n%b%b\r\n$%d\r\n%b%b\r\n" % (len(estimate) + 36, estimate, event_id, len(done) + 36, done, event_id)
        )
        cost, tokens = b"%d" % event.cost_nano_usd, b"%d" % (event.input_tokens + event.output_tokens)
        parts.append(
            b"$36\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
            % (event_id, len(boot), boot, len(cost), cost, len(tokens), tokens)
        )
    count, names, at = groups.named([cells.settle_names for cells in groups.cells])
    count += 2 * len(ends)
    packed = _packed(numbers)
    return b"*%d\r\n%b%b%b%b%b%b$%d\r\n%b\r\n%b%b" % (
        3 + count + 4 + len(groups.cells) + 4 * len(ends), head, bulk(b"%d" % count), names, b"".join(markers),
        ACTUAL, at, len(packed), packed,
        b"".join([cells.packed_settle_args for cells in groups.cells]), b"".join(parts),
    )  # fmt: skip


def entry(events: Sequence[bytes]) -> bytes:
    """XADD of one entry with these events: the fields `e`, `e1`, `e2`…"""
    fields = [b"%b$%d\r\n%b\r\n" % (name, len(event), event) for name, event in zip(FIELDS, events, strict=False)]
    return b"*%d\r\n%b%b" % (3 + 2 * len(fields), XADD, b"".join(fields))

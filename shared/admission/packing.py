"""Packing: admit.lua's and settle.lua's calls and the entries of the usage stream, in RESP. The argument lists are the scripts'
headers; what never changes for a key was packed when its cells were compiled."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec

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
_numbers = msgspec.msgpack.Encoder().encode


def script(name: str) -> str:
    """The source of a Lua script that lies beside this module."""
    return files("shared.admission").joinpath(name).read_text()


def head(script: Script) -> bytes:
    return bulk(b"EVALSHA", script.sha)


def numbers_of(quote: Quote) -> tuple[int, ...]:
    """admit.lua's seven numbers of a call."""
    bound = quote.bound
    cap = -1 if bound.output_cap is None else bound.output_cap
    return (
        bound.fixed_nano_usd, bound.full_nano_usd, bound.output_nano_per_mtok, cap, bound.choices, bound.least_output_cap,
        quote.rate_tokens,
    )  # fmt: skip


def admission(head: bytes, asks: Sequence[Ask], boot: str) -> bytes:
    """admit.lua for calls that have the same cells."""
    cells, numbers, parts = asks[0].cells, list[int](), list[bytes]()
    for ask in asks:
        numbers += numbers_of(ask.quote)
        event = ask.encoded_event
        parts.append(b"$36\r\n%b\r\n$%d\r\n%b\r\n" % (ask.event_id.encode(), len(event), event))
    packed = _numbers(numbers)
    return b"*%d\r\n%b%b$%d\r\n%b\r\n%b%b$%d\r\n%b\r\n%b" % (
        3 + len(cells.admit_keys) + 6 + 2 * len(asks), head, cells.packed_admit_keys,
        len(boot), boot.encode(), LEASE, cells.packed_admit_args, len(packed), packed, b"".join(parts),
    )  # fmt: skip


def settlement(head: bytes, ends: Sequence[tuple[Reservation, UsageEvent]]) -> bytes:
    """settle.lua, mode `actual`, for calls that have the same cells."""
    cells, names, parts = ends[0][0].cells, list[bytes](), list[bytes]()
    estimate, done = cells.estimate_prefix, cells.done_prefix
    for reservation, event in ends:
        event_id, boot = event.event_id.encode(), reservation.boot.encode()
        cost, tokens = b"%d" % event.cost_nano_usd, b"%d" % (event.input_tokens + event.output_tokens)
        names.append(
            b"$%d\r\n%b%b\r\n$%d\r\n%b%b\r\n" % (len(estimate) + 36, estimate, event_id, len(done) + 36, done, event_id)
        )
        parts.append(
            b"$36\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
            % (event_id, len(boot), boot, len(cost), cost, len(tokens), tokens)
        )
    named = 2 + len(cells.settle_keys) + 2 * len(ends)
    return b"*%d\r\n%b%b%b%b%b%b" % (
        3 + named + 3 + 4 * len(ends), head, bulk(b"%d" % named), cells.packed_settle_keys, b"".join(names),
        cells.packed_settle_args, b"".join(parts),
    )  # fmt: skip


def entry(events: Sequence[bytes]) -> bytes:
    """XADD of one entry with these events: the fields `e`, `e1`, `e2`…"""
    fields = [b"%b$%d\r\n%b\r\n" % (name, len(event), event) for name, event in zip(FIELDS, events, strict=False)]
    return b"*%d\r\n%b%b" % (3 + 2 * len(fields), XADD, b"".join(fields))

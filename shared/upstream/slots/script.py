"""slots.lua as a call: its text for a database, its runs in RESP."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from shared.store import keys
from shared.store.redis import Script, bulk
from shared.upstream.slots.cells import Cells
from shared.upstream.slots.model import Done
from shared.upstream.slots.slot import Waiter

NOW = bulk(b"")
TAKE, DONE, LEAVE, LOOK = bulk(b"take"), bulk(b"done"), bulk(b"leave"), bulk(b"look")
NOTHING = bulk(b"") * 9


@cache
def source(database: int) -> str:
    return keys.scripted(files("shared.upstream.slots").joinpath("slots.lua").read_text(), database)


class Packer:
    """slots.lua's calls in RESP; the argument list is the script's header."""

    def __init__(self, script: Script, node_id: str) -> None:
        self._head = bulk(b"EVALSHA", script.sha)
        self._node = bulk(node_id.encode())

    def take(self, cells: Cells, waiter: Waiter, wait_us: int) -> bytes:
        values = (waiter.ticket, waiter.organisation_id, waiter.tokens, waiter.nano, wait_us)
        return self._packed(cells, TAKE, _padded(*values))

    def done(self, cells: Cells, ticket: str, end: Done) -> bytes:
        values = (ticket, "", end.tokens, end.nano, end.pause_us, end.era, end.went, end.held_us, int(end.unused))
        return self._packed(cells, DONE, _padded(*values))

    def leave(self, cells: Cells, ticket: str) -> bytes:
        return self._packed(cells, LEAVE, _padded(ticket))

    def look(self, cells: Cells) -> bytes:
        return self._packed(cells, LOOK, NOTHING)

    def _packed(self, cells: Cells, op: bytes, values: bytes) -> bytes:
        count = b"*%d\r\n" % (2 + 1 + len(cells.keys) + 22 + 3 * len(cells.quotas))
        parts = (count, self._head, cells.packed_keys, NOW, self._node, cells.packed_args, op, values, cells.packed_quotas)
        return b"".join(parts)


def _padded(*values: object) -> bytes:
    return bulk(*(str(value).encode() for value in values), *[b""] * (9 - len(values)))

"""Every Redis key we own, and its hash tag.

What one admission touches belongs to one organisation and lies in one slot: `{organisation}` is its hash tag. The usage
stream and the nodes' heartbeats are shared by all, so no script touches them together with an organisation's keys.
"""

from __future__ import annotations

from datetime import datetime

from shared.domain.limits import Period, Scope, period_start

BOOT = b"ws:boot"
NODES = b"ws:nodes"
USAGE_STREAM = b"ws:usage"
USAGE_GROUP = b"ledger"
HEALTH_MARKS = b"ws:{health}:marks"
HEALTH_VERSION = b"ws:{health}:version"
HEALTH_LIFE = b"ws:{health}:life"
"""One slot for all of health: an operation may touch a deployment and its connection, and only failures make any."""

_LETTER = {Scope.ORGANISATION: "o", Scope.TEAM: "t", Scope.KEY: "k"}


def registered(boot: str) -> bytes:
    return f"ws:registered:{boot}".encode()


def request_rate(organisation_id: str, scope: Scope, scope_id: str) -> bytes:
    return f"ws:{{{organisation_id}}}:r:{_LETTER[scope]}:{scope_id}".encode()


def token_rate(organisation_id: str, scope: Scope, scope_id: str) -> bytes:
    return f"ws:{{{organisation_id}}}:t:{_LETTER[scope]}:{scope_id}".encode()


def concurrency(organisation_id: str, scope: Scope, scope_id: str) -> bytes:
    return f"ws:{{{organisation_id}}}:c:{_LETTER[scope]}:{scope_id}".encode()


def period_label(period: Period, at: datetime) -> str:
    """`2026-11-01`, the UTC date on which the period began; `total` for the period without end."""
    return "total" if period is Period.TOTAL else period_start(period, at).date().isoformat()


def budget(organisation_id: str, budget_id: str, label: str) -> bytes:
    return f"ws:{{{organisation_id}}}:b:{budget_id}:{label}".encode()


def unconfirmed(budget_cell: bytes) -> bytes:
    return budget_cell + b":u"


def response(organisation_id: str, team_id: str, response_id: str) -> bytes:
    return f"ws:{{{organisation_id}}}:resp:{team_id}:{response_id}".encode()


def health_counts(subject: str) -> bytes:
    return f"ws:{{health}}:n:{subject}".encode()


def reservations(organisation_id: str) -> bytes:
    return f"ws:{{{organisation_id}}}:rsv".encode()


def reservation_records(organisation_id: str) -> bytes:
    return f"ws:{{{organisation_id}}}:rsvd".encode()


def estimate(organisation_id: str, event_id: str) -> bytes:
    return f"ws:{{{organisation_id}}}:est:{event_id}".encode()


def done(organisation_id: str, event_id: str) -> bytes:
    return f"ws:{{{organisation_id}}}:done:{event_id}".encode()


SLOTS_LEARNED = b"ws:slots:learned"


def slots(connection_id: str) -> tuple[bytes, ...]:
    """State, leases, waiting, tickets, deadlines, finish tags of a connection's queue (slots.lua)."""
    return tuple(
        f"ws:{{{connection_id}}}:u:{part}".encode() for part in ("state", "leases", "waiting", "tickets", "late", "tags")
    )


def quota(connection_id: str, unit: str, window: str) -> bytes:
    return f"ws:{{{connection_id}}}:u:quota:{unit}:{window}".encode()


def config_channel(database: int) -> bytes:
    """Channels carry the database's number: Redis' messages know none, and two installations on a server would hear each
    other."""
    return b"ws:%d:config" % database


def health_channel(database: int) -> bytes:
    return b"ws:%d:health" % database


def slots_channel(database: int, node_id: str = "") -> bytes:
    """Where all are told of pauses; with a node, where slots.lua tells it of its grants."""
    return f"ws:{database}:slots{node_id and ':'}{node_id}".encode()


def scripted(source: str, database: int) -> str:
    """A script's text for this database: what it publishes goes to the database's own channels."""
    return source.replace("ws:DATABASE:", f"ws:{database}:")

"""Cells (pure): a connection's limits as slots.lua takes them, compiled once per limits and quota window."""

from __future__ import annotations

import msgspec

from shared.clock import utc
from shared.domain.upstream_limits import QuotaUnit, UpstreamLimits, pace
from shared.store import keys
from shared.store.redis import bulk

EPOCH_S = 1_767_225_600
"""2026-01-01: µs count from here, so that a double still resolves fractions of one."""
LEASE_MS = 30_000
LEARNED = UpstreamLimits(min_gap_ms=20)
"""For a connection without limits whose provider wanted a pause: afterwards those who waited go one by one."""

_LETTER = {QuotaUnit.REQUESTS: "r", QuotaUnit.TOKENS: "t", QuotaUnit.USD: "u"}


class QuotaCell(msgspec.Struct, frozen=True):
    unit: str
    limit: int
    ends_us: int
    """0: rolling over five hours."""


class Cells(msgspec.Struct, frozen=True):
    """Numbers as in slots.lua's header; `expires_s` is when a quota's window ends and these are to be compiled anew."""

    connection_id: str
    limits: UpstreamLimits
    request_us: float
    request_burst: int
    token_us: float
    token_burst: int
    gap_us: int
    concurrent: int
    adaptive: bool
    most_waiting: int
    wait_us: int
    quotas: tuple[QuotaCell, ...]
    expires_s: float
    keys: tuple[bytes, ...]
    packed_keys: bytes
    packed_args: bytes
    """From ARGV[3] on, without the node."""
    packed_quotas: bytes

    def share(self, nodes: int, part: float) -> Cells:
        """What one of `nodes` may use by itself, `part` of its share: at least something of everything."""
        factor = part / nodes
        return msgspec.structs.replace(
            self,
            request_us=self.request_us / factor,
            request_burst=max(1, int(self.request_burst * factor)),
            token_us=self.token_us / factor,
            token_burst=max(1, int(self.token_burst * factor)),
            gap_us=int(self.gap_us / factor),
            concurrent=max(1, int(self.concurrent * factor)) if self.concurrent else 0,
            most_waiting=-(-self.most_waiting // nodes),
            quotas=tuple(msgspec.structs.replace(each, limit=max(1, int(each.limit * factor))) for each in self.quotas),
        )


def compile_cells(connection_id: str, limits: UpstreamLimits, now_s: float) -> Cells:
    request_us, request_burst = pace(limits.requests_per_minute, limits.burst_requests)
    token_us, token_burst = pace(limits.tokens_per_minute, limits.burst_tokens)
    quotas, names, expires_s = [], [], float("inf")
    for quota in limits.quotas:
        span, ends_s = quota.span(utc(now_s)), 0.0
        if span is not None:
            ends_s = span[1].timestamp()
            expires_s = min(expires_s, ends_s)
        window = quota.window if span is None else f"{quota.window}:{quota.at_hour}:{span[0]}"
        names.append(keys.quota(connection_id, quota.unit, window))
        quotas.append(QuotaCell(_LETTER[quota.unit], quota.limit, int((ends_s - EPOCH_S) * 1_000_000) if ends_s else 0))
    gap_us, concurrent = (limits.min_gap_ms or 0) * 1000, limits.concurrent_requests or 0
    all_keys = (*keys.slots(connection_id), *names)
    constant = (
        connection_id, repr(request_us), request_burst, repr(token_us), token_burst, gap_us, concurrent, int(limits.adaptive),
        limits.queue.most, LEASE_MS,
    )  # fmt: skip
    each = [value for cell in quotas for value in (cell.unit, cell.limit, cell.ends_us)]
    return Cells(
        connection_id=connection_id,
        limits=limits,
        request_us=request_us,
        request_burst=request_burst,
        token_us=token_us,
        token_burst=token_burst,
        gap_us=gap_us,
        concurrent=concurrent,
        adaptive=limits.adaptive,
        most_waiting=limits.queue.most,
        wait_us=int(limits.queue.wait_s * 1_000_000),
        quotas=tuple(quotas),
        expires_s=expires_s,
        keys=all_keys,
        packed_keys=bulk(b"%d" % len(all_keys), *all_keys),
        packed_args=bulk(*(str(value).encode() for value in constant)),
        packed_quotas=bulk(*(str(value).encode() for value in each)),
    )

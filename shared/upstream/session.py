"""Session: the transport: one pool per origin, one TLS context. Why it is ours: docs/transport.md.

A session with a guard is for origins that tenants can influence and shares no connection with one without.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from typing import Any

from shared.upstream.dial import Dialler, Guard
from shared.upstream.head import Origin
from shared.upstream.pool import Pool
from shared.upstream.transport import NothingSent, UpstreamRequest, UpstreamResponse

KEEPALIVE_S = 45.0
"""Less than the 60 s after which common balancers close an idle connection."""
MANY_POOLS = 256


class Session:
    """A Transport. `connections_per_origin` None: as many as there are calls, which admission bounds."""

    def __init__(
        self,
        *,
        guard: Guard | None = None,
        connections_per_origin: int | None = None,
        keepalive_s: float = KEEPALIVE_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = guard
        self._limit = connections_per_origin
        self._keepalive_s = keepalive_s
        self._tls = tls or default_tls()
        self._pools: dict[Origin, Pool] = {}
        self._closed = False

    def send(self, request: UpstreamRequest) -> Coroutine[Any, Any, UpstreamResponse]:
        return (self._pools.get(request.head.origin) or self._pool(request.head.origin)).send(request)

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))

    @property
    def sockets(self) -> int:
        """How many are open, idle ones included."""
        return sum(pool.sockets for pool in self._pools.values())

    def _pool(self, origin: Origin) -> Pool:
        if self._closed:
            raise NothingSent("this node is shutting down")
        if len(self._pools) >= MANY_POOLS:
            for known in [known for known, pool in self._pools.items() if pool.empty]:
                del self._pools[known]
        dialler = Dialler(origin, self._guard, self._tls if origin.scheme == "https" else None)
        pool = self._pools[origin] = Pool(dialler, limit=self._limit, keepalive_s=self._keepalive_s)
        return pool


def default_tls() -> ssl.SSLContext:
    """Certificates and host names are verified; `SSL_CERT_FILE` and `SSL_CERT_DIR` name other authorities."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context

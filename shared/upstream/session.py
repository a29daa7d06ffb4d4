"""Session: the transport: one pool per origin and proxy, one TLS context. Why it is ours: docs/transport.md.

A session with a guard is for origins that tenants can influence and shares no connection with one without.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

from shared.domain.proxy import Proxy
from shared.upstream.dial import Dialler, Dials, Guard
from shared.upstream.head import Origin
from shared.upstream.pool import Pool
from shared.upstream.transport import NothingSent, UpstreamRequest, UpstreamResponse
from shared.upstream.tunnel import Tunneller

KEEPALIVE_S = 45.0
"""Less than the 60 s after which common balancers close an idle connection."""
MANY_POOLS = 256

K = TypeVar("K")


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
        self._proxied: dict[tuple[Origin, Proxy], Pool] = {}
        """Apart, so that a call without a proxy looks its pool up as if there were none."""
        self._closed = False

    def send(self, request: UpstreamRequest) -> Coroutine[Any, Any, UpstreamResponse]:
        origin, proxy = request.head.origin, request.proxy
        if proxy is None:
            return (self._pools.get(origin) or self._pool(origin)).send(request)
        return (self._proxied.get((origin, proxy)) or self._pool_through(origin, proxy)).send(request)

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(pool.close() for pool in self._all))

    @property
    def sockets(self) -> int:
        """How many are open, idle ones included."""
        return sum(pool.sockets for pool in self._all)

    @property
    def _all(self) -> list[Pool]:
        return [*self._pools.values(), *self._proxied.values()]

    def _pool(self, origin: Origin) -> Pool:
        return _added(self._pools, origin, self._new(Dialler(origin, self._guard, self._tls_of(origin))))

    def _pool_through(self, origin: Origin, proxy: Proxy) -> Pool:
        dialler = Tunneller(origin, proxy, self._guard, self._tls_of(origin), self._tls if proxy.scheme == "https" else None)
        return _added(self._proxied, (origin, proxy), self._new(dialler))

    def _tls_of(self, origin: Origin) -> ssl.SSLContext | None:
        return self._tls if origin.scheme == "https" else None

    def _new(self, dialler: Dials) -> Pool:
        if self._closed:
            raise NothingSent("this node is shutting down")
        return Pool(dialler, limit=self._limit, keepalive_s=self._keepalive_s)


def _added(pools: dict[K, Pool], key: K, pool: Pool) -> Pool:
    if len(pools) >= MANY_POOLS:
        for known in [known for known, pool in pools.items() if pool.empty]:
            del pools[known]
    pools[key] = pool
    return pool


def default_tls() -> ssl.SSLContext:
    """Certificates and host names are verified; `SSL_CERT_FILE` and `SSL_CERT_DIR` name other authorities."""
    return _tls(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _tls(_file: str | None, _directory: str | None) -> ssl.SSLContext:
    """One for all sessions of a process: reading the authorities takes as long as everything else at a node's start."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context

"""Proxies: the network proxy that a call leaves by, opened once per node and version.

Which one is decided by routing/proxies.py; the answer is kept in the snapshot that it came from, so that a call looks it
up in one dictionary, or in none where no proxy is configured. A proxy that cannot be opened fails its calls: they never
leave some other way.
"""

from __future__ import annotations

from typing import NamedTuple

from shared.domain.catalogue import Connection
from shared.domain.proxy import Level, Proxy, ProxyRow, read_proxy
from shared.routing.proxies import EnvironmentProxies, ProxyTable, Rows, proxy_for
from shared.store.secrets import SecretError, Vault, proxy_context
from shared.upstream.head import Origin, split_url
from shared.upstream.transport import ProxyFailed

MANY = 20_000
"""Answers kept per snapshot, and opened proxies per node."""


class Decision(NamedTuple):
    """`level` None: nothing is configured that applies."""

    level: Level | None
    name: str
    proxy: Proxy | None


class Proxies:
    def __init__(self, vault: Vault, environment: EnvironmentProxies | None = None) -> None:
        self._vault = vault
        self._environment = environment or EnvironmentProxies()
        self._by_environment = self._environment.configured
        self._opened: dict[bytes, Proxy | None] = {}

    def of_call(self, table: ProxyTable, key_id: str, route: str, connection: Connection) -> Proxy | None:
        """For a call to a connection. `route` is '' where the call came by none. Raises ProxyFailed."""
        if not (table.rows or self._by_environment):
            return None
        asked = (key_id, route, connection.connection_id)
        try:
            return table.chosen[asked]
        except KeyError:
            pass
        try:
            origin, _ = split_url(connection.base_url)
        except ValueError:
            return None  # credentials.py says what is wrong with it
        proxy = self.decide(table.rows, origin, key_id, route, connection).proxy
        if len(table.chosen) >= MANY:
            table.chosen.clear()
        table.chosen[asked] = proxy
        return proxy

    def of_url(self, table: ProxyTable, key_id: str, route: str, origin: Origin) -> Proxy | None:
        """For a URL that a client names: no connection's and no provider's. Raises ProxyFailed."""
        if not (table.rows or self._by_environment):
            return None
        return self.decide(table.rows, origin, key_id, route).proxy

    def decide(
        self, rows: Rows, origin: Origin, key_id: str = "", route: str = "", connection: Connection | None = None
    ) -> Decision:
        """Raises ProxyFailed."""
        row = proxy_for(
            rows,
            key_id=key_id,
            route=route,
            connection=connection.name if connection is not None else "",
            provider=connection.provider if connection is not None else "",
            host=origin.host,
        )
        if row is not None:
            return Decision(row.level, row.name, self.open(row))
        proxy = self._environment.proxy_for(origin.scheme, origin.host, origin.port)
        return Decision(Level.ENVIRONMENT if proxy is not None else None, "", proxy)

    def open(self, row: ProxyRow) -> Proxy | None:
        """None: `direct`. Raises ProxyFailed."""
        try:
            return self._opened[row.sealed_url]
        except KeyError:
            pass
        try:
            proxy = read_proxy(self._vault.unseal(row.sealed_url, proxy_context(row.level, row.name, row.version)))
        except (SecretError, ValueError) as error:  # neither says the URL
            raise ProxyFailed(f"the proxy of {row.level} {row.name!r} cannot be used: {error}") from None
        if len(self._opened) >= MANY:
            self._opened.clear()
        self._opened[row.sealed_url] = proxy
        return proxy

"""Proxies: by which one a call leaves: the most specific level that says anything, then the environment.

    key → route → connection → provider → global → environment

`direct` at a level is an answer too. The two last say nothing about loopback hosts: through a proxy that would be the
proxy's own machine, which nobody means who sets a proxy for everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import msgspec

from shared.domain.proxy import Level, Proxy, ProxyRow, read_proxy

Rows = Mapping[tuple[Level, str], ProxyRow]
Network = IPv4Network | IPv6Network
Chosen = tuple[str, str, str]
"""Key id, route, connection id."""


class ProxyTable:
    """A snapshot's proxies. `chosen` is filled by who can open them (upstream/proxies.py) and goes with the snapshot."""

    __slots__ = ("chosen", "rows")

    def __init__(self, rows: Iterable[ProxyRow] = ()) -> None:
        self.rows: Rows = {(row.level, row.name): row for row in rows}
        self.chosen: dict[Chosen, Proxy | None] = {}


def proxy_for(rows: Rows, *, key_id: str, route: str, connection: str, provider: str, host: str) -> ProxyRow | None:
    """The row that decides, or None: then the environment does. An empty name stands for none."""
    for level, name in (
        (Level.KEY, key_id),
        (Level.ROUTE, route),
        (Level.CONNECTION, connection),
        (Level.PROVIDER, provider),
    ):
        if name and (row := rows.get((level, name))) is not None:
            return row
    return None if is_loopback(host) else rows.get((Level.GLOBAL, ""))


def is_loopback(host: str) -> bool:
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Bypass(msgspec.Struct, frozen=True):
    """One entry of NO_PROXY: a network, or a name with all that ends in it; perhaps one port only."""

    name: str = ""
    network: Network | None = None
    port: int | None = None

    def covers(self, host: str, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            try:
                return ip_address(host) in self.network
            except ValueError:
                return False
        return self.name == "*" or host == self.name or host.endswith(f".{self.name}")


class EnvironmentProxies(msgspec.Struct, frozen=True):
    """HTTPS_PROXY, HTTP_PROXY and NO_PROXY, ALL_PROXY where one of the first two is missing."""

    https: Proxy | None = None
    http: Proxy | None = None
    bypass: tuple[Bypass, ...] = ()

    @property
    def configured(self) -> bool:
        return self.https is not None or self.http is not None

    def proxy_for(self, scheme: str, host: str, port: int) -> Proxy | None:
        proxy = self.https if scheme == "https" else self.http
        if proxy is None or is_loopback(host) or any(entry.covers(host, port) for entry in self.bypass):
            return None
        return proxy


def read_environment(environment: Mapping[str, str]) -> EnvironmentProxies:
    """In lower or upper case; the lower case wins, as in curl. Raises ValueError that names the variable, never its value."""
    every = _variable(environment, "all_proxy")
    return EnvironmentProxies(
        _variable(environment, "https_proxy") or every,
        _variable(environment, "http_proxy") or every,
        tuple(_bypass(entry.strip()) for entry in _value(environment, "no_proxy").split(",") if entry.strip()),
    )


def _value(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


def _variable(environment: Mapping[str, str], name: str) -> Proxy | None:
    url = _value(environment, name).strip()
    if not url:
        return None
    try:
        return read_proxy(url if "://" in url else f"http://{url}")
    except ValueError as error:
        raise ValueError(f"{name.upper()}: the URL {error}") from None


def _bypass(entry: str) -> Bypass:
    """`example.com`, `.example.com`, `*.example.com`, `10.0.0.0/8`, `[::1]:443`, `*`."""
    try:
        return Bypass(network=ip_network(entry.strip("[]"), strict=False))
    except ValueError:
        pass
    name, colon, port = entry.rpartition(":")
    if colon and port.isdigit():
        inner = _bypass(name)
        return Bypass(inner.name, inner.network, int(port))
    return Bypass(name=entry.lower().removeprefix("*.").strip("."))

"""Proxy: what stands between us and a provider's network, and which rule of the configuration says so."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec

from shared.domain.host import BLANK, ascii_host, bracketed

PORTS = {"http": 80, "https": 443, "socks5": 1080}
DIRECT = "direct"
"""In the place of a URL: no proxy, whatever the levels below say."""
CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


class Proxy(msgspec.Struct, frozen=True):
    """`scheme` is http, https (TLS to the proxy) or socks5 (RFC 1928; the proxy resolves names). `user` and `password` are
    decoded, and in no text that this makes of itself."""

    scheme: str
    host: str
    port: int
    user: str = ""
    password: str = ""

    @property
    def place(self) -> str:
        """`host:port`: how errors name it."""
        return f"{bracketed(self.host)}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}"

    def __repr__(self) -> str:
        return f"Proxy({self})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("place", self.place)]


class Level(StrEnum):
    """Where a proxy is configured, the most specific first."""

    KEY = "key"
    ROUTE = "route"
    CONNECTION = "connection"
    PROVIDER = "provider"
    GLOBAL = "global"
    ENVIRONMENT = "environment"


class ProxyRow(msgspec.Struct, frozen=True):
    """As stored: the URL, or `direct`, sealed. `name` is a key's id, a route's, connection's or provider's name; '' for all."""

    level: Level
    name: str
    sealed_url: bytes
    version: int

    def __repr__(self) -> str:
        return f"ProxyRow({self.level} {self.name!r} version {self.version})"


def read_proxy(url: str) -> Proxy | None:
    """`socks5://user:pass%40word@host:1080`; None for `direct`. Raises ValueError that never holds any part of it."""
    if url == DIRECT:
        return None
    if BLANK.search(url):
        raise ValueError("must not hold blanks or control characters")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:  # its message may hold a piece of a password
        raise ValueError("is no URL: its port is no number, or its password is not percent-encoded") from None
    scheme = "socks5" if parts.scheme == "socks5h" else parts.scheme
    if scheme not in PORTS:
        raise ValueError("must be direct or begin with http://, https:// or socks5://")
    if parts.path not in ("", "/") or "?" in url or "#" in url:
        raise ValueError("must hold nothing behind host and port; a password's / ? # are written %2F %3F %23")
    if port == 0:
        raise ValueError("must not use port 0")
    user, password = _decoded(parts.username), _decoded(parts.password)
    if password and not user:
        raise ValueError("holds a password without a user")
    if scheme == "socks5" and user and not (len(user.encode()) < 256 and 0 < len(password.encode()) < 256):
        raise ValueError("needs a user and a password of 1 to 255 bytes each for SOCKS5")
    if scheme != "socks5" and ":" in user:
        raise ValueError("must not have a colon in its user: HTTP cannot carry it")
    return Proxy(scheme, ascii_host(host), port or PORTS[scheme], user, password)


def _decoded(text: str | None) -> str:
    """Raises ValueError."""
    raw = unquote_to_bytes(text or "")
    if CONTROL.search(raw):
        raise ValueError("must not have control characters in user or password")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError("must have user and password in UTF-8") from None

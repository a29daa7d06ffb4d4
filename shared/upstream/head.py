"""Head: where a request goes and its lines, checked once when it is built and sent as ready bytes ever after.

Whoever has a Head cannot smuggle a line into it: names are tokens, values hold no control characters (RFC 9110 §5.5),
and what frames a message (`content-length`, `transfer-encoding`, `connection`, …) is not the caller's to set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from shared.domain.host import BLANK, HOST, ascii_host, bracketed

METHOD = re.compile(r"[A-Z]{1,16}")
TARGET = re.compile(r"/[\x21\x22\x24-\x7e]*")
"""Origin form (RFC 9112 §3.2.1), visible ASCII, no fragment."""
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
VALUE = re.compile(r"[\x20-\x7e\t]{0,16384}")
OURS = frozenset(
    {
        "accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class Origin(NamedTuple):
    """`https`, `api.example.com`, `443`: what a pool of connections belongs to."""

    scheme: str
    host: str
    """Lower case, ASCII; an IPv6 address without its brackets."""
    port: int

    @property
    def authority(self) -> str:
        """As the Host header says it: without the scheme's own port."""
        host = bracketed(self.host)
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def split_url(url: str) -> tuple[Origin, str]:
    """`https://api.example.com/v1/` → its origin and `/v1`. Raises ValueError saying what is wrong with it."""
    if BLANK.search(url):
        raise ValueError("must not hold blanks or control characters")  # urlsplit would drop some of them
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password")
    if "?" in url or "#" in url:
        raise ValueError("must not hold a query or fragment")
    host = ascii_host(parts.hostname or "")
    path = parts.path.rstrip("/")
    if path and not TARGET.fullmatch(path):
        raise ValueError("its path holds characters that must be percent-encoded")
    if port == 0:
        raise ValueError("must not use port 0")
    return Origin(parts.scheme, host, port or (443 if parts.scheme == "https" else 80)), path


class Head:
    """Method, target, origin and header lines of a request, all but its length. Raises ValueError naming the part."""

    __slots__ = ("_lines", "method", "origin", "target")

    def __init__(self, method: str, origin: Origin, target: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        if not METHOD.fullmatch(method):
            raise ValueError(f"{method!r} is not a method")
        if not TARGET.fullmatch(target):
            raise ValueError(f"{target!r} is not a target")
        if not HOST.fullmatch(origin.host) or not 0 < origin.port < 65536:
            raise ValueError(f"{origin} is not an origin")
        self.method, self.origin, self.target = method, origin, target
        first = f"{method} {target} HTTP/1.1\r\nhost: {origin.authority}\r\naccept-encoding: identity\r\n"
        self._lines = first.encode() + _encode(headers)

    def plus(self, headers: Iterable[tuple[str, str]]) -> Head:
        """The same head with more lines."""
        more = Head.__new__(Head)
        more.method, more.origin, more.target = self.method, self.origin, self.target
        more._lines = self._lines + _encode(headers)
        return more

    def wire(self, body_bytes: int) -> bytes:
        """The head as it travels, for a body of so many bytes."""
        if body_bytes or self.method in ("POST", "PUT", "PATCH"):
            return b"%bcontent-length: %d\r\n\r\n" % (self._lines, body_bytes)
        return self._lines + b"\r\n"

    def __repr__(self) -> str:
        return f"Head({self.method} {self.origin}{self.target})"


def _encode(headers: Iterable[tuple[str, str]]) -> bytes:
    lines = []
    for name, value in headers:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name[:64]!r} is not a header name")
        if name.lower() in OURS:
            raise ValueError(f"{name!r} is the transport's own header")
        if not VALUE.fullmatch(value):
            raise ValueError(f"the value of header {name!r} holds characters that no header can, or is too long")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode()

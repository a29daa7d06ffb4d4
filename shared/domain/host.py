"""Host: a name or address as a URL may hold it."""

from __future__ import annotations

import re

HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9_.])?|[0-9a-f:.]{2,45}")
BLANK = re.compile(r"[\x00-\x20\x7f]")
"""What urlsplit would drop or let pass."""


def ascii_host(host: str) -> str:
    """Lower case, IDNA where it needs that; an IPv6 address without its brackets. Raises ValueError."""
    try:
        plain = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        plain = ""
    if not HOST.fullmatch(plain.lower()):
        raise ValueError("holds no usable host")
    return plain.lower()


def bracketed(host: str) -> str:
    """As an authority says it."""
    return f"[{host}]" if ":" in host else host

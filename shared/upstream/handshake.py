"""Handshake: asking a proxy for a tunnel, in HTTP (RFC 9110 §9.3.6) or SOCKS5 (RFC 1928, RFC 1929).

Errors name the proxy by host and port and say what it answered in our own words: a proxy's own might repeat what we sent.
"""

from __future__ import annotations

import re
from base64 import b64encode
from ipaddress import IPv4Address, ip_address
from typing import Protocol

from shared.domain.host import bracketed
from shared.domain.proxy import Proxy
from shared.upstream.transport import NothingSent, ProxyFailed

MOST_BYTES = 16 * 1024
"""Of an answer's head."""
ANSWER = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r\n")
PROVIDER_AWAY = (502, 503, 504)
STATUSES = {
    400: "bad request", 403: "forbidden", 404: "not found", 405: "no such method", 429: "too many requests",
    500: "internal error", 501: "not implemented", 502: "bad gateway", 503: "unavailable", 504: "gateway timeout",
}  # fmt: skip
REPLIES = {
    1: "general failure", 2: "not allowed by its rules", 3: "network unreachable", 4: "host unreachable",
    5: "connection refused", 6: "time to live expired", 7: "it cannot connect", 8: "it does not take such an address",
}  # fmt: skip
REPLIES_AWAY = (3, 4, 5, 6)


class Line(Protocol):
    """A connection to a proxy. Reading raises OSError when it ends."""

    def write(self, data: bytes) -> None: ...

    async def exactly(self, count: int) -> bytes: ...

    async def head(self) -> bytes: ...


class Refuses(ProxyFailed):
    """The proxy will not connect to this target."""


class Unreachable(NothingSent):
    """The proxy tried, and the target cannot be reached: not the proxy's fault."""


async def connect(line: Line, proxy: Proxy, host: str, port: int) -> None:
    """Raises ProxyFailed (Refuses), Unreachable, OSError."""
    target = f"{bracketed(host)}:{port}"
    line.write(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n".encode() + _authorisation(proxy) + b"\r\n")
    status = 100
    while status < 200:
        answer = await line.head()
        found = ANSWER.match(answer)
        if found is None or not answer.endswith(b"\r\n\r\n"):
            raise ProxyFailed(f"proxy {proxy.place} does not answer as an HTTP proxy does")
        status = int(found[1])
    if status == 407:
        raise ProxyFailed(_unwelcome(proxy, "407"))
    if status in PROVIDER_AWAY:
        raise Unreachable(f"proxy {proxy.place} cannot connect to {target}: {status} {STATUSES[status]}")
    if status >= 300:
        why = f"{status} {STATUSES.get(status, '')}".rstrip()
        hint = "; it may allow CONNECT to port 443 only" if status in (403, 405) and port != 443 else ""
        raise Refuses(f"proxy {proxy.place} refuses to connect to {target}: {why}{hint}")


def _authorisation(proxy: Proxy) -> bytes:
    """The line that says who we are (RFC 7617), if anything does."""
    if not proxy.user:
        return b""
    return b"proxy-authorization: Basic " + b64encode(f"{proxy.user}:{proxy.password}".encode()) + b"\r\n"


async def socks5(line: Line, proxy: Proxy, host: str, port: int) -> None:
    """The proxy resolves names. Raises ProxyFailed (Refuses), Unreachable, OSError."""
    line.write(b"\x05\x02\x00\x02" if proxy.user else b"\x05\x01\x00")
    version, method = await line.exactly(2)
    if version != 5:
        raise ProxyFailed(f"proxy {proxy.place} does not answer as a SOCKS5 proxy does")
    if method == 2 and proxy.user:
        user, password = proxy.user.encode(), proxy.password.encode()
        line.write(b"\x01%c%b%c%b" % (len(user), user, len(password), password))
        if (await line.exactly(2))[1] != 0:
            raise ProxyFailed(_unwelcome(proxy))
    elif method != 0:
        raise ProxyFailed(_unwelcome(proxy))
    line.write(b"\x05\x01\x00" + _address(host) + port.to_bytes(2, "big"))
    version, reply, _, kind = await line.exactly(4)
    if version != 5:
        raise ProxyFailed(f"proxy {proxy.place} does not answer as a SOCKS5 proxy does")
    if reply:
        target = f"{bracketed(host)}:{port}"
        why = REPLIES.get(reply, f"code {reply}")
        if reply in REPLIES_AWAY:
            raise Unreachable(f"proxy {proxy.place} cannot connect to {target}: {why}")
        raise Refuses(f"proxy {proxy.place} refuses to connect to {target}: {why}")
    await line.exactly(await _bound(line, proxy, kind) + 2)


async def _bound(line: Line, proxy: Proxy, kind: int) -> int:
    """How many bytes the address takes that the proxy calls from."""
    if kind == 3:
        return (await line.exactly(1))[0]
    if kind not in (1, 4):
        raise ProxyFailed(f"proxy {proxy.place} does not answer as a SOCKS5 proxy does")
    return 4 if kind == 1 else 16


def _address(host: str) -> bytes:
    try:
        ip = ip_address(host)
    except ValueError:
        name = host.encode()
        return b"\x03%c%b" % (len(name), name)
    return (b"\x01" if isinstance(ip, IPv4Address) else b"\x04") + ip.packed


def _unwelcome(proxy: Proxy, told: str = "") -> str:
    what = "refuses the user name and password that are configured for it" if proxy.user else "wants a user name and password"
    return f"proxy {proxy.place} {what}" + (f" ({told})" if told else "")

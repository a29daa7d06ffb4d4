"""What the transport's tests send, and how they read what comes back."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from shared.upstream.dial import Address, Dialler
from shared.upstream.head import Head, split_url
from shared.upstream.transport import UpstreamRequest, UpstreamResponse

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LIMIT = 1 << 24


def request(method: str, url: str, body: bytes = b"", **timeouts: Any) -> UpstreamRequest:
    origin, path = split_url(url)
    return UpstreamRequest(head=Head(method, origin, path or "/"), body=body, **timeouts)


def post(url: str, body: bytes = b"{}", **timeouts: Any) -> UpstreamRequest:
    return request("POST", url, body, **timeouts)


async def everything(response: UpstreamResponse) -> bytes:
    """The body, read piece by piece."""
    return b"".join([piece async for piece in response])


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[Any, ...]) -> list[str]:
    """Every name now has these addresses. The list grows with each look-up."""
    look_ups: list[str] = []

    async def answer(dialler: Dialler, loop: asyncio.AbstractEventLoop) -> list[Address]:
        look_ups.append("asked")
        dialler._stale_after_s = loop.time() + 10
        await asyncio.sleep(0.001)
        return [(socket.AF_INET, address) for address in addresses]

    monkeypatch.setattr(Dialler, "_look_up", answer)
    return look_ups

"""Every test of the transport runs on both event loops, and none may leave a socket behind."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from shared.upstream.session import Session

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For tests over plain TCP: reading the system's authorities takes 20 ms."""


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    session = Session(tls=NO_TLS)
    yield session
    await session.close()
    assert session.sockets == 0

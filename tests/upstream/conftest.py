"""Every test of the transport runs on both event loops, and none may leave a socket behind."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from shared.upstream.session import Session
from tests.upstreams.authority import Authority

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


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.new(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def trusting(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Session]:
    """A session that trusts the test's authority because the environment says so."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    session = Session()
    yield session
    await session.close()
    assert session.sockets == 0

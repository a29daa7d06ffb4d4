"""TLS: the provider proves its name to an authority we trust, or nothing is sent."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from shared.upstream.session import Session, default_tls
from shared.upstream.transport import NothingSent, ReplyCut
from tests.upstream.sending import LIMIT, OK, everything, post
from tests.upstreams import CLOSE, HOLD, scripted
from tests.upstreams.authority import Authority

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_a_provider_that_an_authority_of_ssl_cert_file_vouches_for_is_spoken_to(
    authority: Authority, trusting: Session
) -> None:
    async with scripted(OK, ssl_context=authority.server("localhost")) as provider:
        for _ in range(3):
            response = await trusting.send(post(f"https://localhost:{provider.port}/v1"))
            assert await response.read(LIMIT) == b"ok"
        assert (provider.connections, trusting.sockets) == (1, 1)
        assert provider.requests[0].startswith(b"POST /v1 HTTP/1.1\r\nhost: localhost:")


@pytest.mark.parametrize(
    ("certified", "days", "called", "why"),
    [
        ("elsewhere.example", 1, "localhost", "Hostname mismatch"),
        ("localhost", 1, "127.0.0.1", "IP address mismatch"),
        ("localhost", -1, "localhost", "certificate has expired"),
    ],
)
async def test_a_certificate_that_proves_nothing_means_nothing_is_sent(
    certified: str, days: int, called: str, why: str, authority: Authority, trusting: Session
) -> None:
    async with scripted(OK, ssl_context=authority.server(certified, days=days)) as provider:
        with pytest.raises(NothingSent, match=why):
            await trusting.send(post(f"https://{called}:{provider.port}/v1"))
        assert (provider.requests, trusting.sockets) == ([], 0)


async def test_an_authority_that_nobody_trusts_means_nothing_is_sent(authority: Authority) -> None:
    session = Session()
    async with scripted(OK, ssl_context=authority.server("localhost")) as provider:
        with pytest.raises(NothingSent, match="cannot trust"):
            await session.send(post(f"https://localhost:{provider.port}/v1"))
        assert provider.requests == []
    await session.close()


async def test_a_server_that_speaks_no_tls_gets_nothing(trusting: Session) -> None:
    async with scripted(OK) as provider:
        with pytest.raises(NothingSent):
            await trusting.send(post(f"https://localhost:{provider.port}/v1", connect_timeout_s=0.2))
        assert provider.requests == []


async def test_a_handshake_that_hangs_ends_at_the_connect_deadline(trusting: Session) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(NothingSent, match="no answer within"):
            await trusting.send(post(f"https://localhost:{port}/v1", connect_timeout_s=0.1))
        await asyncio.sleep(0.05)


async def test_the_server_is_told_the_name_it_is_called_by(authority: Authority, trusting: Session) -> None:
    told: list[str | None] = []
    context = authority.server("localhost")
    context.sni_callback = lambda sock, name, context: told.append(name)
    async with scripted(OK, ssl_context=context) as provider:
        await trusting.send(post(f"https://localhost:{provider.port}/v1"))
    assert told == ["localhost"]


async def test_streams_run_over_tls_and_end_at_once_when_given_up(authority: Authority, trusting: Session) -> None:
    steps = [step for _ in range(20) for step in (b"4\r\nping\r\n", 0.002)]
    context = authority.server("localhost")
    async with scripted(CHUNKED, *steps, b"0\r\n\r\n", ssl_context=context) as provider:
        response = await trusting.send(post(f"https://localhost:{provider.port}/v1"))
        assert await everything(response) == b"ping" * 20
    async with scripted(CHUNKED + b"1\r\nx\r\n", HOLD, ssl_context=context) as provider:
        response = await trusting.send(post(f"https://localhost:{provider.port}/v1"))
        response.close()
        await asyncio.sleep(0.1)
        assert provider.clients_gone == 1


async def test_a_large_reply_over_tls_is_whole(authority: Authority, trusting: Session) -> None:
    body = bytes(range(256)) * 16384
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    async with scripted(whole, ssl_context=authority.server("localhost")) as provider:
        response = await trusting.send(post(f"https://localhost:{provider.port}/v1", body))
        await asyncio.sleep(0.2)
        assert await response.read(LIMIT) == body
        assert provider.requests[0].endswith(body)


async def test_a_reply_cut_inside_tls_is_cut(authority: Authority, trusting: Session) -> None:
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"
    async with scripted(raw, 0.02, CLOSE, ssl_context=authority.server("localhost")) as provider:
        response = await trusting.send(post(f"https://localhost:{provider.port}/v1"))
        with pytest.raises(ReplyCut):
            await response.read(LIMIT)


def test_versions_before_tls_1_2_are_not_spoken() -> None:
    context = default_tls()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname

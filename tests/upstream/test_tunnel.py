"""Through a proxy: the origin gets the call, the proxy learns where it goes and nothing else, and errors name the proxy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from shared.domain.proxy import Proxy, read_proxy
from shared.upstream.guard import check_address
from shared.upstream.session import Session
from shared.upstream.transport import (
    EgressDenied,
    FirstByteTimeout,
    NothingSent,
    ProxyFailed,
    ReplyCut,
    SentNoReply,
    UpstreamRequest,
)
from tests.upstream.conftest import NO_TLS
from tests.upstream.sending import LIMIT, OK, everything, post, resolving
from tests.upstreams import HOLD, scripted
from tests.upstreams.authority import Authority
from tests.upstreams.proxies import Faults, Proxying, proxying

SECRET = "p@ss/w:rd-canary-4711"
SCHEMES = ["http", "https", "socks5"]
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@asynccontextmanager
async def through(scheme: str, authority: Authority, **options: Any) -> AsyncIterator[Proxying]:
    context = authority.server("localhost") if scheme == "https" else None
    async with proxying(scheme, ssl_context=context, **options) as proxy:
        yield proxy


def via(request: UpstreamRequest, url: str) -> UpstreamRequest:
    return msgspec.structs.replace(request, proxy=read_proxy(url))


@pytest.mark.parametrize("tls", [False, True], ids=["http-origin", "https-origin"])
@pytest.mark.parametrize("who", ["", "us er"], ids=["open", "password"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_call_goes_through_and_its_tunnel_is_kept(
    scheme: str, who: str, tls: bool, authority: Authority, trusting: Session
) -> None:
    context = authority.server("localhost") if tls else None
    async with (
        scripted(OK, ssl_context=context) as provider,
        through(scheme, authority, user=who, password=SECRET if who else "") as proxy,
    ):
        url = f"{'https' if tls else 'http'}://localhost:{provider.port}/v1"
        for _ in range(3):
            assert await (await trusting.send(via(post(url, b'{"a": 1}'), proxy.url))).read(LIMIT) == b"ok"
        assert (proxy.connections, provider.connections, trusting.sockets) == (1, 1, 1)
        assert proxy.targets == [f"localhost:{provider.port}"]
        assert len(provider.requests) == 3
        assert b"proxy-" not in provider.requests[0].lower()
        assert (b'{"a": 1}' in proxy.passed) is not tls


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_streams_and_large_bodies_come_whole(scheme: str, authority: Authority, trusting: Session) -> None:
    body = bytes(range(256)) * 8192
    steps = [step for _ in range(20) for step in (b"4\r\nping\r\n", 0.002)]
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    context = authority.server("localhost")
    async with through(scheme, authority) as proxy:
        async with scripted(CHUNKED, *steps, b"0\r\n\r\n", ssl_context=context) as provider:
            response = await trusting.send(via(post(f"https://localhost:{provider.port}/"), proxy.url))
            assert await everything(response) == b"ping" * 20
        async with scripted(whole, ssl_context=context) as provider:
            response = await trusting.send(via(post(f"https://localhost:{provider.port}/", body), proxy.url))
            assert await response.read(LIMIT) == body
            assert provider.requests[0].endswith(body)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_call_given_up_closes_everything_behind_it(
    scheme: str, tls: bool, authority: Authority, trusting: Session
) -> None:
    context = authority.server("localhost") if tls else None
    async with (
        scripted(CHUNKED + b"1\r\nx\r\n", HOLD, ssl_context=context) as provider,
        through(scheme, authority) as proxy,
    ):
        url = f"{'https' if tls else 'http'}://localhost:{provider.port}/"
        response = await trusting.send(via(post(url), proxy.url))
        response.close()
        for _ in range(100):
            await asyncio.sleep(0.01)
            if not proxy.open and provider.clients_gone:
                break
        assert (proxy.open, provider.clients_gone, trusting.sockets) == (0, 1, 0)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_the_proxy_resolves_names(scheme: str, session: Session) -> None:
    async with scripted(OK) as provider, proxying(scheme, hosts={"only.there.example": "127.0.0.1"}) as proxy:
        url = f"http://only.there.example:{provider.port}/"
        assert (await session.send(via(post(url), proxy.url))).status == 200
        assert proxy.targets == [f"only.there.example:{provider.port}"]
        assert f"host: only.there.example:{provider.port}".encode() in provider.requests[0]


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_addresses_of_both_families_are_passed_on(scheme: str, session: Session) -> None:
    async with proxying(scheme) as proxy:
        for host, asked in (("127.0.0.1", "127.0.0.1:9"), ("[::1]", "[::1]:9" if scheme == "http" else "::1:9")):
            with pytest.raises(NothingSent, match=r"proxy 127\.0\.0\.1:\d+ cannot connect to .*:9"):
                await session.send(via(post(f"http://{host}:9/"), proxy.url))
            assert proxy.targets[-1] == asked


async def test_calls_through_different_proxies_share_no_connection(session: Session) -> None:
    async with scripted(OK) as provider, proxying("http") as one, proxying("socks5") as two:
        for url in (one.url, two.url, one.url, two.url, None):
            request = post(provider.url) if url is None else via(post(provider.url), url)
            await (await session.send(request)).read(LIMIT)
        assert (one.connections, two.connections, provider.connections) == (1, 1, 3)


async def test_a_changed_password_is_another_proxy(session: Session) -> None:
    async with scripted(OK) as provider, proxying("http", user="u", password="old") as proxy:
        await (await session.send(via(post(provider.url), proxy.url))).read(LIMIT)
        old, proxy.password = proxy.url, "new"
        await (await session.send(via(post(provider.url), proxy.url))).read(LIMIT)
        assert proxy.connections == 2
        assert old != proxy.url


# -- what goes wrong


def shown(error: BaseException) -> str:
    return f"{error!r} {error} {error.__cause__!r} {error.__context__!r}"


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize(("given", "why"), [("", "wants a user name"), ("us:wrong-canary", "refuses the user name")])
async def test_a_proxy_that_does_not_know_us(scheme: str, given: str, why: str, session: Session) -> None:
    async with scripted(OK) as provider, proxying(scheme, user="us", password=SECRET) as proxy:
        url = f"{scheme}://{given}@127.0.0.1:{proxy.port}" if given else f"{scheme}://127.0.0.1:{proxy.port}"
        with pytest.raises(ProxyFailed, match=rf"proxy 127\.0\.0\.1:{proxy.port} {why}") as caught:
            await session.send(via(post(provider.url), url))
        assert "canary" not in shown(caught.value)
        assert (provider.requests, proxy.refused, session.sockets) == ([], 1, 0)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_is_not_there(scheme: str, session: Session) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(ProxyFailed, match=f"cannot connect to proxy 127.0.0.1:{port}: connection refused") as caught:
        await session.send(via(post("http://api.example/"), f"{scheme}://us:canary@127.0.0.1:{port}"))
    assert "canary" not in shown(caught.value)


async def test_a_proxy_whose_name_nobody_knows(session: Session) -> None:
    with pytest.raises(ProxyFailed, match=r"cannot connect to proxy nowhere\.invalid:3128: its name has no address"):
        await session.send(via(post("http://api.example/"), "http://nowhere.invalid:3128"))


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_is_silent_costs_the_connect_timeout(scheme: str, session: Session) -> None:
    async with proxying(scheme, faults=Faults(silent=True)) as proxy:
        why = f"cannot connect to http://api.example through proxy 127.0.0.1:{proxy.port}: no answer within 0.1 s"
        with pytest.raises(NothingSent, match=why):
            await session.send(via(post("http://api.example/", connect_timeout_s=0.1), proxy.url))
        for _ in range(100):
            await asyncio.sleep(0.01)
            if not proxy.open:
                break
        assert (proxy.open, session.sockets) == (0, 0)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_origin_that_the_proxy_cannot_reach_is_not_the_proxys_fault(
    scheme: str, authority: Authority, trusting: Session
) -> None:
    async with through(scheme, authority) as proxy:
        with pytest.raises(NothingSent, match=rf"proxy {proxy.host}:{proxy.port} cannot connect to .*:9") as caught:
            await trusting.send(via(post("https://127.0.0.1:9/"), proxy.url))
        assert not isinstance(caught.value, ProxyFailed)


@pytest.mark.parametrize(
    ("scheme", "answer", "why"),
    [
        ("http", b"HTTP/1.1 403 Because canary\r\n\r\n", "refuses to connect to api.example:443: 403 forbidden$"),
        ("http", b"HTTP/1.1 418 x\r\n\r\n", "refuses to connect to api.example:443: 418$"),
        ("http", b"HTTP/1.1 302 x\r\nlocation: http://x/\r\n\r\n", "refuses to connect .* 302$"),
        ("http", b"220 smtp.example ESMTP\r\n", "does not answer as an HTTP proxy does"),
        ("http", b"\x05\x00", "does not answer as an HTTP proxy does"),
        ("http", b"HTTP/1.1 99 x\r\n\r\n", "does not answer as an HTTP proxy does"),
        ("http", b"HTTP/2.0 200 x\r\n\r\n", "does not answer as an HTTP proxy does"),
        ("http", b"HTTP/1.1 200 x\r\na: " + b"x" * 20_000, "does not answer as an HTTP proxy does"),
        ("http", b"HTTP/1.1 200 x\r\n", "ended the connection while it was asked"),
        ("http", b"", "ended the connection while it was asked"),
        ("http", b"HTTP/1.1 200 x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "sends more than its answer"),
        ("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer as a SOCKS5 proxy does"),
        ("socks5", b"\x04\x5b", "does not answer as a SOCKS5 proxy does"),
        ("socks5", b"\x05\xff", "wants a user name and password"),
        ("socks5", b"\x05\x02", "wants a user name and password"),
        ("socks5", b"\x05\x00\x04\x00\x00\x01" + bytes(6), "does not answer as a SOCKS5 proxy does"),
        ("socks5", b"\x05\x00\x05\x00\x00\x07" + bytes(6), "does not answer as a SOCKS5 proxy does"),
        ("socks5", b"\x05\x00\x05\x02\x00\x01" + bytes(6), "refuses to connect to api.example:443: not allowed by its rules"),
        ("socks5", b"\x05\x00\x05\x63\x00\x01" + bytes(6), "refuses to connect to api.example:443: code 99"),
        ("socks5", b"\x05\x00\x05", "ended the connection while it was asked"),
        ("socks5", b"\x05\x00\x05\x00\x00\x01" + bytes(6) + b"more", "sends more than its answer"),
    ],
)
async def test_a_proxy_that_refuses_or_talks_nonsense(
    scheme: str, answer: bytes, why: str, authority: Authority, trusting: Session
) -> None:
    async with proxying(scheme, faults=Faults(answer=answer)) as proxy:
        with pytest.raises(ProxyFailed, match=rf"proxy 127\.0\.0\.1:{proxy.port} {why}") as caught:
            await trusting.send(via(post("https://api.example/"), f"{scheme}://127.0.0.1:{proxy.port}"))
        assert "canary" not in shown(caught.value)
        assert trusting.sockets == 0


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_answer_that_comes_byte_by_byte_is_an_answer(scheme: str, authority: Authority, trusting: Session) -> None:
    faults = Faults(piecemeal=True, interim=b"" if scheme == "socks5" else b"HTTP/1.1 103 Early\r\n\r\n")
    async with scripted(OK) as provider, through(scheme, authority, faults=faults) as proxy:
        assert (await trusting.send(via(post(provider.url), proxy.url))).status == 200


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_what_a_proxy_puts_before_the_origins_words_never_becomes_a_reply(
    scheme: str, tls: bool, authority: Authority, trusting: Session
) -> None:
    faults = Faults(extra=b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    context = authority.server("localhost") if tls else None
    async with scripted(OK, ssl_context=context) as provider, through(scheme, authority, faults=faults) as proxy:
        url = f"{'https' if tls else 'http'}://localhost:{provider.port}/"
        with pytest.raises(ProxyFailed, match="sends more than its answer"):
            await trusting.send(via(post(url), proxy.url))
        assert (provider.requests, trusting.sockets) == ([], 0)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_proxy_that_dies_in_a_reply_cuts_it(scheme: str, tls: bool, authority: Authority, trusting: Session) -> None:
    steps = [step for _ in range(50) for step in (b"64\r\n" + b"x" * 100 + b"\r\n", 0.002)]
    context = authority.server("localhost") if tls else None
    async with (
        scripted(CHUNKED, *steps, b"0\r\n\r\n", ssl_context=context) as provider,
        through(scheme, authority, faults=Faults(dies_after=4000)) as proxy,
    ):
        url = f"{'https' if tls else 'http'}://localhost:{provider.port}/"
        response = await trusting.send(via(post(url), proxy.url))
        with pytest.raises(ReplyCut):
            await everything(response)
        assert trusting.sockets == 0


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_dies_after_the_request_leaves_it_sent(scheme: str, session: Session) -> None:
    async with scripted(OK) as provider, proxying(scheme, faults=Faults(dies_after=0)) as proxy:
        with pytest.raises(SentNoReply):
            await session.send(via(post(provider.url), proxy.url))
        assert len(provider.requests) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_proxy_that_dies_while_tls_is_agreed_on_leaves_nothing_sent(
    scheme: str, authority: Authority, trusting: Session
) -> None:
    async with (
        scripted(OK, ssl_context=authority.server("localhost")) as provider,
        through(scheme, authority, faults=Faults(dies_after=0)) as proxy,
    ):
        why = f"cannot connect to https://localhost:{provider.port} through proxy {proxy.host}:{proxy.port}"
        with pytest.raises(NothingSent, match=why):
            await trusting.send(via(post(f"https://localhost:{provider.port}/"), proxy.url))
        assert (provider.requests, trusting.sockets) == ([], 0)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_origin_that_is_slow_behind_a_proxy_meets_its_deadline(
    scheme: str, authority: Authority, trusting: Session
) -> None:
    async with scripted(HOLD) as provider, through(scheme, authority) as proxy:
        with pytest.raises(FirstByteTimeout):
            await trusting.send(via(post(provider.url, first_byte_timeout_s=0.1), proxy.url))


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_the_origins_certificate_is_checked_through_the_tunnel(
    scheme: str, authority: Authority, trusting: Session
) -> None:
    context = authority.server("elsewhere.example")
    async with scripted(OK, ssl_context=context) as provider, through(scheme, authority) as proxy:
        why = f"cannot trust https://localhost:{provider.port} through proxy {proxy.host}:{proxy.port}: Hostname mismatch"
        with pytest.raises(NothingSent, match=why):
            await trusting.send(via(post(f"https://localhost:{provider.port}/", connect_timeout_s=2), proxy.url))
        assert (provider.requests, trusting.sockets) == ([], 0)


async def test_the_proxys_own_certificate_is_checked_before_it_hears_a_password(
    authority: Authority, trusting: Session
) -> None:
    context = authority.server("elsewhere.example")
    async with proxying("https", user="us", password=SECRET, ssl_context=context) as proxy:
        with pytest.raises(ProxyFailed, match=f"cannot trust proxy localhost:{proxy.port}"):
            await trusting.send(via(post("https://api.example/"), proxy.url))
        assert (proxy.refused, proxy.targets) == (0, [])


async def test_plain_http_is_never_given_to_a_proxy_to_forward(session: Session) -> None:
    """Its own answers would be taken for the provider's."""
    async with scripted(OK) as provider, proxying("http", faults=Faults(only_ports=(443,))) as proxy:
        for _ in range(2):
            with pytest.raises(ProxyFailed, match="403 forbidden; it may allow CONNECT to port 443 only"):
                await session.send(via(post(provider.url), proxy.url))
        assert (proxy.refused, provider.requests) == (2, [])


# -- with a guard


@asynccontextmanager
async def guarded(guard: Any = check_address) -> AsyncIterator[Session]:
    session = Session(guard=guard, tls=NO_TLS)
    yield session
    await session.close()


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("address", ["169.254.169.254", "10.0.0.7", "127.0.0.1"])
async def test_a_guarded_name_with_a_private_address_is_never_told_to_the_proxy(
    scheme: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxying(scheme) as proxy, guarded() as session:
        resolving(monkeypatch, (address, 443))
        proxy_url = Proxy(scheme, "127.0.0.1", proxy.port)
        with pytest.raises(EgressDenied):
            await session.send(msgspec.structs.replace(post("https://rebinding.example/"), proxy=proxy_url))
        assert proxy.connections == 0


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_guarded_call_hands_the_proxy_the_checked_address(scheme: str, authority: Authority, trusting: Session) -> None:
    """The name resolves to something else at the proxy: what was checked is what is asked for, with the name in TLS."""
    seen: list[Any] = []
    context = authority.server("localhost")
    async with scripted(OK, ssl_context=context) as provider, proxying(scheme, hosts={"localhost": "10.0.0.1"}) as proxy:
        session = Session(guard=seen.append)
        url = f"https://localhost:{provider.port}/"
        assert (await session.send(via(post(url), proxy.url))).status == 200
        assert proxy.targets[-1] == f"127.0.0.1:{provider.port}"
        assert ("127.0.0.1", provider.port) in [address[:2] for address in seen]
        await session.close()


async def test_a_guarded_name_that_only_the_proxy_knows_is_refused() -> None:
    async with proxying("http", hosts={"only.there.invalid": "127.0.0.1"}) as proxy, guarded() as session:
        with pytest.raises(NothingSent, match="its name has no address here, and a proxy gets no name"):
            await session.send(via(post("https://only.there.invalid/"), proxy.url))
        assert proxy.connections == 0


async def test_a_guarded_call_tries_the_next_address_where_the_proxy_refuses_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxying("http", faults=Faults(only_ports=(1,))) as proxy, guarded(lambda address: None) as session:
        from shared.upstream.tunnel import Tunneller

        addresses = [(socket.AF_INET, ("192.0.2.1", 443)), (socket.AF_INET, ("192.0.2.2", 443))]

        async def answer() -> Any:
            return addresses

        original = Tunneller.__init__

        def made(self: Tunneller, *arguments: Any) -> None:
            original(self, *arguments)
            assert self._checked is not None
            monkeypatch.setattr(self._checked, "addresses", answer)

        monkeypatch.setattr(Tunneller, "__init__", made)
        with pytest.raises(ProxyFailed, match=r"192\.0\.2\.2:443: 403"):
            await session.send(via(post("https://api.example/"), proxy.url))
        assert proxy.refused == 2


async def test_a_burst_through_a_proxy_is_a_tunnel_each_and_leaves_nothing(session: Session) -> None:
    async with scripted(0.02, OK) as provider, proxying("socks5") as proxy:
        calls = [asyncio.create_task(session.send(via(post(provider.url), proxy.url))) for _ in range(40)]
        for call in calls[::2]:
            await asyncio.sleep(0.0005)
            call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert all(not isinstance(result, BaseException) for result in done[1::2])
        for result in done[1::2]:
            await result.read(LIMIT)  # type: ignore[union-attr]
        await session.close()
        for _ in range(100):
            await asyncio.sleep(0.01)
            if not proxy.open:
                break
        assert (proxy.open, session.sockets) == (0, 0)


async def test_a_tunnel_that_the_proxy_closed_meanwhile_is_dug_again(session: Session) -> None:
    async with scripted(OK) as provider, proxying("http") as proxy:
        for _ in range(3):
            await (await session.send(via(post(provider.url), proxy.url))).read(LIMIT)
            proxy.hang_up()
        assert (proxy.connections, len(provider.requests)) == (3, 3)

"""Where a tenant's URL may lead."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.upstream.guard import check_address, check_url, is_public
from shared.upstream.session import Session
from shared.upstream.transport import EgressDenied
from tests.upstream.conftest import NO_TLS
from tests.upstream.sending import OK, post, resolving
from tests.upstreams import scripted

DENIED = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",
    "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8", "64:ff9b::7f00:1",
    "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::1", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1",
    "ff02::1", "2600:1f18::5efe:7f00:1", "2600:1f18::200:5efe:7f00:1", "2620:4f:8000::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "104.18.7.192", "172.32.0.1", "100.63.255.255", "2606:4700::6812:7c0", "2a00:1450:4001::200e",
]  # fmt: skip


def sockaddr(host: str, port: int = 443) -> tuple[object, ...]:
    return (host, port, 0, 0) if ":" in host else (host, port)


@pytest.mark.parametrize("host", DENIED)
def test_addresses_that_are_not_public_are_denied(host: str) -> None:
    with pytest.raises(EgressDenied):
        check_address(sockaddr(host))


@pytest.mark.parametrize("host", PUBLIC)
def test_public_addresses_pass(host: str) -> None:
    check_address(sockaddr(host))
    check_address(sockaddr(host, 8443))


@pytest.mark.parametrize("port", [0, 22, 80, 5432, 6379, 8080, 65535])
def test_only_the_ports_of_https_pass(port: int) -> None:
    with pytest.raises(EgressDenied):
        check_address(sockaddr("1.1.1.1", port))


@pytest.mark.parametrize("address", [("fe80::1", 443, 0, 3), ("2606:4700::1", 443, 0, 3), ("fe80::1%eth0", 443, 0, 0),
                                     ("/run/a.sock",), ("not an address", 443), ()])  # fmt: skip
def test_what_is_no_plain_internet_address_is_denied(address: tuple[object, ...]) -> None:
    with pytest.raises(EgressDenied):
        check_address(address)


@given(st.ip_addresses(v=4))
@settings(max_examples=200)
def test_no_ipv4_address_passes_that_python_calls_private(ip: ipaddress.IPv4Address) -> None:
    assert not is_public(ip) or (ip.is_global and not ip.is_multicast and not ip.is_reserved)


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:0:0", "::", "64:ff9b::", "64:ff9b:1::"]))
@settings(max_examples=100)
def test_no_ipv4_address_passes_inside_an_ipv6_one(ip: ipaddress.IPv4Address, prefix: str) -> None:
    assert not is_public(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + int(ip)))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "0x7f.1", "2130706433", "017700000001",
        "127.1",
    ],
)  # fmt: skip
async def test_however_a_host_is_written_its_address_is_what_counts(host: str) -> None:
    session = Session(guard=check_address, tls=NO_TLS)
    async with scripted(OK) as provider:
        with pytest.raises(EgressDenied):
            await session.send(post(f"http://{host}:{provider.port}/v1"))
        assert provider.connections == 0
    await session.close()


async def test_one_bad_address_among_good_ones_condemns_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def guard(address: tuple[object, ...]) -> None:
        if address[0] == "127.0.0.2":
            raise EgressDenied("bad")

    session = Session(guard=guard, tls=NO_TLS)
    async with scripted(OK) as provider:
        resolving(monkeypatch, ("127.0.0.1", provider.port), ("127.0.0.2", provider.port))
        with pytest.raises(EgressDenied):
            await session.send(post(provider.url))
        assert provider.connections == 0
    await session.close()


async def test_an_operators_session_goes_where_it_is_told() -> None:
    session = Session(tls=NO_TLS)
    async with scripted(OK) as provider:
        assert (await session.send(post(provider.url))).status == 200
    await session.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://api.example.com/v1", "https"),
        ("https://api.example.com:8080/v1", "port"),
        ("https://1.1.1.1/v1", "name"),
        ("https://[2606:4700::1]/v1", "name"),
        ("https://0x7f.1/", "name"),
        ("https://2130706433/", "name"),
        ("https://127.1./", "name"),
        ("https://localhost/", "public name"),
        ("https://redis/", "public name"),
        ("https://metadata.google.internal/", "public name"),
        ("https://printer.local./", "public name"),
        ("https://user@api.example.com/", "user name"),
    ],
)
def test_a_tenants_url_that_cannot_be_meant_is_refused_when_it_is_configured(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_url(url)


def test_a_tenants_url_may_be_public_https() -> None:
    assert str(check_url("https://api.example.com:8443/v1")) == "https://api.example.com:8443"

"""Guard: where a URL that a tenant can influence may lead: to public unicast addresses, over https, nowhere else.

Checked twice: the URL when it is configured, which catches mistakes and teaches, and the socket address when it is
connected to, which catches everything: names that resolve to private addresses or to others the second time, and hosts
written as `0x7f.1` or `2130706433`. Connections of the operator are exempt: theirs is a session without a guard.
Registries: IANA IPv4 and IPv6 Special-Purpose Address Registry. What Python 3.11 calls global goes too far for us
(NAT64, 6to4, multicast, cloud agents on public addresses), so our own lists come first.
"""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from shared.upstream.head import Origin, split_url
from shared.upstream.transport import EgressDenied

PORTS = frozenset({443, 8443})

DENIED_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT; Alibaba's metadata at 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent: public by number, local by nature
        "169.254.0.0/16",  # link-local, and the metadata address of nearly every cloud
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata at 192.0.0.192
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
UNICAST_6 = IPv6Network("2000::/3")
"""All that IANA has given out for use; loopback, link-local, unique local, NAT64 and mapped addresses lie outside."""
DENIED_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo (2001::/32) and ORCHID among them
        "2001:db8::/32",
        "2002::/16",  # 6to4: holds an IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
ISATAP = (0x00005EFE, 0x02005EFE)
"""Middle of an interface identifier that holds an IPv4 address (RFC 5214 §6.1)."""
NUMERIC_HOST = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?")
LOCAL_NAMES = ("localhost", "local", "internal", "home.arpa", "localdomain", "lan", "intranet", "onion", "test")


def check_address(address: tuple[Any, ...]) -> None:
    """A pool's guard: takes the socket address about to be connected to. Raises EgressDenied."""
    if len(address) not in (2, 4):
        raise EgressDenied("not an internet address")
    host, port = str(address[0]), address[1]
    if (len(address) == 4 and address[3]) or "%" in host:
        raise EgressDenied("the provider's address belongs to a local interface")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise EgressDenied("not an internet address") from None
    if not is_public(ip):
        raise EgressDenied("the provider's name leads to an address that is not public")
    if port not in PORTS:
        raise EgressDenied(f"port {port} is not one of {', '.join(map(str, sorted(PORTS)))}")


def is_public(ip: IPv4Address | IPv6Address) -> bool:
    """Public unicast, and no IPv4 address inside it that could lead elsewhere."""
    if isinstance(ip, IPv4Address):
        return ip.is_global and not any(ip in network for network in DENIED_4)
    if ip not in UNICAST_6 or any(ip in network for network in DENIED_6) or not ip.is_global:
        return False
    return (int(ip) >> 32) & 0xFFFFFFFF not in ISATAP


def check_url(url: str) -> Origin:
    """A base URL as a tenant may configure it. Raises ValueError, in words for whoever wrote it."""
    origin, _ = split_url(url)
    if origin.scheme != "https":
        raise ValueError("must begin with https://")
    if origin.port not in PORTS:
        raise ValueError(f"must use port {' or '.join(map(str, sorted(PORTS)))}")
    if ":" in origin.host or NUMERIC_HOST.fullmatch(origin.host):
        raise ValueError("must hold a name, not an address")
    name = origin.host.rstrip(".")
    if "." not in name or name.endswith(tuple(f".{local}" for local in LOCAL_NAMES)):
        raise ValueError("must hold a public name")
    return origin

"""Which proxy a call leaves by: the most specific level that says anything, then the environment."""

from __future__ import annotations

from itertools import combinations

import pytest

from shared.domain.proxy import Level, Proxy, ProxyRow, read_proxy
from shared.routing.proxies import ProxyTable, is_loopback, proxy_for, read_environment

NAMES = {Level.KEY: "key_1", Level.ROUTE: "fast", Level.CONNECTION: "lab", Level.PROVIDER: "openai", Level.GLOBAL: ""}
ASKED = {"key_id": "key_1", "route": "fast", "connection": "lab", "provider": "openai", "host": "api.example"}
LEVELS = list(NAMES)


def row(level: Level, name: str | None = None) -> ProxyRow:
    return ProxyRow(level, NAMES[level] if name is None else name, b"", 1)


@pytest.mark.parametrize("levels", [each for count in range(1, 6) for each in combinations(LEVELS, count)])
def test_of_several_levels_the_most_specific_decides(levels: tuple[Level, ...]) -> None:
    found = proxy_for(ProxyTable(map(row, reversed(levels))).rows, **ASKED)
    assert found is not None
    assert found.level is levels[0]


def test_a_row_of_another_name_decides_nothing() -> None:
    rows = ProxyTable([row(level, "other") for level in LEVELS[:4]] + [row(Level.KEY, "fast"), row(Level.ROUTE, "lab")]).rows
    assert proxy_for(rows, **ASKED) is None
    everything = dict.fromkeys(ASKED, "") | {"host": "api.example"}
    assert proxy_for({(Level.KEY, ""): row(Level.KEY, "")}, **everything) is None


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.".lower(), "a.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_what_is_for_everything_is_not_for_loopback(host: str) -> None:
    assert is_loopback(host)
    rows = ProxyTable([row(Level.GLOBAL)]).rows
    assert proxy_for(rows, **ASKED | {"host": host}) is None
    named = proxy_for(ProxyTable([row(Level.CONNECTION)]).rows, **ASKED | {"host": host})
    assert named is not None
    environment = read_environment({"ALL_PROXY": "http://p:1"})
    assert environment.proxy_for("https", host, 443) is None
    assert proxy_for(rows, **ASKED | {"host": "10.0.0.1"}) is not None


# -- URLs


@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("direct", None),
        ("http://proxy.example:3128", Proxy("http", "proxy.example", 3128)),
        ("HTTP://Proxy.Example/", Proxy("http", "proxy.example", 80)),
        ("https://us%40er:p%2Fw%3A@proxy.example", Proxy("https", "proxy.example", 443, "us@er", "p/w:")),
        ("socks5://10.0.0.1", Proxy("socks5", "10.0.0.1", 1080)),
        ("socks5h://u:p@[fd00::1]:9", Proxy("socks5", "fd00::1", 9, "u", "p")),
        ("http://u@p:1", Proxy("http", "p", 1, "u", "")),
        ("http://müller.example:1", Proxy("http", "xn--mller-kva.example", 1)),
    ],
)
def test_a_url_is_read(url: str, made: Proxy | None) -> None:
    assert read_proxy(url) == made


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "must be direct or begin with"),
        ("proxy.example:3128", "must be direct or begin with"),
        ("socks4://canary:1", "must be direct or begin with"),
        ("http://us:can/ary@p:1", "is no URL"),
        ("http://us:canary@p:port", "is no URL"),
        ("http://us:canary@p:70000", "is no URL"),
        ("http://us:canary@p:0", "port 0"),
        ("http://us:canary@:1", "no usable host"),
        ("http://us:canary@p:1/path", "nothing behind host and port"),
        ("http://us:canary@p:1?x", "nothing behind host and port"),
        ("http://us:canary@p:1#x", "nothing behind host and port"),
        ("http://us:can ary@p:1", "blanks"),
        ("http://us:canary%0d%0aX@p:1", "control characters"),
        ("http://us:canary%ff@p:1", "UTF-8"),
        ("http://:canary@p:1", "without a user"),
        ("http://u%3As:canary@p:1", "colon"),
        ("socks5://canary@p:1", "1 to 255 bytes"),
        ("socks5://canary:%s@p:1" % ("x" * 256), "1 to 255 bytes"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_url_is_told_without_any_of_it(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        read_proxy(url)
    said = f"{caught.value} {caught.value.__cause__}"
    assert not any(part in said for part in ("canary", "can/ary", "can ary", "ary"))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_no_text_of_a_proxy_holds_its_credentials() -> None:
    proxy = read_proxy("http://us-canary:pw-canary@proxy.example:3128")
    assert proxy is not None
    texts = [repr(proxy), str(proxy), f"{proxy}", proxy.place, str(proxy.__rich_repr__()), repr({"a": (proxy,)})]
    assert [text for text in texts if "canary" in text] == []
    assert "canary" not in repr(ProxyRow(Level.KEY, "k", b"canary", 1))


# -- the environment


def chosen(environment: dict[str, str], url: str = "https://api.example:443") -> str | None:
    scheme, _, place = url.partition("://")
    host, _, port = place.rpartition(":")
    found = read_environment(environment).proxy_for(scheme, host.strip("[]"), int(port))
    return None if found is None else str(found)


def test_the_schemes_have_their_variables() -> None:
    both = {"HTTPS_PROXY": "http://s:1", "HTTP_PROXY": "socks5://h:2", "ALL_PROXY": "http://a:3"}
    assert chosen(both) == "http://s:1"
    assert chosen(both, "http://api.example:80") == "socks5://h:2"
    assert chosen({"ALL_PROXY": "a:3"}) == chosen({"all_proxy": "http://a:3"}, "http://api.example:80") == "http://a:3"
    assert chosen({"https_proxy": "low:1", "HTTPS_PROXY": "up:1"}) == "http://low:1"
    assert chosen({"https_proxy": "", "HTTPS_PROXY": "up:1"}) == "http://up:1"
    assert chosen({"HTTP_PROXY": "h:1"}) is None
    assert not read_environment({}).configured
    assert not read_environment({"NO_PROXY": "*"}).configured


@pytest.mark.parametrize(
    ("no_proxy", "host", "bypassed"),
    [
        ("example.com", "example.com:443", True),
        ("example.com", "api.example.com:443", True),
        (".example.com", "api.example.com:443", True),
        ("*.example.com", "api.example.com:443", True),
        ("EXAMPLE.com", "api.example.com:443", True),
        ("example.com", "badexample.com:443", False),
        ("example.com", "example.com.evil.net:443", False),
        ("a, b ,example.com", "example.com:443", True),
        ("example.com:8443", "example.com:443", False),
        ("example.com:8443", "example.com:8443", True),
        ("*", "anything.example:1", True),
        ("10.0.0.0/8", "10.1.2.3:443", True),
        ("10.0.0.0/8", "11.1.2.3:443", False),
        ("10.0.0.0/8", "ten.example:443", False),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("fd00::/8", "[fd00::7]:443", True),
        ("[fd00::7]:443", "[fd00::7]:443", True),
        ("[fd00::7]:443", "[fd00::7]:444", False),
        ("", "example.com:443", False),
        (" , ,", "example.com:443", False),
    ],
)
def test_no_proxy_names_hosts_networks_and_ports(no_proxy: str, host: str, bypassed: bool) -> None:
    assert (chosen({"HTTPS_PROXY": "http://p:1", "NO_PROXY": no_proxy}, f"https://{host}") is None) is bypassed


def test_a_variable_that_cannot_be_used_is_named_and_not_shown() -> None:
    with pytest.raises(ValueError, match="HTTPS_PROXY: the URL must be direct or begin with") as caught:
        read_environment({"https_proxy": "socks4://us:canary@p:1"})
    assert "canary" not in str(caught.value)

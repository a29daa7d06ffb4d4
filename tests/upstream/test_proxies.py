"""Proxies are opened once per version, and a call's answer is looked up once per snapshot."""

from __future__ import annotations

import msgspec
import pytest

from shared.domain.catalogue import Connection
from shared.domain.proxy import Level, ProxyRow
from shared.routing.proxies import ProxyTable, read_environment
from shared.store.secrets import Vault, proxy_context
from shared.upstream import proxies as module
from shared.upstream.head import Origin
from shared.upstream.proxies import Proxies
from shared.upstream.transport import ProxyFailed

VAULT = Vault.from_secret("q7Rk2mZx9Lp4Vt8Wb3Nc6Hs1Jd5Fg0Ya")
LAB = Connection(connection_id="con_lab", name="lab", provider="openai", prefix="lab", base_url="https://lab.example/v1")


class CountingVault(Vault):
    def __init__(self) -> None:
        self.opened = 0

    def unseal(self, sealed: bytes, context: str) -> str:
        self.opened += 1
        return VAULT.unseal(sealed, context)


def row(level: Level, name: str, url: str, version: int = 1) -> ProxyRow:
    return ProxyRow(level, name, VAULT.seal(url, proxy_context(level, name, version)), version)


def place(proxies: Proxies, table: ProxyTable, key_id: str = "k", route: str = "", to: Connection = LAB) -> str | None:
    found = proxies.of_call(table, key_id, route, to)
    return None if found is None else str(found)


def test_each_level_is_asked_and_direct_is_an_answer() -> None:
    table = ProxyTable(
        [
            row(Level.GLOBAL, "", "http://global:1"),
            row(Level.PROVIDER, "openai", "http://provider:1"),
            row(Level.CONNECTION, "lab", "http://connection:1"),
            row(Level.ROUTE, "fast", "http://route:1"),
            row(Level.KEY, "k", "direct"),
        ]
    )
    proxies = Proxies(VAULT, read_environment({"ALL_PROXY": "http://environment:1"}))
    assert place(proxies, table) is None
    assert place(proxies, table, "other", "fast") == "http://route:1"
    assert place(proxies, table, "other") == "http://connection:1"
    second = msgspec.structs.replace(LAB, name="second", connection_id="con_2")
    assert place(proxies, table, "other", to=second) == "http://provider:1"
    third = msgspec.structs.replace(LAB, name="third", provider="groq", connection_id="con_3")
    assert place(proxies, table, "other", to=third) == "http://global:1"
    assert place(proxies, ProxyTable(), to=third) == "http://environment:1"
    assert place(Proxies(VAULT), ProxyTable(), to=third) is None


def test_a_clients_url_knows_no_connection_and_no_provider() -> None:
    rows = [row(Level.CONNECTION, "lab", "http://c:1"), row(Level.PROVIDER, "openai", "http://p:1")]
    proxies, origin = Proxies(VAULT), Origin("https", "pictures.example", 443)
    assert proxies.of_url(ProxyTable(rows), "k", "", origin) is None
    assert str(proxies.of_url(ProxyTable([*rows, row(Level.GLOBAL, "", "http://g:1")]), "k", "", origin)) == "http://g:1"
    assert str(proxies.of_url(ProxyTable([*rows, row(Level.KEY, "k", "http://k:1")]), "k", "", origin)) == "http://k:1"


def test_a_proxy_is_opened_once_per_version_and_node() -> None:
    vault = CountingVault()
    proxies, first = Proxies(vault), row(Level.GLOBAL, "", "http://one:1")
    for table in (ProxyTable([first]), ProxyTable([first])):
        for key_id in "abc":
            assert place(proxies, table, key_id) == "http://one:1"
    assert vault.opened == 1
    assert place(proxies, ProxyTable([row(Level.GLOBAL, "", "http://two:1", 2)])) == "http://two:1"
    assert vault.opened == 2


def test_one_taken_away_and_put_back_is_opened_again() -> None:
    """Its version starts over: what it was opened from decides."""
    proxies = Proxies(VAULT)
    assert place(proxies, ProxyTable([row(Level.GLOBAL, "", "http://one:1")])) == "http://one:1"
    assert place(proxies, ProxyTable([row(Level.GLOBAL, "", "http://two:1")])) == "http://two:1"


def test_a_call_that_was_asked_for_before_is_one_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    proxies, table = Proxies(VAULT), ProxyTable([row(Level.GLOBAL, "", "http://one:1")])
    first = place(proxies, table)
    monkeypatch.setattr(module, "proxy_for", None)
    monkeypatch.setattr(module, "split_url", None)
    assert place(proxies, table) == first
    assert place(proxies, ProxyTable()) is None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 3)
    proxies, table = Proxies(VAULT), ProxyTable([row(Level.GLOBAL, "", "http://one:1")])
    for number in range(10):
        assert place(proxies, table, f"key_{number}") == "http://one:1"
        assert len(table.chosen) <= 3


def test_a_proxy_that_does_not_open_fails_its_calls_and_lets_none_out_another_way() -> None:
    sealed = VAULT.seal("http://us:canary@p:1", proxy_context(Level.PROVIDER, "openai", 1))
    for broken in (
        ProxyRow(Level.PROVIDER, "openai", sealed, 2),
        row(Level.PROVIDER, "openai", "socks4://us:canary@p:1"),
        ProxyRow(Level.PROVIDER, "openai", VAULT.seal("http://p:1", proxy_context(Level.PROVIDER, "groq", 1)), 1),
    ):
        proxies, table = Proxies(VAULT), ProxyTable([broken, row(Level.GLOBAL, "", "http://global:1")])
        for _ in range(2):
            with pytest.raises(ProxyFailed, match="the proxy of provider 'openai' cannot be used") as caught:
                place(proxies, table)
            assert "canary" not in str(caught.value)

"""`waystation proxy list` and `proxy test`: what is configured, and whether one gets through, without a credential shown."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result

from services.cli.__main__ import main
from services.cli.engines import free_port
from shared.providers import registry
from shared.store import postgres, tenants
from shared.store.apply import apply_document
from shared.store.document import Document
from shared.store.secrets import Vault
from tests.upstreams import Scripted, scripted
from tests.upstreams.proxies import Faults, proxying

SECRET = "q8Zr2kT0vXw9yLmN4pB7cD1eF3gH5jK6"
PASSWORD = "pw-canary"
REPLY = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
SEEN = b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n203.0.113.77\r\n"

T = TypeVar("T")


@contextmanager
def serving(*made: AbstractAsyncContextManager[Any]) -> Iterator[list[Any]]:
    """Servers on a loop of their own: a command runs its own loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def done(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    async def entered(one: AbstractAsyncContextManager[T]) -> T:
        return await one.__aenter__()

    def left(one: AbstractAsyncContextManager[Any]) -> None:
        async def work() -> None:
            await one.__aexit__(None, None, None)

        done(work())

    with ExitStack() as stack:
        stack.callback(loop.close)
        stack.callback(thread.join)
        stack.callback(lambda: loop.call_soon_threadsafe(loop.stop))
        found = []
        for one in made:
            found.append(done(entered(one)))
            stack.callback(partial(left, one))
        yield found


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str) -> Callable[..., Result]:
    for name, value in {
        "WAYSTATION_DATA_DIR": str(tmp_path),
        "WAYSTATION_SECRET_KEY": SECRET,
        "DATABASE_URL": database_url,
        "REDIS_URL": "redis://127.0.0.1:1/0",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["proxy", *arguments])

    return run


def put(database_url: str, secret: str = "direct", **document: Any) -> str:
    """The id of the installation's first key."""

    async def work() -> str:
        pool, vault = postgres.engine(database_url), Vault.from_secret(SECRET)
        try:
            first = await tenants.bootstrap(pool, vault)
            made = Document.model_validate(document)
            await apply_document(pool, vault, made, registry.load(), secret=lambda _: secret)
            return first.key_id if first is not None else ""
        finally:
            await pool.dispose()

    return asyncio.run(work())


def connection(name: str, provider: Scripted) -> dict[str, str]:
    return {"name": name, "provider": "custom", "base_url": provider.url}


def results(result: Result) -> list[dict[str, Any]]:
    assert "canary" not in result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_nothing_configured_says_so(ask: Callable[..., Result], database_url: str) -> None:
    put(database_url)
    assert ask("list").output == "no proxies: calls go straight to their providers\n"
    assert json.loads(ask("list", "--json").output) == []
    assert "there is no connection to try" in ask("test").stderr


def test_a_list_shows_places_and_no_credentials(
    ask: Callable[..., Result], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"socks5://us-canary:{PASSWORD}@10.0.0.5:1080"
    put(database_url, url, proxies={"global": "env:P", "providers": {"openai": "direct"}})
    monkeypatch.setenv("HTTPS_PROXY", f"http://us-canary:{PASSWORD}@env.example:3128")
    text = ask("list").output
    assert "canary" not in text
    assert [line.split() for line in text.splitlines()] == [
        ["name", "proxy", "authenticates", "for"],
        ["provider/openai", "direct", "False"],
        ["global", "socks5://10.0.0.5:1080", "True"],
        ["environment", "http://env.example:3128", "True", "https"],
    ]
    assert [row["level"] for row in results(ask("list", "--json"))] == ["provider", "global", "environment"]


def test_a_test_says_which_level_decided(ask: Callable[..., Result], database_url: str) -> None:
    made = scripted(REPLY), proxying("http", user="us", password=PASSWORD), proxying("socks5")
    with serving(*made) as (provider, http, socks):
        key_id = put(
            database_url,
            http.url,
            connections=[connection("lab", provider), connection("bare", provider)],
            proxies={"connections": {"lab": "env:P"}, "global": socks.url},
        )
        put(database_url, proxies={"keys": {key_id: socks.url}})
        by_name = {row["connection"]: row for row in results(ask("test", "--json"))}
        target = f"http://127.0.0.1:{provider.port}"
        lab = by_name["lab"]
        assert (lab["target"], lab["level"], lab["name"], lab["ok"], lab["status"]) == (target, "connection", "lab", True, 404)
        assert lab["proxy"] == f"http://127.0.0.1:{http.port}"
        assert (by_name["bare"]["level"], by_name["bare"]["proxy"]) == (None, "direct")
        assert len(provider.requests) == 2
        assert b"authorization" not in provider.requests[0].lower()
        (keyed,) = results(ask("test", "--connection", "lab", "--key", key_id, "--json"))
        assert (keyed["level"], keyed["name"], keyed["proxy"]) == ("key", key_id, f"socks5://127.0.0.1:{socks.port}")
        (named,) = results(ask("test", "global", "--connection", "lab", "--json"))
        assert (named["level"], named["proxy"], named["ok"]) == ("global", f"socks5://127.0.0.1:{socks.port}", True)
        told = ask("test", "--connection", "lab").output
        assert told.startswith(f"ok   {target} through http://127.0.0.1:{http.port} (decided by: connection lab): answered 404")


def test_what_fails_is_told_exactly_and_makes_the_command_fail(ask: Callable[..., Result], database_url: str) -> None:
    made = scripted(REPLY), proxying("http", user="us", password="other"), proxying("socks5", faults=Faults(answer=b"x"))
    with serving(*made) as (provider, http, garbage):
        wrong = f"http://us:{PASSWORD}@127.0.0.1:{http.port}"
        put(database_url, wrong, connections=[connection("lab", provider)], proxies={"connections": {"lab": "env:P"}})
        failed = ask("test", "--json")
        assert failed.exit_code == 1
        (row,) = results(failed)
        assert row["error"] == (
            f"proxy 127.0.0.1:{http.port} refuses the user name and password that are configured for it (407)"
        )
        put(database_url, proxies={"connections": {"lab": garbage.url}})
        (row,) = results(ask("test", "--json"))
        assert row["error"].startswith(f"proxy 127.0.0.1:{garbage.port} ")
        put(database_url, proxies={"connections": {"lab": f"http://127.0.0.1:{free_port()}"}})
        told = ask("test")
        assert told.exit_code == 1
        assert told.output.startswith("BAD  ")
        assert "connection refused" in told.output
        assert provider.requests == []


def test_we_can_ask_as_whom_we_are_seen(ask: Callable[..., Result], database_url: str) -> None:
    with serving(scripted(REPLY), scripted(SEEN), proxying("http")) as (provider, echo, http):
        put(database_url, connections=[connection("lab", provider)], proxies={"connections": {"lab": http.url}})
        (row,) = results(ask("test", "--seen-by", echo.origin, "--json"))
        assert row["seen_as"] == "203.0.113.77"
        assert http.targets == [f"127.0.0.1:{provider.port}", f"127.0.0.1:{echo.port}"]
        assert "unknown: it answered 404" in ask("test", "--seen-by", provider.origin).output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing/here"], "there is no proxy 'nothing/here'"),
        (["environment"], "there is no HTTP_PROXY in this environment"),
        (["--connection", "nobody"], "there is no connection 'nobody'"),
        (["--provider", "nobody"], "there is no provider 'nobody'"),
        (["--provider", "custom", "--connection", "nobody"], "there is no connection 'nobody'"),
        (["--key", "nobody"], "there is no key 'nobody'"),
    ],
)
def test_a_name_that_does_not_exist_is_told(
    ask: Callable[..., Result], database_url: str, arguments: list[str], told: str
) -> None:
    put(database_url, connections=[{"name": "lab", "provider": "custom", "base_url": "http://127.0.0.1:9"}])
    result = ask("test", *arguments)
    assert (result.exit_code, told in result.stderr) == (1, True), result.stderr


def test_a_provider_is_asked_at_its_own_address(ask: Callable[..., Result], database_url: str) -> None:
    with serving(proxying("http", faults=Faults(answer=b"HTTP/1.1 403 no\r\n\r\n"))) as (http,):
        put(database_url, proxies={"providers": {"openai": http.url}})
        (row,) = results(ask("test", "--provider", "openai", "--json"))
        assert (row["target"], row["level"], row["name"]) == ("https://api.openai.com", "provider", "openai")
        assert row["error"] == f"proxy 127.0.0.1:{http.port} refuses to connect to api.openai.com:443: 403 forbidden"

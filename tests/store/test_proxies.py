"""Proxies in gateway.yaml: read, sealed, changed, taken away; what is wrong is told by its key and never shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.domain.proxy import Level
from shared.providers import registry
from shared.store import postgres, tenants
from shared.store.apply import Changes, apply_document
from shared.store.configuration import load
from shared.store.document import Document, DocumentError, parse
from shared.store.secrets import Vault, new_secret, proxy_context

VAULT = Vault.from_secret(new_secret())
CATALOGUE = registry.load()
LAB = {"name": "lab", "provider": "custom", "base_url": "http://127.0.0.1:9/v1"}
SECRET = "http://us:pw-canary@proxy.example:3128"


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(database_url)
    await tenants.bootstrap(made, VAULT)
    yield made
    await made.dispose()


async def put(pool: AsyncEngine, secret: str = SECRET, **document: Any) -> Changes:
    made = Document.model_validate(document)
    return await apply_document(pool, VAULT, made, CATALOGUE, secret=lambda _: secret)


async def stored(pool: AsyncEngine) -> dict[tuple[Level, str], tuple[str, int]]:
    rows = (await load(pool)).proxies
    return {
        (row.level, row.name): (VAULT.unseal(row.sealed_url, proxy_context(row.level, row.name, row.version)), row.version)
        for row in rows
    }


async def key_of(pool: AsyncEngine) -> str:
    async with pool.connect() as connection:
        return str(await connection.scalar(text("SELECT id FROM keys LIMIT 1")))


async def test_every_level_is_stored_sealed_and_changes_only_when_it_changes(pool: AsyncEngine) -> None:
    async with pool.begin() as connection:
        await connection.exec_driver_sql(
            'INSERT INTO routes (name, route) VALUES (\'fast\', \'{"name": "fast", "targets": []}\')'
        )
    key_id = await key_of(pool)
    document: dict[str, Any] = {
        "global": "env:PROXY_URL",
        "providers": {"openai": "direct"},
        "connections": {"lab": "socks5://10.0.0.5:1080"},
        "routes": {"fast": "https://proxy.example"},
        "keys": {key_id: "file:/run/secrets/proxy"},
    }
    changes = await put(pool, connections=[LAB], proxies=document)
    assert changes.lines == [
        "+ connection lab (lab/…)",
        "+ proxy of everything: http://proxy.example:3128",
        "+ proxy of provider openai: direct",
        "+ proxy of connection lab: socks5://10.0.0.5:1080",
        "+ proxy of route fast: https://proxy.example:443",
        f"+ proxy of key {key_id}: http://proxy.example:3128",
    ]
    before = await stored(pool)
    assert before == {
        (Level.GLOBAL, ""): (SECRET, 1),
        (Level.PROVIDER, "openai"): ("direct", 1),
        (Level.CONNECTION, "lab"): ("socks5://10.0.0.5:1080", 1),
        (Level.ROUTE, "fast"): ("https://proxy.example", 1),
        (Level.KEY, key_id): (SECRET, 1),
    }
    assert not (await put(pool, proxies=document)).changed
    changes = await put(pool, "http://us:new-canary@proxy.example:3128", proxies={"global": "env:PROXY_URL"})
    assert changes.lines == ["~ proxy of everything: http://proxy.example:3128"]
    assert (await stored(pool))[Level.GLOBAL, ""] == ("http://us:new-canary@proxy.example:3128", 2)
    async with pool.connect() as connection:
        for table in ("proxies", "audit_log"):
            rows = await connection.execute(text(f"SELECT t::text FROM {table} t"))
            assert "canary" not in "".join(row[0] for row in rows)


async def test_null_takes_one_away_and_what_is_not_mentioned_stays(pool: AsyncEngine) -> None:
    await put(pool, connections=[LAB], proxies={"global": "http://a:1", "connections": {"lab": "http://b:1"}})
    assert not (await put(pool, proxies={})).changed
    assert not (await put(pool, proxies={"connections": {"nothing": None}, "providers": {"gone": None}})).changed
    assert (await put(pool, proxies={"connections": {"lab": None}})).lines == ["- proxy of connection lab"]
    assert list(await stored(pool)) == [(Level.GLOBAL, "")]
    assert (await put(pool, proxies={"global": None})).lines == ["- proxy of everything"]
    assert await stored(pool) == {}


@pytest.mark.parametrize(
    ("proxies", "told"),
    [
        ({"providers": {"nobody": "direct"}}, "proxies.providers.nobody: there is no provider 'nobody': it is not one of"),
        ({"connections": {"nobody": "direct"}}, "proxies.connections.nobody: there is no connection 'nobody'"),
        ({"routes": {"nobody": "direct"}}, "proxies.routes.nobody: there is no route 'nobody'"),
        ({"keys": {"nobody": "direct"}}, "proxies.keys.nobody: there is no key 'nobody'"),
    ],
)
async def test_a_name_that_does_not_exist_is_told(pool: AsyncEngine, proxies: dict[str, Any], told: str) -> None:
    with pytest.raises(DocumentError, match=told):
        await put(pool, proxies={"global": "http://a:1"} | proxies)
    assert await stored(pool) == {}


async def test_a_reference_to_no_proxys_url_is_told_by_its_key_and_not_shown(pool: AsyncEngine) -> None:
    with pytest.raises(DocumentError, match=r"^proxies\.global: the URL in env:PROXY_URL must be direct or begin") as caught:
        await put(pool, "socks4://us:pw-canary@p:1", proxies={"global": "env:PROXY_URL"})
    assert "canary" not in str(caught.value)
    with pytest.raises(DocumentError, match=r"^proxies\.global env:NO_SUCH_VARIABLE: the variable is not set here"):
        made = Document.model_validate({"proxies": {"global": "env:NO_SUCH_VARIABLE"}})
        await apply_document(pool, VAULT, made, CATALOGUE)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("http://us:pw-canary@p:1", "holds a user or password: write env:NAME or file:PATH"),
        ("socks4://p:1", "must be direct or begin with http://, https:// or socks5://"),
        ("proxy.example:3128", "must be direct or begin with"),
        ("env:", "must be env:NAME or file:PATH"),
        ("http://p:1/x", "must hold nothing behind host and port"),
    ],
)
@pytest.mark.parametrize("line", ["  global: 'VALUE'", "  providers: {openai: 'VALUE'}"])
def test_what_is_wrong_is_told_by_file_line_and_key(line: str, value: str, told: str) -> None:
    key = "global" if "global" in line else "providers.openai"
    with pytest.raises(DocumentError) as caught:
        parse(Path("gateway.yaml"), "aliases: {}\nproxies:\n" + line.replace("VALUE", value))
    assert f"gateway.yaml:3 proxies.{key}: {told}" in str(caught.value)
    assert "canary" not in str(caught.value)

"""Whatever goes wrong, a command says it in one line on stderr and exits with 1; no traceback, no secret."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner, Result

from services.cli.__main__ import main
from services.cli.engines import EmbeddedPostgres, free_port
from services.cli.say import table
from tests.commands import leaves

SECRET = "q8Zr2kT0vXw9yLmN4pB7cD1eF3gH5jK6"
NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    """Commands on an empty data directory, with a secret and nothing that answers."""
    monkeypatch.setenv("WAYSTATION_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WAYSTATION_SECRET_KEY", SECRET)
    monkeypatch.setenv("DATABASE_URL", "postgresql://a:hunter2@127.0.0.1:1/x")
    monkeypatch.setenv("REDIS_URL", NOBODY)
    return CliRunner()


def line(result: Result) -> str:
    """The one line, of a command that failed as it should."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    said = result.stderr.splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("waystation: ")
    return said[0]


@pytest.mark.parametrize("command", [["usage"], ["migrate"], ["key", "list"], ["key", "create"], ["key", "revoke", "x"]])
def test_an_unreachable_postgres_is_named(ask: CliRunner, command: list[str]) -> None:
    said = line(ask.invoke(main, command))
    assert "Postgres cannot be reached (DATABASE_URL)" in said
    assert "hunter2" not in said


def test_every_command_takes_json_and_then_says_also_errors_as_an_object(ask: CliRunner) -> None:
    found = dict(leaves(main))
    assert {("ingress",), ("worker",), ("migrate",), ("key", "create")} <= set(found)
    assert [path for path, command in found.items() if "as_json" not in {each.name for each in command.params}] == []
    for command, code, says in (
        (["usage"], 1, "Postgres cannot be reached"),
        (["key", "create", "--budget-usd", "much"], 1, "--budget-usd"),
        (["usage", "--by", "colour"], 2, "'colour' is not one of"),
        (["key", "revoke"], 2, "Missing argument"),
        (["nothing"], 2, "No such command"),
    ):
        refused = ask.invoke(main, [*command, "--json"])
        assert (refused.exit_code, refused.stdout) == (code, "")
        assert says in json.loads(refused.stderr)["error"]
    helped = ask.invoke(main, ["usage", "--json", "--help"])
    assert (helped.exit_code, helped.stderr) == (0, "")


@pytest.mark.parametrize("host", ["ingress", "worker"])
def test_a_host_says_as_json_why_it_does_not_start(host: str, tmp_path: Path) -> None:
    empty = {name: value for name, value in os.environ.items() if not name.startswith(("WAYSTATION_", "DATABASE_", "REDIS_"))}
    command = [sys.executable, "-m", f"services.{host}"]
    refused = subprocess.run([*command, "--json"], env=empty, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert json.loads(refused.stderr) == {"error": "DATABASE_URL and REDIS_URL must be set"}
    odd = subprocess.run([*command, "--port=1"], env=empty, capture_output=True, text=True, check=False)
    assert odd.stderr == f"{host}: '--port=1' is not understood: settings come from the environment\n"


def test_migrate_makes_the_first_key_once(
    postgres_server: EmbeddedPostgres, ask: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"first_key_{os.getpid()}"
    asyncio.run(execute(postgres_server.url, f"CREATE DATABASE {name}"))
    try:
        monkeypatch.setenv("DATABASE_URL", postgres_server.url_of(name))
        made = ask.invoke(main, ["migrate", "--first-key", "--json"])
        assert made.exit_code == 0, made.output
        told = json.loads(made.stdout)
        assert (told["migrated"], told["key"][:4], told["admin"]) == (True, "wsk_", "admin")
        assert "organisation already" in ask.invoke(main, ["migrate", "--first-key"]).stdout
        assert len(json.loads(ask.invoke(main, ["key", "list", "--json"]).stdout)) == 1
    finally:
        asyncio.run(execute(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)"))


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def test_a_wrong_password_a_missing_database_and_a_missing_schema_say_so(
    postgres_server: EmbeddedPostgres, ask: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = f"127.0.0.1:{postgres_server.port}"
    monkeypatch.setenv("DATABASE_URL", f"postgresql://waystation:hunter2@{at}/postgres")
    assert "password authentication failed" in line(ask.invoke(main, ["usage"]))
    monkeypatch.setenv("DATABASE_URL", postgres_server.url_of("nosuch"))
    assert 'database "nosuch" does not exist' in line(ask.invoke(main, ["usage"]))
    monkeypatch.setenv("DATABASE_URL", postgres_server.url_of("template1"))
    assert "run `waystation migrate`" in line(ask.invoke(main, ["usage"]))


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("WAYSTATION_PORT", "x", "WAYSTATION_PORT: 'x' is not a number"),
        ("DATABASE_URL", "mysql://a", "DATABASE_URL must begin with postgresql://"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    ask: CliRunner, monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str
) -> None:
    monkeypatch.setenv(name, value)
    assert named in line(ask.invoke(main, ["usage"]))


@pytest.mark.parametrize("command", ["apply", "diff"])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"a: [1", "gateway.yaml:1"),
        (b"\xff\xfe", "gateway.yaml is not UTF-8"),
        (b"connexions: []\n", "connexions"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(ask: CliRunner, tmp_path: Path, command: str, content: bytes, named: str) -> None:
    (tmp_path / "gateway.yaml").write_bytes(content)
    assert named in line(ask.invoke(main, [command, "-f", str(tmp_path / "gateway.yaml")]))


def test_a_budget_that_cannot_be_read_shows_how_to_write_one(ask: CliRunner) -> None:
    assert "5/month" in line(ask.invoke(main, ["key", "create", "--budget-usd", "five"]))


def test_up_without_engines_needs_both_addresses_and_an_answer(
    database_url: str, ask: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    up = ["up", "--no-embedded", "--port", "20999"]
    assert "Redis" in line(ask.invoke(main, up))
    monkeypatch.delenv("REDIS_URL")
    assert "--no-embedded needs DATABASE_URL and REDIS_URL" in line(ask.invoke(main, up))


def test_doctor_reports_every_part_and_fails_when_one_is_bad(database_url: str, redis_url: str, ask: CliRunner) -> None:
    bad = ask.invoke(main, ["doctor", "--json"])
    assert bad.exit_code == 1
    assert {check["check"] for check in json.loads(bad.stdout) if not check["ok"]} == {"postgres", "redis"}
    good = ask.invoke(main, ["doctor", "--json"], env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    assert good.exit_code == 0, good.output
    assert all(check["ok"] for check in json.loads(good.stdout))


@pytest.mark.parametrize("words", [["key", "create"], ["key", "list"], ["key", "revoke"], *(
    [name] for name in ("up", "ingress", "worker", "simulator", "migrate", "apply", "diff", "usage", "doctor")
)])  # fmt: skip
def test_every_command_takes_json(words: list[str]) -> None:
    assert "--json" in CliRunner().invoke(main, [*words, "--help"]).stdout


def test_a_table_aligns_text_left_and_numbers_right() -> None:
    rows = [{"model": "demo/chat", "requests": 9}, {"model": "x", "requests": 10}]
    assert table(rows, ["model", "requests"]).splitlines() == [
        "model      requests",
        "demo/chat         9",
        "x                10",
    ]
    assert table([], ["model"]) == "nothing yet"


def test_a_lost_secret_is_not_replaced_in_silence(ask: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WAYSTATION_SECRET_KEY")
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("18\n")
    assert "secret.key is gone" in line(ask.invoke(main, ["up", "--port", str(free_port())]))
    assert not (tmp_path / "secret.key").exists()


def test_a_data_directory_that_cannot_be_made_is_named(ask: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WAYSTATION_DATA_DIR", str(tmp_path / "file" / "data"))
    assert f"{tmp_path / 'file' / 'data'}: " in line(ask.invoke(main, ["up", "--port", str(free_port())]))


def test_an_ingress_without_its_schema_says_so_in_one_line(postgres_server: EmbeddedPostgres, redis_url: str) -> None:
    given = {"DATABASE_URL": postgres_server.url_of("template1"), "REDIS_URL": redis_url, "WAYSTATION_SECRET_KEY": SECRET}
    with tempfile.TemporaryDirectory() as data_dir:
        ended = subprocess.run(
            [sys.executable, "-m", "services.ingress"], env=os.environ | given | {"WAYSTATION_DATA_DIR": data_dir},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "waystation migrate" in ended.stderr.splitlines()[-1]

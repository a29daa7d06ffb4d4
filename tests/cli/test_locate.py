"""Which installation a command talks to: the environment first, then what a running `up` wrote down."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from services.cli.locate import engines_file, locate, secret_file, write
from shared.settings import Settings, SettingsError

ADDRESSES = {
    "database_url": "postgresql://waystation:x@127.0.0.1:1/postgres",
    "redis_url": "redis://:x@127.0.0.1:2/0",
    "simulator_url": "http://127.0.0.1:3/v1",
    "url": "http://127.0.0.1:20128",
}


def test_a_running_installation_fills_in_what_the_environment_does_not_give(tmp_path: Path) -> None:
    write(tmp_path, ADDRESSES)
    secret_file(tmp_path).write_text("secret")
    found = locate(Settings(data_dir=tmp_path))
    assert {name: getattr(found, name) for name in ADDRESSES if name != "url"} == {
        name: value for name, value in ADDRESSES.items() if name != "url"
    }
    assert found.secret_key_file == str(secret_file(tmp_path))


def test_the_environment_wins(tmp_path: Path) -> None:
    write(tmp_path, ADDRESSES)
    secret_file(tmp_path).write_text("secret")
    given = Settings(data_dir=tmp_path, database_url="postgresql://elsewhere/x", secret_key="k" * 40)
    found = locate(given)
    assert (found.database_url, found.secret_key, found.secret_key_file) == ("postgresql://elsewhere/x", "k" * 40, "")
    assert found.redis_url == ADDRESSES["redis_url"]


def test_addresses_with_passwords_are_for_their_owner_only(tmp_path: Path) -> None:
    engines_file(tmp_path).parent.mkdir()
    engines_file(tmp_path).with_suffix(".new").touch(mode=0o644)  # left by a start that was killed while writing
    write(tmp_path, ADDRESSES)
    assert stat.S_IMODE(engines_file(tmp_path).stat().st_mode) == 0o600
    assert json.loads(engines_file(tmp_path).read_text())["pid"] == str(os.getpid())


def test_addresses_that_a_killed_up_left_behind_are_not_believed(tmp_path: Path) -> None:
    write(tmp_path, ADDRESSES)
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = json.loads(engines_file(tmp_path).read_text()) | {"pid": str(ended.pid)}
    engines_file(tmp_path).write_text(json.dumps(left))
    with pytest.raises(SettingsError, match="waystation up"):
        locate(Settings(data_dir=tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", '{"pid": "x"}'])
def test_a_broken_file_is_one_line_that_names_it(tmp_path: Path, content: str) -> None:
    write(tmp_path, ADDRESSES)
    engines_file(tmp_path).write_text(content)
    with pytest.raises(SettingsError, match=r"engines\.json cannot be read"):
        locate(Settings(data_dir=tmp_path))


def test_where_nothing_runs_the_line_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"start it with `waystation up`, or set DATABASE_URL and REDIS_URL"):
        locate(Settings(data_dir=tmp_path))

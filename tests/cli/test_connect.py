"""`waystation connect`: every tool's file parses, names the gateway, and never overwrites what is there."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from services.cli.__main__ import main
from services.cli.connect import TOOLS

URL, KEY, MODEL = "http://gateway.example:20128", "wsk_test", "lab/some-model"


def connect(*arguments: str) -> str:
    made = CliRunner().invoke(main, ["connect", *arguments, "--url", URL, "--key", KEY, "--model", MODEL])
    assert made.exit_code == 0, made.output
    return made.output


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_it_names_the_gateway_and_the_model(tool: str) -> None:
    said = connect(tool)
    assert URL in said
    told = json.loads(connect(tool, "--json"))
    if tool != "cursor":
        everything = json.dumps(told) + said
        assert KEY in everything or "WAYSTATION_KEY" in everything or tool == "llm"


def parsed(suffix: str, text: str) -> object:
    if suffix == ".toml":
        return tomllib.loads(text)
    return json.loads(text) if suffix == ".json" else yaml.safe_load(text)


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_its_file_parses_and_is_written_once(tool: str, tmp_path: Path) -> None:
    told = json.loads(connect(tool, "--json", "--home", str(tmp_path), "--write"))
    if told["path"] is None:
        assert not list(tmp_path.rglob("*"))
        return
    path = Path(told["path"])
    text = path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert parsed(path.suffix, text)
    if tool != "gemini-cli":
        assert URL in text
        assert MODEL in text
    again = CliRunner().invoke(main, ["connect", tool, "--home", str(tmp_path), "--write"])
    assert again.exit_code != 0
    assert "left as it is" in again.output
    assert path.read_text() == text

"""Command line clients from npm, headless, against a node: a chat, and a tool round trip. `make test-clients` installs them
and, where the machine allows it, runs this in a network namespace that has nothing but loopback."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.cli.connect import TOOLS, Target
from tests.hosts.cluster import Cluster

pytestmark = pytest.mark.clients

INSTALLED = Path(__file__).parent / "npm" / "node_modules"
CLAUDE = INSTALLED / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
CODEX = INSTALLED / "@openai" / "codex-linux-x64" / "vendor" / "x86_64-unknown-linux-musl" / "bin" / "codex"
OPENCODE = INSTALLED / "opencode-linux-x64" / "bin" / "opencode"


async def run(program: Path, *arguments: str, home: Path, variables: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """The program's exit code and what it said; its environment has nothing of ours."""
    if not program.exists():
        pytest.skip(f"{program.name} is not installed for this machine")
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "TERM": "dumb"} | dict(variables or {})
    process = await asyncio.create_subprocess_exec(
        str(program), *arguments, cwd=home, env=environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, errors = await asyncio.wait_for(process.communicate(), 90)
    except TimeoutError:
        process.kill()
        raise
    return process.returncode or 0, out.decode(), errors.decode()


@pytest.mark.parametrize(("model", "calls"), [("lab/chat", 1), ("lab/tools", 2)])
async def test_claude_code(cluster: Cluster, tmp_path: Path, model: str, calls: int) -> None:
    code, out, errors = await run(
        CLAUDE, "-p", "run it", "--model", model, "--allowedTools", "Bash", "--output-format", "json", "--max-turns", "4",
        home=tmp_path,
        variables={
            "ANTHROPIC_BASE_URL": cluster.url(),
            "ANTHROPIC_AUTH_TOKEN": cluster.key,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
    )  # fmt: skip
    assert code == 0, out + errors
    said = json.loads(out)
    assert said["is_error"] is False
    assert said["result"]
    assert len(cluster.provider.requests) >= calls
    sent = cluster.provider.last.body
    assert sent["messages"][0]["role"] == "system"
    assert "x-anthropic-billing-header" not in json.dumps(sent)
    if calls > 1:
        assert sent["messages"][-1]["role"] == "tool" or any(message["role"] == "tool" for message in sent["messages"])
    await cluster.booked(calls)


async def test_claude_code_says_what_is_wrong(cluster: Cluster, tmp_path: Path) -> None:
    code, out, _ = await run(
        CLAUDE, "-p", "run it", "--model", "lab/fail-400", "--output-format", "json",
        home=tmp_path,
        variables={
            "ANTHROPIC_BASE_URL": cluster.url(),
            "ANTHROPIC_AUTH_TOKEN": cluster.key,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
    )  # fmt: skip
    assert code == 1
    assert json.loads(out)["is_error"] is True


@pytest.mark.parametrize("dialect", ["gw", "anthropic"])
@pytest.mark.parametrize("model", ["lab/chat", "lab/tools"])
async def test_opencode(cluster: Cluster, tmp_path: Path, dialect: str, model: str) -> None:
    options = {"baseURL": f"{cluster.url()}/v1", "apiKey": cluster.key}
    models: dict[str, dict[str, str]] = {"lab/chat": {}, "lab/tools": {}}
    settings = {
        "autoupdate": False,
        "share": "disabled",
        "model": f"{dialect}/{model}",
        "small_model": "gw/lab/chat",
        "provider": {
            "gw": {"npm": "@ai-sdk/openai-compatible", "options": options, "models": models},
            "anthropic": {"options": options, "models": models},
        },
    }
    path = tmp_path / ".config" / "opencode" / "opencode.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(settings))
    code, out, errors = await run(
        OPENCODE, "run", "-m", f"{dialect}/{model}", "run it",
        home=tmp_path,
        variables={"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"},
    )  # fmt: skip
    assert code == 0, out + errors
    assert out.strip()
    if model == "lab/chat":
        assert "run it" in out


@pytest.mark.parametrize(("model", "calls"), [("lab/chat", 1), ("lab/tools", 2)])
async def test_codex(cluster: Cluster, tmp_path: Path, model: str, calls: int) -> None:
    """Configured as `waystation connect codex` does it."""
    advice = TOOLS["codex"](Target(cluster.url(), cluster.key, model))
    path = tmp_path / str(advice.path)
    path.parent.mkdir(parents=True)
    path.write_text('approval_policy = "never"\nsandbox_mode = "danger-full-access"\n' + advice.text)
    code, out, errors = await run(
        CODEX, "exec", "--skip-git-repo-check", "run it", home=tmp_path, variables=dict(advice.variables)
    )  # fmt: skip
    assert code == 0, out + errors
    assert out.strip()
    assert len(cluster.provider.requests) >= calls
    await cluster.booked(calls)


def node_path() -> str:
    """Where these two find the runtime that they are scripts for."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    return f"{Path(node).parent}:/usr/bin:/bin"


async def test_gemini_cli(cluster: Cluster, tmp_path: Path) -> None:
    """Configured as `waystation connect gemini-cli` does it."""
    advice = TOOLS["gemini-cli"](Target(cluster.url(), cluster.key, "lab/chat"))
    path = tmp_path / str(advice.path)
    path.parent.mkdir(parents=True)
    path.write_text(advice.text)
    code, out, errors = await run(
        INSTALLED / ".bin" / "gemini", "-p", "say pong", "-m", "lab/chat", "--skip-trust", home=tmp_path,
        variables=dict(advice.variables) | {"PATH": node_path(), "GEMINI_CLI_TRUST_WORKSPACE": "true"},
    )  # fmt: skip
    assert code == 0, out + errors
    assert out.startswith("You said:")
    assert "say pong" in json.dumps(cluster.provider.last.body)


async def test_continue(cluster: Cluster, tmp_path: Path) -> None:
    """Configured as `waystation connect continue` does it."""
    advice = TOOLS["continue"](Target(cluster.url(), cluster.key, "lab/chat"))
    path = tmp_path / str(advice.path)
    path.parent.mkdir(parents=True)
    path.write_text(advice.text)
    code, out, errors = await run(
        INSTALLED / ".bin" / "cn", "-p", "say pong", "--config", str(path), home=tmp_path,
        variables={"PATH": node_path(), "CONTINUE_TELEMETRY_ENABLED": "0", "CONTINUE_CLI_AUTO_UPDATED": "1"},
    )  # fmt: skip
    assert code == 0, out + errors
    assert "say pong" in out


@pytest.mark.parametrize("program", ["claude", "codex", "opencode"])
async def test_a_429_is_tried_again(cluster: Cluster, tmp_path: Path, program: str) -> None:
    cluster.provider.fail("fail-429-retry-0", model="chat", times=1)
    variables: dict[str, str] = {}
    command: list[str | Path]
    match program:
        case "claude":
            command = [CLAUDE, "-p", "run it", "--model", "lab/chat", "--max-turns", "2"]
            variables = {
                "ANTHROPIC_BASE_URL": cluster.url(), "ANTHROPIC_AUTH_TOKEN": cluster.key,
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            }  # fmt: skip
        case "codex":
            advice = TOOLS["codex"](Target(cluster.url(), cluster.key, "lab/chat"))
            path = tmp_path / str(advice.path)
            path.parent.mkdir(parents=True)
            path.write_text('approval_policy = "never"\nsandbox_mode = "danger-full-access"\n' + advice.text)
            command, variables = [CODEX, "exec", "--skip-git-repo-check", "run it"], dict(advice.variables)
        case _:
            advice = TOOLS["opencode"](Target(cluster.url(), cluster.key, "lab/chat"))
            path = tmp_path / str(advice.path)
            path.parent.mkdir(parents=True)
            path.write_text(advice.text)
            command = [OPENCODE, "run", "run it"]
            variables = dict(advice.variables) | {
                "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1",
            }  # fmt: skip
    code, out, errors = await run(Path(command[0]), *map(str, command[1:]), home=tmp_path, variables=variables)
    assert code == 0, out + errors
    assert "You said" in out
    statuses = [record.status for record in cluster.provider.requests]
    assert 429 in statuses
    assert 200 in statuses

"""Command line clients from npm, headless, against a node: a streamed chat, a tool's round trip, an error, a 429 that they try
again. `make test-clients` installs them and, where the machine allows it, runs this in a network namespace that has nothing but
loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from services.cli.connect import TOOLS, Target
from tests.clients.process import ran
from tests.hosts.cluster import Cluster

pytestmark = pytest.mark.clients

INSTALLED = Path(__file__).parent / "npm" / "node_modules"
CLAUDE = INSTALLED / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
CODEX = INSTALLED / "@openai" / "codex-linux-x64" / "vendor" / "x86_64-unknown-linux-musl" / "bin" / "codex"
OPENCODE = INSTALLED / "opencode-linux-x64" / "bin" / "opencode"
GEMINI, CONTINUE, QWEN = (INSTALLED / ".bin" / name for name in ("gemini", "cn", "qwen"))
KILO = INSTALLED / "@kilocode" / "cli-linux-x64" / "bin" / "kilo"
CLINE = INSTALLED / "@cline" / "cli-linux-x64" / "bin" / "cline"
PROMPT = "run it"


class Command(NamedTuple):
    program: Path
    arguments: tuple[str, ...]
    variables: Mapping[str, str]


def node_path() -> str:
    """Where those that are scripts find their runtime."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    return f"{Path(node).parent}:/usr/bin:/bin"


def written(tool: str, cluster: Cluster, home: Path, model: str, before: str = "") -> tuple[Path, dict[str, str]]:
    """What `waystation connect TOOL --write` would write, and the variables that it tells to set."""
    advice = TOOLS[tool](Target(cluster.url(), cluster.key, model))
    path = home / str(advice.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(before + advice.text)
    return path, dict(advice.variables)


def claude(cluster: Cluster, home: Path, model: str) -> Command:
    variables = {
        "ANTHROPIC_BASE_URL": cluster.url(), "ANTHROPIC_AUTH_TOKEN": cluster.key,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }  # fmt: skip
    arguments = ("-p", PROMPT, "--model", model, "--allowedTools", "Bash", "--output-format", "json", "--max-turns", "4")
    return Command(CLAUDE, arguments, variables)


def codex(cluster: Cluster, home: Path, model: str) -> Command:
    _, variables = written("codex", cluster, home, model, 'approval_policy = "never"\nsandbox_mode = "danger-full-access"\n')
    return Command(CODEX, ("exec", "--skip-git-repo-check", PROMPT), variables)


def opencode(cluster: Cluster, home: Path, model: str) -> Command:
    _, variables = written("opencode", cluster, home, model)
    quiet = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    return Command(OPENCODE, ("run", PROMPT), variables | quiet)


def gemini(cluster: Cluster, home: Path, model: str) -> Command:
    _, variables = written("gemini-cli", cluster, home, model)
    arguments = ("-p", PROMPT, "-m", model, "--skip-trust", "--yolo")
    return Command(GEMINI, arguments, variables | {"PATH": node_path(), "GEMINI_CLI_TRUST_WORKSPACE": "true"})


def continue_dev(cluster: Cluster, home: Path, model: str) -> Command:
    path, _ = written("continue", cluster, home, model)
    quiet = {"CONTINUE_TELEMETRY_ENABLED": "0", "CONTINUE_CLI_AUTO_UPDATED": "1"}
    return Command(CONTINUE, ("-p", PROMPT, "--config", str(path), "--auto"), {"PATH": node_path()} | quiet)


def qwen(cluster: Cluster, home: Path, model: str) -> Command:
    variables = dict(TOOLS["qwen-code"](Target(cluster.url(), cluster.key, model)).variables)
    return Command(QWEN, ("--auth-type", "openai", "--yolo", "-p", PROMPT), variables | {"PATH": node_path()})


def kilo(cluster: Cluster, home: Path, model: str) -> Command:
    _, variables = written("kilo", cluster, home, model)
    return Command(
        KILO, ("run", "--auto", PROMPT), variables | {"KILO_DISABLE_AUTOUPDATE": "1", "KILO_DISABLE_MODELS_FETCH": "1"}
    )


def cline(cluster: Cluster, home: Path, model: str) -> Command:
    """It is told by a command of its own, the one that `waystation connect cline` shows."""
    if CLINE.exists():
        arguments = ("auth", "-p", "openai", "-k", cluster.key, "-m", model, "-b", f"{cluster.url()}/v1")
        subprocess.run([CLINE, *arguments], env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, check=True, timeout=60)
    return Command(CLINE, ("-t", "60", PROMPT), {})


CLIENTS: dict[str, Callable[[Cluster, Path, str], Command]] = {
    "claude": claude,
    "codex": codex,
    "opencode": opencode,
    "gemini": gemini,
    "continue": continue_dev,
    "qwen": qwen,
    "kilo": kilo,
    "cline": cline,
}


async def run(command: Command, home: Path) -> tuple[int, str, str]:
    if not command.program.exists():
        pytest.skip(f"{command.program.name} is not installed for this machine")
    return await ran(command.program, *command.arguments, home=home, variables=command.variables)


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_streamed_chat(cluster: Cluster, tmp_path: Path, client: str) -> None:
    code, out, errors = await run(CLIENTS[client](cluster, tmp_path, "lab/chat"), tmp_path)
    assert code == 0, out + errors
    assert "You said" in out
    assert any(record.stream for record in cluster.provider.requests)
    assert any(PROMPT in json.dumps(record.body) for record in cluster.provider.requests)
    assert "x-anthropic-billing-header" not in json.dumps(cluster.provider.last.body)
    await cluster.booked(1)


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_tools_round_trip(cluster: Cluster, tmp_path: Path, client: str) -> None:
    code, out, errors = await run(CLIENTS[client](cluster, tmp_path, "lab/tools"), tmp_path)
    assert code == 0, out + errors
    assert out.strip()
    bodies = [record.body for record in cluster.provider.requests if isinstance(record.body, dict)]  # long ones are no JSON
    results = [message for body in bodies for message in body["messages"] if message["role"] == "tool"]
    assert results or "The tool answered" in out, "no tool's result came back"


@pytest.mark.parametrize("client", CLIENTS)
async def test_an_error_is_shown(cluster: Cluster, tmp_path: Path, client: str) -> None:
    code, out, errors = await run(CLIENTS[client](cluster, tmp_path, "lab/fail-400"), tmp_path)
    said = out + errors
    assert code != 0 or "error" in said.lower(), said
    assert "asked to fail" in said or "400" in said, said


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_429_is_tried_again(cluster: Cluster, tmp_path: Path, client: str) -> None:
    cluster.provider.fail("fail-429-retry-0", model="chat", times=1)
    code, out, errors = await run(CLIENTS[client](cluster, tmp_path, "lab/chat"), tmp_path)
    assert code == 0, out + errors
    assert "You said" in out
    statuses = [record.status for record in cluster.provider.requests]
    assert 429 in statuses
    assert 200 in statuses


@pytest.mark.parametrize("model", ["lab/chat", "lab/tools"])
async def test_opencode_with_anthropics_format(cluster: Cluster, tmp_path: Path, model: str) -> None:
    options = {"baseURL": f"{cluster.url()}/v1", "apiKey": cluster.key}
    models: dict[str, dict[str, str]] = {"lab/chat": {}, "lab/tools": {}}
    settings = {
        "autoupdate": False, "share": "disabled", "model": f"anthropic/{model}", "small_model": "anthropic/lab/chat",
        "provider": {"anthropic": {"options": options, "models": models}},
    }  # fmt: skip
    path = tmp_path / ".config" / "opencode" / "opencode.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(settings))
    quiet = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    code, out, errors = await run(Command(OPENCODE, ("run", "-m", f"anthropic/{model}", PROMPT), quiet), tmp_path)
    assert code == 0, out + errors
    assert out.strip()


async def test_openrouters_sdks(cluster: Cluster, tmp_path: Path) -> None:
    """Its provider for the AI SDK, and its own, which checks every answer against OpenRouter's schema."""
    if not (INSTALLED / "@openrouter").exists():
        pytest.skip("OpenRouter's SDKs are not installed")
    cluster.provider.fail("fail-429-retry-0", model="patient-ai-sdk", times=1)  # its own SDK tries only 5xx again
    node = Path(node_path().partition(":")[0]) / "node"
    script = Path(__file__).parent / "npm" / "openrouter.mjs"
    code, out, errors = await run(Command(node, (str(script), cluster.url(), cluster.key), {}), tmp_path)
    assert code == 0, errors[-3000:]
    answers = json.loads(out.splitlines()[-1])
    for told in answers.values():
        assert told["said"] == told["streamed"] == "You said: Hello!"
        assert told["calls"] == ["get_weather"]
        assert told["answered"].startswith("The tool answered: 18 degrees")
        assert told["error"] == 400
        assert told["costs"][0] == told["costs"][1] > 0
    assert answers["ai-sdk"]["patient"] == "You said: Hello!"
    own = answers["own-sdk"]
    assert (own["endpoints"], own["credits"]) == (1, 9_000_000)
    assert own["response"] > 0

"""Python clients that want other versions of things than we do: LangChain, LiteLLM's and OpenRouter's SDKs, aider.
`make test-clients` gives them an environment of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.cli.connect import TOOLS, Target
from tests.clients.process import ran
from tests.hosts.cluster import Cluster

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent / "python"
BIN = HERE / ".venv" / "bin"


async def run(program: str, *arguments: str, home: Path, **variables: str) -> tuple[int, str, str]:
    if not (BIN / program).exists():
        pytest.skip("the Python clients are not installed: make test-clients")
    return await ran(BIN / program, *arguments, home=home, variables=variables)


def check(told: dict[str, Any]) -> None:
    assert told["said"] == told["streamed"] == "You said: Hello!"
    assert told["calls"] == ["get_weather"]
    assert told["answered"].startswith("The tool answered: 18 degrees")
    assert told["error"].endswith("RequestError")
    assert told["patient"].startswith("You said:")


def limit_once(cluster: Cluster, *kinds: str) -> None:
    """`lab/patient-KIND` answers 429 to the first call."""
    for kind in kinds:
        cluster.provider.fail("fail-429-retry-0", model=f"patient-{kind}", times=1)


async def test_langchain(cluster: Cluster, tmp_path: Path) -> None:
    limit_once(cluster, "openai", "responses", "anthropic")
    code, out, errors = await run("python", str(HERE / "langchain_client.py"), cluster.url(), cluster.key, home=tmp_path)
    assert code == 0, errors[-2000:]
    for told in json.loads(out.splitlines()[-1]).values():
        check(told)
        assert told["usage"] is True


async def test_litellm(cluster: Cluster, tmp_path: Path) -> None:
    limit_once(cluster, "openai", "anthropic")
    code, out, errors = await run(
        "python", str(HERE / "litellm_client.py"), cluster.url(), cluster.key,
        home=tmp_path, LITELLM_LOCAL_MODEL_COST_MAP="True",
    )  # fmt: skip
    assert code == 0, errors[-2000:]
    for told in json.loads(out.splitlines()[-1]).values():
        check(told)
        assert told["limited"] == "RateLimitError"


async def aider(cluster: Cluster, home: Path, model: str, *flags: str) -> tuple[int, str, str]:
    """Configured as `waystation connect aider` does it."""
    advice = TOOLS["aider"](Target(cluster.url(), cluster.key, model))
    return await run(
        "aider", "--model", f"openai/{model}", "--message", "say pong", "--no-git", "--yes-always", "--no-analytics",
        "--no-check-update", "--no-show-model-warnings", "--no-pretty", "--map-tokens", "0", *flags,
        home=home, LITELLM_LOCAL_MODEL_COST_MAP="True", **dict(advice.variables),
    )  # fmt: skip


@pytest.mark.parametrize("flags", [(), ("--no-stream",)])
async def test_aider(cluster: Cluster, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """It has no tools: it edits by what the model writes."""
    code, out, errors = await aider(cluster, tmp_path, "lab/chat", *flags)
    assert code == 0, out + errors
    assert "You said:" in out
    assert "say pong" in out
    assert cluster.provider.requests[0].stream is not bool(flags)


async def test_aider_shows_an_error_and_tries_a_429_again(cluster: Cluster, tmp_path: Path) -> None:
    _, out, errors = await aider(cluster, tmp_path, "lab/fail-400")
    assert "BadRequestError" in out + errors
    cluster.provider.fail("fail-429-retry-0", model="chat", times=1)
    code, out, errors = await aider(cluster, tmp_path, "lab/chat")
    assert code == 0, errors
    assert "You said:" in out


async def test_openrouters_sdk(cluster: Cluster, tmp_path: Path) -> None:
    code, out, errors = await run("python", str(HERE / "openrouter_client.py"), cluster.url(), cluster.key, home=tmp_path)
    assert code == 0, errors[-2000:]
    told = json.loads(out.splitlines()[-1])
    assert told["said"] == told["streamed"] == "You said: Hello!"
    assert told["calls"] == ["get_weather"]
    assert told["answered"].startswith("The tool answered: 18 degrees")
    assert told["failed"] == [["BadRequestResponseError", 400], ["NotFoundResponseError", 404]]
    assert told["costs"] == [told["generation"]] * 2
    assert told["generation"] > 0
    assert (told["key"], told["credits"]) == (True, 9_000_000)

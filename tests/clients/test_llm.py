"""`llm`, configured by what `waystation connect llm` writes: a prompt, streamed and not, a tool, a schema, an error."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import pytest_asyncio

from services.cli.connect import TOOLS, Target
from tests.clients.process import ran
from tests.hosts.cluster import Cluster


@pytest_asyncio.fixture
async def home(cluster: Cluster, tmp_path: Path) -> Path:
    where = tmp_path / "llm"
    where.mkdir()
    models = ""
    for model in ("lab/chat", "lab/tools", "lab/json", "lab/fail-400"):
        text = TOOLS["llm"](Target(cluster.url(), cluster.key, model)).text
        models += text.replace("model_id: waystation", f"model_id: {model.removeprefix('lab/')}") + "  supports_schema: true\n"
    (where / "extra-openai-models.yaml").write_text(models)
    (where / "keys.json").write_text(json.dumps({"waystation": cluster.key}))
    return where


async def run(home: Path, *arguments: str) -> tuple[int, str, str]:
    return await ran(Path(sys.executable), "-m", "llm", *arguments, home=home, variables={"LLM_USER_PATH": str(home)})


@pytest.mark.parametrize("flags", [(), ("--no-stream",)])
async def test_it_is_answered(home: Path, flags: tuple[str, ...]) -> None:
    code, out, errors = await run(home, "-m", "chat", "Hello!", *flags)
    assert (code, out.strip()) == (0, "You said: Hello!"), errors


async def test_it_calls_its_tools(home: Path) -> None:
    code, out, errors = await run(home, "-m", "tools", "-T", "llm_version", "which version?")
    assert code == 0, errors
    assert out.strip().startswith("The tool answered: 0.")


async def test_it_is_answered_by_a_schema(home: Path) -> None:
    code, out, errors = await run(home, "-m", "json", "--schema", "city, days int", "the forecast")
    assert code == 0, errors
    assert json.loads(out)["city"] == "Paris"


async def test_it_says_what_is_wrong(home: Path) -> None:
    code, _, errors = await run(home, "-m", "fail-400", "Hello!")
    assert code != 0
    assert "400" in errors or "asked to fail" in errors


async def test_a_429_is_tried_again(home: Path, cluster: Cluster) -> None:
    cluster.provider.fail("fail-429-retry-0", times=1)
    code, out, errors = await run(home, "-m", "chat", "Hello!")
    assert (code, out.strip()) == (0, "You said: Hello!"), errors
    assert len(cluster.provider.requests) == 2

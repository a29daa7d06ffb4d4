"""The product as `make up` starts it: a key, a curl line that works as printed, the OpenAI SDK and the `llm` CLI."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from services.cli.engines import free_port


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="waystation-up-") as name:
        Path(name).chmod(0o711)
        yield Path(name) / "data"


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL") and not k.startswith("WAYSTATION_")}
    return kept | {"WAYSTATION_DATA_DIR": str(data_dir)} | more


def start(data_dir: Path, port: int) -> tuple[subprocess.Popen[str], list[str], float]:
    """`waystation up`, what it printed until it was up, and how long that took."""
    began_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "up", "--port", str(port)],
        env=environment(data_dir), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            return process, lines, time.monotonic() - began_s
    raise AssertionError("".join(lines))


def run(data_dir: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        env=environment(data_dir, **more), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert process.stdout is not None
    process.stdout.close()


def test_up_answers_real_clients_keeps_its_data_and_leaves_nothing_behind(data_dir: Path) -> None:
    port = free_port()
    process, lines, _ = start(data_dir, port)
    try:
        printed = "".join(lines)
        key = re.search(r"wsk_\w+", printed)
        assert key is not None
        command = next(line for line in lines if line.startswith("curl "))
        answer = subprocess.run(["bash", "-c", command.strip() + " -sS"], capture_output=True, text=True, check=True)
        assert json.loads(answer.stdout)["choices"][0]["message"]["content"]

        sdk = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key[0])
        said = sdk.chat.completions.create(model="demo/chat", messages=[{"role": "user", "content": "Hello!"}])
        assert said.choices[0].message.content
        assert "demo/chat" in [model.id for model in sdk.models.list()]
        sdk.close()
        assert llm(data_dir, port, key[0]) == said.choices[0].message.content

        made = json.loads(run(data_dir, "key", "create", "--rpm", "60", "--budget-usd", "5/month", "--json").stdout)
        assert set(made) == {"id", "key"}
        gateway = data_dir / "gateway.yaml"
        simulator_url = json.loads((data_dir / "run/engines.json").read_text())["simulator_url"]
        gateway.write_text(
            "connections:\n  - name: lab\n    provider: custom\n    prefix: lab\n"
            f"    base_url: {simulator_url}\n    api_key: env:LAB_KEY\n"
        )
        applied = run(data_dir, "apply", "-f", str(gateway), "--json", LAB_KEY="sk-lab")
        assert json.loads(applied.stdout)["changes"] == ["+ connection lab (lab/…)"]
        assert json.loads(run(data_dir, "apply", "-f", str(gateway), "--json", LAB_KEY="sk-lab").stdout)["changes"] == []
        time.sleep(0.8)
        lab = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key[0])
        assert lab.chat.completions.create(model="lab/chat", messages=[{"role": "user", "content": "Hi"}]).choices
        lab.close()
        usage = wait_for_usage(data_dir, 4)
        assert {row["model"] for row in usage} == {"demo/chat", "lab/chat"}
        assert json.loads(run(data_dir, "doctor", "--json").stdout)

        second = run(data_dir, "up", "--port", str(free_port()))
        assert (second.returncode, len(second.stderr.strip().splitlines())) == (1, 1)
        assert "already runs" in second.stderr
        for secret in ("secret.key", "run/engines.json", "postgres/password", "redis/password"):
            assert stat.S_IMODE((data_dir / secret).stat().st_mode) == 0o600
    finally:
        stop(process)
    assert started_for(data_dir) == []

    for _ in range(3):  # beside other tests it has a share of the machine only, so the best of three counts
        process, lines, took_s = start(data_dir, port)
        if took_s < 5:
            break
        stop(process)
    try:
        assert took_s < 5
        assert "wsk_" not in "".join(lines)
        sdk = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key[0])
        assert sdk.chat.completions.create(model="demo/chat", messages=[{"role": "user", "content": "Hello!"}]).choices
        sdk.close()
        assert sum(row["requests"] for row in wait_for_usage(data_dir, 5)) == 5
    finally:
        stop(process)


def started_for(data_dir: Path) -> list[str]:
    """The processes that run for this data directory: they work in it, or have it in their environment. (Redis writes its
    title over its environment.) Where there is no /proc, by their command lines, which name it for the engines only."""
    if not Path("/proc/self/environ").exists():
        found = subprocess.run(["pgrep", "-fl", str(data_dir)], capture_output=True, text=True, check=False)
        return found.stdout.splitlines()
    mark, running = f"WAYSTATION_DATA_DIR={data_dir}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            at_work = (process / "cwd").readlink().is_relative_to(data_dir)
            if at_work or mark in (process / "environ").read_bytes().split(b"\0"):
                running.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it ended while we looked, or is none of ours
    return running


def test_a_killed_up_takes_everything_with_it_and_the_next_has_the_same_data(data_dir: Path) -> None:
    port = free_port()
    process, lines, _ = start(data_dir, port)
    try:
        assert len(started_for(data_dir)) >= 6  # itself, two engines, simulator, worker, ingress
        if sys.platform != "linux":
            pytest.skip("the kernel tells children of a killed parent only on Linux")
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    refused = run(data_dir, "key", "list")
    assert refused.returncode == 1
    assert "start it with `waystation up`" in refused.stderr
    deadline_s = time.monotonic() + 20
    while started_for(data_dir):
        assert time.monotonic() < deadline_s, started_for(data_dir)
        time.sleep(0.1)
    process, again, _ = start(data_dir, port)
    try:
        key = re.search(r"wsk_\w+", "".join(lines))
        assert key is not None
        assert key[0] not in "".join(again)
        sdk = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key[0])
        assert [model.id for model in sdk.models.list()]
        sdk.close()
    finally:
        stop(process)
    assert started_for(data_dir) == []


def test_a_second_node_serves_on_after_up_was_stopped_and_started(data_dir: Path) -> None:
    port, second_port = free_port(), free_port()
    process, lines, _ = start(data_dir, port)
    key = re.search(r"wsk_\w+", "".join(lines))
    assert key is not None
    before = json.loads((data_dir / "run/engines.json").read_text())
    second = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "ingress", "--port", str(second_port), "--json"],
        env=environment(data_dir), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        try:
            assert second.stdout is not None
            told = json.loads(second.stdout.readline())
            assert (told["url"], told["pid"]) == (f"http://127.0.0.1:{second_port}", second.pid)
        finally:
            stop(process)
        process, _, _ = start(data_dir, port)
        try:
            after = json.loads((data_dir / "run/engines.json").read_text())
            assert {name: after[name] for name in before if name != "pid"} == {k: v for k, v in before.items() if k != "pid"}
            with openai.OpenAI(base_url=f"{told['url']}/v1", api_key=key[0], max_retries=5) as sdk:
                assert sdk.chat.completions.create(model="demo/chat", messages=[{"role": "user", "content": "Hi"}]).choices
        finally:
            stop(process)
    finally:
        second.terminate()
        second.wait(30)
        assert second.stdout is not None
        second.stdout.close()


def test_a_taken_port_is_one_clear_line(data_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run(data_dir, "up", "--port", str(port))
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines() == [
        f"waystation: port {port} on 127.0.0.1 cannot be used (Address already in use): choose another with --port"
    ]


@pytest.mark.parametrize("command", [["usage"], ["key", "list"], ["ingress"], ["worker"], ["migrate"], ["doctor"]])
def test_without_a_running_installation_a_command_says_what_to_do(data_dir: Path, command: list[str]) -> None:
    refused = run(data_dir, *command)
    assert refused.returncode == 1
    assert "waystation up" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_without_a_secret_nothing_starts(data_dir: Path) -> None:
    data_dir.mkdir()
    addresses = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}
    refused = run(data_dir, "ingress", **addresses)
    assert refused.returncode == 1
    assert "WAYSTATION_SECRET_KEY" in refused.stderr
    guessable = run(data_dir, "ingress", WAYSTATION_SECRET_KEY="changeme" * 8, **addresses)
    assert guessable.returncode == 1
    assert "changeme" not in guessable.stderr


def wait_for_usage(data_dir: Path, requests: int) -> list[dict[str, Any]]:
    deadline_s = time.monotonic() + 10
    while True:
        rows: list[dict[str, Any]] = json.loads(run(data_dir, "usage", "--by", "model", "--json").stdout)
        if sum(row["requests"] for row in rows) >= requests:
            return rows
        assert time.monotonic() < deadline_s, rows
        time.sleep(0.2)


def llm(data_dir: Path, port: int, key: str) -> str:
    """Simon Willison's `llm`, configured as its documentation says for an OpenAI-format server."""
    home = data_dir / "llm"
    home.mkdir()
    (home / "extra-openai-models.yaml").write_text(
        f"- model_id: way\n  model_name: demo/chat\n  api_base: http://127.0.0.1:{port}/v1\n  api_key_name: way\n"
    )
    program = shutil.which("llm", path=str(Path(sys.executable).parent))
    assert program is not None
    said = subprocess.run(
        [program, "-m", "way", "--key", key, "--no-log", "Hello!"],
        env=environment(data_dir, LLM_USER_PATH=str(home)), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    return said.stdout.strip()

"""What `up` started is started again when it dies: at once the first time, later each time after."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from services.cli.children import AGAIN_S, STEADY_S, Child, Program, Server
from services.cli.engines import EmbeddedPostgres, EmbeddedRedis, Engine, EngineError


class Mortal(Child):
    """Dies on demand, and may fail to come back."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = self.cursed = False
        self.starts = 0

    def start(self) -> None:
        if self.cursed:
            raise EngineError("cursed did not start")
        self.dead, self.starts = False, self.starts + 1

    def end(self) -> str | None:
        return "mortal ended" if self.dead else None


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="waystation-children-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def test_each_death_in_a_row_waits_longer_and_a_long_life_forgets_them() -> None:
    child, now_s, waited_s = Mortal(), 1000.0, []
    for _ in range(len(AGAIN_S) + 1):
        child.dead = True
        line = child.tend(now_s)
        assert line is not None
        waited_s.append(float(line.removeprefix("mortal ended; starting it again in ").removesuffix(" s")))
        assert child.tend(now_s + waited_s[-1] - 0.01) is None
        assert child.dead
        now_s += waited_s[-1]
        assert child.tend(now_s) is None
        assert not child.dead
    assert waited_s == [*AGAIN_S, AGAIN_S[-1]]
    child.dead = True
    assert child.tend(now_s + STEADY_S + 1) == f"mortal ended; starting it again in {AGAIN_S[0]:g} s"


def test_a_start_that_fails_is_said_and_tried_again() -> None:
    child = Mortal()
    child.dead = child.cursed = True
    assert child.tend(1000.0) == "mortal ended; starting it again in 0.5 s"
    assert child.tend(1000.5) == "cursed did not start; starting it again in 1 s"
    child.cursed = False
    assert child.tend(1001.5) is None
    assert (child.dead, child.starts) == (False, 1)


def test_what_runs_is_let_be() -> None:
    child = Mortal()
    assert child.tend(1000.0) is None
    assert child.starts == 0


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedRedis])
def test_a_killed_engine_comes_back_on_its_address(directory: Path, kind: type[Engine]) -> None:
    engine = kind(directory / "engine")
    engine.start()
    try:
        child, port = Server(engine), engine.port
        assert child.tend(0.0) is None
        if isinstance(engine, EmbeddedRedis):
            with Redis.from_url(engine.url) as client:
                client.set("kept", "7")
            time.sleep(1.1)  # what appendfsync everysec may lose
        os.kill(engine.pid, signal.SIGKILL)
        deadline_s = time.monotonic() + 5
        while (line := child.tend(100.0)) is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert line == f"{engine.name} ended with code -9; starting it again in 0.5 s"
        while child.tend(now_s := time.monotonic() + 200.0) is not None:  # backends of a killed Postgres need a moment to go
            assert now_s - 200.0 < deadline_s
        assert (engine.running, engine.port) == (True, port)
        if isinstance(engine, EmbeddedRedis):
            with Redis.from_url(engine.url) as client:
                assert client.get("kept") == b"7"
    finally:
        engine.stop()


def test_a_program_that_ends_is_named_with_its_last_line(directory: Path) -> None:
    (directory / "brief.py").write_text("print('to do'); print('wsk_' + 'a' * 12 + '_' + 'b' * 43 + '_' + 'c' * 6)")
    program = Program("brief", {"PYTHONPATH": str(directory)}, directory / "brief.log")
    program.start()
    deadline_s = time.monotonic() + 20
    while (line := program.tend(1000.0)) is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert line == "brief ended with code 0 ([redacted]); starting it again in 0.5 s"


def test_a_stopped_program_is_not_started_again(directory: Path) -> None:
    (directory / "long.py").write_text("import time; time.sleep(60)")
    program = Program("long", {"PYTHONPATH": str(directory)}, directory / "long.log")
    program.start()
    assert program.end() is None
    program.stop()
    assert program.tend(1000.0) is None

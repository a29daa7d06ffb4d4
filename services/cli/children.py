"""Children: what `up` started and keeps running. One that dies is started again, later each time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

from services.cli.engines import Engine, EngineError, dies_with_parent
from shared.telemetry.log import redact

STOP_S = 20.0
STEADY_S = 60.0
"""A child that lived this long is started again as if it had never died."""
AGAIN_S = (0.5, 1.0, 2.0, 5.0, 10.0)


class Child(ABC):
    """Something that is alive, or will be tried again at `_again_s`."""

    def __init__(self) -> None:
        self._deaths = 0
        self._began_s = 0.0
        self._again_s: float | None = None

    @abstractmethod
    def start(self) -> None:
        """Raises EngineError or OSError."""

    @abstractmethod
    def end(self) -> str | None:
        """How it ended by itself; None while it runs."""

    def tend(self, now_s: float) -> str | None:
        """Start it again if it died and the time has come; a line when there is something to say."""
        if self._again_s is None:
            ended = self.end()
            if ended is None:
                return None
            if now_s - self._began_s > STEADY_S:
                self._deaths = 0
            return self._later(ended, now_s)
        if now_s < self._again_s:
            return None
        try:
            self.start()
        except (EngineError, OSError) as error:
            return self._later(str(error), now_s)
        self._began_s, self._again_s = now_s, None
        return None

    def _later(self, why: str, now_s: float) -> str:
        wait_s = AGAIN_S[min(self._deaths, len(AGAIN_S) - 1)]
        self._deaths += 1
        self._again_s = now_s + wait_s
        return redact(f"{why}; starting it again in {wait_s:g} s")


class Server(Child):
    """An embedded engine that runs already. It comes back on its own address, with its data."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def start(self) -> None:
        self._engine.start()

    def end(self) -> str | None:
        code = self._engine.exit_code
        return None if code is None else f"{self._engine.name} ended with code {code}"


class Program(Child):
    """One of our own hosts, `python -m module`. `answers_at` is a URL that answers 2xx once it serves, if there is one."""

    def __init__(self, module: str, environment: dict[str, str], log: Path, *arguments: str, answers_at: str = "") -> None:
        super().__init__()
        self.module = module
        self.answers_at = answers_at
        self._environment = environment
        self._log = log
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, *self._arguments],
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGTERM),
            )

    def end(self) -> str | None:
        code = None if self._process is None else self._process.poll()
        return None if code is None else f"{self.module} ended with code {code} ({self.last_line()})"

    def last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return redact(lines[-1])[:300] if lines else "no output"

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

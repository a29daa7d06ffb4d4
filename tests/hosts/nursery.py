"""Nursery: one process per test run that has imported everything, and forks the nodes and workers of its tests.

What it forks is a process like any other, with an environment and descriptors of its own; only the imports and what is
read from files that do not change, more than a second of CPU each, are made once. tests/test_up.py starts the real commands.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from services.cli.engines import dies_with_parent
from shared.providers import registry
from shared.store import postgres
from shared.upstream.session import default_tls

MODULES = ("services.ingress", "services.worker")


class Process:
    """What `subprocess.Popen` is to a test, for a process that the nursery forked."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ask({"poll": self.pid})["ended"]
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while (ended := self.poll()) is None:
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.01)
        return ended


class Nursery:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hosts.nursery", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            preexec_fn=dies_with_parent(signal.SIGKILL),
        )
        theirs.close()
        self._lines = ours.makefile("rw")
        ours.close()
        atexit.register(self.close)

    def start(self, module: str, environment: Mapping[str, str], log: Path) -> Process:
        born = self.ask({"module": module, "environment": dict(environment), "log": str(log)})
        return Process(self, born["pid"])

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        with self._turn:
            self._lines.write(json.dumps(question) + "\n")
            self._lines.flush()
            answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def close(self) -> None:
        self._lines.close()
        self._process.wait()


_nursery: list[Nursery] = []


def nursery() -> Nursery:
    """This process' own, started when it is first needed."""
    if not _nursery:
        _nursery.append(Nursery())
    return _nursery[0]


def serve(descriptor: int) -> None:
    """The nursery's own end: fork and look after, until the other end is closed."""
    mains = {name: importlib.import_module(f"{name}.__main__").main for name in MODULES}
    registry.load()
    default_tls()
    postgres.engine("postgresql://nobody@nowhere/nothing")  # the first of a process imports what it needs
    gc.freeze()
    lines = socket.socket(fileno=descriptor).makefile("rw")
    for line in lines:
        question = json.loads(line)
        if "poll" in question:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            answer: dict[str, Any] = {"ended": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            child = os.fork()
            if child == 0:
                os.close(descriptor)
                live(mains[question["module"]], question)
            answer = {"pid": child}
        lines.write(json.dumps(answer) + "\n")
        lines.flush()


def live(main: Any, born: dict[str, Any]) -> NoReturn:
    """A child's life, and its exit code."""
    code: object = 1
    try:
        if (dying := dies_with_parent(signal.SIGKILL)) is not None:
            dying()
        log = os.open(born["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(born["environment"])
        sys.argv = [born["module"]]
        main()
        code = 0
    except SystemExit as leaving:
        code = 0 if leaving.code is None else leaving.code
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve(int(sys.argv[1]))

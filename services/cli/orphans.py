"""Servers that outlived the process which started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def end_orphan(lock: Path, program: str, *, patience_s: float = 20.0) -> int | None:
    """Before a start: end the server that an earlier parent left on this data, or forget it when it is gone.

    The caller is the only one who may use the directory (`up` holds a lock on it), so a server that still runs there is
    one whose parent was killed: on Linux it is about to end anyway, elsewhere nobody told it to. A lock file whose
    process is gone, or is something else by now, is removed. Returns the id of a server that does not go.
    """
    try:
        pid = int(lock.read_text().split()[0])
    except FileNotFoundError:
        return None
    except (ValueError, IndexError):
        lock.unlink()  # cut short by a full disk or a power failure: it names nobody
        return None
    deadline_s = time.monotonic() + patience_s
    told = False
    while runs(pid, program, lock.parent):
        if time.monotonic() > deadline_s:
            return pid
        if not told:
            os.kill(pid, signal.SIGINT)
            told = True
        time.sleep(0.05)
    lock.unlink(missing_ok=True)
    return None


def runs(pid: int, program: str, directory: Path) -> bool:
    """Whether this process is that program, working on that directory: process ids are used again."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # not started by us
    if sys.platform != "linux":
        listed = subprocess.run(
            ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return program in listed.stdout and (program == "redis-server" or str(directory) in listed.stdout)
    try:
        process = Path(f"/proc/{pid}")
        return (process / "comm").read_text().strip() == program and (process / "cwd").resolve() == directory.resolve()
    except OSError:
        return False  # it ended while we looked

"""Runs a client's program with an environment that has nothing of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path


async def ran(
    program: Path, *arguments: str, home: Path, variables: Mapping[str, str], within_s: float = 110
) -> tuple[int, str, str]:
    """Exit code, output, errors. `home` is where it runs and what it takes for the user's. Raises TimeoutError."""
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "TERM": "dumb"} | dict(variables)
    process = await asyncio.create_subprocess_exec(
        str(program), *arguments, cwd=home, env=environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, errors = await asyncio.wait_for(process.communicate(), within_s)
    except TimeoutError:
        process.kill()
        raise
    return process.returncode or 0, out.decode(), errors.decode()

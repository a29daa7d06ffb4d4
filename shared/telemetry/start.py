"""A host's start: how it says that it runs, or why it does not (a line for people, or with `--json` one JSON object for
programs), and what all hosts set."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from shared.telemetry.log import redact


def spare_collector() -> None:
    """Once all that stays is there. What calls and events leave behind is hardly ever a cycle; looking for some through all
    that lives every 700 objects is a twentieth of a node's CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def wants_json(arguments: Sequence[str]) -> bool:
    """What `python -m services.<host>` was asked for. Raises ValueError for anything that is not understood."""
    odd = [argument for argument in arguments if argument != "--json"]
    if odd:
        raise ValueError(f"{odd[0]!r} is not understood: settings come from the environment")
    return bool(arguments)


def told(as_json: bool, text: str = "", **facts: object) -> None:
    """One line on stdout, at once: the facts and the process's id, or the text if there is one."""
    if as_json:
        print(json.dumps({**facts, "pid": os.getpid()}), flush=True)
    elif text:
        print(text, flush=True)


def cannot_start(host: str, message: str, as_json: bool) -> NoReturn:
    """One line on stderr, and exit code 1."""
    message = redact(message)
    sys.exit(json.dumps({"error": message}) if as_json else f"{host}: {message}")

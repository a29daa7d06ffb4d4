"""`waystation ingress`, `worker`, `simulator`: one host each, in this process."""

from __future__ import annotations

import os
import sys
from dataclasses import fields, replace
from typing import NoReturn

import click

from services.cli.say import guarded, json_option, settings_here
from shared.settings import DEFAULT_PORT, DEFAULT_SIMULATOR_PORT, Settings


@click.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help=f"Port to listen on (default {DEFAULT_PORT}).")
@json_option
@guarded
def ingress(host: str | None, port: int | None, as_json: bool) -> None:
    """Run one ingress node."""
    settings = settings_here()
    _become("services.ingress", replace(settings, host=host or settings.host, port=port or settings.port), as_json)


@click.command()
@json_option
@guarded
def worker(as_json: bool) -> None:
    """Run one worker."""
    _become("services.worker", settings_here(), as_json)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_SIMULATOR_PORT, show_default=True)
@json_option
@guarded
def simulator(host: str, port: int, as_json: bool) -> None:
    """Run the simulator, a provider in every wire format, with faults on demand."""
    import uvloop

    from services.simulator.__main__ import run

    uvloop.run(run(host=host, port=port, as_json=as_json))


def _become(module: str, settings: Settings, as_json: bool) -> NoReturn:
    """Replace this process by the host's, with the settings in its environment."""
    environment = os.environ | environment_of(settings)
    os.execve(sys.executable, [sys.executable, "-m", module, *(["--json"] if as_json else [])], environment)


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that make `settings` again."""
    made = {}
    for entry in fields(Settings):
        value = getattr(settings, entry.name)
        if value not in ("", None):
            plain = entry.name in ("database_url", "redis_url")
            made[entry.name.upper() if plain else f"WAYSTATION_{entry.name.upper()}"] = str(value)
    return made

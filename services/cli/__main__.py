"""`waystation …`: the command table."""

from __future__ import annotations

import click

from services.cli.commands import Commands

MODULES = {
    "up": "up",
    "ingress": "hosts",
    "worker": "hosts",
    "simulator": "hosts",
    "migrate": "manage",
    "doctor": "manage",
    "apply": "manage",
    "diff": "manage",
    "key": "manage",
    "usage": "manage",
    "limits": "limits",
    "explain": "explain",
    "request": "request",
    "health": "health",
    "unlock": "health",
    "reset": "health",
    "proxy": "proxy",
    "connect": "connect",
    "matrix": "matrix",
}
"""Where each command is, in services/cli."""


@click.group(cls=Commands, modules=MODULES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="waystation")
def main() -> None:
    """Waystation: one URL and one key in front of every LLM provider."""


if __name__ == "__main__":
    main()

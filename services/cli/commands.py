"""The command table's ways: a command is imported when it is called, and `--json` holds even for what is not understood."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from services.cli.say import say_error


class Commands(click.Group):
    """Commands by the modules of services/cli that they are in, under their own names. All of them together take a second
    to import, and one takes a tenth."""

    def __init__(self, *args: Any, modules: Mapping[str, str], **more: Any) -> None:
        super().__init__(*args, **more)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = self._modules.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(import_module(f"services.cli.{module}"), cmd_name)
        return command

    def main(self, args: Sequence[str] | None = None, *rest: Any, **more: Any) -> Any:
        given = sys.argv[1:] if args is None else list(args)
        if "--json" not in given:
            return super().main(args, *rest, **more)
        try:
            code = super().main(args, *rest, **(more | {"standalone_mode": False}))
        except click.ClickException as error:
            say_error(error.format_message(), as_json=True)
            sys.exit(error.exit_code)
        sys.exit(code if isinstance(code, int) else 0)

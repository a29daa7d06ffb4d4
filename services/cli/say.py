"""How commands answer: text for people, one JSON document for programs, one line for what went wrong."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import click

from services.cli.engines import EngineError
from services.cli.locate import locate
from shared.settings import Settings, SettingsError
from shared.telemetry.log import redact

if TYPE_CHECKING:
    from shared.store.tenants import Bootstrapped

P = ParamSpec("P")

json_option = click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document.")


def fail(message: str) -> NoReturn:
    """One line on stderr, or with `--json` an object: `{"error": …}`."""
    context = click.get_current_context(silent=True)
    as_json = context is not None and context.params.get("as_json")
    say_error(message, as_json=bool(as_json))
    sys.exit(1)


def say_error(message: str, *, as_json: bool) -> None:
    message = redact(message)
    click.echo(json.dumps({"error": message}) if as_json else f"waystation: {message}", err=True)


def answer(value: Any, text: str, *, as_json: bool) -> None:
    click.echo(json.dumps(value, default=str) if as_json else text)


def credentials(first: Bootstrapped) -> list[str]:
    """For people, of a new installation."""
    return [
        f"  admin    {first.admin} / {first.admin_password}",
        f"  key      {first.key}",
        "           (shown this once)",
    ]


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Aligned columns, numbers to the right."""
    if not rows:
        return "nothing yet"
    cells = [list(columns)] + [["" if row.get(name) is None else str(row[name]) for name in columns] for row in rows]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    numeric = [all(isinstance(row.get(name), (int, float)) for row in rows) for name in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    )


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """No traceback leaves a command: what may go wrong is one line on stderr and exit code 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (SettingsError, EngineError) as error:
            fail(f"{error}")
        except click.ClickException:
            raise
        except Exception as error:
            from services.cli.mishap import line_of  # Postgres' and Redis' libraries: not for commands that do without

            line = line_of(error)
            if line is None:
                raise
            fail(line)

    return run


def settings_here() -> Settings:
    return locate(Settings.from_environment())


def wait_for(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)

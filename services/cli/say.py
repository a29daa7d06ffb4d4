"""How commands answer: text for people, one JSON document for programs, one line for what went wrong."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn, ParamSpec

import click
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from services.cli.engines import EngineError
from services.cli.locate import locate
from shared.providers.table import CatalogueError
from shared.settings import Settings, SettingsError
from shared.store.document import DocumentError
from shared.store.secrets import SecretError
from shared.store.tenants import Bootstrapped, TenantError
from shared.telemetry.log import redact

P = ParamSpec("P")

EXPECTED = (SettingsError, SecretError, DocumentError, TenantError, EngineError, CatalogueError, ValueError)

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


class Commands(click.Group):
    """The command table. With `--json` even a command that cannot be understood is answered in JSON."""

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
        except EXPECTED as error:
            fail(f"{error}")
        except RedisError as error:
            fail(f"Redis: {error}")
        except SQLAlchemyError as error:
            fail(f"Postgres: {reason(error)}")
        except TimeoutError:
            fail("Postgres or Redis did not answer in time")
        except (ConnectionError, socket.gaierror) as error:
            fail(f"Postgres cannot be reached (DATABASE_URL): {error.strerror or error}")
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            fail(f"{where}{error.strerror or error}")

    return run


def reason(error: SQLAlchemyError) -> str:
    """What Postgres said, in one line, and what to do about it."""
    said = str(error.__cause__ or error).splitlines()[0]
    return f"{said}: run `waystation migrate`" if "relation" in said and "does not exist" in said else said


def settings_here() -> Settings:
    return locate(Settings.from_environment())


def wait_for(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)

"""`waystation matrix`: every client format against every provider format, rehearsed on a running gateway's simulator."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict

import aiohttp
import click

from services.cli.say import answer, fail, guarded, json_option
from services.matrix.clients import CLIENTS
from services.matrix.run import PROVIDERS, Outcome, run
from services.matrix.table import lines


@click.command()
@click.option("--url", default="http://127.0.0.1:20128", show_default=True, help="The gateway's address, without /v1.")
@click.option("--key", "gateway_key", envvar="WAYSTATION_KEY", required=True, help="A key (or WAYSTATION_KEY).")
@click.option("--client", "clients", multiple=True, type=click.Choice(list(CLIENTS)), help="Only this client format.")
@click.option("--provider", "providers", multiple=True, type=click.Choice(list(PROVIDERS)), help="Only this provider format.")
@json_option
@guarded
def matrix(url: str, gateway_key: str, clients: tuple[str, ...], providers: tuple[str, ...], as_json: bool) -> None:
    """Try every client format against every provider format, and print what came of it.

    A cell passes, is refused with a reason, or is wrong; a wrong one makes the exit code 1. It takes the gateway's own
    simulator (demo/, demo-messages/, …) and costs what its made-up prices say.
    """
    base = url.rstrip("/").removesuffix("/v1")
    try:
        cells = asyncio.run(run(base, gateway_key, clients=clients, providers=providers))
    except aiohttp.ClientConnectionError as error:
        fail(f"{base} cannot be reached: {error}")
    answer({"cells": [asdict(cell) for cell in cells]}, "\n".join(lines(cells)), as_json=as_json)
    if any(cell.outcome is Outcome.WRONG for cell in cells):
        sys.exit(1)

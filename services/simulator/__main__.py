"""`python -m services.simulator --port N`: a provider to practise on, as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from contextlib import suppress

import uvloop

from services.simulator.app import serving
from services.simulator.state import State
from shared.settings import DEFAULT_SIMULATOR_PORT
from shared.telemetry.start import cannot_start, told


async def run(
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_SIMULATOR_PORT,
    pace_ms: int = 0,
    keep: int = 256,
    any_model: bool = False,
    api_key: str | None = None,
    as_json: bool = False,
) -> None:
    """Serve until SIGTERM, SIGINT or cancellation. Raises OSError when the port cannot be had."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    state = State(keep=keep, api_key=api_key, pace_ms=pace_ms, any_model=any_model)
    async with serving(state, host=host, port=port) as bound:
        url = f"http://{host}:{bound}/v1"
        told(as_json, f"simulator: {url}", url=url)
        await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="simulator", description="An OpenAI-format provider with faults on demand.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=DEFAULT_SIMULATOR_PORT, help="0 asks for a free one")
    parser.add_argument("--pace-ms", type=int, default=0, help="milliseconds between tokens of a stream")
    parser.add_argument("--keep", type=int, default=256, help="how many requests to remember; 0: none")
    parser.add_argument("--any-model", action="store_true", help="serve unknown model names as chat")
    parser.add_argument("--api-key", help="refuse requests without this key")
    parser.add_argument("--json", action="store_true", help="say as JSON where it listens, or why it does not")
    chosen = parser.parse_args()
    try:
        with suppress(KeyboardInterrupt):
            uvloop.run(
                run(
                    host=chosen.host,
                    port=chosen.port,
                    pace_ms=chosen.pace_ms,
                    keep=chosen.keep,
                    any_model=chosen.any_model,
                    api_key=chosen.api_key,
                    as_json=chosen.json,
                )
            )
    except OSError as error:
        why = f"cannot listen on {chosen.host}:{chosen.port}: {os.strerror(error.errno or 0)}"
        cannot_start("simulator", why, chosen.json)


if __name__ == "__main__":
    main()

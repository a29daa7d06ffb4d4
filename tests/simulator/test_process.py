"""The simulator as a process: one line when it is up, one line when it cannot be, a clean end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys

import aiohttp
import pytest


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.simulator",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_it_listens_and_ends_cleanly_with_a_live_stream(stop: signal.Signals) -> None:
    process = await start("--port", "0", "--pace-ms", "20")
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().removeprefix("simulator: ").strip()
    body = {"model": "long-1000", "messages": [{"role": "user", "content": "x"}], "stream": True}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/chat/completions", json=body) as reply:
        assert await reply.content.readany()
        process.send_signal(stop)
        async with asyncio.timeout(3):
            assert await process.wait() == 0
    assert process.stderr is not None
    assert await process.stderr.read() == b""


class Hammer(asyncio.Protocol):
    """Asks for streams, one after the other, without reading what they say."""

    def __init__(self, request: bytes) -> None:
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"0\r\n\r\n"):
            self.transport.write(self._request)


async def test_clients_that_vanish_under_load_are_no_errors_of_ours() -> None:
    process = await start("--port", "0")
    assert process.stdout is not None
    port = int((await process.stdout.readline()).decode().split(":")[-1].split("/")[0])
    body = b'{"model":"chat","stream":true,"messages":[{"role":"user","content":"hello there"}]}'
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    loop = asyncio.get_running_loop()
    for _ in range(5):
        pairs = [await loop.create_connection(lambda: Hammer(request), "127.0.0.1", port) for _ in range(32)]
        await asyncio.sleep(0.1)
        for transport, _ in pairs:
            transport.abort()
    process.terminate()
    _, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")


async def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await start("--port", str(port))
        _, said = await process.communicate()
        as_json = await start("--port", str(port), "--json")
        _, said_as_json = await as_json.communicate()
    assert (process.returncode, as_json.returncode) == (1, 1)
    assert said.decode() == f"simulator: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert json.loads(said_as_json) == {"error": f"cannot listen on 127.0.0.1:{port}: Address already in use"}


async def test_it_says_where_it_listens_as_json() -> None:
    process = await start("--port", "0", "--json")
    assert process.stdout is not None
    told = json.loads(await process.stdout.readline())
    process.terminate()
    await process.communicate()
    assert told["pid"] == process.pid
    assert told["url"].startswith("http://127.0.0.1:")

"""A server that answers with given bytes, pauses and endings: for what no HTTP library would write."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto
from ssl import SSLContext


class End(Enum):
    """How a connection's turn ends; without one it is kept alive for the next request."""

    CLOSE = auto()
    RESET = auto()
    HOLD = auto()
    """Neither answer nor close, until the client goes."""


CLOSE, RESET, HOLD = End.CLOSE, End.RESET, End.HOLD
Step = bytes | float | End


class Scripted:
    """A running server: every request it read (head and body, as bytes) and how many connections it had."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.clients_gone = 0
        self.port = 0

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/v1"


@asynccontextmanager
async def scripted(*steps: Step, ssl_context: SSLContext | None = None) -> AsyncIterator[Scripted]:
    """Plays `steps` for each request: bytes are written, numbers are seconds to wait."""
    seen = Scripted()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        seen.connections += 1
        try:
            while (request := await _read_request(reader)) is not None:
                seen.requests.append(request)
                if not await _play(steps, reader, writer, seen):
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=ssl_context)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _play(steps: tuple[Step, ...], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Scripted) -> bool:
    """False when the connection is not to be used again."""
    for step in steps:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif isinstance(step, End):
            if step is HOLD:
                await reader.read()
                seen.clients_gone += 1
            elif step is RESET:
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            return False
        else:
            await asyncio.sleep(step)
    return True


async def _read_request(reader: asyncio.StreamReader) -> bytes | None:
    """One request with a content-length or no body; None when the client has closed."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)

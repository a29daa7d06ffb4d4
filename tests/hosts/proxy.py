"""A TCP proxy in front of Redis that counts what the gateway's hot connection sends."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

import hiredis


class CountingProxy:
    """`lane_writes`: how often the lane's bytes arrived; `lane_commands`: their names, in order.

    The lane is the connection that carries EVALSHA with the admission's 13 arguments; redis-py's connections announce
    themselves with CLIENT SETINFO and are passed through uncounted.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self.lane_writes = 0
        self.lane_commands: list[bytes] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> CountingProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        user = f":{self._parts.password}@" if self._parts.password else ""
        self.url = urlunsplit(self._parts._replace(netloc=f"{user}127.0.0.1:{port}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        to_redis_reader, to_redis = await asyncio.open_connection(self._parts.hostname, self._parts.port or 6379)
        back = asyncio.ensure_future(self._back(to_redis_reader, writer))
        parser, is_lane = hiredis.Reader(), True
        with suppress(OSError, asyncio.CancelledError):
            while piece := await reader.read(1 << 20):
                parser.feed(piece)
                names = []
                while (command := parser.gets()) is not False:
                    names.append(command[0])
                if b"CLIENT" in names or b"INFO" in names or b"SUBSCRIBE" in names:
                    is_lane = False
                if is_lane:
                    self.lane_writes += 1
                    self.lane_commands += names
                to_redis.write(piece)
        back.cancel()
        to_redis.close()
        writer.close()

    @staticmethod
    async def _back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(1 << 20):
                writer.write(piece)
        writer.close()

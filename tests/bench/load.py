"""The bench's clients: N keep-alive connections, each sending the next call when the last one is answered.

Latencies are what a client sees, from the first byte sent to the last one read, queue wait included.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import cast

import httptools

PROMPT = "Tell me in a few words what a gateway is for, and why an organisation would want one of its own. " * 5


def body(model: str, *, stream: bool) -> bytes:
    flag = "true" if stream else "false"
    return (
        f'{{"model":"{model}","stream":{flag},"messages":[{{"role":"system","content":"You are brief."}},'
        f'{{"role":"user","content":"{PROMPT}"}}],"max_tokens":256,"temperature":0.7}}'
    ).encode()


def request(port: int, key: str, payload: bytes, path: str = "/v1/chat/completions") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: bench\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    ).encode() + payload


@dataclass(frozen=True)
class Figures:
    """One run: how many calls in how many seconds, and the sorted latencies in seconds."""

    calls: int
    errors: int
    seconds: float
    latencies_s: list[float]

    def percentile_ms(self, share: float) -> float:
        return self.latencies_s[min(len(self.latencies_s) - 1, int(len(self.latencies_s) * share))] * 1000

    @property
    def per_second(self) -> float:
        return self.calls / self.seconds


class Client(asyncio.Protocol):
    """One connection of the load."""

    def __init__(self, message: bytes, until_s: float, finished: asyncio.Future[None]) -> None:
        self.message, self.until_s, self.finished = message, until_s, finished
        self.latencies: list[float] = []
        self.errors = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self.parser = httptools.HttpResponseParser(self)
        self.send()

    def send(self) -> None:
        self.whole = False
        self.sent_s = time.perf_counter()
        self.transport.write(self.message)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)
        if not self.whole:
            return
        now = time.perf_counter()
        if self.parser.get_status_code() == 200:
            self.latencies.append(now - self.sent_s)
        else:
            self.errors += 1
        if now < self.until_s:
            self.send()
        else:
            self.transport.close()

    def on_message_complete(self) -> None:
        self.whole = True

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self.until_s:
            self.errors += 1
        if not self.finished.done():
            self.finished.set_result(None)


async def load(port: int, message: bytes, *, connections: int, seconds: float) -> Figures:
    """Keep `connections` busy for `seconds`."""
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    clients, ends = [], []
    for _ in range(connections):
        end: asyncio.Future[None] = loop.create_future()
        client = Client(message, started + seconds, end)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
        clients.append(client)
        ends.append(end)
    await asyncio.gather(*ends)
    took = time.perf_counter() - started
    latencies = sorted(latency for client in clients for latency in client.latencies)
    return Figures(len(latencies), sum(client.errors for client in clients), took, latencies)

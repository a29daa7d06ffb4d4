"""The bench's provider: the least code that answers a chat completion, so that the gateway is what is measured.

`python -m tests.bench.upstream PORT`. Raw httptools over an asyncio protocol. A body with `"stream":true` gets EVENTS
server-sent events, EVENT_GAP_S apart (0: all at once); `"model":"idle"` gets the first event and then silence.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import cast

import httptools
import uvloop

EVENTS = int(os.environ.get("BENCH_EVENTS", "64"))
EVENT_GAP_S = float(os.environ.get("BENCH_EVENT_GAP_S", "0"))

TEXT = "The quick brown fox jumps over the lazy dog and goes on to see the world beyond the river. " * 5
REPLY = (
    '{"id":"chatcmpl-bench","object":"chat.completion","created":1767225600,"model":"bench","choices":[{"index":0,'
    f'"message":{{"role":"assistant","content":"{TEXT}","refusal":null}},"logprobs":null,"finish_reason":"stop"}}],'
    '"usage":{"prompt_tokens":120,"completion_tokens":100,"total_tokens":220,"prompt_tokens_details":{"cached_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":0}},"system_fingerprint":"fp_bench"}'
).encode()
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(REPLY), REPLY)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(payload: str) -> bytes:
    data = f"data: {payload}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def delta(text: str, finish: str = "null") -> bytes:
    return event(
        '{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1767225600,"model":"bench",'
        f'"system_fingerprint":"fp_bench","choices":[{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,'
        f'"finish_reason":{finish}}}],"usage":null}}'
    )


USAGE = event(
    '{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1767225600,"model":"bench","choices":[],'
    '"usage":{"prompt_tokens":120,"completion_tokens":64,"total_tokens":184}}'
)
LAST = delta("", '"stop"') + USAGE + event("[DONE]") + b"0\r\n\r\n"


class Provider(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""
        self.tasks: set[asyncio.Task[None]] = set()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        if b'"stream":true' not in body:
            self.transport.write(WHOLE)
        elif b"idle" in body[:200]:
            self.transport.write(HEAD + delta("hello"))
        elif EVENT_GAP_S == 0:
            self.transport.write(HEAD)
            for _ in range(EVENTS):
                self.transport.write(delta("token "))
            self.transport.write(LAST)
        else:
            task = asyncio.get_running_loop().create_task(self.paced())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def paced(self) -> None:
        self.transport.write(HEAD)
        for _ in range(EVENTS):
            self.transport.write(delta("token "))
            await asyncio.sleep(EVENT_GAP_S)
        self.transport.write(LAST)

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self.tasks:
            task.cancel()


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))

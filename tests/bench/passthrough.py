"""The yardstick: a bare aiohttp server and client that pass a call through, and do nothing else.

`python -m tests.bench.passthrough PORT UPSTREAM_PORT`
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web


def application(upstream: str) -> web.Application:
    app = web.Application(client_max_size=32 * 1024 * 1024)

    async def client(app: web.Application):  # type: ignore[no-untyped-def]
        connector = aiohttp.TCPConnector(limit=0)
        app["client"] = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        yield
        await app["client"].close()

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"Content-Type": "application/json", "Authorization": "Bearer upstream"}
        async with request.app["client"].post(upstream, data=body, headers=headers) as reply:
            if reply.content_type == "text/event-stream":
                response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
                await response.prepare(request)
                async for chunk in reply.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
            return web.Response(status=reply.status, body=await reply.read(), content_type=reply.content_type)

    app.cleanup_ctx.append(client)
    app.router.add_post("/v1/chat/completions", chat)
    return app


async def main(port: int, upstream_port: int) -> None:
    app = application(f"http://127.0.0.1:{upstream_port}/v1/chat/completions")
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))

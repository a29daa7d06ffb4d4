"""/livez, /readyz, /metrics."""

from __future__ import annotations

import msgspec
from aiohttp import web

from services.ingress.node import Node


async def livez(_request: web.BaseRequest, _node: Node) -> web.StreamResponse:
    """200 while the process turns its event loop."""
    return web.Response(body=b'{"status":"alive"}', content_type="application/json")


async def readyz(_request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """200 while this node should get traffic; 503 from the first instant of a drain.

    Redis being away does not turn a node away: it serves in degraded mode, and says so here.
    """
    draining = node.gateway.draining
    state = {
        "status": "draining" if draining else "ready",
        "redis": "up" if node.lane.up else "degraded",
        "configuration_epoch": node.watch.snapshot.epoch,
        "node": node.gateway.node,
    }
    return web.Response(status=503 if draining else 200, body=msgspec.json.encode(state), content_type="application/json")


async def metrics(_request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """Prometheus text exposition format 0.0.4."""
    body, content_type = node.gateway.metrics.render()
    return web.Response(body=body, headers={"Content-Type": content_type})

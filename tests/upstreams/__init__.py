"""Providers for tests: the simulator on a real socket, and a server that plays given bytes.

async with upstream("fail-503") as provider:      # every request fails; any model id is served
    ...                                           # provider.url is what a connection's base_url is
    assert provider.last.headers["authorization"] == "Bearer …"

async with scripted(b"HTTP/1.1 200 OK\\r\\n…", 0.5, CLOSE) as provider: ...
"""

from tests.upstreams.scripted import CLOSE, HOLD, RESET, Scripted, scripted
from tests.upstreams.simulated import Upstream, upstream

__all__ = ["CLOSE", "HOLD", "RESET", "Scripted", "Upstream", "scripted", "upstream"]

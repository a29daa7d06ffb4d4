"""Leave: by which network proxy a call goes out; nearly always by none, and then nothing is looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.proxy import Proxy
from shared.upstream.head import Origin
from shared.upstream.transport import ProxyFailed

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange


def proxy_of(x: Exchange) -> Proxy | None:
    """For the attempt under way. Raises ProxyFailed."""
    return x.gateway.proxies.of_call(x.snapshot.proxies, x.key.principal.key_id, route_of(x), x.deployment.connection)


def proxy_of_url(x: Exchange, origin: Origin) -> Proxy | None:
    """For a URL in the call. Raises ProxyFailed."""
    return x.gateway.proxies.of_url(x.snapshot.proxies, x.key.principal.key_id, route_of(x), origin)


def proxy_is_its_own(x: Exchange) -> bool:
    """Whether the call leaves by a proxy of its key or route: when that one fails, the deployment is as well as before."""
    try:
        proxy = proxy_of(x)
        return proxy is not x.gateway.proxies.of_call(x.snapshot.proxies, "", "", x.deployment.connection)
    except ProxyFailed:
        return True


def route_of(x: Exchange) -> str:
    """The name of the route that the call came by; empty: by none."""
    return "" if x.decision is None or x.decision.route is None else x.decision.route

"""Fetch: images and files that a client names by URL, for providers that take nothing but bytes.

Only through the guarded session: a URL is a client's word, and must lead to a public address over https. Every redirect is
looked at like the first URL. What is larger or slower than the bounds below is refused, by the name of its field.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import orjson

from shared.domain.proxy import Proxy
from shared.domain.refusal import Refused
from shared.flow.leave import proxy_of_url
from shared.upstream.guard import check_url
from shared.upstream.head import Head, split_url
from shared.upstream.transport import (
    EgressDenied,
    NothingSent,
    ProxyFailed,
    ReplyTooLarge,
    TransportError,
    UpstreamRequest,
    UpstreamResponse,
)
from shared.wire import datauri, inline
from shared.wire.codec import FORMATS
from shared.wire.envelope import invalid_field
from shared.wire.inline import Fetched

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange

log = logging.getLogger(__name__)

MOST_URLS = 20
MOST_BYTES = 20 * 1024 * 1024
"""Of one; Gemini's bound for everything inline in one request."""
MOST_REDIRECTS = 3
WITHIN_S = 20.0
FAMILIES = ("image/", "audio/", "video/", "text/")
DOCUMENTS = ("application/pdf", "application/json", "application/msword", "application/vnd.")


class Unfetchable(Exception):
    """The message completes "cannot be fetched: …"."""


async def fetch(x: Exchange) -> None:
    """Fill `x.fetched` where the provider wants bytes and the call has URLs. Raises Refused."""
    provider = x.deployment.provider.wire_format
    if not x.call.media.by_reference or provider not in inline.BYTES_ONLY or x.arrival.wire_format is provider:
        return
    if x.fetched:  # by an earlier attempt
        return
    body = orjson.loads(x.envelope.body)
    call = FORMATS[x.arrival.wire_format].decode_call(body, model=x.call.model, stream=x.call.stream)
    urls = inline.urls(call)
    field = call.named("turns")
    if len(urls) > MOST_URLS:
        raise invalid_field(field, f"'{field}' holds {len(urls)} URLs; {MOST_URLS} are the most that are fetched for one call.")
    found = await asyncio.gather(*(_one(x, url, field) for url in urls))
    x.fetched = dict(zip(urls, found, strict=True))


async def _one(x: Exchange, url: str, field: str) -> Fetched:
    try:
        async with asyncio.timeout(WITHIN_S):
            return await _followed(x, url)
    except TimeoutError:
        problem = f"it took more than {WITHIN_S:g} s"
    except ReplyTooLarge:
        problem = f"it is larger than {MOST_BYTES} bytes"
    except (TransportError, Unfetchable, ValueError) as error:
        problem = str(error)
    raise _refused(field, url, problem)


def _refused(field: str, url: str, problem: str) -> Refused:
    return invalid_field(
        field, f"'{field}' holds the URL {url[:200]!r}, which cannot be fetched: {problem}. Send it as base64."
    )


async def _followed(x: Exchange, url: str) -> Fetched:
    """Raises TransportError, Unfetchable, ValueError."""
    for _ in range(MOST_REDIRECTS + 1):
        response = await _sent(x, _head(url, guarded=not x.gateway.settings.fetch_private_addresses))
        try:
            if response.status in (301, 302, 303, 307, 308) and "location" in response.headers:
                url = urljoin(url, response.headers["location"])
                continue
            return await _read(response)
        finally:
            response.close()
    raise Unfetchable(f"it redirects more than {MOST_REDIRECTS} times")


async def _sent(x: Exchange, head: Head) -> UpstreamResponse:
    """Raises TransportError, Unfetchable."""
    proxy: Proxy | None = None
    try:
        proxy = proxy_of_url(x, head.origin)
        request = UpstreamRequest(head=head, first_byte_timeout_s=WITHIN_S, idle_timeout_s=WITHIN_S, proxy=proxy)
        return await x.gateway.media.send(request)
    except NothingSent as error:
        if isinstance(error, EgressDenied) or not (proxy is not None or isinstance(error, ProxyFailed)):
            raise
        # Where our proxies are is no client's business, and what a client links to no operator's.
        log.warning("a client's URL cannot be fetched through %s", proxy or "its proxy, which cannot be opened")
        raise Unfetchable("it cannot be reached from here") from None


def _head(url: str, *, guarded: bool) -> Head:
    parts = urlsplit(url)
    plain = parts._replace(query="", fragment="").geturl()
    if guarded:
        check_url(plain)
    origin, path = split_url(plain)
    target = (path or "/") + (f"?{parts.query}" if parts.query else "")
    return Head("GET", origin, target, [("user-agent", "waystation"), ("accept", "*/*")])


async def _read(response: UpstreamResponse) -> Fetched:
    if response.status != 200:
        raise Unfetchable(f"it answers {response.status}")
    data = b64encode(await response.read(MOST_BYTES)).decode()
    told = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    kind = datauri.sniffed(told, data) or ""
    if not kind.startswith((*FAMILIES, *DOCUMENTS)) or kind == "text/html":
        raise Unfetchable(f"it is {kind[:80] or 'of no known type'}, no image, sound, film or document")
    return Fetched(kind, data)

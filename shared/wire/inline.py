"""Media by URL for formats that take them only as bytes: which URLs a call holds, and the call with what was found there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace

from shared.domain.catalogue import WireFormat
from shared.wire.canonical import Call, Media, Part, ToolResult
from shared.wire.datauri import kind_of

BYTES_ONLY = frozenset({WireFormat.GEMINI, WireFormat.BEDROCK})
THEIR_OWN = ("https://www.youtube.com/", "https://youtu.be/", "https://generativelanguage.googleapis.com/")
"""What Google fetches itself."""


class Fetched(msgspec.Struct, frozen=True):
    media_type: str
    data: str
    """Base64."""


def urls(call: Call) -> list[str]:
    """Each once, in their order."""
    found: dict[str, None] = {}

    def note(media: Media) -> Media:
        if media.data is None and media.url is not None and _http(media.url):
            found[media.url] = None
        return media

    _mapped(call, note)
    return list(found)


def _http(url: str) -> bool:
    return url.startswith(("http://", "https://")) and not url.startswith(THEIR_OWN)


def inlined(call: Call, fetched: Mapping[str, Fetched]) -> Call:
    def put(media: Media) -> Media:
        known = fetched.get(media.url or "")
        if media.data is not None or known is None:
            return media
        kind = kind_of(known.media_type)
        return replace(media, kind=kind, data=known.data, media_type=known.media_type, url=None)

    return _mapped(call, put)


def _mapped(call: Call, change: Callable[[Media], Media]) -> Call:
    def part(each: Part) -> Part:
        match each:
            case Media():
                return change(each)
            case ToolResult():
                return replace(each, parts=tuple(change(inner) if isinstance(inner, Media) else inner for inner in each.parts))
        return each

    return replace(call, turns=tuple(replace(turn, parts=tuple(map(part, turn.parts))) for turn in call.turns))

"""Data URIs (RFC 2397) and the kinds of media that formats tell apart."""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["image", "audio", "video", "document"]

_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[^;,]*)*)(;base64)?,", re.ASCII)
_MAGIC = (
    ("iVBORw0KGgo", "image/png"), ("/9j/", "image/jpeg"), ("R0lGOD", "image/gif"), ("UklGR", "image/webp"),
    ("JVBERi0", "application/pdf"),
)  # fmt: skip
"""Base64 of files' first bytes: clients often name the wrong type (wire.md §5 #47), and Anthropic refuses a mismatch."""


def split(uri: str) -> tuple[str | None, str] | None:
    """(media type, base64) of a base64 data URI; None when it is none."""
    match = _DATA.match(uri)
    if match is None or match[3] is None:
        return None
    return match[1], uri[match.end() :]


def join(media_type: str | None, data: str) -> str:
    return f"data:{media_type or 'application/octet-stream'};base64,{data}"


def sniffed(media_type: str | None, data: str) -> str | None:
    """The type that the bytes show, else the one that was told."""
    if data.startswith("UklGR") and media_type is not None and media_type.startswith("audio/"):
        return media_type  # WAV is RIFF as well
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), media_type)


def kind_of(media_type: str | None) -> Kind:
    family = (media_type or "").partition("/")[0]
    if family in ("image", "audio", "video"):
        return family  # type: ignore[return-value]
    return "document"

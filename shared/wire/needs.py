"""Needs: what a call needs of a model, read off its raw fields without decoding it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import orjson

from shared.domain.catalogue import WireFormat
from shared.domain.policy import Needs
from shared.wire.envelope import Envelope
from shared.wire.openai_chat import ChatCall

BYTES_PER_TOKEN = 4
TOKENS_PER_MEDIA = 1_000
"""About what an image of common size costs at the large vendors."""
NOTHING = frozenset({b"null", b"[]", b"{}", b"false", b'"none"'})
TOOLS = frozenset({"tools", "functions"})
REASONING = frozenset({"reasoning", "reasoning_effort", "thinking"})
FORMATS: dict[WireFormat, tuple[tuple[str, ...], ...]] = {
    WireFormat.OPENAI_CHAT: (("response_format",),),
    WireFormat.OPENAI_RESPONSES: (("text", "format"),),
    WireFormat.ANTHROPIC_MESSAGES: (("output_format",), ("output_config", "format")),
    WireFormat.COHERE: (("response_format",),),
    WireFormat.GEMINI: (("generationConfig",), ("generation_config",)),
}
"""Where a body says what its answer shall look like."""
SHAPES = frozenset(path[0] for paths in FORMATS.values() for path in paths)
SCHEMAS = ("schema", "json_schema", "responseSchema", "responseJsonSchema", "response_schema", "response_json_schema")


def read_needs(client: WireFormat, operation: str, envelope: Envelope, call: ChatCall) -> Needs:
    """Tokens are estimated from the text's bytes, and a fixed number for each picture, sound and file."""
    fields, media = envelope.fields, call.media
    return Needs(
        operation=operation,
        vision=media.images > 0,
        audio=media.audio > 0 and operation == "chat",
        tools=not TOOLS.isdisjoint(fields) and _said(fields, TOOLS),
        json_schema=not SHAPES.isdisjoint(fields)
        and any(path[0] in fields and _schema(fields[path[0]], path[1:]) for path in FORMATS.get(client, ())),
        reasoning=not REASONING.isdisjoint(fields) and _said(fields, REASONING),
        input_tokens=estimated_tokens(call),
        output_tokens=call.max_tokens,
        parameters=tuple(fields),
    )


def estimated_tokens(call: ChatCall) -> int:
    """Of the prompt."""
    pieces = call.media.images + call.media.audio + call.media.files
    return call.text_bytes // BYTES_PER_TOKEN + pieces * TOKENS_PER_MEDIA


def _said(fields: Mapping[str, msgspec.Raw], names: Iterable[str]) -> bool:
    return any(name in fields and bytes(fields[name]) not in NOTHING for name in names)


def _schema(raw: msgspec.Raw, path: tuple[str, ...]) -> bool:
    if not any(name.encode() in bytes(raw) for name in SCHEMAS):
        return False
    value = orjson.loads(bytes(raw))
    for name in path:
        value = value.get(name) if type(value) is dict else None
    return type(value) is dict and (value.get("type") == "json_schema" or any(value.get(name) for name in SCHEMAS))

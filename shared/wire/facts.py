"""Facts: what the gateway reads of a call in each client format, without decoding it: model, stream, caps, media.

Only what decides about routing, limits and money is checked here; all else travels unread when both ends speak one format,
so that a provider's newest fields need no release of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shared.domain.usage import MAX_TOKENS
from shared.wire.envelope import Envelope, invalid_field, wrong_type
from shared.wire.openai_chat.facts import NO_MEDIA, ChatCall, Media, Sound, checked_model, messages_of

MAX_CHOICES = 128
DEPTH = 12
IMAGES = frozenset({"image", "input_image", "image_url"})
FILES = frozenset({"document", "input_file", "file", "container_upload"})
AUDIO = frozenset({"audio", "input_audio"})


def call_facts(
    envelope: Envelope,
    *,
    model: str,
    stream: bool = False,
    include_usage: bool = False,
    max_tokens: int | None = None,
    choices: int = 1,
    messages: int = 1,
    media: Media = NO_MEDIA,
    sound: Sound | None = None,
) -> ChatCall:
    """What was read. Releases the envelope's parsed values: nothing reads them afterwards."""
    call = ChatCall(
        model=model,
        stream=stream,
        include_usage=include_usage,
        max_tokens=max_tokens,
        choices=choices,
        messages=messages,
        media=media,
        body_bytes=len(envelope.body),
        sound=sound,
    )
    envelope.release()
    return call


def messages_facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """Anthropic Messages. Raises Refused."""
    messages = messages_of(envelope)
    asked = checked_model(envelope.text("model"))
    stream = envelope.flag("stream")
    max_tokens = envelope.integer("max_tokens", 0, MAX_TOKENS)
    if max_tokens is None:
        raise invalid_field("max_tokens", "Missing required field 'max_tokens': it must be an integer.")
    return call_facts(
        envelope,
        model=asked,
        stream=stream,
        include_usage=True,
        max_tokens=max_tokens,
        messages=len(messages),
        media=_media(messages, envelope.value("system")),
    )


def cohere_facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """Cohere v2. Raises Refused."""
    messages = messages_of(envelope)
    documents = envelope.value("documents")
    return call_facts(
        envelope,
        model=checked_model(envelope.text("model")),
        stream=envelope.flag("stream"),
        include_usage=True,
        max_tokens=envelope.integer("max_tokens", 1, MAX_TOKENS),
        messages=len(messages) + (len(documents) if type(documents) is list else 0),
        media=_media(messages),
    )


def responses_facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """OpenAI Responses. Raises Refused."""
    given = envelope.value("input")
    if given is not None and type(given) not in (str, list):
        raise wrong_type("input", "a string or an array of items", given)
    items = given if type(given) is list else [given]
    return call_facts(
        envelope,
        model=checked_model(envelope.text("model")),
        stream=envelope.flag("stream"),
        include_usage=True,
        max_tokens=envelope.integer("max_output_tokens", 1, MAX_TOKENS),
        messages=len(items) + 1,
        media=_media(items),
    )


def gemini_facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """Gemini: model and stream are in the URL. Raises Refused."""
    contents = envelope.value("contents")
    if contents is None:
        raise invalid_field("contents", "Missing required field 'contents'.")
    turns = contents if type(contents) is list else [contents]
    config = envelope.value("generationConfig") or envelope.value("generation_config") or {}
    if type(config) is not dict:
        raise wrong_type("generationConfig", "an object", config)
    return call_facts(
        envelope,
        model=checked_model(model or ""),
        stream=bool(stream),
        include_usage=True,
        max_tokens=_integer(config, "maxOutputTokens", "max_output_tokens", MAX_TOKENS),
        choices=_integer(config, "candidateCount", "candidate_count", MAX_CHOICES) or 1,
        messages=len(turns) + 1,
        media=_media(turns),
    )


def gemini_embeddings_facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """`:embedContent`, `:batchEmbedContents`: the model is in the URL. Raises Refused."""
    if envelope.value("content") is None and envelope.value("requests") is None:
        raise invalid_field("content", "Missing required field 'content' (or 'requests').")
    return call_facts(
        envelope,
        model=checked_model(model or ""),
        max_tokens=0,
    )


def cohere_embeddings_facts(envelope: Envelope, model: str | None = None, stream: bool | None = None) -> ChatCall:
    """Cohere's `/v2/embed`. Raises Refused."""
    if type(envelope.value("texts")) is not list:
        raise invalid_field("texts", "Missing required field 'texts': an array of strings.")
    return call_facts(
        envelope,
        model=checked_model(envelope.text("model")),
        max_tokens=0,
    )


def _integer(config: dict[str, Any], name: str, other: str, most: int) -> int | None:
    value = config.get(name, config.get(other))
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= most:
        raise invalid_field(f"generationConfig.{name}", f"Invalid value for {name!r}: expected an integer from 1 to {most}.")
    return value


def _media(*trees: Any) -> Media:
    """Count what is not text, wherever it lies."""
    images = audio = files = by_reference = 0
    sizes = {"image": 0, "audio": 0, "file": 0}
    for kind, inline in (found for tree in trees for found in _found(tree, DEPTH)):
        images += kind == "image"
        audio += kind == "audio"
        files += kind == "file"
        by_reference += inline == 0
        sizes[kind] += inline
    if not images + audio + files:
        return NO_MEDIA
    return Media(
        images=images,
        audio=audio,
        files=files,
        by_reference=by_reference,
        image_bytes=sizes["image"],
        audio_bytes=sizes["audio"],
        file_bytes=sizes["file"],
    )


def _found(tree: Any, depth: int) -> Iterator[tuple[str, int]]:
    if depth == 0:
        return
    if type(tree) is list:
        for item in tree:
            yield from _found(item, depth - 1)
    elif type(tree) is dict:
        told = tree.get("type")
        kind = told if type(told) is str else ""
        if kind in IMAGES:
            yield "image", _inline(tree)
        elif kind in FILES:
            yield "file", _inline(tree)
        elif kind in AUDIO:
            yield "audio", _inline(tree)
        else:
            yield from _gemini(tree, depth)


def _gemini(tree: dict[str, Any], depth: int) -> Iterator[tuple[str, int]]:
    for name in ("inlineData", "inline_data", "fileData", "file_data"):
        blob = tree.get(name)
        if type(blob) is dict:
            family = str(blob.get("mimeType") or blob.get("mime_type")).partition("/")[0]
            data = blob.get("data")
            yield (family if family in ("image", "audio") else "file"), len(data) if type(data) is str else 0
    for name in ("content", "parts", "output", "tools"):
        if name in tree:
            yield from _found(tree[name], depth - 1)


def _inline(part: dict[str, Any]) -> int:
    """Bytes of base64 within the part; 0 when it is elsewhere."""
    size = 0
    for value in part.values():
        if type(value) is dict:
            size += _inline(value)
        elif type(value) is str and len(value) > 64 and not value.startswith(("http://", "https://")):
            size += len(value)
    return size

"""What OpenRouter's clients ask of the gateway: read, or refused by name."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.refusal import Refused
from shared.wire.envelope import Envelope, open_envelope
from shared.wire.extensions import Extensions, foreign_in, read_extensions


def envelope(**fields: Any) -> Envelope:
    return open_envelope(orjson.dumps({"model": "a/b"} | fields))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None), ({"transforms": None, "plugins": [], "preset": None, "session_id": ""}, None),
        ({"transforms": ["middle-out"]}, Extensions(compress=True)), ({"transforms": []}, Extensions(compress=False)),
        ({"plugins": [{"id": "context-compression"}]}, Extensions(compress=True)),
        ({"plugins": [{"id": "context-compression", "enabled": False}]}, Extensions(compress=False)),
        ({"plugins": [{"id": "context-compression", "engine": "middle-out"}], "transforms": []}, Extensions(compress=True)),
        ({"plugins": [{"id": "web", "enabled": False}]}, None),
        ({"session_id": "s" * 256}, Extensions(session="s" * 256)),
    ],
)  # fmt: skip
def test_what_is_understood(fields: dict[str, Any], expected: Extensions | None) -> None:
    assert read_extensions(envelope(**fields)) == expected


def test_the_bodys_session_goes_before_the_headers() -> None:
    assert read_extensions(envelope(), "h") == Extensions(session="h")
    assert read_extensions(envelope(session_id="b"), "h") == Extensions(session="b")


def test_what_only_openrouter_has() -> None:
    found = read_extensions(envelope(plugins=[{"id": "web"}, {"id": "file-parser", "pdf": {}}], preset="mine"))
    assert found is not None
    assert [each.field for each in found.foreign] == ["plugins", "plugins", "preset"]
    assert found.foreign[0].why == "there is no plugin 'web' here: leave it out of 'plugins'"
    assert [each.field for each in (*foreign_in("@preset/x"), *foreign_in("a/b@preset/x"))] == ["model", "model"]
    assert foreign_in("vertex/claude@20250101") == ()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"transforms": "middle-out"}, "transforms"), ({"transforms": ["outside-in"]}, "transforms[0]"),
        ({"plugins": {}}, "plugins"), ({"plugins": ["web"]}, "plugins[0]"), ({"plugins": [{}]}, "plugins[0].id"),
        ({"plugins": [{"id": "web", "enabled": 1}]}, "plugins[0].enabled"),
        ({"plugins": [{"id": "context-compression", "engine": "x"}]}, "plugins[0].engine"),
        ({"preset": 1}, "preset"), ({"session_id": 1}, "session_id"), ({"session_id": "s" * 257}, "session_id"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as caught:
        read_extensions(envelope(**fields))
    assert (caught.value.refusal.status, caught.value.refusal.field) == (400, field)


def test_a_header_that_is_too_long_is_named() -> None:
    with pytest.raises(Refused) as caught:
        read_extensions(envelope(), "s" * 257)
    assert caught.value.refusal.field == "x-session-id"


@pytest.mark.parametrize("fields", [{"transforms": ["middle-out"]}, {"plugins": [{"id": "context-compression"}]}])
def test_only_messages_have_a_middle(fields: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        read_extensions(envelope(**fields), None, "completions")
    assert [caught.value.refusal.field] == list(fields)
    assert read_extensions(envelope(transforms=[]), None, "embeddings") == Extensions(compress=False)

"""Instances made from schemas keep to them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.simulator.schema import make_instance
from services.simulator.tokens import count_prompt_tokens, count_tokens, split_tokens


@pytest.mark.parametrize(
    ("schema", "holds"),
    [
        ({"const": 7}, lambda made: made == 7),
        ({"enum": ["b", "a"]}, lambda made: made == "b"),
        ({"type": "string", "minLength": 300}, lambda made: len(made) >= 300),
        ({"type": "string", "maxLength": 3}, lambda made: len(made) <= 3),
        ({"type": "string", "pattern": "^[A-Z]{3}$"}, lambda made: re.search("^[A-Z]{3}$", made)),
        ({"type": "string", "format": "date-time"}, lambda made: made.endswith("Z")),
        ({"type": ["null", "string"]}, lambda made: made is None or isinstance(made, str)),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, lambda made: len(made) == 3),
        (
            {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2, "uniqueItems": True},
            lambda m: m == ["x", "y"],
        ),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 0}, lambda made: made == []),
        ({"prefixItems": [{"type": "integer"}, {"type": "boolean"}]}, lambda made: made[1] is True),
        ({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}, lambda m: m["b"] == 2),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, lambda made: isinstance(made, int)),
        ({"type": "object", "required": ["x"]}, lambda made: "x" in made),
        (True, lambda made: made == "said"),
    ],
)
def test_an_instance_keeps_to_its_schema(schema: Any, holds: Callable[[Any], bool]) -> None:
    assert holds(make_instance(schema, "said"))


def test_a_recursive_schema_ends() -> None:
    node = {
        "type": "object",
        "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["value", "next"],
    }
    made = make_instance({"$ref": "#/$defs/node", "$defs": {"node": node}})
    depth = 0
    while made is not None:
        assert set(made) == {"value", "next"}
        made, depth = made["next"], depth + 1
    assert depth < 20


@given(
    low=st.integers(-1000, 1000),
    width=st.integers(2, 500),
    open_low=st.booleans(),
    open_high=st.booleans(),
    whole=st.booleans(),
)
def test_a_number_stays_within_its_bounds(low: int, width: int, open_low: bool, open_high: bool, whole: bool) -> None:
    high = low + width
    schema = {
        "type": "integer" if whole else "number",
        "exclusiveMinimum" if open_low else "minimum": low,
        "exclusiveMaximum" if open_high else "maximum": high,
    }
    made = make_instance(schema)
    assert low < made if open_low else low <= made
    assert made < high if open_high else made <= high
    assert isinstance(made, int) or not whole


@given(st.text())
def test_tokens_are_the_text_in_pieces(text: str) -> None:
    assert "".join(split_tokens(text)) == text
    assert count_tokens(text) <= len(text.encode("utf-8", "surrogatepass"))


@given(st.lists(st.text(max_size=50), min_size=1, max_size=5))
def test_a_prompt_never_has_more_tokens_than_its_body_has_bytes(texts: list[str]) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    assert count_prompt_tokens(messages) <= len(repr(messages).encode("utf-8", "surrogatepass"))

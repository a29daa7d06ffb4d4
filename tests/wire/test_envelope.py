"""The envelope: what it refuses, and that what nobody edits goes on byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.domain.refusal import Reason, Refusal, Refused
from shared.wire.envelope import GUARDED_FIELDS, MAX_FIELDS, MAX_SHOWN, Envelope, open_envelope

SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
JSON_VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)
FIELD_NAMES = st.text().filter(lambda name: name.casefold() not in GUARDED_FIELDS) | st.sampled_from(sorted(GUARDED_FIELDS))
JSON_OBJECTS = st.dictionaries(FIELD_NAMES, JSON_VALUES, max_size=8)

Pairs = list[tuple[str, Any]]
TREES = st.recursive(
    st.none() | st.integers(0, 9) | st.sampled_from(["", '"', '""', "\\", '\\"', "a", "u0022", "é", '{"a":1,"a":1}']),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(st.sampled_from('abé"\\'), inner), max_size=4).map(tuple),
    max_leaves=12,
)
"""JSON with objects as tuples of pairs, so that a key may come twice; keys and strings full of quotes."""


def refused(body: bytes) -> Refusal:
    with pytest.raises(Refused) as caught:
        open_envelope(body)
    return caught.value.refusal


def refused_call(call: Callable[[], object]) -> Refusal:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.refusal


def written(tree: Any, escape: Callable[[], bool]) -> str:
    """JSON text of a tree; any character may be spelled `\\uXXXX`."""
    if isinstance(tree, str):
        return '"' + "".join(f"\\u{ord(sign):04x}" if escape() else json.dumps(sign)[1:-1] for sign in tree) + '"'
    if isinstance(tree, list):
        return "[" + ", ".join(written(item, escape) for item in tree) + "]"
    if isinstance(tree, tuple):
        return "{" + ",".join(f"{written(key, escape)}: {written(value, escape)}" for key, value in tree) + "}"
    return json.dumps(tree)


def has_twins(tree: Any) -> bool:
    if isinstance(tree, list):
        return any(has_twins(item) for item in tree)
    if isinstance(tree, tuple):
        return len({key for key, _ in tree}) < len(tree) or any(has_twins(value) for _, value in tree)
    return False


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"a":1,"a":1}', "a"),
        (b'{"a":1,"b":2,"a":{}}', "a"),
        (b'{"model":"cheap","messages":[],"model":"dear"}', "model"),
        (b'{"a":1,"\\u0061":2}', "a"),
        (b'{"\\u0061":1,"\\u0061":2}', "a"),
        (b'{"m\\u006fdel":"x","model":"y"}', "model"),
        (b'{"a":{"b":1,"b":2}}', "b"),
        (b'{"a":[0,{"b":[{"c":1,"\\u0063":2}]}]}', "c"),
        (b'{"":1,"":2}', ""),
        ('{"é":1,"\\u00e9":2}'.encode(), "é"),
        ('{"😀":1,"\\ud83d\\ude00":2}'.encode(), "😀"),
        (b'{"\\"":1,"\\u0022":2}', '"'),
        (b'{"\\u0022":1,"\\u0022":2}', '"'),
        (b'{"a":"\\u0022","a":"\\u0022"}', "a"),
        (b'{"x":"\\u0022\\u0022","a":1,"a":2}', "a"),
        (b'{"x":"\\"\\"","a":1,"a":2}', "a"),
        (b'{"/":1,"\\/":2}', "/"),
        (b'{"a":1 , "a" :1}', "a"),
        (b'{"a":null,"a":null}', "a"),
        (b'{"' + b"k" * 65 + b'":1,"' + b"k" * 65 + b'":2}', "k" * MAX_SHOWN + "…"),
    ],
)
def test_a_key_that_occurs_twice_is_refused_however_it_is_spelled(body: bytes, key: str) -> None:
    refusal = refused(body)
    assert (refusal.reason, refusal.status, refusal.retry, refusal.field) == (Reason.INVALID_BODY, 400, False, key)
    assert refusal.message == f"The body has the key {key!r} twice in one object."


@pytest.mark.parametrize("depth", [1, 2, 10, 100, 253, 254])
def test_a_key_that_occurs_twice_is_found_at_every_depth(depth: int) -> None:
    body = b'{"o":' * (depth - 1) + b'{"a":1,"\\u0061":2}' + b"}" * (depth - 1)
    assert refused(body).field == "a"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":{"a":{"a":1}}}',
        b'{"a":[{"a":1},{"a":2}]}',
        b'{"a":1,"A":2}',
        b'{"a":"\\"a\\":1,\\"a\\":2"}',
        b'{"a":"\\u0022a\\u0022:1,\\u0022a\\u0022:2"}',
        b'{"\\u0022":1,"\\\\u0022":2}',
        b'{"a\\u0022":1,"a":2}',
        b'{ "a" : "\\\\u0022" , "b" : "\\/" }',
        '{"é":1,"e\u0301":2}'.encode(),
    ],
)
def test_what_only_looks_like_a_key_twice_passes(body: bytes) -> None:
    assert json.loads(open_envelope(body).edited()) == json.loads(body)


@given(st.lists(st.tuples(st.sampled_from('abé"\\'), TREES), max_size=4).map(tuple), st.randoms(use_true_random=False))
def test_a_body_is_refused_exactly_when_some_object_has_a_key_twice(tree: tuple[tuple[str, Any], ...], random: Any) -> None:
    body = written(tree, lambda: random.random() < 0.3).encode()
    if has_twins(tree):
        assert "twice" in refused(body).message
    else:
        assert json.loads(open_envelope(body).edited()) == json.loads(body)


@given(JSON_OBJECTS, st.booleans(), st.sampled_from([None, 2]))
@example({"model": "m", "messages": [{"role": "user", "content": '"\\u0022"'}]}, True, None)
@example({}, True, None)
def test_any_object_opens_and_unedited_is_the_same_json(value: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    envelope = open_envelope(body)
    assert json.loads(envelope.edited()) == value
    assert list(envelope.fields) == list(value)
    assert envelope.body == body


@given(JSON_OBJECTS, st.data())
def test_a_replaced_field_is_the_only_one_that_changes(value: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(value)) if value else st.just("model"))
    edited = open_envelope(json.dumps(value).encode()).edited({name: b'{"new":[1]}'})
    assert json.loads(edited) == value | {name: {"new": [1]}}
    assert list(json.loads(edited)) == list(value | {name: None})


@given(JSON_OBJECTS, st.data())
def test_a_dropped_field_is_the_only_one_that_goes(value: dict[str, Any], data: st.DataObject) -> None:
    drop = data.draw(st.lists(st.sampled_from(sorted(value)))) if value else []
    edited = open_envelope(json.dumps(value).encode()).edited(drop=[*drop, "nobody sent this \0"])
    kept = {name: item for name, item in value.items() if name not in drop and name != "nobody sent this \0"}
    assert json.loads(edited) == kept


ODDLY_WRITTEN = (
    b'{ "model" : "m" ,\n "temperature":1.0e+0, "seed":12345678901234567890123,'
    b' "messages": [ {"content":"\\u00e9\\/\xc3\xa9"} ],'
    b' "zero":-0.0,"top_p" :1E-1 }'
)
ODD_MESSAGES = b'[ {"content":"\\u00e9\\/\xc3\xa9"} ]'


def test_values_keep_every_byte_and_only_the_space_between_them_goes() -> None:
    assert open_envelope(ODDLY_WRITTEN).edited() == (
        b'{"model":"m","temperature":1.0e+0,"seed":12345678901234567890123,"messages":'
        + ODD_MESSAGES
        + b',"zero":-0.0,"top_p":1E-1}'
    )


def test_fields_are_dropped_then_renamed_then_replaced() -> None:
    edited = open_envelope(ODDLY_WRITTEN).edited(
        {"model": b'"n"', "stream": b"true", "random_seed": b"7"}, drop=("zero", "absent"), rename={"seed": "random_seed"}
    )
    assert edited == (
        b'{"model":"n","temperature":1.0e+0,"messages":' + ODD_MESSAGES + b',"top_p":1E-1,"random_seed":7,"stream":true}'
    )


@pytest.mark.parametrize(
    ("body", "edit", "edited"),
    [
        (b'{"a":1,"b":2}', {"rename": {"a": "b"}}, b'{"b":2}'),
        (b'{"b":2,"a":1}', {"rename": {"a": "b"}}, b'{"b":2}'),
        (b'{"a":1.50,"c":3}', {"rename": {"a": "b"}}, b'{"c":3,"b":1.50}'),
        (b'{"a":1}', {"rename": {"absent": "b"}}, b'{"a":1}'),
        (b'{"a":1,"b":2}', {"drop": ("b",), "rename": {"a": "b"}}, b'{"b":1}'),
        (b'{"a":1,"b":2}', {"drop": ("a",), "rename": {"a": "b"}}, b'{"b":2}'),
        (b'{"a":1}', {"rename": {"a": "b", "b": "c"}}, b'{"c":1}'),
        (b'{"a":1}', {"drop": ("a",), "replace": {"a": b"2"}}, b'{"a":2}'),
        (b'{"a":1}', {"drop": ("a",)}, b"{}"),
        (b'{"a":1}', {"replace": {'q"é': b"2"}}, '{"a":1,"q\\"é":2}'.encode()),
        (b'{"\\u0061":1}', {"drop": ("a",)}, b"{}"),
        (b'{"\\u0061":1}', {}, b'{"a":1}'),
        (b"{}", {}, b"{}"),
    ],
)
def test_an_edit_writes(body: bytes, edit: dict[str, Any], edited: bytes) -> None:
    assert open_envelope(body).edited(**edit) == edited


def test_an_edit_leaves_the_envelope_as_it_was() -> None:
    envelope = open_envelope(b'{"a":1,"b":2}')
    envelope.edited({"a": b"9"}, drop=("b",))
    assert envelope.edited() == b'{"a":1,"b":2}'
    assert envelope.body == b'{"a":1,"b":2}'


@pytest.mark.parametrize("opening", [b'{"a":', b"["], ids=["objects", "arrays"])
def test_254_levels_are_the_most(opening: bytes) -> None:
    def nested(levels: int) -> bytes:
        closing = b"}" if opening.startswith(b"{") else b"]"
        return b'{"a":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"

    assert open_envelope(nested(254)).edited() == nested(254)
    refusal = refused(nested(255))
    assert (refusal.reason, refusal.status, refusal.retry) == (Reason.INVALID_BODY, 400, False)
    assert refusal.message == "The body is nested too deeply: 254 levels are the most."


@pytest.mark.parametrize("levels", [1_000, 1_025, 5_000, 200_000])
def test_no_depth_is_more_than_a_refusal(levels: int) -> None:
    for body in (b'{"a":' * levels + b"1" + b"}" * levels, b'{"a":' + b"[" * levels + b"]" * levels + b"}", b'{"a":' * levels):
        assert refused(body).reason is Reason.INVALID_BODY


@pytest.mark.parametrize("body", [b"[]", b'[{"a":1}]', b"1", b"null", b"true", b'"model"', b" [ ] "])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    refusal = refused(body)
    assert (refusal.reason, refusal.status, refusal.retry) == (Reason.INVALID_BODY, 400, False)
    assert refusal.message == "The body must be a JSON object."


@pytest.mark.parametrize("body", [b"", b" ", b"\r\n\t "])
def test_an_empty_body_is_told_so(body: bytes) -> None:
    assert refused(body).message == "The body is empty: send a JSON object."


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b'{"a":"\xff"}', 6),
        (b"\xff", 0),
        (b'{"a\xc3":1}', 3),
        (b'{"a":"\xed\xa0\x80"}', 6),
        (b'{"a":"\xc0\xaf"}', 6),
        (b'{"a":"\xf4\x90\x80\x80"}', 6),
        ('{"é":"'.encode() + b'\x80"}', 7),
        (b'{"a":"\xe2\x82', 6),
    ],
)
def test_what_is_not_utf_8_is_refused_with_the_bad_byte(body: bytes, offset: int) -> None:
    refusal = refused(body)
    assert (refusal.reason, refusal.message) == (
        Reason.INVALID_BODY,
        f"The body is not UTF-8: bad byte at offset {offset}.",
    )


@pytest.mark.parametrize(
    ("body", "byte"),
    [
        (b"{a:1}", 1),
        (b"{} x", 3),
        (b'{"a":NaN}', 5),
        (b'{"a":1e400}', 5),
        (b'{"a":"\x01"}', 6),
        (b'{"a":"\\ud800"}', 6),
        ('{"é": x}'.encode(), 7),
        ('{"😀é": x}'.encode(), 11),
        (b"\xef\xbb\xbf{}", 0),
    ],
)
def test_what_is_not_json_is_refused_with_the_byte_not_the_character(body: bytes, byte: int) -> None:
    refusal = refused(body)
    assert (refusal.reason, refusal.status, refusal.retry) == (Reason.INVALID_BODY, 400, False)
    assert refusal.message.startswith("The body is not valid JSON: ")
    assert refusal.message.endswith(f" at byte {byte}.")


def assert_bad_request(status: int) -> None:
    assert status == 400


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_open_or_are_refused(body: bytes) -> None:
    try:
        envelope = open_envelope(body)
    except Refused as error:
        refused = error.refusal.status
        assert_bad_request(refused)
    else:
        assert type(json.loads(envelope.edited())) is dict


@pytest.mark.parametrize("name", sorted(GUARDED_FIELDS))
def test_a_guarded_field_in_odd_case_is_refused_and_named(name: str) -> None:
    for odd in (name.upper(), name.capitalize(), name[:-1] + name[-1].upper()):
        refusal = refused(json.dumps({odd: None}).encode())
        assert (refusal.reason, refusal.status, refusal.field) == (Reason.INVALID_FIELD, 400, odd)
        assert refusal.message == f"Unknown field {odd!r}: did you mean {name!r}?"


@pytest.mark.parametrize(("odd", "meant"), [("ſtream", "stream"), ("max_to\u212aens", "max_tokens"), ("meſſages", "messages")])
def test_letters_that_fold_to_a_guarded_field_are_refused_too(odd: str, meant: str) -> None:
    """Go's decoder takes a long s for an s and the Kelvin sign for a k."""
    assert refused(json.dumps({odd: 1}).encode()).message == f"Unknown field {odd!r}: did you mean {meant!r}?"


def test_odd_case_is_refused_beside_the_right_one_and_when_escaped() -> None:
    assert refused(b'{"model":"a","Model":"b"}').field == "Model"
    assert refused(b'{"\\u004dodel":"b"}').field == "Model"


def test_case_is_free_below_the_top_level_and_in_other_fields() -> None:
    body = b'{"metadata":{"Model":1,"STREAM":2},"Temperature":1,"models":[]}'
    assert open_envelope(body).edited() == body


def test_a_thousand_fields_are_the_most() -> None:
    def body(fields: int) -> bytes:
        return json.dumps(dict.fromkeys(map(str, range(fields)), 0)).encode()

    assert len(open_envelope(body(MAX_FIELDS)).fields) == MAX_FIELDS
    refusal = refused(body(MAX_FIELDS + 1))
    assert (refusal.reason, refusal.message) == (Reason.INVALID_BODY, "The body has more than 1000 top-level fields.")


@pytest.fixture
def envelope() -> Envelope:
    return open_envelope(b'{"text":"t","empty":"","null":null,"yes":true,"no":false,"int":5,"float":5.0,"list":[],"object":{}}')


def test_values_are_read_by_kind(envelope: Envelope) -> None:
    assert (envelope.text("text"), envelope.text("empty")) == ("t", "")
    assert [envelope.flag(name) for name in ("yes", "no", "null", "absent")] == [True, False, False, False]
    assert [envelope.integer(name, 5, 5) for name in ("int", "null", "absent")] == [5, None, None]
    assert [envelope.value(name) for name in ("float", "list", "object", "null", "absent")] == [5.0, [], {}, None, None]


@pytest.mark.parametrize(
    ("name", "got"),
    [("yes", "a boolean"), ("int", "an integer"), ("float", "a decimal number"), ("list", "an array"), ("object", "an object")],
)
def test_a_string_of_another_kind_is_refused(envelope: Envelope, name: str, got: str) -> None:
    refusal = refused_call(lambda: envelope.text(name))
    assert (refusal.reason, refusal.status, refusal.retry, refusal.field) == (Reason.INVALID_FIELD, 400, False, name)
    assert refusal.message == f"Invalid type for {name!r}: expected a string, but got {got} instead."


@pytest.mark.parametrize("name", ["null", "absent"])
def test_a_string_that_must_be_there_is_missed(envelope: Envelope, name: str) -> None:
    refusal = refused_call(lambda: envelope.text(name))
    assert (refusal.field, refusal.message) == (name, f"Missing required field {name!r}: it must be a string.")


@pytest.mark.parametrize(
    ("name", "got"), [("text", "a string"), ("int", "an integer"), ("float", "a decimal number"), ("list", "an array")]
)
def test_a_flag_of_another_kind_is_refused(envelope: Envelope, name: str, got: str) -> None:
    refusal = refused_call(lambda: envelope.flag(name))
    assert (refusal.field, refusal.message) == (name, f"Invalid type for {name!r}: expected a boolean, but got {got} instead.")


@pytest.mark.parametrize(("name", "got"), [("text", "a string"), ("yes", "a boolean"), ("float", "a decimal number")])
def test_an_integer_of_another_kind_is_refused(envelope: Envelope, name: str, got: str) -> None:
    refusal = refused_call(lambda: envelope.integer(name, 1, 9))
    assert (refusal.field, refusal.message) == (name, f"Invalid type for {name!r}: expected an integer, but got {got} instead.")


@pytest.mark.parametrize(("least", "most"), [(6, 9), (1, 4)])
def test_an_integer_out_of_bounds_is_refused(envelope: Envelope, least: int, most: int) -> None:
    refusal = refused_call(lambda: envelope.integer("int", least, most))
    assert refusal.message == f"Invalid value for 'int': expected an integer from {least} to {most}."


def test_a_released_envelope_has_no_values_but_all_its_bytes(envelope: Envelope) -> None:
    before = envelope.edited()
    envelope.release()
    assert envelope.value("text") is None
    assert envelope.edited() == before

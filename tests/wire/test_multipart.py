"""Forms: what is written is read again, whatever the file holds; what two readers could read differently is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.refusal import Refused
from shared.wire.envelope import GUARDED_FIELDS
from shared.wire.multipart import Upload, encode_form, is_form, open_form

KIND = "multipart/form-data; boundary=b"
names = st.text(st.characters(codec="ascii", exclude_characters='\r\n"\\'), min_size=1, max_size=20).filter(
    lambda name: not name.endswith("[]") and name.strip() == name and name.casefold() not in {*GUARDED_FIELDS, "l"}
)


def part(head: str, content: str = "x") -> str:
    return f"--b\r\nContent-Disposition: {head}\r\n\r\n{content}\r\n"


def form(*parts: str) -> bytes:
    return ("".join(parts) + "--b--\r\n").encode()


@given(
    fields=st.dictionaries(names, st.text(st.characters(codec="utf-8")), max_size=4),
    data=st.binary(max_size=200),
    name=names,
)
def test_what_is_written_is_read_again(fields: dict[str, str], data: bytes, name: str) -> None:
    upload = Upload(data=data, name=name, media_type="audio/wav")
    body, content_type = encode_form([*fields.items(), ("l[]", "1"), ("l[]", "2")], [("file", upload)], "waystation-0123")
    read = open_form(body, content_type)
    assert {key: read.value(key) for key in read.fields} == fields | {"l": ["1", "2"]}
    assert read.uploads == {"file": upload}


@given(cut=st.integers(0, 200), data=st.binary(max_size=20))
def test_a_body_that_is_cut_or_spoilt_is_refused_and_nothing_else(cut: int, data: bytes) -> None:
    whole = form(part('form-data; name="a"'), part('form-data; name="f"; filename="g"', "sound"))
    spoilt = whole[:cut] + data + whole[cut + len(data) :]
    with suppress(Refused):
        read = open_form(spoilt, KIND)
        assert set(read.fields) | set(read.uploads)


def test_curl_and_browsers_forms_are_read() -> None:
    head = 'form-data; name="file"; filename="a \\"b\\".wav"\r\nContent-Type: audio/x-wav'
    read = open_form(form(part('form-data; name="model"', "lab/whisper"), part(head, "sound--b")), KIND)
    assert read.text("model") == "lab/whisper"
    assert read.uploads["file"] == Upload(data=b"sound--b", name='a "b".wav', media_type="audio/x-wav")
    quoted = 'Multipart/Form-Data; charset=utf-8; boundary="b"'
    assert is_form(quoted)
    assert open_form(form(part("form-data; name=model", "x")), quoted).text("model") == "x"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (form(part('form-data; name="model"', "a"), part('form-data; name="model"', "b")), "twice"),
        (form(part('form-data; name="l"'), part('form-data; name="l[]"')), "twice"),
        (form(part('form-data; name="l[]"'), part('form-data; name="l"')), "twice"),
        (form(part('form-data; name="f"; filename="a"'), part('form-data; name="f"; filename="b"')), "twice"),
        (b"preamble\r\n" + form(part('form-data; name="a"')), "begin"),
        (part('form-data; name="a"').encode(), "not closed"),
        (form(part("form-data")), "no name"),
        (form(part('attachment; name="a"')), "no name"),
        (form(part('form-data; name="a"; name="b"')), "two names"),
        (form("--b\r\nno end of headers\r\n"), "no end to its headers"),
        (form("--b trailing\r\n\r\nx\r\n"), "alone on its line|begin"),
        (form(part('form-data; name="a"')).replace(b"x", b"\xff"), "not UTF-8"),
        (form(*[part(f'form-data; name="{n}"') for n in range(257)]), "more than 256"),
        (b"", "begin"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(body: bytes, problem: str) -> None:
    with pytest.raises(Refused) as caught:
        open_form(body, KIND)
    assert any(each in caught.value.refusal.message for each in problem.split("|"))


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary="ü"']
)
def test_a_boundary_is_needed(content_type: str) -> None:
    with pytest.raises(Refused):
        open_form(form(part('form-data; name="a"')), content_type)


def test_a_name_beside_the_model_in_odd_case_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        open_form(form(part('form-data; name="model"', "a"), part('form-data; name="Model"', "b")), KIND)
    assert caught.value.refusal.field == "Model"


def test_a_name_cannot_break_out_of_its_quotes() -> None:
    body, kind = encode_form([('a"\r\nX: y', "1")], [], "waystation-1")
    assert list(open_form(body, kind).fields) == ["a%22%0D%0AX: y"]

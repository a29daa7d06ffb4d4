from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.upstream.head import Head, Origin, split_url
from shared.upstream.transport import UpstreamRequest

ORIGIN = Origin("https", "api.example.com", 443)


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("https://API.Example.com/v1/", Origin("https", "api.example.com", 443), "/v1"),
        ("http://127.0.0.1:9100/v1", Origin("http", "127.0.0.1", 9100), "/v1"),
        ("http://[::1]:8080", Origin("http", "::1", 8080), ""),
        ("https://bücher.example/a", Origin("https", "xn--bcher-kva.example", 443), "/a"),
        ("http://my_service:8000/v1", Origin("http", "my_service", 8000), "/v1"),
    ],
)
def test_a_url_becomes_an_origin_and_a_path(url: str, origin: Origin, path: str) -> None:
    assert split_url(url) == (origin, path)


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        (Origin("https", "a.b", 443), "a.b"),
        (Origin("http", "a.b", 80), "a.b"),
        (Origin("http", "a.b", 443), "a.b:443"),
        (Origin("https", "::1", 8443), "[::1]:8443"),
    ],
)
def test_the_host_header_leaves_out_the_schemes_own_port(origin: Origin, authority: str) -> None:
    assert origin.authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "", "api.example.com", "ftp://a/", "https://", "https://u:p@a/", "https://a/?q=1", "https://a/#f",
        "https://a b/",
        "https://a:0/", "https://a:99999/", "https://a:x/", "https://a/\r\nx: y", "https://a\r\nx/", "https://a/ü",
        "https://[::1/", "https://a/b c", "https:///v1", "https://" + "a" * 300 + "/",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_called_says_why(url: str) -> None:
    with pytest.raises(ValueError, match=r"must|not a URL|holds"):
        split_url(url)


def test_a_head_is_ready_but_for_its_length() -> None:
    head = Head("POST", ORIGIN, "/v1/chat", [("Authorization", "Bearer x")])
    assert head.wire(5) == (
        b"POST /v1/chat HTTP/1.1\r\nhost: api.example.com\r\naccept-encoding: identity\r\n"
        b"Authorization: Bearer x\r\ncontent-length: 5\r\n\r\n"
    )
    assert Head("GET", ORIGIN, "/").wire(0).endswith(b"identity\r\n\r\n")
    assert b"content-length: 0\r\n" in Head("POST", ORIGIN, "/").wire(0)
    assert b"\r\nx-a: b\r\ncontent-length: 0\r\n" in head.plus([("x-a", "b")]).wire(0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x\r\ny", "1"), ("x y", "1"), ("x:", "1"), ("", "1"), ("ü", "1"), ("x\n", "1"),
        ("x", "1\r\ny: 2"), ("x", "1\n"), ("x", "\r"), ("x", "a\0b"), ("x", "ü"), ("x", "a\x7f"), ("x", "a" * 20_000),
        ("Host", "evil"), ("content-length", "3"), ("Transfer-Encoding", "chunked"), ("Connection", "close"),
        ("Accept-Encoding", "gzip"), ("TE", "trailers"), ("Expect", "100-continue"), ("Upgrade", "h2c"),
    ],
)  # fmt: skip
def test_no_line_can_be_smuggled_into_a_head(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="header"):
        Head("POST", ORIGIN, "/", [(name, value)])
    with pytest.raises(ValueError, match="header"):
        Head("POST", ORIGIN, "/").plus([(name, value)])


@given(st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=200)
def test_whatever_the_header_the_head_has_one_line_for_it_or_is_not_made(name: str, value: str) -> None:
    try:
        head = Head("GET", ORIGIN, "/", [(name, value)])
    except ValueError:
        return
    assert head.wire(0).count(b"\r\n") == head.wire(0).count(b"\n") == head.wire(0).count(b"\r") == 5


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET /", "/"), ("get", "/"), ("", "/"), ("GET", "v1"), ("GET", "/ HTTP/1.1\r\n"), ("GET", "")],
)
def test_neither_method_nor_target_can_break_the_request_line(method: str, target: str) -> None:
    with pytest.raises(ValueError, match=r"method|target"):
        Head(method, ORIGIN, target)


def test_neither_credential_nor_body_shows_in_a_repr() -> None:
    head = Head("POST", ORIGIN, "/v1", [("authorization", "Bearer sk-secret")])
    shown = repr(UpstreamRequest(head=head, body=b"my diary")) + repr(head) + str(head)
    assert "secret" not in shown
    assert "diary" not in shown


def test_a_refused_value_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ValueError) as caught:
        Head("POST", ORIGIN, "/v1", [("authorization", "Bearer sk-secret\n")])
    assert "secret" not in str(caught.value)

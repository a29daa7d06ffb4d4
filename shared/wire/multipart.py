"""multipart/form-data (RFC 7578), read from a whole body and written again.

Read strictly: a body that two readers could take apart differently (a field twice, text before the first boundary, an open
last part) is refused, because one of the fields is the model.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import orjson

from shared.domain.refusal import Reason, Refused, refuse
from shared.wire.envelope import Envelope, open_envelope

BOUNDARY = re.compile(r"""boundary=(?:"([^"]{1,70})"|([^\s;",]{1,70}))""", re.IGNORECASE)
BOUNDARY_CHARACTERS = re.compile(r"[0-9a-zA-Z'()+_,\-./:=? ]*[0-9a-zA-Z'()+_,\-./:=?]")
_DISPOSITION = re.compile(rb"""(?:^|;)\s*(name|filename)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))""", re.IGNORECASE)
MOST_PARTS = 256
MOST_HEADER_BYTES = 8192


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """One file. `media_type` and `name` are what the client says of it."""

    data: bytes
    name: str
    media_type: str


class Form(Envelope):
    """An envelope whose fields came as a form: text is text, `name[]` is a list, files are beside them."""

    __slots__ = ("uploads",)

    def __init__(self, body: bytes, plain: Envelope, values: dict[str, Any], uploads: dict[str, Upload]) -> None:
        super().__init__(body, plain.fields, values)
        self.uploads = uploads


def is_form(content_type: str | None) -> bool:
    return content_type is not None and content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def open_form(body: bytes, content_type: str) -> Form:
    """Raises Refused (400)."""
    values: dict[str, Any] = {}
    uploads: dict[str, Upload] = {}
    for headers, content in _parts(body, _boundary(content_type)):
        name, filename = _names(headers)
        if filename is not None:
            if name in uploads:
                raise _broken(f"the file {name[:64]!r} comes twice")
            media_type = _header(headers, b"content-type") or "application/octet-stream"
            uploads[name] = Upload(data=content, name=filename, media_type=media_type)
            continue
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise _broken(f"the field {name[:64]!r} is not UTF-8") from None
        if name.endswith("[]"):
            held = values.setdefault(name[:-2], [])
            if type(held) is not list:
                raise _broken(f"the field {name[:64]!r} comes twice")
            held.append(text)
        elif name in values:
            raise _broken(f"the field {name[:64]!r} comes twice")
        else:
            values[name] = text
    return Form(body, open_envelope(orjson.dumps(values)), values, uploads)


def _boundary(content_type: str) -> bytes:
    found = BOUNDARY.search(content_type)
    boundary = (found[1] or found[2]) if found else ""
    if not BOUNDARY_CHARACTERS.fullmatch(boundary):
        raise _broken("its Content-Type has no usable boundary")
    return boundary.encode()


def _parts(body: bytes, boundary: bytes) -> list[tuple[bytes, bytes]]:
    """(headers, content) of each part."""
    opening = b"--" + boundary
    if not body.startswith(opening + b"\r\n"):
        raise _broken("it does not begin with its boundary")
    pieces = body[len(opening) :].split(b"\r\n" + opening)
    closing = pieces.pop()
    if closing.rstrip(b"\r\n \t") != b"--":
        raise _broken("its last part is not closed")
    if len(pieces) > MOST_PARTS:
        raise _broken(f"it has more than {MOST_PARTS} parts")
    parts = []
    for piece in pieces:
        if not piece.startswith(b"\r\n"):
            raise _broken("a boundary is not alone on its line")
        headers, gap, content = piece.partition(b"\r\n\r\n")
        if not gap or len(headers) > MOST_HEADER_BYTES:
            raise _broken("a part has no end to its headers")
        parts.append((headers, content))
    return parts


def _header(headers: bytes, name: bytes) -> str | None:
    for line in headers.split(b"\r\n"):
        key, colon, value = line.partition(b":")
        if colon and key.strip().lower() == name:
            return value.strip().decode("latin-1")
    return None


def _names(headers: bytes) -> tuple[str, str | None]:
    disposition = _header(headers, b"content-disposition") or ""
    kind, _, rest = disposition.partition(";")
    found: dict[str, str] = {}
    for key, quoted, plain in _DISPOSITION.findall(rest.encode("latin-1")):
        value = re.sub(rb"\\(.)", rb"\1", quoted) if quoted else plain
        if found.setdefault(key.lower().decode(), value.decode(errors="replace")) != value.decode(errors="replace"):
            raise _broken("a part has two names")
    if kind.strip().lower() != "form-data" or not found.get("name"):
        raise _broken("a part has no name")
    return found["name"], found.get("filename")


def _broken(problem: str) -> Refused:
    return refuse(Reason.INVALID_BODY, 400, f"The body is no multipart/form-data that can be read: {problem}.", retry=False)


def encode_form(fields: list[tuple[str, str]], uploads: list[tuple[str, Upload]], boundary: str) -> tuple[bytes, str]:
    """Body and Content-Type. The caller's boundary must be one that no client can know."""
    mark = boundary.encode()
    pieces: list[bytes] = []
    for name, text in fields:
        head = b'Content-Disposition: form-data; name="%b"' % _quoted(name)
        pieces += [b"--", mark, b"\r\n", head, b"\r\n\r\n", text.encode(), b"\r\n"]
    for name, upload in uploads:
        head = b'Content-Disposition: form-data; name="%b"; filename="%b"' % (_quoted(name), _quoted(upload.name))
        kind = re.sub(r"[^\x20-\x7e]", "", upload.media_type).encode()
        pieces += [b"--", mark, b"\r\n", head, b"\r\nContent-Type: ", kind, b"\r\n\r\n", upload.data, b"\r\n"]
    pieces += [b"--", mark, b"--\r\n"]
    return b"".join(pieces), f"multipart/form-data; boundary={boundary}"


def _quoted(name: str) -> bytes:
    """As browsers write it (HTML, "multipart form data"): line ends and quotes percent-encoded."""
    return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22").encode()

"""AWS's event stream: length-prefixed binary messages with headers and two CRC32 sums.

    total bytes u32 · header bytes u32 · CRC of those 8 · headers · payload · CRC of all before
    header: name bytes u8 · name · type u8 · value (type 7, a string: bytes u16 · text)

Source: https://docs.aws.amazon.com/lexv2/latest/dg/event-stream-encoding.html (one encoding for all of AWS's services).
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from shared.wire.reply import MalformedReply

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
LEAST_MESSAGE_BYTES = 16
VALUE_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type; 6 (bytes) and 7 (string) say their own length."""

_PRELUDE = struct.Struct(">III")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")


class Message(NamedTuple):
    headers: dict[str, str]
    """Those whose value is a string: `:message-type`, `:event-type`, `:exception-type`, `:content-type`."""
    payload: bytes


class Splitter:
    """Feed chunks, get whole messages."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, chunk: bytes) -> list[Message]:
        """Raises MalformedReply for a sum that is wrong: what follows cannot be trusted."""
        self._held += chunk
        messages = []
        while len(self._held) >= _PRELUDE.size:
            total, head, told = _PRELUDE.unpack_from(self._held)
            if told != crc32(self._held[:8]) or not LEAST_MESSAGE_BYTES + head <= total <= MAX_MESSAGE_BYTES:
                raise MalformedReply("sent an event stream whose framing is broken")
            if len(self._held) < total:
                break
            raw = bytes(self._held[:total])
            del self._held[:total]
            if _U32.unpack_from(raw, total - 4)[0] != crc32(raw[:-4]):
                raise MalformedReply("sent an event whose checksum is wrong")
            messages.append(Message(_headers(raw[12 : 12 + head]), raw[12 + head : -4]))
        return messages


def _headers(raw: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    at = 0
    try:
        while at < len(raw):
            size = raw[at]
            name = raw[at + 1 : at + 1 + size].decode()
            kind = raw[at + 1 + size]
            at += 2 + size
            if kind in (6, 7):
                length = _U16.unpack_from(raw, at)[0]
                value = raw[at + 2 : at + 2 + length]
                at += 2 + length
                if kind == 7:
                    headers[name] = value.decode()
            else:
                at += VALUE_BYTES[kind]
    except (IndexError, KeyError, UnicodeDecodeError, struct.error):
        raise MalformedReply("sent an event with broken headers") from None
    return headers


def message(headers: dict[str, str], payload: bytes) -> bytes:
    """A message as bytes."""
    lines = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + _U16.pack(len(value)) + value.encode() for name, value in headers.items()
    )
    lengths = struct.pack(">II", LEAST_MESSAGE_BYTES + len(lines) + len(payload), len(lines))
    raw = lengths + _U32.pack(crc32(lengths)) + lines + payload
    return raw + _U32.pack(crc32(raw))

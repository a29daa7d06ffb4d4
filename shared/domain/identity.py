"""Ids: UUIDv7 for events (time-ordered, minted on the node), short random ones for nouns."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def uuid7(now_ms: int, random_80_bits: int) -> str:
    """RFC 9562 §5.7: 48 bits of Unix milliseconds, version, variant, 74 random bits. Lower-case, dashed."""
    high = (now_ms & 0xFFFFFFFFFFFF) << 80
    random_a = (random_80_bits >> 62) & 0xFFF
    random_b = random_80_bits & 0x3FFFFFFFFFFFFFFF
    digits = f"{high | (0x7 << 76) | (random_a << 64) | (0b10 << 62) | random_b:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def uuid7_time(event_id: str) -> datetime:
    """When the id was minted, in UTC. Raises ValueError when it is no UUIDv7."""
    if len(event_id) != 36 or event_id[14] != "7":
        raise ValueError(f"{event_id!r} is not a UUIDv7")
    return datetime.fromtimestamp(int(event_id[:8] + event_id[9:13], 16) / 1000, tz=UTC)


def random_base62(length: int) -> str:
    return "".join(secrets.choice(BASE62) for _ in range(length))


def new_id(prefix: str) -> str:
    """`org_3kTMd93XvB2f`: a noun's id."""
    return f"{prefix}_{random_base62(12)}"

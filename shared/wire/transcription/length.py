"""How long sound can be, told from its bytes before anybody has heard it: what a price by the minute is reserved for.

WAVE says its bytes per second in its head, and providers go by that. Elsewhere the lowest rate of the format counts: MP3 has no
frame below 8 kbit/s; the rest is taken for a speech codec at 2 kbit/s, below any in common use (Speex from 2.15, AMR from 4.75,
Opus from 6). A codec that leaves silence out may last longer than that: its bill is held to the bound (flow/settle.py).
"""

from __future__ import annotations

from shared.wire.openai_chat.facts import Sound

HEAD_BYTES = 4096
MP3_BYTES_PER_S, LEAST_BYTES_PER_S = 1000, 250
LIKELY_BYTES_PER_S = 16_000
"""128 kbit/s, MP3's usual rate."""
LEAST_MS = 1000
"""No provider bills less than a second."""
PCM, FLOAT, A_LAW, MU_LAW = 1, 3, 6, 7


def length(head: bytes, size: int) -> Sound:
    """`head`: the first HEAD_BYTES of the sound, `size` all of its bytes."""
    least, likely = rates(head)
    return Sound(most_ms=_ms(size, least), likely_ms=_ms(size, likely))


def rates(head: bytes) -> tuple[int, int]:
    """The least and the likely bytes per second."""
    told = _wave(head)
    if told is not None:
        return told, told
    mp3 = head.startswith(b"ID3") or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2)
    return (MP3_BYTES_PER_S if mp3 else LEAST_BYTES_PER_S), LIKELY_BYTES_PER_S


def _wave(head: bytes) -> int | None:
    """The rate in the `fmt ` chunk of uncompressed sound; None where there is none that can be believed."""
    at = head.find(b"fmt ", 12)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE" or at < 0 or len(head) < at + 24:
        return None
    kind = int.from_bytes(head[at + 8 : at + 10], "little")
    rate = int.from_bytes(head[at + 16 : at + 20], "little")
    frames, block = int.from_bytes(head[at + 12 : at + 16], "little"), int.from_bytes(head[at + 20 : at + 22], "little")
    believable = kind in (PCM, FLOAT, A_LAW, MU_LAW) and rate == frames * block >= LEAST_BYTES_PER_S
    return rate if believable else None


def _ms(size: int, bytes_per_s: int) -> int:
    return max(LEAST_MS, -(-size * 1000 // bytes_per_s))

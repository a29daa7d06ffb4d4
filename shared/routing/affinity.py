"""Affinity (pure): requests that begin alike go to the deployment that has their beginning in its prompt cache.

No state is shared. Every node ranks the deployments by a hash of the prefix and their key (rendezvous hashing), so all agree,
and a deployment that joins or leaves moves only the requests that are its own. A deployment with more than 1.3 times its fair
share of the calls in flight is passed over for the next in rank, so that one popular prefix cannot bury it.

What is hashed is only what stays while a conversation grows: the system prompt and everything up to the first user message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b

import msgspec

BOUND_BYTES = 4096
"""Of each piece of the prefix; about 1,024 tokens, the least that providers cache."""
SHARE = 1.3
INSTRUCTIONS = ("system", "instructions", "systemInstruction", "system_instruction", "preamble")
TURNS = ("messages", "input", "contents")
MIX = 0xBF58476D1CE4E5B9
"""SplitMix64's first multiplier."""
_64 = (1 << 64) - 1


class _Turn(msgspec.Struct, gc=False):
    role: str | None = None
    content: msgspec.Raw = msgspec.Raw()
    parts: msgspec.Raw = msgspec.Raw()


_turns = msgspec.json.Decoder(list[msgspec.Raw]).decode
_turn = msgspec.json.Decoder(_Turn).decode


def fingerprint(fields: Mapping[str, msgspec.Raw]) -> int | None:
    """64 bits of the beginning of a body, from its top-level slices (wire/envelope.py); None where nothing is to be hashed.

    The turns are cut apart and not read further; later turns change nothing.
    """
    digest = blake2b(digest_size=8)
    found = False
    for name in INSTRUCTIONS:
        held = fields.get(name)
        if held is not None:
            found = True
            digest.update(memoryview(held)[:BOUND_BYTES])
    for name in TURNS:
        held = fields.get(name)
        if held is not None:
            for piece in _leading(held):
                found = True
                digest.update(piece[:BOUND_BYTES])
            break
    return int.from_bytes(digest.digest()) if found else None


def _leading(held: msgspec.Raw) -> list[memoryview]:
    """The contents of the turns up to the first user's. One string is the first user's turn itself."""
    raw = memoryview(held)
    if raw[0] == ord('"'):
        return [raw]
    pieces: list[memoryview] = []
    try:
        for each in _turns(held):
            turn = _turn(each)
            pieces.append(memoryview(turn.content) if len(memoryview(turn.content)) else memoryview(turn.parts))
            if turn.role in ("user", None):
                break
    except msgspec.MsgspecError:
        return pieces  # no array of objects: the call will be refused, wherever it goes
    return pieces


def order(keys: Sequence[str], fingerprint: int, in_flight: Mapping[str, int]) -> list[str]:
    """`keys` in the order in which to ask them: by rank those with room, then by rank the others.

    `in_flight`: calls by key, without this one. There is always one with room, so the first never has more than
    ceil(1.3 × fair share) with this call.
    """
    scores = {}
    for key in keys:
        score = _hash(key) ^ fingerprint
        scores[key] = (score ^ score >> 32) * MIX & _64  # its high bits now depend on every bit
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)
    if len(ranked) < 2:
        return ranked
    most = room(sum(in_flight.get(key, 0) for key in ranked), len(ranked))
    if in_flight.get(ranked[0], 0) < most:  # nearly always
        return ranked
    full = {key for key in ranked if in_flight.get(key, 0) >= most}
    return [*(key for key in ranked if key not in full), *(key for key in ranked if key in full)]


def room(in_flight: int, deployments: int) -> int:
    """The most calls that one of `deployments` may have, when one more joins the `in_flight` of all together."""
    tenths = round(SHARE * 10)
    return -(-tenths * (in_flight + 1) // (10 * deployments))


@lru_cache(maxsize=20_000)
def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest())

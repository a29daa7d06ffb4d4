"""Responses that clients may refer to (`previous_response_id`): in Redis for a while, compressed and sealed, under their team.

Prompts and answers are the tenants' own: what lies in Redis opens only with the installation's secret, and only for the team
and id that it was kept for.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from shared.store import keys
from shared.store.redis import Lane
from shared.store.secrets import SecretError, Vault

MOST_BYTES = 8 * 1024 * 1024
"""What is larger is not kept: a conversation of that size would fill Redis sooner than a context window."""


class Kept(msgspec.Struct, frozen=True):
    """`input`: every item that led to the response, those of earlier responses included. `response`: as the client got it."""

    input: list[Any]
    response: dict[str, Any]


_decode = msgspec.json.Decoder(Kept).decode


class Responses:
    def __init__(self, lane: Lane, vault: Vault, *, kept_s: int) -> None:
        self._lane, self._vault, self.kept_s = lane, vault, kept_s

    async def keep(self, organisation_id: str, team_id: str, kept: Kept) -> bool:
        """False when it is too large to be kept. Raises RedisUnavailable."""
        response_id = str(kept.response["id"])
        raw = msgspec.json.encode(kept)
        if len(raw) > MOST_BYTES or self.kept_s <= 0:
            return False
        sealed = self._vault.seal_bytes(zlib.compress(raw, 1), _context(organisation_id, team_id, response_id))
        key = keys.response(organisation_id, team_id, response_id)
        await self._lane.call(b"SET", key, sealed, b"EX", b"%d" % self.kept_s)
        return True

    async def read(self, organisation_id: str, team_id: str, response_id: str) -> Kept | None:
        """None: never kept, not this team's, or gone. Raises RedisUnavailable."""
        found = await self._lane.call(b"GET", keys.response(organisation_id, team_id, response_id))
        if not isinstance(found, bytes):
            return None
        try:
            packed = self._vault.unseal_bytes(found, _context(organisation_id, team_id, response_id))
        except SecretError:
            return None
        return _decode(zlib.decompress(packed))

    async def forget(self, organisation_id: str, team_id: str, response_id: str) -> bool:
        """False: it was not there. Raises RedisUnavailable."""
        return bool(await self._lane.call(b"DEL", keys.response(organisation_id, team_id, response_id)))


def _context(organisation_id: str, team_id: str, response_id: str) -> str:
    return f"response:{organisation_id}:{team_id}:{response_id}"

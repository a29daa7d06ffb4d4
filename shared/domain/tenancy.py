"""Who asks: organisation › team › key."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Role(StrEnum):
    OWNER = "owner"
    ADMIN = "admin"
    TEAM_ADMIN = "team_admin"
    MEMBER = "member"
    VIEWER = "viewer"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The key that a request came with, and whose it is."""

    organisation_id: str
    team_id: str
    key_id: str
    key_name: str = ""

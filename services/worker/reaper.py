"""Reaper: reservations whose lease is over become estimated events, never a silence."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from shared.admission.reap import Reaper


async def reap(context: dict[str, Any]) -> int:
    """Every organisation once. Returns how many reservations were reaped."""
    reaper: Reaper = context["reaper"]
    async with context["pool"].connect() as connection:
        organisations = list(await connection.scalars(text("SELECT id FROM organisations")))
    return sum([await reaper.expired(organisation_id) for organisation_id in organisations])

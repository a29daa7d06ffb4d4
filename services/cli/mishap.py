"""What may go wrong in a command, in one line. It knows the errors of all libraries, so it is imported when one is raised."""

from __future__ import annotations

import socket

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from shared.providers.table import CatalogueError
from shared.store.document import DocumentError
from shared.store.secrets import SecretError
from shared.store.tenants import TenantError

SAID = (SecretError, DocumentError, TenantError, CatalogueError, ValueError)
"""Errors whose own text is for people."""


def line_of(error: Exception) -> str | None:
    """None for what is a fault of ours."""
    if isinstance(error, SAID):
        return f"{error}"
    if isinstance(error, RedisError):
        return f"Redis: {error}"
    if isinstance(error, SQLAlchemyError):
        return f"Postgres: {reason(error)}"
    if isinstance(error, TimeoutError):
        return "Postgres or Redis did not answer in time"
    if isinstance(error, (ConnectionError, socket.gaierror)):
        return f"Postgres cannot be reached (DATABASE_URL): {error.strerror or error}"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return None


def reason(error: SQLAlchemyError) -> str:
    """What Postgres said, in one line, and what to do about it."""
    said = str(error.__cause__ or error).splitlines()[0]
    return f"{said}: run `waystation migrate`" if "relation" in said and "does not exist" in said else said

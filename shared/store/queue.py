"""The queue's port: the only module that knows arq's connection and how its payloads are written.

arq triggers; the truth is in Postgres. Payloads are JSON: pickle would let whoever can write to Redis run code in a worker.
"""

from __future__ import annotations

import json
from typing import Any

from arq.connections import RedisSettings

QUEUE = "ws:arq"


def settings(url: str) -> RedisSettings:
    """arq's view of a Redis URL, with patience for a Redis that is just starting."""
    made = RedisSettings.from_dsn(url)
    made.conn_retries, made.conn_retry_delay = 30, 1
    return made


def serialize(job: dict[str, Any]) -> bytes:
    return json.dumps(job, default=str).encode()


def deserialize(raw: bytes) -> dict[str, Any]:
    return dict(json.loads(raw))

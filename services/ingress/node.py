"""Node: what one ingress process holds for as long as it lives, wired here and nowhere else."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from services.ingress.live import LiveStreams
from shared.admission.degraded import DegradedGate
from shared.admission.estimate import TypicalOutput
from shared.admission.gate import Gate
from shared.admission.presence import Presence
from shared.admission.restore import Restore
from shared.admission.seeding import Seeder
from shared.clock import SystemClock
from shared.flow.exchange import Gateway
from shared.providers import registry
from shared.settings import Settings
from shared.snapshot.watch import Watch
from shared.store import keys, postgres
from shared.store.ledger import PostgresSpent, missing
from shared.store.redis import Lane, client
from shared.store.secrets import Vault
from shared.store.wal import Wal
from shared.telemetry.log import Log
from shared.telemetry.metrics import Metrics
from shared.telemetry.trace import tracer
from shared.upstream.credentials import Credentials
from shared.upstream.session import Session

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Node:
    gateway: Gateway
    watch: Watch
    lane: Lane
    streams: LiveStreams

"""Structured logs: one JSON object a line on stderr, with the request id and never a prompt or a secret.

Calls are remembered and written a few times a second, so that a line costs the hot path next to nothing.
Everything else goes through `logging`, whose records pass the same redaction.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime

import msgspec

from shared.domain.decision import Tried
from shared.domain.failure import Failure, FailureClass
from shared.domain.usage import Outcome, UsageEvent

FLUSH_S = 0.2
SECRETS = re.compile(
    r"wsk_[0-9A-Za-z]{12}_[0-9A-Za-z_]+|\b(?:sk|gsk|pk|xai|nvapi|fw|key)-[0-9A-Za-z_\-]{8,}|(?i:bearer)\s+[^\s\"',]+"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)
"""Our keys, vendors' key shapes, bearer credentials, and user:password in URLs."""


def redact(text: str) -> str:
    return SECRETS.sub("[redacted]", text)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = redact(f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}")
            line["traceback"] = redact(self.formatException(record.exc_info))
        return msgspec.json.encode(line).decode()


def configure(level: str) -> None:
    """Send `logging` to stderr as JSON. Raises ValueError for a level that does not exist."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("asyncio", "aiohttp.access", "alembic", "opentelemetry", "arq.worker"):
        logging.getLogger(chatty).setLevel(max(root.level, logging.WARNING))


class CallLine(msgspec.Struct, gc=False):
    """One call: ids, outcome, tokens, cost, times; nothing of what was said. Structs are encoded faster than dicts."""

    time: str
    level: str
    message: str
    request_id: str
    organisation: str
    team: str
    key: str
    model: str
    provider: str
    stream: bool
    outcome: Outcome
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int
    duration_ms: int
    first_token_ms: int | None


class FailedCallLine(CallLine, gc=False):
    failure: FailureClass
    provider_status: int | None
    why: str | None
    """In the transport's words, where nothing was sent: the address, the certificate, the proxy."""


class RetriedCallLine(CallLine, gc=False):
    failure: FailureClass | None
    provider_status: int | None
    attempts: tuple[Tried, ...]


class Log:
    """The calls' log."""

    def __init__(self, *, enabled: bool = True, descriptor: int = 2) -> None:
        self._enabled = enabled
        self._descriptor = descriptor
        self._calls: list[tuple[float, UsageEvent, Failure | None]] = []
        self._scheduled = False
        self._second = 0
        self._prefix = ""

    def call(self, event: UsageEvent, failure: Failure | None) -> None:
        """One line for one call: ids, outcome, tokens, cost, times; nothing of what was said."""
        if not self._enabled:
            return
        self._calls.append((time.time(), event, failure))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def _line(self, at_s: float, event: UsageEvent, failure: Failure | None) -> CallLine:
        said = (
            self._time(at_s), "info" if failure is None else "warning", "call", event.event_id, event.organisation_id,
            event.team_id, event.key_id, event.model, event.provider, event.stream, event.outcome, event.input_tokens,
            event.output_tokens, event.cost_nano_usd, event.duration_ms, event.first_token_ms,
        )  # fmt: skip
        attempts = () if event.decision is None else event.decision.tried
        if attempts:
            kind, status = (None, None) if failure is None else (failure.failure_class, failure.status)
            return RetriedCallLine(*said, kind, status, attempts)
        if failure is None:
            return CallLine(*said)
        why = None if failure.sent else failure.message
        return FailedCallLine(*said, failure.failure_class, failure.status, why)

    def _time(self, at_s: float) -> str:
        """RFC 3339 with milliseconds; the part that stays for a second is made once a second."""
        second = int(at_s)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._prefix}.{int((at_s - second) * 1000):03d}Z"

    def flush(self) -> None:
        self._scheduled = False
        calls, self._calls = self._calls, []
        if not calls:
            return
        block = memoryview(_encode_lines([self._line(*call) for call in calls]))
        try:
            while block:
                block = block[os.write(self._descriptor, block) :]
        except OSError:
            return  # stderr is gone or full: a log line is no reason to fail a call


_encode_lines = msgspec.json.Encoder().encode_lines

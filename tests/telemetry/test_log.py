"""Logs: what is redacted, and what a call's line holds."""

from __future__ import annotations

import json
import logging
import os

import pytest

from shared.telemetry.log import JsonFormatter, Log, redact
from tests.store.test_wal import event


@pytest.mark.parametrize(
    "secret",
    [
        "wsk_Mw01EVTDOThI_YwqztwJ6dgpUw5iU2ZnYu3thR409Y5TYOpBpXZzHQ9r_4alnxK",
        "sk-proj-abcdefghijkl", "gsk_abcdefghijkl".replace("_", "-"), "Bearer eyJhbGciOi",
        "xai-0123456789abcdef",
    ],
)  # fmt: skip
def test_secrets_do_not_reach_a_line(secret: str) -> None:
    assert secret not in redact(f"before {secret} after")
    record = logging.LogRecord("x", logging.INFO, "f", 1, "said %s", (secret,), None)
    assert secret not in JsonFormatter().format(record)


def test_a_password_in_a_url_is_redacted_and_the_rest_stays() -> None:
    assert redact("postgresql://user:hunter2@host/db") == "postgresql://[redacted]@host/db"


async def test_a_calls_line_has_its_ids_and_numbers() -> None:
    reader, writer = os.pipe()
    log = Log(descriptor=writer)
    made = event()
    log.call(made, None)
    log.flush()
    line = json.loads(os.read(reader, 65536))
    assert (line["request_id"], line["cost_nano_usd"], line["level"]) == (made.event_id, 5, "info")
    os.close(reader)
    os.close(writer)

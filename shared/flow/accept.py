"""Accept: who asks, and what. The key is checked from the head alone, before a byte of the body is read."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Reason, Refused, refuse
from shared.flow import openrouter, stored
from shared.snapshot.snapshot import KeyEntry, Snapshot
from shared.store.secrets import parse_key
from shared.wire.codec import read_facts
from shared.wire.envelope import open_envelope
from shared.wire.multipart import is_form, open_form

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange, Gateway

RESPONSES = WireFormat.OPENAI_RESPONSES
"""For what every call asks: Python 3.11 looks an enum's members up in Python."""
MOST_RECOGNISED = 50_000
FORMS = ("transcriptions",)
"""Operations whose body may be multipart/form-data."""


async def accept(x: Exchange) -> None:
    """Fills in key, envelope and call facts. Raises Refused: 401, 415, 413, 408 or 400."""
    gateway = x.gateway
    x.key = authenticate(gateway, x.snapshot, x.arrival.credential)
    if gateway.in_flight > gateway.settings.max_in_flight:
        raise refuse(
            Reason.OVERLOADED, 503, "This gateway node is at its limit of calls in flight. Retry shortly.",
            retry_after_s=1.0, retry=True,
        )  # fmt: skip
    content_type = x.arrival.content_type
    form = content_type is not None and x.arrival.operation in FORMS and is_form(content_type)
    if not form:
        check_content_type(content_type)
    body = await x.arrival.read_body()
    x.body_bytes = len(body)
    x.envelope = open_form(body, content_type or "") if form else open_envelope(body)
    if x.arrival.wire_format is RESPONSES:
        await stored.recall(x)
    x.deadline_s = x.started_s + deadline_in_s(x)
    x.call = read_facts(x.arrival.wire_format, x.arrival.operation, x.envelope, x.arrival.model, x.arrival.stream)
    if x.arrival.openrouter:
        openrouter.accept(x)


MOST_DEADLINE_S = 86_400.0


def deadline_in_s(x: Exchange) -> float:
    """How long the call may take. Raises Refused (400)."""
    told = x.arrival.deadline
    if told is None:
        return x.gateway.settings.deadline_s
    try:
        wanted = float(told)
    except ValueError:
        wanted = 0.0
    if not 0 < wanted <= MOST_DEADLINE_S:
        raise refuse(
            Reason.INVALID_FIELD, 400,
            f"Invalid value for 'x-waystation-deadline-s': expected a number of seconds, {MOST_DEADLINE_S:g} at most.",
            field="x-waystation-deadline-s", retry=False,
        )  # fmt: skip
    return wanted


def authenticate(gateway: Gateway, snapshot: Snapshot, credential: str | None) -> KeyEntry:
    """The key's entry in the snapshot. No look-up leaves the process; the digest is compared in constant time."""
    if not credential:
        raise refuse(Reason.MISSING_KEY, 401, "You did not send a key. Send it as `Authorization: Bearer <key>`.", retry=False)
    entry = snapshot.recognised.get(credential) or recognise(gateway, snapshot, credential)
    if entry.revoked:
        raise refuse(Reason.INVALID_KEY, 401, "This key was revoked. Ask for a new one.", retry=False)
    if entry.expires_at_s is not None and entry.expires_at_s <= gateway.clock.now_s():
        raise refuse(Reason.INVALID_KEY, 401, "This key has expired. Ask for a new one.", retry=False)
    return entry


def recognise(gateway: Gateway, snapshot: Snapshot, credential: str) -> KeyEntry:
    """Checksum, public id, HMAC: whose key this is. Raises Refused."""
    parsed = parse_key(credential)
    entry = snapshot.key(parsed.public_id) if parsed is not None else None
    if parsed is None or entry is None:
        raise unknown_key()
    digest = gateway.vault.digest(parsed.secret)
    if not any(hmac.compare_digest(digest, known) for known in entry.digests):
        raise unknown_key()
    if len(snapshot.recognised) >= MOST_RECOGNISED:
        snapshot.recognised.clear()
    snapshot.recognised[credential] = entry
    return entry


def unknown_key() -> Refused:
    return refuse(Reason.INVALID_KEY, 401, "This key is not known here. Check it, or ask for a new one.", retry=False)


def check_content_type(content_type: str | None) -> None:
    if content_type is None or content_type == "application/json":
        return
    essence = content_type.partition(";")[0].strip().lower()
    if essence != "application/json" and not (essence.startswith("application/") and essence.endswith("+json")):
        raise refuse(
            Reason.UNSUPPORTED_MEDIA_TYPE, 415,
            f"Content-Type {essence[:80]!r} is not supported here: send JSON with `Content-Type: application/json`.",
            field="content-type", retry=False,
        )  # fmt: skip

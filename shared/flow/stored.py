"""Stored: the state that /v1/responses promises, kept by the gateway itself and not by providers.

So it works at every provider, and nobody's conversation can be reached through a credential that tenants share. What an id
stands for is put into the input before anything is admitted or sent: a longer prompt is reserved and billed as one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from shared.domain.refusal import Reason, Refused, refuse
from shared.store.redis import RedisUnavailable
from shared.store.responses import Kept
from shared.wire.envelope import Envelope, invalid_field, open_envelope

if TYPE_CHECKING:
    from shared.flow.exchange import Exchange

OURS = re.compile(r"[a-z]+_([0-9a-f]{32})[0-9a-f]{4}")
"""An item's id as the gateway mints it: the response's is in it (wire/openai_responses/reply.py)."""


async def recall(x: Exchange) -> None:
    """Put earlier items in front of the input. Raises Refused: 400 for an id that is not there, 503 without Redis, 413."""
    envelope = x.envelope
    if envelope.value("conversation") is not None:  # at a provider it would be in reach of every tenant
        raise invalid_field("conversation", "No conversations are stored here: use 'previous_response_id', or send the input.")
    previous = envelope.value("previous_response_id")
    items = _items(envelope)
    if previous is not None:
        x.previous_response_id = previous
        kept = await _kept(x, "previous_response_id", previous)
        items = [*kept.input, *kept.response.get("output", ()), *items]
    referred = [item for item in items if type(item) is dict and item.get("type") == "item_reference"]
    if referred:
        items = [await _referred(x, item) for item in items]
    if previous is not None or referred:
        body = envelope.edited({"input": orjson.dumps(items)}, drop=["previous_response_id"])
        if len(body) > x.gateway.settings.max_body_bytes:
            raise refuse(
                Reason.BODY_TOO_LARGE, 413, "The conversation before this response is larger than a request may be.",
                field="previous_response_id", retry=False,
            )  # fmt: skip
        x.envelope, x.body_bytes = open_envelope(body), len(body)
    if envelope.value("store") is not False and x.gateway.responses.kept_s > 0:
        x.history = items


def _items(envelope: Envelope) -> list[Any]:
    given = envelope.value("input")
    if type(given) is str:
        return [{"type": "message", "role": "user", "content": given}]
    return given if type(given) is list else []


async def _kept(x: Exchange, field: str, response_id: Any) -> Kept:
    if type(response_id) is not str or not 0 < len(response_id) <= 200:
        raise invalid_field(field, f"'{field}' must be the id of a response.")
    principal = x.key.principal
    try:
        kept = await x.gateway.responses.read(principal.organisation_id, principal.team_id, response_id)
    except RedisUnavailable:
        raise unavailable() from None
    if kept is None:  # never a silently fresh context
        raise not_found(field, response_id)
    return kept


async def _referred(x: Exchange, item: Any) -> Any:
    """The item that an item_reference stands for."""
    if type(item) is not dict or item.get("type") != "item_reference":
        return item
    number = item.get("id")
    found = OURS.fullmatch(number) if type(number) is str else None
    if found is None:
        raise not_found("input", str(number)[:200])
    kept = await _kept(x, "input", f"resp_{found[1]}")
    for each in kept.response.get("output", ()):
        if each.get("id") == number:
            return each
    raise not_found("input", str(number))


def not_found(field: str, response_id: str) -> Refused:
    what = f"'{field}': there is no response {response_id[:200]!r} here: it was never stored, or its time is over."
    return invalid_field(field, f"{what} Send the whole input.")


def unavailable() -> Refused:
    return refuse(
        Reason.OVERLOADED, 503, "Stored responses cannot be reached at the moment. Retry shortly.",
        retry_after_s=1.0, retry=True,
    )  # fmt: skip


async def keep(x: Exchange, response: dict[str, Any] | None) -> None:
    """Keep the answer before its end is sent: whoever has the id can refer to it at once."""
    if response is None or x.history is None or type(response.get("id")) is not str:
        return
    principal = x.key.principal
    try:
        kept = Kept(x.history, response)
        if not await x.gateway.responses.keep(principal.organisation_id, principal.team_id, kept):
            x.gateway.metrics.response_not_kept.inc()
    except RedisUnavailable:
        x.gateway.metrics.response_not_kept.inc()

"""Explain: what the router would do with a call, and why. The plan is the one that it would execute (choose.planned); around it
is what admission would ask for. Nothing is counted, reserved or sent.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from shared.admission.estimate import TYPICAL_OUTPUT_TOKENS
from shared.domain.catalogue import Deployment, WireFormat
from shared.domain.money import Price, nano_to_usd
from shared.domain.refusal import Refusal
from shared.flow.admit import covered, quoted
from shared.flow.choose import Asked, Seen, planned, unbounded
from shared.flow.sessions import Session, Sessions, numbered
from shared.routing.plan import Plan, refusal, told
from shared.snapshot.snapshot import KeyEntry, Snapshot
from shared.wire import middle_out
from shared.wire.codec import FACTS, read_facts
from shared.wire.envelope import Envelope, invalid_field, open_envelope
from shared.wire.extensions import Extensions, read_extensions
from shared.wire.needs import read_needs
from shared.wire.openai_chat import ChatCall
from shared.wire.preferences import CLIENTS

LEAST: dict[str, dict[str, Any]] = {
    "completions": {"prompt": ""},
    "embeddings": {"input": "x"},
    "images": {"prompt": "x"},
    "moderations": {"input": "x"},
    "rerank": {"query": "x", "documents": []},
    "speech": {"input": "x"},
}
LEAST_CHAT: dict[WireFormat, dict[str, Any]] = {
    WireFormat.OPENAI_CHAT: {"messages": [{"role": "user", "content": ""}]},
    WireFormat.ANTHROPIC_MESSAGES: {"messages": [{"role": "user", "content": ""}], "max_tokens": 1024},
    WireFormat.GEMINI: {"contents": []},
    WireFormat.COHERE: {"messages": [{"role": "user", "content": ""}]},
}
"""What a body may leave out when it is only to be explained."""


def explain(
    seen: Seen,
    snapshot: Snapshot,
    key: KeyEntry,
    body: bytes,
    *,
    wire_format: WireFormat = WireFormat.OPENAI_CHAT,
    operation: str = "chat",
    provider: str | None = None,
    openrouter: bool = False,
) -> dict[str, Any]:
    """Plain data for JSON. `error` is what the client would be told when nothing is left. `openrouter`: the call would go to
    /api/v1. Raises Refused: the body cannot be read, or its model leads nowhere."""
    if (wire_format, operation) not in FACTS:
        raise invalid_field("format", f"There is no {operation[:60]!r} in the format {wire_format.value!r}.")
    envelope = open_envelope(body)
    missing = LEAST_CHAT.get(wire_format, {}) if operation == "chat" else LEAST.get(operation, {})
    values = orjson.loads(body)
    added = {name: value for name, value in missing.items() if name not in values}
    if added:
        envelope = open_envelope(orjson.dumps(values | added))
    model = values.get("model")
    call = read_facts(wire_format, operation, envelope, model if type(model) is str else None, False)
    extensions = read_extensions(envelope, None, operation) if openrouter and wire_format in CLIENTS else None
    asked = Asked(
        snapshot=snapshot, key=key, wire_format=wire_format, operation=operation, envelope=envelope, call=call,
        provider=provider, extensions=extensions, session=session_of(seen, key, call, extensions),
    )  # fmt: skip
    plan: Plan = planned(asked, seen, counted=False)
    error: Refusal | None = None
    if plan.candidates:
        _, kept = covered(key, call, len(body), plan.candidates, TYPICAL_OUTPUT_TOKENS)
        plan = unbounded(plan, kept) or plan
    else:
        error = refusal(plan)
    found = told(plan)
    for entry, deployment in zip(found["candidates"], plan.candidates, strict=True):
        quote = quoted(call, len(body), deployment, TYPICAL_OUTPUT_TOKENS)
        entry["price"] = price(deployment, seen.clock.now_s())
        entry["at_most_usd"] = str(nano_to_usd(quote.bound.full_nano_usd)) if quote.priced else None
        entry |= standing(seen, deployment)
        if openrouter and wire_format in CLIENTS and operation == "chat":
            entry |= shortened(wire_format, envelope, deployment, call, extensions)
    needs = read_needs(wire_format, operation, envelope, call)
    return found | {
        "needs": {
            name: value
            for name, value in msgspec.to_builtins(needs).items()
            if name not in ("parameters", "reasoning") and value not in (False, None)
        },
        "key": {
            "id": key.principal.key_id,
            "organisation": key.principal.organisation_id,
            "team": key.principal.team_id,
            "policy": msgspec.to_builtins(key.policy) if key.policy is not None else {},
        },
        "limits": [
            {"of": limit.scope.value, "rpm": limit.requests_per_minute, "tpm": limit.tokens_per_minute,
             "concurrent": limit.concurrent_requests}
            for limit in key.limits
        ],
        "budgets": [
            {"of": budget.scope.value, "usd": str(nano_to_usd(budget.limit_nano_usd)), "period": budget.period.value,
             "hard": budget.hard}
            for budget in key.budgets
        ],
        "error": None if error is None else {"status": error.status, "reason": error.reason.value, "message": error.message},
    }  # fmt: skip


def session_of(seen: Seen, key: KeyEntry, call: ChatCall, extensions: Extensions | None) -> Session | None:
    """A node remembers its sessions; who only reads the configuration does not."""
    if extensions is None or extensions.session is None:
        return None
    number = numbered(key.principal.organisation_id, call.model, extensions.session)
    known: Sessions | None = getattr(seen, "sessions", None)
    return Session(number, None if known is None else known.of(number, seen.clock.monotonic_s()))


def shortened(
    client: WireFormat, envelope: Envelope, deployment: Deployment, call: ChatCall, extensions: Extensions | None
) -> dict[str, Any]:
    """What would go from the middle of a prompt that is too long for it."""
    if not middle_out.wanted(None if extensions is None else extensions.compress, client, deployment, call):
        return {}
    cut = middle_out.fitted(envelope, deployment, call)
    return {} if cut is None else {"shortened": {"messages": cut.before, "sent": cut.after, "tokens": cut.tokens}}


def price(deployment: Deployment, now_s: float) -> dict[str, Any] | None:
    """USD per million tokens; where it depends on the time, the cheaper ones too, when they hold, and whether they do."""
    known = deployment.model.price
    if known is None:
        return None
    told: dict[str, Any] = _usd(known) | {"version": known.version}
    cheaper = known.cheaper
    if cheaper is not None and cheaper.times is not None:
        now = known.during(now_s, now_s) is cheaper
        told["cheaper"] = {**_usd(cheaper), "times": cheaper.times.told(), "now": now}
    return told


def _usd(price: Price) -> dict[str, str]:
    return {
        "input": str(nano_to_usd(price.input_nano_per_mtok)),
        "output": str(nano_to_usd(price.output_nano_per_mtok)),
    }


def standing(seen: Seen, deployment: Deployment) -> dict[str, Any]:
    """What is known of its health and load, where anything is."""
    found: dict[str, Any] = {}
    health = seen.health
    how = None if health is None else health.standing(deployment, seen.clock.now_s())
    if how is not None:
        found["health"] = {"state": str(how.state), "until_s": how.until_s, "reason": how.reason}
    figures = seen.load.figures.get(deployment.key)
    if figures is not None:
        found["load"] = {"in_flight": figures.in_flight, "uses": figures.uses, "ttft_s": figures.ttft_s}
    return found

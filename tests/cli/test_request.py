"""What `waystation request` says to people."""

from __future__ import annotations

from services.cli.request import lines

EVENT = {
    "model": "spare/chat", "connection": "spare", "provider": "custom", "operation": "chat", "outcome": "ok",
    "input_tokens": 9, "output_tokens": 3, "cost_nano_usd": 39_000, "duration_ms": 80, "price_version": "v1",
}  # fmt: skip
FOUND = {
    "request_id": "id", "occurred_at": "2026-11-21T00:00:00+00:00", "organisation_id": "o", "team_id": "t", "key_id": "k",
    "event": EVENT, "beside": [EVENT | {"model": "lab/chat", "connection": "lab", "outcome": "cut", "cost_nano_usd": 1_000}],
    "total_cost_nano_usd": 40_000,
    "decision": {
        "asked": "best", "route": "best", "strategy": "cheapest",
        "tried": [{"deployment": "lab/chat", "connection": "lab", "result": "overloaded", "status": 503, "duration_ms": 7}],
        "candidates": [{"deployment": "lab/chat", "connection": "lab", "score": 1.5}],
        "removed": [{"deployment": "far/chat", "connection": "far", "rule": "region", "why": "is not in eu"}],
        "limits": [{"unit": "requests", "limit": 7, "remaining": 6, "reset_ms": 9}],
    },
}  # fmt: skip


def test_a_call_in_lines() -> None:
    assert lines(FOUND) == [
        "id of 2026-11-21T00:00:00+00:00: chat, ok",
        "served by spare/chat over spare (custom), 80 ms",
        "9 tokens in, 3 out, 0.00004 USD at prices v1",
        "whose: organisation o, team t, key k",
        "asked for best (route best, cheapest)",
        "  tried lab/chat over lab: overloaded 503, 7 ms",
        "  candidate lab/chat over lab, score 1.5",
        "  removed far/chat over far: region: is not in eu",
        "  left: 6 of 7 requests a minute",
        "  billed beside: lab/chat over lab: cut, 0.000001 USD",
    ]


def test_a_call_whose_decision_is_forgotten() -> None:
    assert len(lines(FOUND | {"decision": None, "beside": []})) == 4

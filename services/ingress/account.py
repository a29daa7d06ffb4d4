"""What OpenRouter's clients ask about their key and their calls: `GET /api/v1/key` (`/auth/key`), `/credits`, `/generation`.

Amounts are USD as JSON numbers, because that is the format; the ledger that they come from counts nano-USD.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from services.ingress.models import caller, json
from services.ingress.node import Node
from shared.domain.limits import Budget, Period, Scope, period_end, period_start
from shared.domain.money import MAX_USD
from shared.domain.refusal import Reason, refuse
from shared.snapshot.snapshot import KeyEntry
from shared.store import ledger

NANO = 1_000_000_000
NAMES = {Period.DAY: "daily", Period.WEEK: "weekly", Period.MONTH: "monthly"}
UUID_IN_IT = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?7[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}")


async def key(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """The key's own spending, and its own hard budget, the one with the least left. Raises Refused."""
    entry = caller(request, node)
    now = _now(node)
    hard = [budget for budget in entry.budgets if budget.hard]
    spells = [_spell(Scope.KEY, entry.principal.key_id, period, now) for period in Period]
    spells += [_spell(budget.scope, budget.scope_id, budget.period, now) for budget in hard]
    amounts = await _spent(node, spells)
    spent = dict(zip(Period, amounts, strict=False))
    layers = zip(hard, amounts[len(spent) :], strict=True)
    budgets = [_told_budget(budget, amount, now) for budget, amount in layers]
    own = [budget for budget in entry.budgets if budget.scope is Scope.KEY and budget.hard]
    limit = min(own, key=lambda budget: budget.limit_nano_usd - spent[budget.period], default=None)
    usage = {f"usage_{name}": spent[period] / NANO for period, name in NAMES.items()}
    return json(
        {
            "data": {
                "label": entry.principal.key_name or entry.principal.key_id,
                "limit": None if limit is None else limit.limit_nano_usd / NANO,
                "limit_remaining": None if limit is None else max(0, limit.limit_nano_usd - spent[limit.period]) / NANO,
                "limit_reset": None if limit is None else NAMES.get(limit.period),
                "include_byok_in_limit": False,
                "usage": spent[Period.TOTAL] / NANO,
                **usage,
                "byok_usage": 0,
                **{f"byok_{name}": 0 for name in usage},
                "is_free_tier": False,
                "is_management_key": False,
                "is_provisioning_key": False,
                "creator_user_id": None,
                "organization_id": entry.principal.organisation_id,
                "workspace_id": entry.principal.team_id,
                "allowed_data_regions": [],
                "free_model_daily_requests": {"limit": 0, "used": 0, "remaining": 0},
                "expires_at": _iso(entry.expires_at_s),
                "rate_limit": _rate_limit(entry),
                "budgets": budgets,
                "effective_budget": min(budgets, key=lambda budget: budget["remaining_usd"], default=None),
            }
        }
    )


SCOPES = {Scope.ORGANISATION: "workspace", Scope.TEAM: "workspace", Scope.KEY: "key_limit"}


def _told_budget(budget: Budget, spent: int, now: datetime) -> dict[str, Any]:
    """A hard budget as one of OpenRouter's layers."""
    ends = period_end(budget.period, now)
    return {
        "scope": SCOPES[budget.scope],
        "budget_id": budget.budget_id,
        "guardrail_id": None,
        "include_byok": False,
        "limit_usd": budget.limit_nano_usd / NANO,
        "spend_usd": spent / NANO,
        "remaining_usd": (budget.limit_nano_usd - spent) / NANO,
        "reset_interval": NAMES.get(budget.period),
        "resets_at": None if ends is None else ends.isoformat(),
    }


async def credits(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """What the key has used, and how much that and the rest of its budgets is. Without a hard budget nothing bounds it: the
    total is then the largest budget there is, since the format wants a number. Raises Refused."""
    entry = caller(request, node)
    now = _now(node)
    hard = [budget for budget in entry.budgets if budget.hard]
    own = _spell(Scope.KEY, entry.principal.key_id, Period.TOTAL, now)
    spells = [_spell(budget.scope, budget.scope_id, budget.period, now) for budget in hard]
    used, *spent = await _spent(node, [own, *spells])
    left = [budget.limit_nano_usd - amount for budget, amount in zip(hard, spent, strict=True)]
    total = (used + max(0, min(left))) / NANO if left else int(MAX_USD)
    return json({"data": {"total_credits": total, "total_usage": used / NANO}})


async def generation(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """One call of the caller's team, by the id of an answer or by its x-request-id. It is there once it is booked. Raises
    Refused (404)."""
    entry = caller(request, node)
    asked = request.query.get("id", "")
    found = UUID_IN_IT.search(asked.lower())
    event = await ledger.event(node.pool, str(UUID(found[0]))) if found else None
    principal = entry.principal
    if event is None or (event["organisation_id"], event["team_id"]) != (principal.organisation_id, principal.team_id):
        raise refuse(
            Reason.UNKNOWN_URL, 404, f"There is no generation {asked[:200]!r} here, or it is not booked yet.",
            field="id", retry=False,
        )  # fmt: skip
    return json({"data": _told(event) | {"id": asked}})


def _told(event: dict[str, Any]) -> dict[str, Any]:
    """A ledger entry in OpenRouter's words; what is not known here is null."""
    cost, first, whole = event["cost_nano_usd"] / NANO, event["first_token_ms"], event["duration_ms"]
    nothing = dict.fromkeys(
        (
            "finish_reason", "native_finish_reason", "cache_discount", "moderation_latency", "http_referer", "app_id",
            "user_agent", "upstream_id", "external_user", "session_id", "preset_id", "service_tier", "router",
            "web_search_engine", "workspace_id", "num_media_prompt", "num_media_completion", "num_search_results",
            "num_fetches", "native_tokens_completion_images", "num_input_audio_prompt",
        )
    )  # fmt: skip
    return nothing | {
        "id": str(event["event_id"]),
        "model": event["model"],
        "created_at": event["occurred_at"].isoformat(),
        "provider_name": event["provider"],
        "api_type": event["operation"],
        "streamed": event["stream"],
        "cancelled": event["outcome"] == "client_gone",
        "tokens_prompt": event["input_tokens"],
        "tokens_completion": event["output_tokens"],
        "native_tokens_prompt": event["input_tokens"],
        "native_tokens_completion": event["output_tokens"],
        "native_tokens_reasoning": event["reasoning_tokens"],
        "native_tokens_cached": event["cache_read_tokens"],
        "total_cost": cost,
        "usage": cost,
        "upstream_inference_cost": cost,
        "latency": whole if first is None else first,
        "generation_time": whole,
        "is_byok": False,
        "data_region": "global",
        "origin": "",
        "provider_responses": [{"provider_name": event["provider"], "status": 200 if event["outcome"] == "ok" else None}],
    }


def _now(node: Node) -> datetime:
    return datetime.fromtimestamp(node.gateway.clock.now_s(), UTC)


def _spell(scope: Scope, scope_id: str, period: Period, now: datetime) -> ledger.Spell:
    return ledger.Spell(scope, scope_id, period_start(period, now))


async def _spent(node: Node, spells: Sequence[ledger.Spell]) -> list[int]:
    async with node.pool.connect() as connection:
        return await ledger.spent(connection, spells)


def _iso(at_s: float | None) -> str | None:
    return None if at_s is None else datetime.fromtimestamp(at_s, UTC).isoformat()


def _rate_limit(entry: KeyEntry) -> dict[str, Any]:
    rpm = [limit.requests_per_minute for limit in entry.limits if limit.requests_per_minute is not None]
    return {"requests": min(rpm, default=-1), "interval": "1m", "note": "the narrowest of organisation, team and key"}

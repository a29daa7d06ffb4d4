"""`waystation request ID`: what the books say of one call, and the decision behind it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click

from services.cli.manage import database
from services.cli.say import answer, fail, guarded, json_option, settings_here, wait_for
from shared.domain.money import nano_to_usd
from shared.store import records


@click.command()
@click.argument("request_id")
@json_option
@guarded
def request(request_id: str, as_json: bool) -> None:
    """One call by its x-request-id: what could have served it, what did, what it cost."""
    settings = settings_here()
    try:
        wanted = str(UUID(request_id))
    except ValueError:
        fail(f"{request_id!r} is no request id: it is what an answer's x-request-id says")

    async def work() -> dict[str, Any] | None:
        async with database(settings) as pool:
            return await records.record(pool, wanted)

    found = wait_for(work())
    if found is None:
        fail(f"there is no call {wanted}, or it is not booked yet")
    answer(found, "\n".join(lines(found)), as_json=as_json)


def lines(found: dict[str, Any]) -> list[str]:
    event = found["event"]
    cost = usd({"cost_nano_usd": found["total_cost_nano_usd"]})
    tokens = f"{event['input_tokens']} tokens in, {event['output_tokens']} out"
    return [
        f"{found['request_id']} of {found['occurred_at']}: {event['operation']}, {event['outcome']}",
        f"served by {event['model']} over {event['connection']} ({event['provider']}), {event['duration_ms']} ms",
        f"{tokens}, {cost} USD at prices {event['price_version'] or 'unknown'}",
        f"whose: organisation {found['organisation_id']}, team {found['team_id']}, key {found['key_id']}",
        *decided(found["decision"] or {}),
        *(f"  billed beside: {place(each, 'model')}: {each['outcome']}, {usd(each)} USD" for each in found["beside"]),
    ]


def decided(decision: dict[str, Any]) -> list[str]:
    made = []
    if "asked" in decision:
        via = f" (route {decision['route']}, {decision.get('strategy', '')})" if decision.get("route") else ""
        made.append(f"asked for {decision['asked']}{via}")
    for each in decision.get("tried", ()):
        status = f" {each['status']}" if each.get("status") else ""
        made.append(f"  tried {place(each)}: {each['result']}{status}, {each.get('duration_ms', 0)} ms")
    for each in decision.get("candidates", ()):
        score = f", score {each['score']:g}" if each.get("score") is not None else ""
        state = f", {each['state']}" if each.get("state") else ""
        made.append(f"  candidate {place(each)}{score}{state}")
    made += [f"  removed {place(each)}: {each['rule']}: {each['why']}" for each in decision.get("removed", ())]
    made += [f"  left: {each['remaining']} of {each['limit']} {each['unit']} a minute" for each in decision.get("limits", ())]
    return made


def place(each: dict[str, Any], model: str = "deployment") -> str:
    return f"{each[model]} over {each['connection']}"


def usd(event: dict[str, Any]) -> str:
    return f"{nano_to_usd(event['cost_nano_usd']):f}"

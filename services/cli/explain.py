"""`waystation explain`: which deployments a call would go to, in order, and why no other.

Without `--at` the plan is made here, from the configuration alone: what nodes have seen of health and load is theirs. With it
the node at that URL is asked, which needs an administrator's key in WAYSTATION_KEY (or the key that the question is about).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from services.cli.say import answer, fail, guarded, json_option, settings_here, wait_for
from shared.domain.catalogue import WireFormat

FORMATS = ("openai-chat", "openai-responses", "anthropic-messages", "gemini", "cohere")


@click.command()
@click.option("--key", "key_id", help="The key whose call it is, by its id.")
@click.option("--team", help="A team (`name` or `organisation/name`) instead of a key; without either, `default`.")
@click.option(
    "-f", "--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The request's body (JSON)."
)
@click.option("--model", help="A model's or route's name, instead of a body.")
@click.option("--format", "wire_format", type=click.Choice(FORMATS), default="openai-chat",
              show_default=True, help="The wire format of the body.")  # fmt: skip
@click.option("--operation", default="chat", show_default=True, help="chat, completions, embeddings, rerank, …")
@click.option("--openrouter", is_flag=True, help="As at /api/v1, with OpenRouter's extensions.")
@click.option("--at", help="URL of a node to ask, with the key in WAYSTATION_KEY.")
@json_option
@guarded
def explain(
    key_id: str | None,
    team: str | None,
    path: Path | None,
    model: str | None,
    wire_format: str,
    operation: str,
    openrouter: bool,
    at: str | None,
    as_json: bool,
) -> None:
    """Show where a call would go, in order, and why nowhere else."""
    if (path is None) == (model is None):
        fail("say either -f body.json or --model NAME")
    if team is not None and (key_id is not None or at is not None):
        fail("--team goes with neither --key nor --at")
    body = path.read_bytes() if path is not None else json.dumps({"model": model}).encode()
    if at is not None:
        query = {"format": wire_format, "operation": operation} | ({"key_id": key_id} if key_id is not None else {})
        query |= {"openrouter": "true"} if openrouter else {}
        found = wait_for(asked(at, query, body))
    else:
        from services.cli.explained import here  # half of the gateway: nothing that other commands should wait for

        asking = here(
            settings_here(), key_id, team or "default", body, WireFormat(wire_format), operation, openrouter=openrouter
        )
        found = wait_for(asking)
    answer(found, "\n".join(lines(found)), as_json=as_json)


async def asked(url: str, query: dict[str, str], body: bytes) -> Any:
    import aiohttp

    headers = {"Authorization": f"Bearer {os.environ.get('WAYSTATION_KEY', '')}", "Content-Type": "application/json"}
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url.rstrip('/')}/api/explain", params=query, data=body, headers=headers) as reply,
        ):
            found = await reply.json()
            if reply.status != 200:
                fail(f"{found['error']['message']}")
            return found
    except aiohttp.ClientError as error:
        fail(f"{url} cannot be asked: {error}")


def lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    route = f"route {found['route']}, " if found["route"] else ""
    made = [f"{found['asked']}: {route}{found['strategy']}{', in panic: all were unwell' if found['panic'] else ''}"]
    made[0] += ", where its session was served" if found["held"] else ""
    for number, each in enumerate(found["candidates"], 1):
        price = each["price"]
        parts = [f"{price['input']}/{price['output']} USD" if price else "price unknown"]
        if price and "cheaper" in price:
            cheaper = price["cheaper"]
            parts += [f"{cheaper['input']}/{cheaper['output']} {cheaper['times']}{' (now)' if cheaper['now'] else ''}"]
        parts += [f"at most {each['at_most_usd']} USD"] if each["at_most_usd"] is not None else []
        parts += [f"score {each['score']:g}"] if "score" in each else []
        if "shortened" in each:
            parts += [f"{each['shortened']['sent']} of {each['shortened']['messages']} messages, to fit its context"]
        parts += [each["health"]["state"]] if "health" in each else []
        made.append(f"  {number}. {each['model']} ({each['connection']})  {', '.join(parts)}")
    made += [f"  -  {each['model']} ({each['connection']})  fit, beyond the attempts" for each in found["spare"]]
    for each in found["removed"]:
        whose = f" ({each['connection']})" if each["connection"] else ""
        made.append(f"  x  {each['model']}{whose}  {each['rule']}: {each['why']}")
    if found["error"]:
        made.append(f"{found['error']['status']} {found['error']['reason']}: {found['error']['message']}")
    return made

"""All pairs, tried against a running gateway; each cell passes, is refused with a reason, or is wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import aiohttp

from services.matrix.capabilities import CAPABILITIES
from services.matrix.clients import CLIENTS
from services.matrix.conversation import Ask, Client, Heard, Wrong, events_of

PROVIDERS = {
    "openai-chat": "demo/",
    "openai-responses": "demo-responses/",
    "anthropic-messages": "demo-messages/",
    "gemini": "demo-gemini/",
    "cohere": "demo-cohere/",
    "bedrock": "demo-bedrock/anthropic.",
}
"""Provider format → what stands before the simulator's models there."""
AT_ONCE = 8


class Outcome(StrEnum):
    PASS = "pass"  # noqa: S105
    REFUSED = "refused"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    client: str
    provider: str
    capability: str
    outcome: Outcome
    reason: str = ""


class Refusal(Exception):
    """The gateway said no, in the client's own format, and why."""


async def run(url: str, key: str, *, clients: Sequence[str] = (), providers: Sequence[str] = ()) -> list[Cell]:
    """Every cell, in the table's order. `url`: the gateway's, without a path. Raises aiohttp.ClientConnectorError."""
    limit = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(base_url=url, timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def cell(client: Client, provider: str, capability: str) -> Cell:
            async with limit:
                outcome, reason = await _tried(session, key, client, provider, capability)
            return Cell(client=client.name, provider=provider, capability=capability, outcome=outcome, reason=reason)

        wanted = [
            cell(CLIENTS[client], provider, capability)
            for client in clients or CLIENTS
            for provider in providers or PROVIDERS
            for capability in CAPABILITIES
        ]
        return list(await asyncio.gather(*wanted))


async def _tried(
    session: aiohttp.ClientSession, key: str, client: Client, provider: str, capability: str
) -> tuple[Outcome, str]:
    errors = capability == "error"

    async def say(ask: Ask) -> Heard:
        return await _said(session, key, client, ask, errors=errors)

    model: Callable[[str], str] = f"{PROVIDERS[provider]}{{}}".format
    try:
        await CAPABILITIES[capability](say, model)
    except Refusal as refused:
        return Outcome.REFUSED, str(refused)
    except (Wrong, ValueError, KeyError, TypeError) as wrong:
        return Outcome.WRONG, f"{type(wrong).__name__}: {wrong}"
    return Outcome.PASS, ""


async def _said(session: aiohttp.ClientSession, key: str, client: Client, ask: Ask, *, errors: bool) -> Heard:
    """`errors`: an error reply is what is asked for; it comes as `finish` and `error`."""
    path, body = client.request(ask)
    async with session.post(path, json=body, headers=client.headers(key)) as reply:
        raw = await reply.read()
        if reply.status != 200:
            message = client.error(reply.status, json.loads(raw))
            if errors:
                return Heard(finish=f"status {reply.status}", error=message)
            if reply.status == 400:
                raise Refusal(message)
            raise Wrong(f"{reply.status}: {message}")
        if not ask.stream:
            return client.read(json.loads(raw))
        if not reply.content_type == "text/event-stream":
            raise Wrong(f"a stream of {reply.content_type}")
        return client.listen(events_of(raw))

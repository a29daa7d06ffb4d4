"""Pull: what every connection's own list of models holds now, so that new ones are seen."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from shared.domain.catalogue import Connection, Deployment, Model, Provider
from shared.providers import registry
from shared.routing.proxies import ProxyTable
from shared.store import configuration, provider_models
from shared.upstream.credentials import Credentials
from shared.upstream.proxies import Proxies
from shared.upstream.transport import Transport, TransportError
from shared.wire.model_list import read_model_ids
from shared.wire.reply import MalformedReply
from shared.wire.transcription.canonical import Step

log = logging.getLogger(__name__)

MOST_BYTES = 8 * 1024 * 1024


class Pulling:
    def __init__(self, pool: AsyncEngine, transport: Transport, credentials: Credentials, proxies: Proxies) -> None:
        self._pool, self._transport, self._credentials, self._proxies = pool, transport, credentials, proxies
        self._providers = registry.load()

    async def everything(self) -> int:
        """Ask every connection whose provider has a list; how many answered. One that fails harms no other."""
        answered = 0
        configured = await configuration.load(self._pool)
        table = ProxyTable(configured.proxies)
        for connection in configured.connections:
            provider = self._providers.get(connection.provider)
            if provider is None or "models" not in provider.endpoints:
                continue
            try:
                ids = await self._list(connection, provider, table)
            except (TransportError, MalformedReply) as error:
                log.warning("connection %s: its models cannot be listed: %s", connection.name, error)
                continue
            await provider_models.saw(self._pool, connection.connection_id, ids)
            answered += 1
        return answered

    async def _list(self, connection: Connection, provider: Provider, table: ProxyTable) -> list[str]:
        """Raises TransportError, MalformedReply."""
        anywhere = Deployment(provider=provider, connection=connection, model=Model(model_id=""))
        proxy = self._proxies.of_call(table, "", "", connection)
        request = self._credentials.step(anywhere, Step(method="GET", path=provider.endpoints["models"]), proxy)
        response = await self._transport.send(request)
        try:
            body = await response.read(MOST_BYTES)
        finally:
            response.close()
        if not 200 <= response.status < 300:
            raise MalformedReply(f"answered {response.status}")
        return read_model_ids(body)


async def pull_models(context: dict[str, Any]) -> None:
    await context["pulling"].everything()

"""What is open, cooling or locked, and taking it away: `/api/resilience`, for administrators' keys."""

from __future__ import annotations

from typing import Any

import pydantic
from aiohttp import web
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from services.ingress.endpoint import read_body
from services.ingress.models import json
from services.ingress.node import Node
from services.ingress.provider_models import administrator
from shared.domain.refusal import Reason, refuse
from shared.flow.accept import check_content_type
from shared.store.document import Strict
from shared.upstream.health.operator import Undo, listed, undo
from shared.wire.envelope import invalid_field


class What(Strict):
    """`{"name": "…"}` or `{"all": true}`."""

    name: str | None = pydantic.Field(default=None, min_length=1, max_length=400)
    all: bool = False

    @pydantic.model_validator(mode="after")
    def one_of_both(self) -> What:
        if (self.name is None) is not self.all:
            raise ValueError("say either a name or all: true")
        return self


async def show(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    """`{"marks": […]}`: see health/operator.py. Raises Refused."""
    administrator(request, node)
    try:
        return json({"marks": await listed(node.redis)})
    except (RedisError, OSError, TimeoutError):
        raise _away() from None


async def unlock(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    return await _undo(request, node, Undo.UNLOCK)


async def reset(request: web.BaseRequest, node: Node) -> web.StreamResponse:
    return await _undo(request, node, Undo.RESET)


async def _undo(request: web.BaseRequest, node: Node, what: Undo) -> web.StreamResponse:
    """`{"unlocked": […]}` or `{"reset": […]}`: names; empty when there was nothing. Raises Refused."""
    entry = administrator(request, node)
    given = await _given(request, node)
    try:
        freed = await undo(node.redis, node.pool, what, given.name, by=entry.principal.key_id)
    except (RedisError, SQLAlchemyError, OSError, TimeoutError):
        raise _away() from None
    return json({"unlocked" if what is Undo.UNLOCK else "reset": freed})


async def _given(request: web.BaseRequest, node: Node) -> What:
    check_content_type(request.headers.get("Content-Type"))
    body = await read_body(request, node.gateway.settings)
    try:
        return What.model_validate_json(body)
    except pydantic.ValidationError as error:
        fault: Any = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in fault["loc"]) or "body"
        raise invalid_field(field, f"'{field}': {fault['msg'].removeprefix('Value error, ')}") from None


def _away() -> Exception:
    told = "The state of breakers and locks, or the audit log, cannot be reached now."
    return refuse(Reason.NOT_READY, 503, told, retry_after_s=1.0, retry=True)

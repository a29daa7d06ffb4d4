"""Engines for the worker's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.store import postgres
from shared.store.redis import client


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(database_url)
    yield made
    await made.dispose()


@pytest_asyncio.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    made = client(redis_url)
    yield made
    await made.aclose()

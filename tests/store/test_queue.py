"""The queue's port: payloads are JSON, and what is no JSON is not run."""

from __future__ import annotations

import json
import pickle

import pytest
from arq.connections import create_pool
from arq.jobs import Job, JobStatus
from arq.worker import Worker, func
from redis.asyncio import Redis

from services.worker.__main__ import close
from shared.store import queue

RAN: list[object] = []


async def note(_: dict[object, object], what: object) -> str:
    RAN.append(what)
    return "noted"


def worker(redis_url: str) -> Worker:
    return Worker(
        functions=[func(note, timeout=5, keep_result=10)],  # type: ignore[arg-type]
        redis_settings=queue.settings(redis_url),
        queue_name=queue.QUEUE,
        job_serializer=queue.serialize,
        job_deserializer=queue.deserialize,
        burst=True,
        handle_signals=False,
        poll_delay=0.05,
    )


def test_a_payload_comes_back_as_it_went() -> None:
    job = {"t": 1, "f": "reap", "a": [1, "ä", None, 1.5], "k": {"x": True}, "et": 1_790_000_000_000}
    assert queue.deserialize(queue.serialize(job)) == job


@pytest.mark.parametrize("raw", [b"", pickle.dumps({"f": "reap"}), b"[1]", b"\xff"])
def test_a_payload_that_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        queue.deserialize(raw)


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq closes so
async def test_a_job_travels_as_json_and_a_pickle_is_never_opened(redis_url: str) -> None:
    RAN.clear()
    pool = await create_pool(
        queue.settings(redis_url), default_queue_name=queue.QUEUE, job_serializer=queue.serialize,
        job_deserializer=queue.deserialize,
    )  # fmt: skip
    try:
        good = await pool.enqueue_job("note", "hello")
        assert good is not None
        async with Redis.from_url(redis_url) as redis:
            stored = await redis.get(f"arq:job:{good.job_id}")
            assert json.loads(stored)["a"] == ["hello"]
            await redis.set("arq:job:evil", pickle.dumps({"t": None, "f": "note", "a": ("evil",), "k": {}, "et": 0}))
            await redis.zadd(queue.QUEUE, {"evil": 1})
        running = worker(redis_url)
        await running.async_run()
        await close(running)
        assert RAN == ["hello"]
        assert await good.result(timeout=5) == "noted"
        evil = Job("evil", pool, queue.QUEUE, queue.deserialize)
        assert await evil.status() is not JobStatus.queued
    finally:
        await pool.aclose(close_connection_pool=True)

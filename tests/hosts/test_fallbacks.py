"""A call goes on to the next deployment when that can cure it, and never when the client or the bill would notice."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from sqlalchemy import text

from services.cli.engines import free_port
from shared.domain.limits import Period
from shared.providers import registry
from shared.store import tenants
from shared.store.apply import apply_document
from shared.store.document import Document
from shared.store.wal import INTENT, read
from tests.hosts.cluster import Cluster, call, client, running
from tests.upstreams import Upstream, upstream
from tests.upstreams.scripted import scripted

STREAMED = ("cut-after-0", "empty", "html", "json-for-stream")
PRICES = {"lab/chat": {"input": "1", "output": "2"}, "spare/chat": {"input": "3", "output": "4"}}


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path, spare: Upstream) -> AsyncIterator[Cluster]:
    """`lab/chat` falls back to `spare/chat`."""
    async with running(database_url, redis_url, tmp_path) as started:
        entry = {"provider": "custom", "api_key": "env:LAB_KEY"}
        await started.apply(
            connections=[entry | {"name": "spare", "prefix": "spare", "base_url": spare.url}],
            prices=PRICES, fallbacks={"lab/chat": ["spare/chat"]},
        )  # fmt: skip
        yield started


async def asked(cluster: Cluster, **fields: Any) -> tuple[int, str | None, Any]:
    """Status, number of attempts, body."""
    async with client(cluster) as one:
        status, headers, body = await one.chat(call(max_tokens=20, **fields))
    listed = headers.get("x-waystation-attempts")
    return status, None if listed is None else str(len(listed.split(", "))), body


async def told_of(cluster: Cluster, request_id: str, key: str) -> Any:
    headers, url = {"Authorization": f"Bearer {key}"}, f"{cluster.url()}/api/requests/{request_id}"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as reply:
        return await reply.json()


@pytest.mark.parametrize("fault", ["fail-503", "fail-429-retry-7", "fail-500", "bad-key", "quota-exhausted", "html-502"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_another_can_cure_is_cured(cluster: Cluster, spare: Upstream, fault: str, stream: bool) -> None:
    cluster.provider.fail(fault)
    status, attempts, body = await asked(cluster, stream=stream)
    assert (status, attempts) == (200, "2")
    assert "You said" in str(body) or b"You" in body
    assert (len(cluster.provider.requests), len(spare.requests)) == (1, 1)
    (row,) = await cluster.booked(1)
    assert (row["provider"], row["connection"], row["model"], row["attempts"]) == ("custom", "spare", "spare/chat", 2)
    assert row["cost_nano_usd"] == row["input_tokens"] * 3_000 + row["output_tokens"] * 4_000
    assert row["outcome"] == "ok"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_that_minimax_tells_with_status_200_is_cured_or_said(
    cluster: Cluster, spare: Upstream, stream: bool
) -> None:
    answer = b'{"choices":null,"base_resp":{"status_code":%d,"status_msg":"told so"}}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    for code, expected in ((2013, 400), (1008, 200)):
        body = answer % code
        async with scripted(head % len(body) + body) as provider:
            await cluster.apply(
                connections=[{"name": "minimax", "provider": "minimax", "base_url": provider.url, "api_key": "env:LAB_KEY"}],
                prices={"minimax/chat": PRICES["lab/chat"]}, fallbacks={"minimax/chat": ["spare/chat"]},
            )  # fmt: skip
            status, attempts, told = await asked(cluster, model="minimax/chat", stream=stream)
        assert (status, attempts == "2") == (expected, expected == 200)
        assert ("told so" in str(told)) is (code == 2013)
    rows = await cluster.booked(2)
    assert sorted((row["outcome"], row["cost_nano_usd"] > 0) for row in rows) == [("ok", True), ("rejected", False)]


async def test_an_error_as_the_first_event_and_a_dead_address_are_cured(cluster: Cluster, spare: Upstream) -> None:
    cluster.provider.fail("error-event-after-0")
    assert (await asked(cluster, stream=True))[:2] == (200, "2")
    dead = {"name": "lab", "provider": "custom", "prefix": "lab", "base_url": f"http://127.0.0.1:{free_port()}/v1"}
    await cluster.apply(connections=[dead])
    assert (await asked(cluster))[:2] == (200, "2")
    assert len(spare.requests) == 2


@pytest.mark.parametrize("fault", ["fail-400", "too-long"])
async def test_a_clients_fault_is_not_tried_again(cluster: Cluster, spare: Upstream, fault: str) -> None:
    cluster.provider.fail(fault)
    status, _, _ = await asked(cluster)
    assert status == 400
    assert spare.requests == []


@pytest.mark.parametrize("fault", ["truncated-json", "no-reply", "html", "empty", "json-for-stream", "cut-after-0", "hang"])
async def test_what_has_to_be_paid_for_is_booked_as_an_event_of_its_own(cluster: Cluster, spare: Upstream, fault: str) -> None:
    made = await cluster.new_key(budget_nano=10**12, tpm=10**6, concurrent=1)
    cluster.provider.fail(fault)
    async with client(cluster, key=made.key) as one:
        status, headers, _ = await one.chat(call(max_tokens=20, stream=fault in STREAMED))
    assert status == 200
    first, second = headers["x-waystation-attempts"].split(", ")
    assert first.startswith("lab/chat ")
    assert second == "spare/chat ok"
    rows = {row["connection"]: row for row in await cluster.booked(2)}
    failed, answered = rows["lab"], rows["spare"]
    assert failed["request_id"] == answered["request_id"] == str(answered["event_id"])
    assert failed["outcome"] in ("timeout", "cut", "provider_error")
    assert answered["outcome"] == "ok"
    assert failed["cost_nano_usd"] == failed["input_tokens"] * 1_000 + failed["output_tokens"] * 2_000 > 0
    assert [each["result"] for each in answered["decision"]["tried"]][1:] == ["ok"]
    told = await told_of(cluster, headers["x-request-id"], made.key)
    assert (told["event"]["connection"], [each["connection"] for each in told["beside"]]) == ("spare", ["lab"])
    assert told["total_cost_nano_usd"] == failed["cost_nano_usd"] + answered["cost_nano_usd"]
    assert {each["unit"] for each in told["decision"]["limits"]} == {"tokens"}
    async with cluster.pool.connect() as connection:
        sums = (await connection.execute(text("SELECT sum(requests), sum(cost_nano_usd) FROM usage_hourly"))).one()
    assert tuple(map(int, sums)) == (1, failed["cost_nano_usd"] + answered["cost_nano_usd"])


async def test_a_budget_that_does_not_cover_both_attempts_ends_the_call_with_the_failure(
    cluster: Cluster, spare: Upstream
) -> None:
    body_bytes = len(json.dumps(call(max_tokens=20)))
    bound = (body_bytes + 16 + 512) * 3_000 + 20 * 4_000  # of spare, the dearer one
    made = await cluster.new_key(budget_nano=bound + 10)
    cluster.provider.fail("no-reply")
    async with client(cluster, key=made.key) as one:
        status, _, body = await one.chat(call(max_tokens=20))
    assert (status, body["error"]["code"]) == (502, "provider_invalid_response")
    assert spare.requests == []
    (row,) = await cluster.booked(1)
    assert 0 < row["cost_nano_usd"] <= bound + 10


async def test_a_call_ends_with_its_own_deadline(cluster: Cluster, spare: Upstream) -> None:
    cluster.provider.fail("hang")
    started_s = time.monotonic()
    async with client(cluster) as one:
        status, _, body = await one.chat(call(max_tokens=20), x_waystation_deadline_s="0.5")
        assert (status, body["error"]["code"]) == (504, "provider_timeout")
        assert time.monotonic() - started_s < 1.9
        assert spare.requests == []
        for wrong in ("0", "-1", "soon", "nan", "1e9"):
            status, _, body = await one.chat(call(), x_waystation_deadline_s=wrong)
            assert (status, body["error"]["param"]) == (400, "x-waystation-deadline-s")


async def test_a_format_that_cannot_express_the_call_leaves_it_to_the_next(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with running(database_url, redis_url, tmp_path) as cluster:
        entry = {"name": "strict", "provider": "cohere", "prefix": "strict", "base_url": "http://127.0.0.1:9/v2"}
        await cluster.apply(connections=[entry], fallbacks={"strict/command": ["lab/chat"]})
        async with client(cluster) as one:
            status, headers, _ = await one.chat(call("strict/command", n=2))
            assert (status, headers["x-waystation-attempts"]) == (200, "strict/command unsuited, lab/chat ok")


async def test_a_stream_waits_for_its_first_byte_as_long_as_is_usual_there(cluster: Cluster, spare: Upstream) -> None:
    """Three times what 99 of 100 took there, a second at least, while another can be asked; the last one has its time."""
    for _ in range(25):
        assert (await asked(cluster, stream=True))[0] == 200
    cluster.provider.fail("slow-first-token-20000")
    spare.fail("slow-first-token-2500")
    begun_s = time.monotonic()
    async with client(cluster) as one:
        status, headers, _ = await one.chat(call(max_tokens=20, stream=True))
    took_s = time.monotonic() - begun_s
    assert (status, headers["x-waystation-attempts"]) == (200, "lab/chat first_byte_timeout, spare/chat ok")
    assert 3.4 < took_s < 15  # a second there, two and a half here


async def test_a_stream_is_held_until_its_first_token(cluster: Cluster, spare: Upstream) -> None:
    """The role's chunk and then an error: the client sees nothing of it."""
    for fault in ("error-event-after-0", "cut-after-0"):
        cluster.provider.fail(fault)
        status, attempts, body = await asked(cluster, stream=True)
        assert (status, attempts) == (200, "2")
        assert b"error" not in body
        assert body.count(b'"role"') == 1


async def test_nothing_is_tried_again_once_the_client_has_bytes(cluster: Cluster, spare: Upstream) -> None:
    cluster.provider.fail("cut-after-2")
    status, attempts, body = await asked(cluster, stream=True)
    assert (status, attempts) == (200, "1")
    assert b"error" in body
    assert spare.requests == []


async def test_when_all_fail_the_last_one_says_so_and_nothing_is_paid(cluster: Cluster, spare: Upstream) -> None:
    cluster.provider.fail("fail-500")
    spare.fail("fail-429-retry-7")
    status, _, body = await asked(cluster)
    assert (status, body["error"]["code"]) == (429, "provider_rate_limited")
    (row,) = await cluster.booked(1)
    assert (row["attempts"], row["cost_nano_usd"], row["connection"]) == (2, 0, "spare")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("fail-429", "fail-503", None),  # nobody said when
        ("fail-429-retry-30", "fail-429-retry-7", 7),
        ("fail-429-retry-7", "fail-429-retry-30", 7),
        ("fail-429-retry-7", "fail-500", 7),  # the one that said
        ("fail-500", "fail-503-retry-9", 9),
        ("bad-key", "fail-429-retry-5", 5),
        ("fail-429-retry-5", "bad-key", None),  # the last word is that no retry helps
    ],
)
async def test_a_client_waits_for_the_first_that_can_be_asked_again(
    cluster: Cluster, spare: Upstream, first: str, second: str, expected: int | None
) -> None:
    """Wire.md 120: Retry-After is absent when no provider sent one, and else the least."""
    for provider, fault in ((cluster.provider, first), (spare, second)):
        provider.fail(fault)
    async with client(cluster) as one:
        status, headers, _ = await one.chat(call(max_tokens=20))
    assert status >= 429
    told = headers.get("retry-after")
    assert (None if told is None else int(told)) == expected
    assert headers["x-should-retry"] == ("false" if second == "bad-key" else "true")


async def test_the_budget_covers_the_dearest_of_the_plan(cluster: Cluster, spare: Upstream) -> None:
    """At lab's price the call would fit, at spare's it does not: refused before anybody is asked."""
    cluster.provider.fail("fail-503")
    body_tokens = 700  # bytes of the body, and the overhead of a message and a call
    poor = await tenants.create_key(
        cluster.pool, cluster.vault, team="default", budget=(body_tokens * 1_000 + 40 * 2_000, Period.MONTH)
    )
    await cluster.taken_in()
    async with client(cluster, key=poor.key) as one:
        status, _, body = await one.chat(call(max_tokens=20))
    assert (status, body["error"]["code"]) == (429, "budget_exhausted")
    assert (cluster.provider.requests, spare.requests) == ([], [])


async def test_accounts_of_one_prefix_stand_in_for_each_other(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with upstream(api_key="the-good-one") as vendor, running(database_url, redis_url, tmp_path) as cluster:
        entry = {"provider": "custom", "prefix": "vendor", "base_url": vendor.url}
        document = Document.model_validate(
            {
                "connections": [
                    entry | {"name": "a", "api_key": "env:BAD"}, entry | {"name": "b", "api_key": "env:WORSE"},
                    entry | {"name": "c", "api_key": "env:GOOD"},
                ]
            }
        )  # fmt: skip
        secrets = {"env:BAD": "revoked", "env:WORSE": "expired", "env:GOOD": "the-good-one"}
        await apply_document(cluster.pool, cluster.vault, document, registry.load(), secret=secrets.__getitem__)
        await cluster.taken_in()
        status, attempts, _ = await asked(cluster, model="vendor/chat")
        assert (status, attempts) == (200, "3")
        (row,) = await cluster.booked(1)
        assert row["connection"] == "c"


async def test_every_model_without_a_chain_of_its_own_has_the_common_one(cluster: Cluster, spare: Upstream) -> None:
    await cluster.apply(fallbacks={"*": ["spare/chat"], "lab/chat": None})
    cluster.provider.fail("fail-503")
    assert (await asked(cluster, model="lab/other"))[:2] == (200, "2")
    assert (await asked(cluster))[:2] == (200, "2")
    spare.fail("fail-503")
    assert (await asked(cluster, model="spare/chat"))[0] == 503


async def test_a_fallback_that_nothing_bounds_is_left_out_and_refuses_nothing(cluster: Cluster, spare: Upstream) -> None:
    """spare/chat has a price and no known maximum: without a cap of the client's nothing bounds it."""
    entry = {"name": "lab", "provider": "custom", "prefix": "lab", "base_url": cluster.provider.url, "api_key": "env:LAB_KEY"}
    await cluster.apply(connections=[entry | {"models": [{"id": "chat", "max_output_tokens": 20}]}])
    bounded = await cluster.new_key(budget_nano=1_000_000_000)
    async with client(cluster, key=bounded.key) as one:
        assert (await one.chat(call()))[0] == 200
        cluster.provider.fail("fail-503")
        assert (await one.chat(call()))[0] == 503
        assert (await one.chat(call(max_tokens=5)))[0] == 200  # now there is a bound
    assert len(spare.requests) == 1


async def test_a_call_whose_first_account_is_unusable_is_in_the_log_before_the_second_is_asked(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with upstream() as vendor, running(database_url, redis_url, tmp_path) as cluster:
        entry = {"provider": "custom", "prefix": "vendor", "base_url": vendor.url}
        document = Document.model_validate(
            {"connections": [entry | {"name": "a", "api_key": "env:BAD"}, entry | {"name": "b", "api_key": "env:GOOD"}]}
        )
        secrets = {"env:BAD": "no header can hold ü", "env:GOOD": "sk-good"}
        await apply_document(cluster.pool, cluster.vault, document, registry.load(), secret=secrets.__getitem__)
        await cluster.taken_in()
        assert (await asked(cluster, model="vendor/chat"))[:2] == (200, "2")
        (row,) = await cluster.booked(1)
        records = [record for path in tmp_path.glob("usage-log/**/*.wal") for record in read(path)]
        intents = [event.event_id for tag, event in records if tag == INTENT]
    assert intents == [str(row["event_id"])]

"""One ingress, one worker, a real provider on a socket: answers, errors and what is booked."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from shared.store import ledger, tenants
from tests.hosts.cluster import CREDENTIAL, Cluster, call, client, running


@pytest_asyncio.fixture
async def cluster(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(database_url, redis_url, tmp_path) as started:
        yield started


async def test_a_call_is_answered_and_booked_exactly_once(cluster: Cluster) -> None:
    async with client(cluster) as mine:
        status, headers, body = await mine.chat()
        assert status == 200
        assert body["choices"][0]["message"]["content"]
        usage = body["usage"]
        cost = usage["prompt_tokens"] * 1_000 + usage["completion_tokens"] * 2_000
        assert headers["x-waystation-cost-usd"] == f"0.{cost:09d}"
        rows = await cluster.booked(1)
        assert [(r["kind"], r["cost_nano_usd"], r["source"], r["outcome"]) for r in rows] == [
            ("actual", cost, "provider", "ok")
        ]
        assert str(rows[0]["event_id"]) == headers["x-request-id"]
        sums = await ledger.usage(cluster.pool, by="key")
        assert [(row["key"], row["requests"], row["cost_nano_usd"]) for row in sums] == [(cluster.key_id, 1, cost)]


async def test_the_real_credential_goes_out_and_the_clients_key_does_not(cluster: Cluster) -> None:
    async with client(cluster) as mine:
        await mine.chat(X_Secret="canary-header", Cookie="canary-cookie")
    received = cluster.provider.last
    sent = str(received.headers)
    assert f"Bearer {CREDENTIAL}" in sent
    assert cluster.key not in sent
    assert "canary" not in sent
    assert received.body["model"] == "chat"


async def test_the_openai_sdk_chats_streams_and_reads_errors(cluster: Cluster) -> None:
    sdk = openai.AsyncOpenAI(base_url=f"{cluster.url()}/v1", api_key=cluster.key, max_retries=0)
    messages: Any = [{"role": "user", "content": "Hello!"}]
    whole = await sdk.chat.completions.create(model="lab/chat", messages=messages)
    assert whole.choices[0].message.content
    assert whole._request_id
    pieces = [c async for c in await sdk.chat.completions.create(model="lab/chat", messages=messages, stream=True)]
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == whole.choices[0].message.content
    assert all(piece.usage is None for piece in pieces)
    with pytest.raises(openai.NotFoundError) as unknown:
        await sdk.chat.completions.create(model="nowhere/chat", messages=messages)
    assert unknown.value.code == "model_not_found"
    assert unknown.value.param == "model"
    with pytest.raises(openai.AuthenticationError) as refused:
        await sdk.with_options(api_key="wsk_wrong").chat.completions.create(model="lab/chat", messages=messages)
    assert refused.value.code == "invalid_api_key"
    listed = [model.id async for model in await sdk.models.list()]
    assert isinstance(listed, list)
    await sdk.close()
    rows = await cluster.booked(2)
    assert {row["source"] for row in rows} == {"provider"}


async def test_usage_of_a_stream_is_booked_though_the_client_did_not_ask_for_it(cluster: Cluster) -> None:
    async with client(cluster) as mine:
        _, _, hidden = await mine.chat(call(stream=True))
        _, _, asked = await mine.chat(call(stream=True, stream_options={"include_usage": True}))
    assert b'"usage"' not in hidden
    assert b'"prompt_tokens"' in asked
    assert hidden.endswith(b"data: [DONE]\n\n")
    rows = await cluster.booked(2)
    assert rows[0]["cost_nano_usd"] == rows[1]["cost_nano_usd"] > 0
    assert all(row["first_token_ms"] is not None and row["stream"] for row in rows)


@pytest.mark.parametrize(
    ("raw", "status", "code", "param"),
    [
        (b"{", 400, "invalid_body", None),
        (b'{"model":"lab/chat","model":"lab/other","messages":[]}', 400, "invalid_body", "model"),
        (b'{"model":"lab/chat","messages":[{"role":"user","role":"x","content":"a"}]}', 400, "invalid_body", "role"),
        (b'{"model":5,"messages":[{"role":"user","content":"a"}]}', 400, "invalid_field", "model"),
        (b'{"model":"lab/chat","messages":"hi"}', 400, "invalid_field", "messages"),
        (b'{"model":"lab/chat","Model":"lab/other","messages":[{"role":"user","content":"a"}]}', 400, "invalid_field", "Model"),
        (b'{"model":"lab/chat","stream":"yes","messages":[{"role":"user","content":"a"}]}', 400, "invalid_field", "stream"),
        (b'{"model":"lab/chat","n":-1,"messages":[{"role":"user","content":"a"}]}', 400, "invalid_field", "n"),
        (b'{"messages":[{"role":"user","content":"a"}]}', 400, "invalid_field", "model"),
        (b"[" * 100_000, 400, "invalid_body", None),
        (b"", 400, "invalid_body", None),
    ],
)  # fmt: skip
async def test_a_bad_body_is_a_400_that_names_the_field(
    cluster: Cluster, raw: bytes, status: int, code: str, param: str | None
) -> None:
    async with client(cluster) as mine:
        answered, headers, body = await mine.chat(raw=raw)
    assert (answered, body["error"]["code"], body["error"]["param"]) == (status, code, param)
    assert body["error"]["message"]
    assert headers["x-should-retry"] == "false"
    assert cluster.provider.requests == []


@pytest.mark.parametrize(
    ("behaviour", "status", "code", "retried"),
    [
        ("fail-500", 502, "provider_error", "true"),
        ("fail-503", 503, "provider_error", "true"),
        ("fail-429-retry-7", 429, "provider_rate_limited", "true"),
        ("bad-key", 502, "provider_credential", "false"),
        ("quota-exhausted", 502, "provider_credential", "false"),
        ("html", 502, "provider_invalid_response", "true"),
        ("truncated-json", 502, "provider_invalid_response", "true"),
        ("slow-head-5000", 504, "provider_timeout", "true"),
        ("no-reply", 502, "provider_invalid_response", "true"),
    ],
)
async def test_a_providers_bad_day_is_a_clean_error(
    cluster: Cluster, behaviour: str, status: int, code: str, retried: str
) -> None:
    async with client(cluster) as mine:
        cluster.provider.fail(behaviour)
        answered, headers, body = await mine.chat()
        assert (answered, body["error"]["code"], headers["x-should-retry"]) == (status, code, retried)
        assert CREDENTIAL not in str(body)
        if "retry-7" in behaviour:
            assert headers["Retry-After"] == "7"
        rows = await cluster.booked(1)
        assert rows[0]["outcome"] != "ok"
        assert rows[0]["cost_nano_usd"] == 0 or behaviour in ("slow-head-5000", "html", "truncated-json", "no-reply")


@pytest.mark.parametrize(
    "behaviour", ["cut-after-3", "stall-after-3", "malformed-after-3", "end-after-3", "error-event-after-3"]
)
async def test_a_stream_that_breaks_says_so_and_books_what_went_by(cluster: Cluster, behaviour: str) -> None:
    async with client(cluster) as mine:
        cluster.provider.fail(behaviour)
        status, _, body = await mine.chat(call(stream=True))
        assert status == 200
        assert b'"error"' in body
        assert b"[DONE]" not in body
        rows = await cluster.booked(1)
        assert rows[0]["outcome"] in ("cut", "timeout", "provider_error")
        assert rows[0]["output_tokens"] >= 3
        assert rows[0]["cost_nano_usd"] > 0


async def test_a_stream_that_finished_without_done_is_completed(cluster: Cluster) -> None:
    async with client(cluster) as mine:
        cluster.provider.fail("no-done")
        _, _, body = await mine.chat(call(stream=True))
        assert body.endswith(b"data: [DONE]\n\n")
        assert (await cluster.booked(1))[0]["outcome"] == "ok"


async def test_a_client_that_leaves_cancels_the_upstream_and_pays_for_what_was_made(cluster: Cluster) -> None:
    cluster.provider.fail("long-400-20")
    async with aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {cluster.key}"}
        async with session.post(f"{cluster.url()}/v1/chat/completions", json=call(stream=True), headers=headers) as reply:
            await reply.content.readuntil(b"\n\n")
            await asyncio.sleep(0.3)
            reply.close()
            left_s = time.time()
    record = await cluster.provider.until_ended(0)
    assert record.ended == "client_gone"
    assert record.ended_at is not None
    assert record.ended_at - left_s < 0.25
    row = (await cluster.booked(1))[0]
    assert (row["outcome"], row["source"]) == ("client_gone", "counted")
    assert 5 <= row["output_tokens"] <= 200
    assert row["cost_nano_usd"] > 0


async def test_a_revoked_key_is_refused_within_a_second(cluster: Cluster) -> None:
    made = await cluster.new_key()
    async with client(cluster, key=made.key) as mine:
        assert (await mine.chat())[0] == 200
        await tenants.revoke_key(cluster.pool, made.id)
        revoked_s = time.monotonic()
        while (await mine.chat())[0] == 200:
            assert time.monotonic() - revoked_s < 1.0
            await asyncio.sleep(0.02)
        assert (await mine.chat())[2]["error"]["code"] == "invalid_api_key"


async def test_limits_and_budgets_have_their_own_errors(cluster: Cluster) -> None:
    slow = await cluster.new_key(rpm=1)
    async with client(cluster, key=slow.key) as mine:
        status, headers, _ = await mine.chat()
        assert (status, headers["x-ratelimit-remaining-requests"]) == (200, "0")
        status, headers, body = await mine.chat()
        assert (status, body["error"]["code"], headers["x-should-retry"]) == (429, "rate_limit_exceeded", "true")
        assert 55 <= int(headers["Retry-After"]) <= 60
    small = await cluster.new_key(tpm=100)
    async with client(cluster, key=small.key) as mine:
        status, headers, body = await mine.chat(call(max_tokens=1000))
        assert (status, body["error"]["code"], headers["x-should-retry"]) == (429, "rate_limit_exceeded", "false")
        assert "Retry-After" not in headers
    poor = await cluster.new_key(budget_nano=1_000)
    async with client(cluster, key=poor.key) as mine:
        status, headers, body = await mine.chat(call(max_tokens=100))
        assert (status, body["error"]["code"], headers["x-should-retry"]) == (429, "budget_exhausted", "false")
        status, _, body = await mine.chat(call("lab/unpriced", max_tokens=10))
        assert (status, body["error"]["code"]) == (403, "unpriced_model")
    assert len(cluster.provider.requests) == 1


async def test_output_is_clamped_to_what_a_budget_can_pay(cluster: Cluster) -> None:
    made = await cluster.new_key(budget_nano=1_000_000)
    async with client(cluster, key=made.key) as mine:
        status, headers, _ = await mine.chat(call(max_tokens=100_000))
        assert status == 200
        clamp = int(headers["x-waystation-output-tokens-clamped"])
        assert 16 <= clamp < 500
        assert cluster.provider.last.body["max_completion_tokens"] == clamp
        assert "max_tokens" not in cluster.provider.last.body


async def test_concurrency_is_bounded_and_freed(cluster: Cluster) -> None:
    made = await cluster.new_key(concurrent=2)
    cluster.provider.fail("long-20-20")
    async with client(cluster, key=made.key) as mine:
        statuses = [status for status, _, _ in await asyncio.gather(*(mine.chat(call(stream=True)) for _ in range(5)))]
        assert sorted(statuses) == [200, 200, 429, 429, 429]
        assert (await mine.chat(call(stream=True)))[0] == 200


async def test_heads_on_which_two_parsers_could_disagree_are_refused(cluster: Cluster) -> None:
    port = cluster.ports[0]
    body = b'{"model":"lab/chat"}'
    for head in (
        b"POST http://evil/v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x/health?\r\n\r\n",
        b"GET /v1/models\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + body,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01 garbage\r\n\r\n",
    ):
        answer = await asyncio.to_thread(raw, port, head)
        assert answer.split(b"\r\n", 1)[0].split(b" ")[1] == b"400", (head, answer)
        assert b'"error"' in answer


async def test_other_urls_methods_and_types_are_refused_in_the_clients_format(cluster: Cluster) -> None:
    headers = {"Authorization": f"Bearer {cluster.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(f"{cluster.url()}/v2/nothing") as reply:
            assert (reply.status, (await reply.json())["error"]["code"]) == (404, "unknown_url")
        async with session.get(f"{cluster.url()}/v1/chat/completions") as reply:
            assert (reply.status, reply.headers["Allow"]) == (405, "POST")
        async with session.post(
            f"{cluster.url()}/v1/chat/completions", data=b"a=b", headers={"Content-Type": "text/plain"}
        ) as reply:
            assert (reply.status, (await reply.json())["error"]["code"]) == (415, "unsupported_media_type")
        async with session.get(f"{cluster.url()}/v1/models", headers={"Authorization": "Bearer nobody"}) as reply:
            assert reply.status == 401
        async with session.get(f"{cluster.url()}/metrics") as reply:
            page = await reply.text()
            assert "waystation_refusals_total" in page


def raw(port: int, message: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
        link.sendall(message)
        link.settimeout(5)
        answer = b""
        while b"\r\n\r\n" not in answer or b"}" not in answer:
            piece = link.recv(65536)
            if not piece:
                break
            answer += piece
        return answer


async def test_slow_heads_slow_bodies_and_large_ones_end_in_time(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with running(database_url, redis_url, tmp_path, workers=0) as cluster:
        limits = {
            "WAYSTATION_HEADER_TIMEOUT_S": "0.5",
            "WAYSTATION_BODY_TIMEOUT_S": "0.5",
            "WAYSTATION_MAX_BODY_BYTES": "10000",
        }
        node = cluster.start_node(**limits)
        await cluster.ready(node)
        port, bearer = cluster.ports[node], cluster.key.encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + bearer
        began_s = time.monotonic()
        answers = await asyncio.gather(
            asyncio.to_thread(raw, port, b"POST /v1/chat/comp"),
            asyncio.to_thread(raw, port, head + b"\r\nContent-Length: 500\r\n\r\n{"),
            asyncio.to_thread(raw, port, head + b"\r\nContent-Length: 50000\r\n\r\n{"),
            asyncio.to_thread(
                raw, port, head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
            ),
        )
        assert time.monotonic() - began_s < 4
        assert [answer.split(b" ")[1] for answer in answers] == [b"408", b"408", b"413", b"413"]
        assert all(b'"error"' in answer for answer in answers)


async def test_compressed_bodies_are_read_and_bombs_are_not(cluster: Cluster) -> None:
    async with client(cluster) as mine:
        status, _, _ = await mine.chat(raw=gzip.compress(json.dumps(call()).encode()), Content_Encoding="gzip")
        assert status == 200
        status, _, body = await mine.chat(raw=gzip.compress(b" " * 200_000_000), Content_Encoding="gzip")
        assert (status, body["error"]["code"]) == (413, "body_too_large")
        status, _, body = await mine.chat(raw=b"not gzip at all", Content_Encoding="gzip")
        assert (status, body["error"]["code"]) == (400, "invalid_body")

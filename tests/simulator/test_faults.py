"""Every fault does what its name says, on the wire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import orjson
import pytest

from tests.upstreams import Upstream, upstream

SAY: Any = [{"role": "user", "content": "one two three four five six seven"}]
TOKENS = 9


@pytest.fixture
async def provider() -> AsyncIterator[Upstream]:
    async with upstream(any_model=False) as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as made:
        yield made


class Seen:
    """What a plain HTTP client got: the body so far, and what ended it."""

    def __init__(self, status: int, headers: Any) -> None:
        self.status = status
        self.headers = headers
        self.body = b""
        self.chunks = 0
        self.error: Exception | None = None

    @property
    def events(self) -> list[bytes]:
        return [line[6:] for line in self.body.replace(b"\r\n", b"\n").split(b"\n") if line.startswith(b"data: ")]

    @property
    def tokens(self) -> int:
        return self.body.count(b'"delta":{"content":')


async def ask(session: aiohttp.ClientSession, provider: Upstream, model: str, *, within_s: float = 3.0, **fields: Any) -> Seen:
    """Reads until the end, an error, or silence of `within_s`."""
    body = {"model": model, "messages": SAY, **fields}
    async with session.post(f"{provider.url}/chat/completions", json=body, allow_redirects=False) as reply:
        seen = Seen(reply.status, reply.headers)
        try:
            async with asyncio.timeout(within_s):
                async for chunk, _ in reply.content.iter_chunks():
                    seen.body += chunk
                    seen.chunks += 1
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            seen.error = error
    return seen


@pytest.mark.parametrize(
    ("model", "error", "code"),
    [
        ("fail-400", openai.BadRequestError, None),
        ("too-long", openai.BadRequestError, "context_length_exceeded"),
        ("bad-key", openai.AuthenticationError, "invalid_api_key"),
        ("fail-401", openai.AuthenticationError, "invalid_api_key"),
        ("fail-403", openai.PermissionDeniedError, None),
        ("fail-404", openai.NotFoundError, "model_not_found"),
        ("fail-429", openai.RateLimitError, "rate_limit_exceeded"),
        ("quota-exhausted", openai.RateLimitError, "insufficient_quota"),
        ("fail-500", openai.InternalServerError, None),
        ("fail-503", openai.InternalServerError, None),
    ],
)
async def test_an_error_is_the_one_the_sdk_knows(
    provider: Upstream, model: str, error: type[openai.APIStatusError], code: str | None
) -> None:
    async with openai.AsyncOpenAI(base_url=provider.url, api_key="x", max_retries=0) as client:
        with pytest.raises(error) as raised:
            await client.chat.completions.create(model=model, messages=SAY)
    assert raised.value.code == code


async def test_retry_after_is_sent_when_the_name_has_it(provider: Upstream, session: aiohttp.ClientSession) -> None:
    assert (await ask(session, provider, "fail-429-retry-7")).headers["Retry-After"] == "7"
    assert "Retry-After" not in (await ask(session, provider, "fail-429")).headers


@pytest.mark.parametrize("status", [204, 302, 418, 502])
async def test_a_bare_status_comes_without_an_error_object(
    provider: Upstream, session: aiohttp.ClientSession, status: int
) -> None:
    seen = await ask(session, provider, f"status-{status}")
    assert seen.status == status
    assert seen.body == (b"" if status == 204 else b"%d\n" % status)


@pytest.mark.parametrize(("model", "status"), [("html", 200), ("html-502", 502)])
async def test_html_is_html(provider: Upstream, session: aiohttp.ClientSession, model: str, status: int) -> None:
    seen = await ask(session, provider, model)
    assert (seen.status, seen.headers["Content-Type"][:9]) == (status, "text/html")
    assert seen.body.startswith(b"<!doctype html>")


@pytest.mark.parametrize("stream", [False, True])
async def test_empty_is_a_success_without_a_body(provider: Upstream, session: aiohttp.ClientSession, stream: bool) -> None:
    seen = await ask(session, provider, "empty", stream=stream)
    assert (seen.status, seen.body) == (200, b"")


@pytest.mark.parametrize("stream", [False, True])
async def test_truncated_json_ends_cleanly_in_the_middle(
    provider: Upstream, session: aiohttp.ClientSession, stream: bool
) -> None:
    seen = await ask(session, provider, "truncated-json", stream=stream)
    assert seen.error is None
    last = seen.events[-1] if stream else seen.body
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(last)


async def test_json_for_stream_is_a_whole_reply(provider: Upstream, session: aiohttp.ClientSession) -> None:
    seen = await ask(session, provider, "json-for-stream", stream=True)
    assert seen.headers["Content-Type"].startswith("application/json")
    assert orjson.loads(seen.body)["object"] == "chat.completion"


@pytest.mark.parametrize("model", ["cut-after-3", "reset-after-3"])
async def test_a_cut_stream_breaks_off_after_its_tokens(provider: Upstream, session: aiohttp.ClientSession, model: str) -> None:
    seen = await ask(session, provider, model, stream=True)
    assert seen.error is not None
    if model == "cut-after-3":
        assert seen.tokens == 3
    assert (await provider.until_ended()).ended == "broken"


@pytest.mark.parametrize("model", ["cut-after-3", "reset-after-3", "end-after-3"])
async def test_a_cut_whole_reply_is_shorter_than_it_promised(
    provider: Upstream, session: aiohttp.ClientSession, model: str
) -> None:
    seen = await ask(session, provider, model)
    assert seen.error is not None
    assert len(seen.body) < int(seen.headers["Content-Length"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stall_leaves_the_connection_open(provider: Upstream, session: aiohttp.ClientSession, stream: bool) -> None:
    seen = await ask(session, provider, "stall-after-3", stream=stream, within_s=0.15)
    assert isinstance(seen.error, TimeoutError)
    assert len(seen.body) > 0
    if stream:
        assert seen.tokens == 3
    assert (await provider.until_ended()).ended == "client_gone"


async def test_a_clean_end_lacks_finish_reason_and_done(provider: Upstream, session: aiohttp.ClientSession) -> None:
    seen = await ask(session, provider, "end-after-3", stream=True)
    assert (seen.error, seen.tokens) == (None, 3)
    assert b"[DONE]" not in seen.body
    assert b'"finish_reason":"' not in seen.body


async def test_no_done_lacks_only_that(provider: Upstream, session: aiohttp.ClientSession) -> None:
    seen = await ask(session, provider, "no-done", stream=True)
    assert seen.tokens == TOKENS
    assert b'"finish_reason":"stop"' in seen.body
    assert b"[DONE]" not in seen.body


async def test_a_malformed_event_stands_between_good_ones(provider: Upstream, session: aiohttp.ClientSession) -> None:
    seen = await ask(session, provider, "malformed-after-3", stream=True)
    broken = [index for index, event in enumerate(seen.events) if event != b"[DONE]" and not _is_json(event)]
    assert broken == [4]
    assert seen.events[-1] == b"[DONE]"


def _is_json(raw: bytes) -> bool:
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True


@pytest.mark.parametrize("after", [0, 3])
async def test_an_error_event_ends_the_stream_in_the_sdk_too(provider: Upstream, after: int) -> None:
    got: list[str] = []

    async def read() -> None:
        async with openai.AsyncOpenAI(base_url=provider.url, api_key="x", max_retries=0) as client:
            model = f"error-event-after-{after}"
            async for chunk in await client.chat.completions.create(model=model, messages=SAY, stream=True):
                got.append(chunk.choices[0].delta.content or "")

    with pytest.raises(openai.APIError, match="asked to fail"):
        await read()
    assert len([piece for piece in got if piece]) == after


async def test_a_break_beyond_the_answer_comes_at_its_end(provider: Upstream, session: aiohttp.ClientSession) -> None:
    seen = await ask(session, provider, "cut-after-999", stream=True)
    assert (seen.tokens, b"[DONE]" in seen.body) == (TOKENS, False)
    assert seen.error is not None


async def test_slow_first_token_sends_the_head_at_once(provider: Upstream, session: aiohttp.ClientSession) -> None:
    body = {"model": "slow-first-token-200", "messages": SAY, "stream": True}
    began = time.monotonic()
    async with session.post(f"{provider.url}/chat/completions", json=body) as reply:
        head = time.monotonic() - began
        await reply.content.readany()
        first = time.monotonic() - began
    assert head < 0.15
    assert first >= 0.2


async def test_slow_head_sends_nothing_before(provider: Upstream, session: aiohttp.ClientSession) -> None:
    began = time.monotonic()
    await ask(session, provider, "slow-head-150")
    assert time.monotonic() - began >= 0.15


async def test_hang_never_answers(provider: Upstream, session: aiohttp.ClientSession) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await ask(session, provider, "hang")
    assert (await provider.until_ended()).ended == "client_gone"


async def test_no_reply_closes_without_a_byte(provider: Upstream, session: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await ask(session, provider, "no-reply")


async def test_usage_can_be_absent_wrong_or_dictated(provider: Upstream, session: aiohttp.ClientSession) -> None:
    for stream in (False, True):
        asked: Any = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}

        async def usage(model: str, asked: Any = asked, stream: bool = stream) -> Any:
            seen = await ask(session, provider, model, **asked)
            return orjson.loads(seen.events[-2] if stream else seen.body).get("usage")

        assert await usage("no-usage") is None
        wrong = await usage("wrong-usage")
        assert (wrong["prompt_tokens"], wrong["total_tokens"]) == (-5, "many")
        dictated = await usage("usage-100-50")
        assert (dictated["prompt_tokens"], dictated["completion_tokens"]) == (100, 50)


async def test_usage_can_hide_in_the_last_choice(provider: Upstream, session: aiohttp.ClientSession) -> None:
    seen = await ask(session, provider, "usage-in-choice", stream=True, stream_options={"include_usage": True})
    last = orjson.loads(seen.events[-2])
    assert last["choices"][0]["usage"]["completion_tokens"] == TOKENS
    assert last["usage"] is None


async def test_usage_can_run_along(provider: Upstream, session: aiohttp.ClientSession) -> None:
    seen = await ask(session, provider, "usage-every-chunk", stream=True)
    totals = [orjson.loads(event)["usage"]["completion_tokens"] for event in seen.events if b'"usage":{' in event]
    assert totals == list(range(1, TOKENS + 1))


async def test_content_filter_is_a_finish_reason(provider: Upstream, session: aiohttp.ClientSession) -> None:
    seen = await ask(session, provider, "content-filter")
    assert orjson.loads(seen.body)["choices"][0]["finish_reason"] == "content_filter"


async def test_a_refused_field_is_named(provider: Upstream, session: aiohttp.ClientSession) -> None:
    seen = await ask(session, provider, "chat+refuse-seed+refuse-stream_options", seed=1)
    assert (seen.status, orjson.loads(seen.body)["error"]["param"]) == (400, "seed")
    assert (await ask(session, provider, "chat+refuse-seed")).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_big_reply_is_as_big_as_asked(provider: Upstream, session: aiohttp.ClientSession, stream: bool) -> None:
    seen = await ask(session, provider, "big-100", stream=stream)
    assert 100 * 1024 < len(seen.body) < 110 * 1024


@pytest.mark.parametrize("dress", ["crlf", "comments", "split-1", "split-7", "crlf+comments+split-3"])
async def test_a_stream_in_another_dress_means_the_same(provider: Upstream, dress: str) -> None:
    async with openai.AsyncOpenAI(base_url=provider.url, api_key="x", max_retries=0) as client:
        plain = await client.chat.completions.create(model="unicode", messages=SAY)
        stream = await client.chat.completions.create(model=f"unicode+{dress}", messages=SAY, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == plain.choices[0].message.content


async def test_pace_spreads_tokens_over_time(provider: Upstream, session: aiohttp.ClientSession) -> None:
    began = time.monotonic()
    seen = await ask(session, provider, "long-6-30", stream=True)
    assert time.monotonic() - began >= 5 * 0.03
    assert (seen.tokens, seen.chunks >= 6) == (6, True)


async def test_pace_can_be_set_for_one_request_by_header(provider: Upstream) -> None:
    async with aiohttp.ClientSession(headers={"x-simulator-pace-ms": "30"}) as session:
        began = time.monotonic()
        await ask(session, provider, "long-6", stream=True)
    assert time.monotonic() - began >= 5 * 0.03


async def test_a_departing_client_is_noticed_at_once(provider: Upstream) -> None:
    async with openai.AsyncOpenAI(base_url=provider.url, api_key="x", max_retries=0) as client:
        stream = await client.chat.completions.create(model="long-500-10", messages=SAY, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        left_at = time.time()
        await stream.close()
        record = await provider.until_ended()
    assert record.ended == "client_gone"
    assert record.ended_at is not None
    assert record.ended_at - left_at < 0.25
    assert record.tokens_sent < 100

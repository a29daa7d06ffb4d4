"""Legacy completions through the OpenAI SDK at providers that only chat."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from tests.hosts.cluster import running


async def test_a_prompt_is_completed_anywhere(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with running(database_url, redis_url, tmp_path, demo=True) as cluster:
        async with openai.AsyncOpenAI(base_url=f"{cluster.url()}/v1", api_key=cluster.key, max_retries=0) as client:
            for model in ("demo-messages/chat", "demo-gemini/chat", "demo-cohere/chat", "demo-bedrock/anthropic.chat"):
                whole = await client.completions.create(model=model, prompt="Once upon", max_tokens=50)
                assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("You said: Once upon", "stop")
                assert whole.usage is not None
                assert whole.usage.total_tokens > 0
                stream = await client.completions.create(model=model, prompt="Once upon", stream=True)
                text = "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])
                assert text == "You said: Once upon"
            with pytest.raises(openai.BadRequestError, match="suffix"):
                await client.completions.create(model="demo-messages/chat", prompt="def f(", suffix=")")
        rows = await cluster.booked(8)
    assert {row["operation"] for row in rows} == {"completions"}
    assert all(row["cost_nano_usd"] > 0 for row in rows if row["outcome"] == "ok")

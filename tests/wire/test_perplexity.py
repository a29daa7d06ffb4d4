"""Perplexity's Agent API: nearly OpenAI's Responses. What goes there is what it knows, and its searches are sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from shared.domain.catalogue import Connection, Deployment, Provider, WireFormat
from shared.domain.usage import Usage
from shared.providers.registry import load
from shared.wire.codec import FORMATS, bridge, passing
from shared.wire.envelope import open_envelope
from shared.wire.openai_responses.reply import decode_reply
from shared.wire.params import applied
from tests.wire.translation import STAMP, Translated, events

CHAT, MESSAGES, RESPONSES = WireFormat.OPENAI_CHAT, WireFormat.ANTHROPIC_MESSAGES, WireFormat.OPENAI_RESPONSES
SEARCH = {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def perplexity() -> Provider:
    catalogue: Mapping[str, Provider] = load()
    return catalogue["perplexity"]


def sent(provider: Provider, client: WireFormat, body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A client's body as the provider gets it, and what was dropped."""
    connection = Connection(connection_id="c", name="c", provider=provider.name, prefix="p", base_url="https://example.com")
    model = provider.models[body["model"].partition("/")[2]]
    deployment = Deployment(provider=provider, connection=connection, model=model)
    envelope = open_envelope(orjson.dumps(body))
    call = FORMATS[client].facts(envelope, None, None)
    raw, dropped = bridge(client, deployment, STAMP).request_body(envelope, deployment, call, None)
    assert deployment.params is not None
    raw, without = applied(raw, deployment.params)
    return orjson.loads(raw), [*dropped, *without]


HELLO = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]


@pytest.mark.parametrize("model", ["sonar", "sonar-pro"])
@pytest.mark.parametrize("client", [CHAT, MESSAGES, RESPONSES])
def test_an_older_name_searches_in_every_call(perplexity: Provider, client: WireFormat, model: str) -> None:
    message = {"role": "user", "content": "hi"}
    body: dict[str, Any] = {"model": f"pplx/{model}"}
    body |= {"input": "hi"} if client is RESPONSES else {"messages": [message]}
    body |= {"max_tokens": 99} if client is MESSAGES else {}
    made, dropped = sent(perplexity, client, body)
    cap = {"max_output_tokens": 99} if client is MESSAGES else {}
    own = {"input": "hi"} if client is RESPONSES else {"store": False, "input": HELLO}
    assert (made, dropped) == ({"model": "perplexity/sonar", **own, **cap, **SEARCH}, [])


@pytest.mark.parametrize(("model", "effort"), [("sonar-reasoning-pro", "low"), ("sonar-deep-research", "medium")])
def test_models_that_researched_have_an_effort_level(perplexity: Provider, model: str, effort: str) -> None:
    body = {"model": f"pplx/{model}", "messages": [{"role": "user", "content": "hi"}], "tools": [LOOK], "tool_choice": "auto"}
    made, dropped = sent(perplexity, CHAT, body)
    assert made == {"model": "perplexity/sonar", "store": False, "input": HELLO, "effort": effort}
    assert dropped == ["tool_choice", "tools"]


def test_what_it_refuses_is_left_out_and_listed(perplexity: Provider) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
    body = {
        "model": "pplx/perplexity/sonar", "messages": [{"role": "user", "content": [image]}], "user": "ann", "temperature": 0,
        "reasoning_effort": "low", "search_mode": "academic", "stop": ["x"], "tools": [LOOK], "logprobs": True,
    }  # fmt: skip
    made, dropped = sent(perplexity, CHAT, body)
    assert made == {
        "model": "perplexity/sonar",
        "store": False,
        "input": [
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_image", "image_url": "https://example.com/a.png"}],
            }
        ],
        "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}],
        "temperature": 0,
        "reasoning": {"effort": "low"},
    }
    assert sorted(dropped) == ["messages[].detail", "reasoning.summary", "search_mode", "stop", "top_logprobs", "user"]


def test_a_schema_travels_as_in_chat(perplexity: Provider) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    chat = {"model": "pplx/sonar", "messages": [{"role": "user", "content": "hi"}], "response_format": wanted}
    made, dropped = sent(perplexity, CHAT, chat | {"verbosity": "low"})
    assert (made["response_format"], "text" in made, dropped) == (wanted, False, ["verbosity"])
    flat = {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}
    own = {"model": "pplx/sonar", "input": "hi", "text": {"format": flat, "verbosity": "low"}}
    made, dropped = sent(perplexity, RESPONSES, own)
    assert made == {"model": "perplexity/sonar", "input": "hi", "response_format": wanted, **SEARCH}
    assert dropped == ["text.verbosity"]


def test_what_has_no_word_there_is_listed(perplexity: Provider) -> None:
    chat = {"model": "pplx/sonar", "messages": [{"role": "user", "content": "hi"}], "response_format": {"type": "json_object"}}
    made, dropped = sent(perplexity, CHAT, chat)
    assert ("response_format" in made, dropped) == (False, ["response_format"])
    for text, lost in [({"format": {"type": "json_object"}}, ["text.format"]), ({"format": {"type": "text"}}, []), (None, [])]:
        made, dropped = sent(perplexity, RESPONSES, {"model": "pplx/sonar", "input": "hi", "text": text})
        assert (sorted(made), dropped) == (["input", "model", "tool_choice", "tools"], lost)


def test_its_own_formats_clients_keep_its_own_words(perplexity: Provider) -> None:
    body = {
        "model": "pplx/perplexity/sonar", "input": "hi", "effort": "high", "include": [], "language_preference": "de",
        "tools": [{"type": "web_search", "filters": {"search_recency_filter": "day"}}],
    }  # fmt: skip
    made, dropped = sent(perplexity, RESPONSES, body)
    del body["include"]
    assert made == body | {"model": "perplexity/sonar"}
    assert dropped == ["include"]


# -- answers

TEXT = "Water is wet [2], says one [1]."
FOUND: dict[str, Any] = {
    "type": "search_results",
    "queries": ["is water wet"],
    "results": [
        {"id": 1, "title": "One", "url": "https://one.example", "snippet": "says one", "source": "web"},
        {"id": 2, "title": "Two", "url": "https://two.example"},
    ],
}
PLACES = [
    {"url": "https://one.example", "title": "One", "start_index": 27, "end_index": 30},
    {"url": "https://two.example", "title": "Two", "start_index": 13, "end_index": 16},
]
SAID = {"type": "output_text", "text": TEXT, "annotations": []}
MESSAGE: dict[str, Any] = {"type": "message", "id": "msg", "role": "assistant", "status": "completed", "content": [SAID]}
ANSWER: dict[str, Any] = {
    "id": "resp", "object": "response", "model": "perplexity/sonar", "status": "completed", "output": [FOUND, MESSAGE],
    "usage": {
        "input_tokens": 3007, "output_tokens": 36, "total_tokens": 3043, "cost": {"total_cost": 0.00119},
        "input_tokens_details": {"cached_tokens": 1780, "cache_creation_input_tokens": 1224},
    },
}  # fmt: skip
SEARCHING = {
    "type": "function_call", "id": "fc", "call_id": "call", "name": "search_web", "arguments": "{}", "status": "completed",
}  # fmt: skip


def stream(*told: dict[str, Any], answer: dict[str, Any] = ANSWER) -> bytes:
    """Without `event:` and without `[DONE]`, as it streams."""
    ends = [{"type": "response.completed", "response": answer}]
    return b"".join([b"data: %b\n\n" % orjson.dumps(event) for event in (*told, *ends)])


def item(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"response.output_item.{kind}", "item": value}


def delta(text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": "msg", "delta": text}


STREAM = stream(
    {"type": "response.created", "response": {"model": "perplexity/sonar"}},
    item("added", SEARCHING),
    {"type": "response.reasoning.search_results", "thought": "Found 2 results", "results": FOUND["results"]},
    item("done", FOUND),
    item("added", MESSAGE | {"content": None, "status": "in_progress"}),
    delta(TEXT[:20]),
    delta(TEXT[20:]),
    item("done", MESSAGE),
)


def asked(client: WireFormat, *, streams: bool) -> Translated:
    made = Translated(client, RESPONSES)
    made.sent({"model": "lab/model", "max_tokens": 99, "messages": [{"role": "user", "content": "hi"}], "stream": streams})
    return made


def test_what_it_found_are_annotations_to_a_chat_client() -> None:
    annotations = [{"type": "url_citation", "url_citation": place} for place in PLACES]
    whole = asked(CHAT, streams=False).answered(ANSWER)["choices"][0]
    assert (whole["message"]["annotations"], whole["finish_reason"]) == (annotations, "stop")
    found = events(asked(CHAT, streams=True).streamed([STREAM]))[:-1]
    deltas = [choice["delta"] for event in found for choice in event["choices"]]
    assert "".join(each.get("content") or "" for each in deltas) == TEXT
    assert [each["annotations"] for each in deltas if "annotations" in each] == [annotations]
    assert all("tool_calls" not in each for each in deltas)  # its search is announced like a client's tool


def test_what_it_found_are_citations_to_an_anthropic_client() -> None:
    whole = asked(MESSAGES, streams=False).answered(ANSWER)["content"]
    assert [(each["url"], each["cited_text"]) for each in whole[0]["citations"]] == [
        ("https://one.example", "says one"),
        ("https://two.example", ""),
    ]
    found = events(asked(MESSAGES, streams=True).streamed([STREAM]))
    told = [event["delta"]["citation"] for event in found if event.get("delta", {}).get("type") == "citations_delta"]
    assert told == whole[0]["citations"]
    assert [event["content_block"]["type"] for event in found if event["type"] == "content_block_start"] == ["text"]


def test_annotations_come_before_what_was_searched() -> None:
    """OpenAI's own, too."""
    place = {"type": "url_citation", "url": "https://one.example", "title": "One", "start_index": 0, "end_index": 5}
    said = MESSAGE | {"content": [SAID | {"annotations": [place, {"type": "file_citation"}]}]}
    expected = [{"type": "url_citation", "url_citation": {n: v for n, v in place.items() if n != "type"}}]
    whole = asked(CHAT, streams=False).answered(ANSWER | {"output": [FOUND, said]})["choices"][0]["message"]
    assert whole["annotations"] == expected
    for before in ([delta(TEXT)], []):  # a text may come whole
        raw = stream(item("done", FOUND), *before, item("done", said))
        found = events(asked(CHAT, streams=True).streamed([raw]))[:-1]
        deltas = [choice["delta"] for event in found for choice in event["choices"]]
        assert [each["annotations"] for each in deltas if "annotations" in each] == [expected]
        assert "".join(each.get("content") or "" for each in deltas) == TEXT


def test_a_clients_tool_that_is_announced_whole_is_called_once() -> None:
    call = SEARCHING | {"name": "look", "arguments": '{"at":1}'}
    raw = stream(item("added", call), item("done", call), answer=ANSWER | {"output": [call]})
    found = events(asked(CHAT, streams=True).streamed([raw]))[:-1]
    calls = [call for event in found for choice in event["choices"] for call in choice["delta"].get("tool_calls", [])]
    assert "".join(each["function"].get("arguments") or "" for each in calls) == '{"at":1}'
    assert [each["function"]["name"] for each in calls if "name" in each["function"]] == ["look"]
    assert [choice["finish_reason"] for event in found for choice in event["choices"]][-1] == "tool_calls"


def test_its_writes_to_a_cache_count() -> None:
    usage = decode_reply(orjson.dumps(ANSWER)).usage
    assert usage == Usage(input_tokens=3007, output_tokens=36, cache_read_tokens=1780, cache_write_tokens=1224)


def test_its_own_formats_clients_get_every_byte(perplexity: Provider) -> None:
    connection = Connection(connection_id="c", name="c", provider="perplexity", prefix="p", base_url="https://example.com")
    found = passing(RESPONSES, Deployment(provider=perplexity, connection=connection, model=perplexity.models["sonar"]))
    assert found is not None
    tap = found.tap(hide_usage=False)
    assert tap.feed(STREAM) + tap.close() == STREAM
    assert (tap.done, tap.finish_reason) == (True, "end")

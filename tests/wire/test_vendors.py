"""Vendors of OpenAI's format that refuse or add something: passed through or translated, each body written out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from shared.domain.catalogue import Connection, Deployment, Model, Provider, Quirks, WireFormat
from shared.domain.refusal import Refused
from shared.providers.registry import load
from shared.wire.codec import FORMATS, bridge, passing
from shared.wire.envelope import open_envelope
from tests.wire.translation import STAMP, Translated, chat_stream, events

CHAT, MESSAGES, RESPONSES, GEMINI, COHERE = (
    WireFormat.OPENAI_CHAT,
    WireFormat.ANTHROPIC_MESSAGES,
    WireFormat.OPENAI_RESPONSES,
    WireFormat.GEMINI,
    WireFormat.COHERE,
)
CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@pytest.fixture(scope="module")
def catalogue() -> Mapping[str, Provider]:
    return load()


def deployment(provider: Provider) -> Deployment:
    connection = Connection(connection_id="c", name="c", provider=provider.name, prefix="p", base_url="https://example.com")
    return Deployment(provider=provider, connection=connection, model=Model(model_id="m"))


def passed(provider: Provider, body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A Chat client's body as the provider gets it, and what was dropped; it is not translated."""
    envelope = open_envelope(orjson.dumps(body))
    call = FORMATS[CHAT].facts(envelope, None, None)
    found = passing(CHAT, deployment(provider))
    assert found is not None
    raw, dropped = found.request_body(envelope, deployment(provider), call, None)
    return orjson.loads(raw), dropped


# -- Groq (#91)


def test_groq_is_spared_names_logprobs_n_and_nulls(catalogue: Mapping[str, Provider]) -> None:
    messages = [
        {"role": "user", "name": "ann", "content": "hi"},
        {"role": "assistant", "content": None, "refusal": None, "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    given = {
        "model": "groq/x", "messages": messages, "n": 1, "logprobs": True, "top_logprobs": 2, "stop": None, "temperature": 0,
        "logit_bias": None,
    }  # fmt: skip
    made, dropped = passed(catalogue["groq"], given)
    assert made == {
        "model": "m",
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "x"},
        ],
        "temperature": 0,
    }
    assert sorted(dropped) == ["logprobs", "messages[].name", "messages[].reasoning_content", "n", "top_logprobs"]


def test_what_groq_takes_keeps_its_bytes(catalogue: Mapping[str, Provider]) -> None:
    body = b'{"model":"groq/x","messages":[ {"role":"user",  "content":"\\u0068i"} ]}'
    envelope = open_envelope(body)
    groq = deployment(catalogue["groq"])
    found = passing(CHAT, groq)
    assert found is not None
    made, dropped = found.request_body(envelope, groq, FORMATS[CHAT].facts(envelope, None, None), None)
    assert b'[ {"role":"user",  "content":"\\u0068i"} ]' in made
    assert dropped == []


@pytest.mark.parametrize("name", ["groq", "nvidia"])
def test_two_answers_are_refused_where_one_is_the_most(catalogue: Mapping[str, Provider], name: str) -> None:
    with pytest.raises(Refused) as refused:
        passed(catalogue[name], {"model": "groq/x", "messages": [{"role": "user", "content": "hi"}], "n": 2})
    assert (refused.value.refusal.status, refused.value.refusal.field) == (400, "n")


def test_groq_is_spared_the_same_when_the_call_is_translated(catalogue: Mapping[str, Provider]) -> None:
    groq = deployment(catalogue["groq"])
    made = bridge(CHAT, groq, STAMP, hub=True)
    history = [
        {"role": "user", "name": "ann", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    envelope = open_envelope(orjson.dumps({"model": "groq/x", "messages": history, "logprobs": True}))
    raw, dropped = made.request_body(envelope, groq, FORMATS[CHAT].facts(envelope, None, None), None)
    assert orjson.loads(raw)["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    assert sorted(dropped) == ["logprobs", "messages[].name"]


# -- Perplexity's Sonar API (#99), which ended; the quirks stay for those who answer like it


SONAR = Provider(
    name="sonar",
    title="Sonar",
    prefix="pplx",
    base_url="https://example.com",
    quirks=Quirks(drop=("parallel_tool_calls", "tool_choice", "tools"), alternating=True, citations=True),
)


def test_sonar_is_spared_two_users_in_a_row() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
        {"role": "user", "content": [image]},
    ]
    tools = [{"type": "function", "function": {"name": "look"}}]
    given = {"model": "pplx/sonar", "messages": messages, "tools": tools, "search_mode": "web"}
    made, dropped = passed(SONAR, given)
    assert made["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a\n\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": [{"type": "text", "text": "d"}, image]},
    ]
    assert (made["search_mode"], dropped) == ("web", ["tools"])


TEXT = "Water is wet [2], says one [1]."
SOURCES: list[dict[str, Any]] = [
    {"title": "One", "url": "https://one.example", "date": "2026-01-01", "snippet": "says one"},
    {"title": "Two", "url": "https://two.example", "date": None},
]
URLS = [source["url"] for source in SOURCES]
ANNOTATIONS: list[dict[str, Any]] = [
    {
        "type": "url_citation",
        "url_citation": {"url": "https://one.example", "title": "One", "start_index": 27, "end_index": 30},
    },
    {
        "type": "url_citation",
        "url_citation": {"url": "https://two.example", "title": "Two", "start_index": 13, "end_index": 16},
    },
]
ANSWER: dict[str, Any] = {
    "id": "p", "object": "chat.completion", "created": 1, "model": "sonar", "citations": URLS, "search_results": SOURCES,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12},
}  # fmt: skip


def sonars_stream() -> bytes:
    """Each chunk has the sources so far; the last also says why it ends."""
    chunks = []
    for at, (piece, finish) in enumerate([("Water is wet [2]", None), (", says one [1].", None), ("", "stop")]):
        choice = {"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": finish}
        chunks.append({"id": "p", "model": "sonar", "choices": [choice]} | ({"search_results": SOURCES} if at else {}))
    return b"".join([b"data: %b\r\n\r\n" % orjson.dumps(chunk) for chunk in chunks])


def test_sonars_sources_are_annotations_though_it_passes_through() -> None:
    found = passing(CHAT, deployment(SONAR))
    assert found is not None
    made = orjson.loads(found.read_reply(orjson.dumps(ANSWER)).body)
    assert made["choices"][0]["message"].pop("annotations") == ANNOTATIONS
    assert made == ANSWER  # nothing else changed, its own fields included
    stream = sonars_stream()
    for size in (1, 7, len(stream)):
        tap = found.tap(hide_usage=False)
        out = b"".join([tap.feed(stream[at : at + size]) for at in range(0, len(stream), size)]) + tap.close()
        *others, last = events(out)
        assert last["choices"][0]["delta"]["annotations"] == ANNOTATIONS
        assert last["search_results"] == SOURCES
        assert [orjson.dumps(event) for event in others] == [orjson.dumps(event) for event in events(stream)[:-1]]


def test_an_answer_without_sources_passes_untouched() -> None:
    found = passing(CHAT, deployment(SONAR))
    assert found is not None
    whole, stream = orjson.dumps({"choices": ANSWER["choices"]}), chat_stream({"content": "so"})
    assert found.read_reply(whole).body == whole
    assert found.tap(hide_usage=False).feed(stream) == stream


def translated(client: WireFormat, *, stream: bool) -> Translated:
    made = Translated(client, CHAT)
    hello = {"role": "user", "content": "hi"}
    if client is GEMINI:
        made.sent({"contents": [{"parts": [{"text": "hi"}]}]}, model="lab/model", stream=stream)
    elif client is RESPONSES:
        made.sent({"model": "lab/model", "input": "hi", "stream": stream})
    else:
        made.sent({"model": "lab/model", "max_tokens": 99, "messages": [hello], "stream": stream})
    return made


def test_sources_are_annotations_to_a_chat_client() -> None:
    assert translated(CHAT, stream=False).answered(ANSWER)["choices"][0]["message"]["annotations"] == ANNOTATIONS
    found = events(translated(CHAT, stream=True).streamed([sonars_stream()]))
    told = [event["choices"][0]["delta"]["annotations"] for event in found[:-1] if "annotations" in str(event)]
    assert told == [ANNOTATIONS]


def test_sources_are_annotations_of_a_text_to_a_responses_client() -> None:
    flat = [{"type": "url_citation", **each["url_citation"]} for each in ANNOTATIONS]
    whole = translated(RESPONSES, stream=False).answered(ANSWER)
    assert whole["output"][0]["content"][0]["annotations"] == flat
    found = events(translated(RESPONSES, stream=True).streamed([sonars_stream()]))
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    added = [event for event in found if event["type"] == "response.output_text.annotation.added"]
    assert [(event["annotation_index"], event["annotation"]) for event in added] == list(enumerate(flat))
    assert {event["item_id"] for event in added} == {found[-1]["response"]["output"][0]["id"]}
    assert found[-1]["response"]["output"][0]["content"][0]["annotations"] == flat
    kinds = [event["type"] for event in found]
    assert kinds.index("response.output_text.annotation.added") < kinds.index("response.output_text.done")


OURS = [
    {"type": "web_search_result_location", "cited_text": quote, "url": url, "title": title, "encrypted_index": "wsy1.source"}
    for quote, url, title in [("says one", "https://one.example", "One"), ("", "https://two.example", "Two")]
]


def test_sources_are_citations_of_a_web_search_to_an_anthropic_client() -> None:
    whole = translated(MESSAGES, stream=False).answered(ANSWER)
    assert whole["content"] == [{"type": "text", "text": TEXT, "citations": OURS}]
    found = events(translated(MESSAGES, stream=True).streamed([sonars_stream()]))
    told = [event for event in found if event.get("delta", {}).get("type") == "citations_delta"]
    assert [event["delta"]["citation"] for event in told] == OURS
    assert {event["index"] for event in told} == {0}
    assert found.index(told[-1]) < [event["type"] for event in found].index("content_block_stop")


def test_sources_that_we_wrote_do_not_go_to_anthropic(catalogue: Mapping[str, Provider]) -> None:
    theirs = OURS[0] | {"encrypted_index": "Eo8B"}
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "a", "citations": [theirs, OURS[1]]}]},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": [{"type": "text", "text": "b", "citations": OURS}]},
        {"role": "user", "content": "so"},
    ]
    anthropic = deployment(catalogue["anthropic"])
    found = passing(MESSAGES, anthropic)
    assert found is not None
    envelope = open_envelope(orjson.dumps({"model": "anthropic/m", "max_tokens": 9, "messages": history}))
    raw, _ = found.request_body(envelope, anthropic, FORMATS[MESSAGES].facts(envelope, None, None), None)
    made = orjson.loads(raw)["messages"]
    assert made[1]["content"] == [{"type": "text", "text": "a", "citations": [theirs]}]
    assert made[3]["content"] == [{"type": "text", "text": "b"}]
    assert Translated(MESSAGES, CHAT).sent({"model": "lab/model", "max_tokens": 9, "messages": history})["messages"][3] == {
        "role": "assistant",
        "content": "b",
    }


def test_sources_are_grounding_to_a_gemini_client() -> None:
    chunks = [{"web": {"uri": "https://one.example", "title": "One"}}, {"web": {"uri": "https://two.example", "title": "Two"}}]
    whole = translated(GEMINI, stream=False).answered(ANSWER)
    assert whole["candidates"][0]["groundingMetadata"] == {"groundingChunks": chunks}
    found = events(translated(GEMINI, stream=True).streamed([sonars_stream()]))
    assert found[-1]["candidates"][0]["groundingMetadata"] == {"groundingChunks": chunks}
    assert all("groundingMetadata" not in str(event) for event in found[:-1])


def test_sources_are_spans_to_a_cohere_client_and_come_back_as_sources() -> None:
    spans = [
        {
            "start": start, "end": start + 3, "text": mark, "type": "TEXT_CONTENT",
            "sources": [{"type": "document", "id": f"source:{at}", "document": document}],
        }
        for at, (start, mark, document) in enumerate([
            (27, "[1]", {"url": "https://one.example", "title": "One", "snippet": "says one"}),
            (13, "[2]", {"url": "https://two.example", "title": "Two", "snippet": ""}),
        ])
    ]  # fmt: skip
    whole = translated(COHERE, stream=False).answered(ANSWER)
    assert whole["message"]["citations"] == spans
    stream = translated(COHERE, stream=True).streamed([sonars_stream()])
    told = [event["delta"]["message"]["citations"] for event in events(stream) if event["type"] == "citation-start"]
    assert told == spans
    back = Translated(CHAT, COHERE)
    back.sent({"model": "lab/model", "messages": [{"role": "user", "content": "hi"}], "stream": True})
    assert back.answered(whole)["choices"][0]["message"]["annotations"] == ANNOTATIONS
    found = events(back.streamed([stream]))[:-1]
    assert [event["choices"][0]["delta"]["annotations"] for event in found if "annotations" in str(event)] == [ANNOTATIONS]


def test_openais_own_annotations_keep_their_places() -> None:
    """As its search models and OpenRouter's `:online` give them."""
    place = {
        "type": "url_citation",
        "url_citation": {"url": "https://a.example", "title": "A", "start_index": 2, "end_index": 5},
    }
    answer = {"choices": [{"message": {"content": "so [A] it is", "annotations": [place]}, "finish_reason": "stop"}]}
    made = translated(RESPONSES, stream=False).answered(answer)["output"][0]["content"][0]["annotations"]
    assert made == [{"type": "url_citation", "url": "https://a.example", "title": "A"} | {"start_index": 2, "end_index": 5}]
    stream = chat_stream({"content": "so [A] it is"}, {"annotations": [place]})
    found = events(translated(CHAT, stream=True).streamed([stream]))[:-1]
    assert [event["choices"][0]["delta"]["annotations"] for event in found if "annotations" in str(event)] == [[place]]

"""Nothing is silently lost: a field changes the provider's body, or is listed as dropped, or the call is refused by its name.

Each case is a body with the field and one without it; at every provider format the two must come to something different.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.domain.catalogue import WireFormat
from shared.domain.refusal import Refused
from shared.wire.codec import PROVIDERS
from tests.wire.translation import Translated

CHAT, MESSAGES, RESPONSES, GEMINI, COHERE, BEDROCK = (
    WireFormat.OPENAI_CHAT,
    WireFormat.ANTHROPIC_MESSAGES,
    WireFormat.OPENAI_RESPONSES,
    WireFormat.GEMINI,
    WireFormat.COHERE,
    WireFormat.BEDROCK,
)
PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
FUNCTION: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
TEXT = {"type": "text", "text": "hi"}
STRICTLY = FUNCTION | {"function": FUNCTION["function"] | {"strict": True}}
FOUND = {"type": "search_result", "source": "u", "title": "t", "content": [TEXT]}
SEARCHING = {"type": "server_tool_use", "id": "s", "name": "x", "input": {}}
SEARCHED = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
IMAGE = {"type": "image_url", "image_url": {"url": PNG}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}
TOOL = {"name": "f", "input_schema": SCHEMA}
STRICT = {"name": "x", "schema": SCHEMA, "strict": True}
Values = dict[str, Any]


def chat(*parts: Any, **more: Any) -> Values:
    """One user message; `message_…` fields are its own."""
    own = {name.removeprefix("message_"): more.pop(name) for name in list(more) if name.startswith("message_")}
    return {"model": "lab/m", "max_tokens": 3000, "messages": [{"role": "user", "content": list(parts) or "hi"} | own]} | more


def replayed(*parts: Any, **own: Any) -> Values:
    """The assistant's message, with fields of its own, between two of the user's."""
    hello = {"role": "user", "content": "hi"}
    made = chat()
    return made | {"messages": [hello, {"role": "assistant", "content": list(parts) or "so"} | own, hello]}


def items(*parts: Any, more: tuple[Any, ...] = (), **fields: Any) -> Values:
    return {"model": "lab/m", "input": [{"role": "user", "content": list(parts) or "hi"}, *more]} | fields


def google(*parts: Any, **fields: Any) -> Values:
    return {"contents": [{"role": "user", "parts": list(parts) or [{"text": "hi"}]}]} | fields


def beside(client: WireFormat, base: Values, **fields: Any) -> list[tuple[WireFormat, str, Values, Values]]:
    return [(client, name, base, base | {name: value}) for name, value in fields.items()]


TOP = [
    *beside(
        CHAT, chat(), frequency_penalty=0.5, presence_penalty=0.5, logit_bias={"1": 1}, logprobs=True, user="u",
        metadata={"a": "b"}, modalities=["text", "audio"], audio={"voice": "a", "format": "mp3"}, n=2, prompt_cache_key="k",
        prediction={"type": "content", "content": "x"}, prompt_cache_retention="24h", reasoning_effort="high",
        response_format={"type": "json_object"}, safety_identifier="s", seed=5, service_tier="flex", stop=["x"], store=True,
        temperature=0.4, top_p=0.4, top_k=4, min_p=0.1, max_completion_tokens=5001, verbosity="low", web_search_options={},
        safe_prompt=True,
        thinking={"type": "enabled"}, tools=[FUNCTION], functions=[FUNCTION["function"]],
    ),
    *beside(CHAT, chat(tools=[FUNCTION]), tool_choice="required", parallel_tool_calls=False),
    *beside(
        RESPONSES, items(), instructions="be", max_output_tokens=50, max_tool_calls=2, metadata={"a": "b"}, top_logprobs=2,
        prompt_cache_key="k", reasoning={"effort": "high"}, safety_identifier="s", service_tier="flex", temperature=0.4,
        text={"verbosity": "low"}, top_p=0.4, truncation="auto", user="u", include=["file_search_call.results"],
        prompt={"id": "p"}, background=True, conversation="c", safe_prompt=True, context_management=[{"type": "compaction"}],
    ),
    *beside(
        MESSAGES, chat(), system="s", temperature=0.4, top_p=0.4, top_k=4, stop_sequences=["x"], metadata={"user_id": "u"},
        service_tier="standard_only", thinking={"type": "enabled", "budget_tokens": 1500}, output_config={"effort": "high"},
        tools=[TOOL], container="c", mcp_servers=[{"type": "url", "url": "x", "name": "x"}], context_management={"edits": []},
        speed="fast", inference_geo="us", safe_prompt=True, diagnostics={"a": 1},
    ),
    *beside(
        GEMINI, google(), systemInstruction={"parts": [{"text": "s"}]}, cachedContent="c", labels={"a": "b"},
        safetySettings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}], safe_prompt=True,
        tools=[{"functionDeclarations": [{"name": "f"}]}], safety_settings=[{"category": "x", "threshold": "OFF"}],
    ),
    *(
        (GEMINI, f"generationConfig.{name}", google(), google(generationConfig={name: value}))
        for name, value in {
            "temperature": 0.4, "topP": 0.4, "topK": 4, "maxOutputTokens": 50, "stopSequences": ["x"], "candidateCount": 2,
            "seed": 5, "presencePenalty": 0.5, "frequencyPenalty": 0.5, "responseLogprobs": True, "audioTimestamp": True,
            "responseMimeType": "text/x.enum", "responseModalities": ["IMAGE"], "thinkingConfig": {"thinkingBudget": 500},
            "mediaResolution": "MEDIA_RESOLUTION_LOW", "something_new": 1,
        }.items()
    ),
    *beside(
        COHERE, chat(), documents=["d"], citation_options={"mode": "FAST"}, response_format={"type": "json_object"},
        safety_mode="NONE", stop_sequences=["x"], temperature=0.4, seed=5, frequency_penalty=0.4, presence_penalty=0.4, k=4,
        p=0.4, logprobs=True, tools=[FUNCTION], strict_tools=True, priority=1, raw_prompting=True, safe_prompt=True,
    ),
]  # fmt: skip
WITHIN = [
    (CHAT, "name", chat(), chat(message_name="ann")),
    (CHAT, "unknown field", chat(), chat(message_weird=1)),
    (CHAT, "detail", chat(IMAGE), chat(IMAGE | {"image_url": {"url": PNG, "detail": "low"}})),
    (CHAT, "cache_control", chat(TEXT), chat(TEXT | EPHEMERAL)),
    (CHAT, "field of a part", chat(TEXT), chat(TEXT | {"weird": 1})),
    (CHAT, "audio", chat(TEXT), chat(TEXT, {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}})),
    (CHAT, "video", chat(TEXT), chat(TEXT, {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}})),
    (CHAT, "unknown part", chat(TEXT), chat(TEXT, {"type": "weird"})),
    (CHAT, "refusal", replayed(), replayed(refusal="no")),
    (CHAT, "audio replayed", replayed(), replayed(audio={"id": "a"})),
    (CHAT, "images replayed", replayed(), replayed(images=[IMAGE])),
    (CHAT, "strict tool", chat(tools=[FUNCTION]), chat(tools=[STRICTLY])),
    (CHAT, "cached tool", chat(tools=[FUNCTION]), chat(tools=[FUNCTION | EPHEMERAL])),
    (CHAT, "unknown tool", chat(tools=[FUNCTION]), chat(tools=[FUNCTION, {"type": "weird"}])),
    (
        CHAT, "strict schema",
        chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}),
        chat(response_format={"type": "json_schema", "json_schema": STRICT}),
    ),
    (MESSAGES, "cache_control", chat(TEXT), chat(TEXT | EPHEMERAL)),
    (MESSAGES, "unknown block", chat(TEXT), chat(TEXT, {"type": "weird"})),
    (MESSAGES, "uploaded file", chat(TEXT), chat(TEXT, {"type": "container_upload", "file_id": "f"})),
    (MESSAGES, "search result", chat(TEXT), chat(TEXT, FOUND)),
    (MESSAGES, "server tool's call", replayed(TEXT), replayed(TEXT, SEARCHING)),
    (MESSAGES, "its result", replayed(TEXT), replayed(TEXT, SEARCHED)),
    (MESSAGES, "citations", replayed(TEXT), replayed(TEXT | {"citations": [{"type": "char_location"}]})),
    (MESSAGES, "strict tool", chat(tools=[TOOL]), chat(tools=[TOOL | {"strict": True}])),
    (MESSAGES, "examples", chat(tools=[TOOL]), chat(tools=[TOOL | {"input_examples": [{}]}])),
    (MESSAGES, "deferred tool", chat(tools=[TOOL]), chat(tools=[TOOL | {"defer_loading": True}])),
    (MESSAGES, "cached tool", chat(tools=[TOOL]), chat(tools=[TOOL | EPHEMERAL])),
    (RESPONSES, "unknown item", items(), items(more=({"type": "weird"},))),
    (RESPONSES, "hosted tool's call", items(), items(more=({"type": "web_search_call", "id": "w", "status": "completed"},))),
    (
        RESPONSES, "deferred tool", items(tools=[{"type": "function", "name": "f", "parameters": SCHEMA}]),
        items(tools=[{"type": "function", "name": "f", "parameters": SCHEMA, "defer_loading": True}]),
    ),
    (GEMINI, "unknown part", google(), google({"text": "hi"}, {"weird": 1})),
    (GEMINI, "resolution", google({"text": "hi"}), google({"text": "hi", "media_resolution": {"level": "x"}})),
    (
        GEMINI, "declared response", google(tools=[{"functionDeclarations": [{"name": "f"}]}]),
        google(tools=[{"function_declarations": [{"name": "f", "response": {"type": "STRING"}}]}]),
    ),
]  # fmt: skip
DOCUMENTS = [
    (MESSAGES, "title", chat(PDF), chat(PDF | {"title": "t"})),
    (MESSAGES, "context", chat(PDF), chat(PDF | {"context": "t"})),
    (MESSAGES, "citations", chat(PDF), chat(PDF | {"citations": {"enabled": True}})),
]
"""Cohere refuses the document itself."""


def outcome(client: WireFormat, provider: WireFormat, body: Values) -> tuple[Any, ...]:
    bridge = Translated(client, provider)
    try:
        sent = bridge.sent(body, model="lab/m", stream=False) if client is GEMINI else bridge.sent(body)
    except Refused as refused:
        return ("refused", refused.refusal.field or pytest.fail("a refusal that names no field"))
    return (orjson.dumps(sent), tuple(bridge.dropped))


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
@pytest.mark.parametrize(("client", "name", "without", "given"), TOP + WITHIN)
def test_nothing_is_silently_lost(client: WireFormat, name: str, without: Values, given: Values, provider: WireFormat) -> None:
    assert outcome(client, provider, given) != outcome(client, provider, without)


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - {COHERE}))
@pytest.mark.parametrize(("client", "name", "without", "given"), DOCUMENTS)
def test_nothing_of_a_document_is_silently_lost(
    client: WireFormat, name: str, without: Values, given: Values, provider: WireFormat
) -> None:
    assert outcome(client, provider, given) != outcome(client, provider, without)


def test_each_kind_of_loss_is_named_once_in_the_clients_words() -> None:
    bridge = Translated(MESSAGES, CHAT)
    body = chat(
        TEXT | EPHEMERAL, TEXT | EPHEMERAL, {"type": "odd kind\r\nx: y"}, PDF | {"context": "c"}, PDF | {"context": "d"}
    )
    bridge.sent(body)
    assert bridge.dropped == ["messages[].content[]:odd_kind__x__y", "messages[].content[].context", "cache_control"]


SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}
ENCRYPTED = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
GOOGLES = {"role": "model", "parts": [{"text": "Hm.", "thought": True, "thoughtSignature": "CsQB"}, {"text": "so"}]}
ASKED: Values = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
THOUGHTS: list[tuple[WireFormat, Values, str, set[WireFormat]]] = [
    (CHAT, replayed(reasoning_content="Hm."), "messages[].reasoning_content", set()),
    (CHAT, replayed(reasoning="Hm."), "messages[].reasoning", set()),
    (CHAT, replayed({"type": "thinking", "thinking": [TEXT]}, TEXT), "messages[].content[]:thinking", set()),
    (MESSAGES, replayed(SIGNED, TEXT) | ASKED, "messages[].content[]:thinking", {MESSAGES, BEDROCK}),
    (MESSAGES, replayed(SIGNED, TEXT), "messages[].content[]:thinking", {BEDROCK}),
    (RESPONSES, items(more=(ENCRYPTED, {"role": "assistant", "content": "so"})), "input[]:reasoning", {RESPONSES}),
    (GEMINI, {"contents": [GOOGLES, *google()["contents"]]}, "contents[].parts[].thought", {GEMINI}),
    (COHERE, replayed({"type": "thinking", "thinking": "Hm."}, TEXT), "messages[].content[]:thinking", set()),
    (COHERE, replayed(tool_plan="Hm."), "messages[].tool_plan", set()),
]  # fmt: skip
"""Reasoning that the client sends back: what it is called, and who takes it."""


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
@pytest.mark.parametrize(("client", "body", "name", "takers"), THOUGHTS)
def test_reasoning_that_a_provider_is_not_sent_is_named(
    client: WireFormat, body: Values, name: str, takers: set[WireFormat], provider: WireFormat
) -> None:
    bridge = Translated(client, provider, model_id="anthropic.claude-sonnet-4-20250514-v1:0", max_output_tokens=64_000)
    sent = bridge.sent(body, model="lab/m", stream=False) if client is GEMINI else bridge.sent(body)
    assert (name in bridge.dropped) is (provider not in takers)
    held = orjson.dumps(sent)
    assert any(mark in held for mark in (b"Hm.", b"gAAA")) is (provider in takers)


def test_reasoning_that_a_chat_provider_wants_back_is_not_named() -> None:
    for field in ("reasoning_content", "reasoning_details"):
        bridge = Translated(MESSAGES, CHAT, replay_reasoning=field)
        sent = bridge.sent(replayed(SIGNED, TEXT))
        assert bridge.dropped == []
        assert sent["messages"][1][field]


def test_what_says_nothing_is_not_named() -> None:
    """As OpenAI's SDK replays an answer."""
    bridge = Translated(CHAT, MESSAGES)
    bridge.sent(replayed(refusal=None, audio=None, function_call=None, annotations=[], tool_calls=None))
    assert bridge.dropped == []


def test_googles_own_fields_go_where_they_belong() -> None:
    """From a Gemini client whose stream is a JSON array, which is translated even to Gemini."""
    bridge = Translated(GEMINI, GEMINI)
    made = bridge.sent(
        google(generationConfig={"topK": 3, "mediaResolution": "MEDIA_RESOLUTION_LOW"}, safetySettings=[{"category": "x"}]),
        model="lab/m",
        stream=True,
    )
    assert made["generationConfig"] == {"topK": 3, "mediaResolution": "MEDIA_RESOLUTION_LOW"}
    assert made["safetySettings"] == [{"category": "x"}]
    assert bridge.dropped == []

"""A conversation that is too long loses its middle, and never half of a tool call (wire.md 115, 116)."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.catalogue import Connection, Deployment, Model, Provider, Quirks, WireFormat
from shared.wire import middle_out
from shared.wire.envelope import open_envelope
from shared.wire.middle_out import estimated, fitted, shortened, wanted
from shared.wire.openai_chat import check_call

CHAT = WireFormat.OPENAI_CHAT
SYSTEM = {"role": "system", "content": "Be short."}
CALLS = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function"}, {"id": "b", "type": "function"}]}
RESULTS = [{"role": "tool", "tool_call_id": "b", "content": "2"}, {"role": "tool", "tool_call_id": "a", "content": "1"}]


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def deployment(context: int | None, most_messages: int | None = None) -> Deployment:
    lab = Provider(name="lab", title="Lab", prefix="lab", base_url=None, quirks=Quirks(most_messages=most_messages))
    connection = Connection(connection_id="c", name="lab", provider="lab", prefix="lab", base_url="http://x")
    return Deployment(provider=lab, connection=connection, model=Model(model_id="m", context_tokens=context))


def test_of_1500_messages_the_first_and_the_last_500_stay() -> None:
    turns = [said("assistant" if at % 2 else "user", str(at)) for at in range(1500)]
    assert shortened(turns, None, 1000) == turns[:500] + turns[-500:]


def test_the_middle_goes_first_and_no_more_than_must() -> None:
    turns = [said("assistant" if at % 2 else "user", "x" * 400) for at in range(9)]
    whole = sum(map(estimated, turns))
    assert shortened(turns, whole) == turns
    assert shortened(turns, whole - 1) == turns[:4] + turns[5:]
    assert shortened(turns, whole - estimated(turns[4]) - 1) == turns[:3] + turns[5:]


def test_system_and_the_last_question_stay_however_long_they_are() -> None:
    turns = [
        said("system", "s" * 4000), said("developer", "d" * 4000), said("user", "first"), said("assistant", "answer"),
        said("user", "q" * 40_000), CALLS, *RESULTS, said("assistant", "hm"), said("tool", "x") | {"tool_call_id": "?"},
    ]  # fmt: skip
    left = shortened(turns, 10)
    assert left == [turns[0], turns[1], turns[4], *turns[-2:]]


def test_a_call_and_its_results_go_together() -> None:
    turns = [SYSTEM, said("user", "1"), CALLS, *RESULTS, said("assistant", "2"), said("user", "3")]
    assert shortened(turns, None, 6) == [SYSTEM, said("user", "1"), said("assistant", "2"), said("user", "3")]


def test_anthropics_blocks_and_items_of_responses_are_pairs_too() -> None:
    use = {"role": "assistant", "content": [{"type": "text", "text": "I look."}, {"type": "tool_use", "id": "t", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "r" * 400}]}
    turns = [said("user", "1"), use, result, said("assistant", "2"), said("user", "3")]
    assert shortened(turns, None, 4) == [turns[0], *turns[3:]]
    items = [
        said("user", "1"), {"type": "reasoning", "id": "rs"}, {"type": "function_call", "call_id": "c"},
        {"type": "function_call_output", "call_id": "c", "output": "r"}, said("assistant", "2"), said("user", "3"),
    ]  # fmt: skip
    assert shortened(items, None, 5) == [items[0], *items[4:]]


def test_a_picture_counts_as_one_and_not_by_its_bytes() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    assert 1_000 <= estimated({"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]}) < 1_050


ROLES = st.sampled_from(["user", "assistant", "call", "orphan"])


@given(st.lists(ROLES, min_size=1, max_size=30), st.integers(0, 3), st.integers(0, 400), st.integers(1, 30))
def test_whatever_is_cut_is_whole(kinds: list[str], systems: int, tokens: int, most: int) -> None:
    turns: list[dict[str, Any]] = [said("system", "s")] * systems
    for at, kind in enumerate(kinds):
        if kind == "call":
            turns.append({"role": "assistant", "tool_calls": [{"id": f"c{at}"}, {"id": f"d{at}"}]})
            turns += [{"role": "tool", "tool_call_id": f"{one}{at}", "content": "x" * at} for one in "dc"]
        else:
            turns.append({"role": "tool", "tool_call_id": "?"} if kind == "orphan" else said(kind, "x" * at))
    left = shortened(turns, tokens, most)
    rest = iter(turns)
    assert all(any(each is one for one in rest) for each in left)  # in their order
    assert left[:systems] == turns[:systems]
    assert left[-1] is turns[-1]
    asked = [each for each in turns if each["role"] == "user"]
    assert not asked or any(each is asked[-1] for each in left)
    called = {call["id"] for each in left for call in each.get("tool_calls", ())}
    answered = {each["tool_call_id"] for each in left if each["role"] == "tool"} - {"?"}
    assert called == answered
    if len(turns) <= most and sum(map(estimated, turns)) <= tokens:
        assert left == turns


@pytest.mark.parametrize(
    ("asked", "context", "most", "expected"),
    [
        (None, 8192, None, True),  # short contexts: unless somebody says otherwise
        (None, 8193, None, False),
        (True, 16_000, None, True),
        (False, 8192, None, False),
        (True, 32_000, None, False),  # it fits
        (True, None, None, False),  # nobody knows
        (True, None, 1, True),
    ],
)
def test_who_is_shortened(asked: bool | None, context: int | None, most: int | None, expected: bool) -> None:
    body = {"model": "lab/m", "messages": [said("user", "x" * 40_000), said("user", "x" * 40_000)]}
    call = check_call(open_envelope(orjson.dumps(body)))
    assert wanted(asked, CHAT, deployment(context, most), call) is expected


def test_openrouter_shortens_by_itself_what_it_hears_of() -> None:
    to = deployment(8192)
    there = msgspec.structs.replace(to, provider=msgspec.structs.replace(to.provider, quirks=Quirks(takes_routing=True)))
    call = check_call(open_envelope(orjson.dumps({"model": "lab/m", "messages": [said("user", "x" * 40_000)]})))
    assert [wanted(True, client, there, call) for client in (CHAT, WireFormat.ANTHROPIC_MESSAGES)] == [False, True]
    assert wanted(True, CHAT, to, call)


@pytest.mark.parametrize("escaped", [False, True])
def test_a_body_is_made_to_fit_with_room_for_the_answer(escaped: bool) -> None:
    """20,000 tokens into 8,192. How the client writes its letters does not matter."""
    text = "\u00e9" * 1600  # 800 tokens
    turns = [SYSTEM, *(said("assistant" if at % 2 else "user", text) for at in range(25))]
    body = {"model": "lab/m", "max_tokens": 1000, "messages": turns, "tools": [{"type": "function", "x": "y" * 2000}]}
    raw = orjson.dumps(body)
    envelope = open_envelope(raw.replace("\u00e9".encode(), b"\\u00e9") if escaped else raw)
    envelope.routing = b"{}"
    cut = fitted(envelope, deployment(8192), check_call(envelope))
    assert cut is not None
    sent = orjson.loads(cut.envelope.body)
    assert sent["messages"] == [*turns[:4], *turns[-5:]]
    assert {name: sent[name] for name in ("max_tokens", "tools")} == {name: body[name] for name in ("max_tokens", "tools")}
    assert 8192 - 1000 - 810 < cut.tokens <= 8192 - 1000
    assert cut.envelope.routing == b"{}"
    assert cut.told() == "messages (17 of 26)"
    assert len(cut.envelope.body) < len(raw)


def test_a_provider_that_takes_only_so_many_messages_gets_no_more() -> None:
    """Wire.md 116: 1,500 messages, of which a tool call lies across the cut."""
    turns = [said("assistant" if at % 2 else "user", str(at)) for at in range(1500)]
    turns[499:501] = [CALLS | {"tool_calls": [{"id": "a"}]}, {"role": "tool", "tool_call_id": "a", "content": "1"}]
    envelope = open_envelope(orjson.dumps({"model": "lab/m", "messages": turns}))
    call = check_call(envelope)
    assert wanted(True, CHAT, deployment(None, 1000), call)
    assert not wanted(None, CHAT, deployment(None, 1000), call)
    cut = fitted(envelope, deployment(None, 1000), call)
    assert cut is not None
    sent = orjson.loads(cut.envelope.body)["messages"]
    assert sent == [*turns[:499], *turns[1000:]]
    assert (cut.before, cut.after, cut.told()) == (1500, 999, "messages (501 of 1500)")


def test_what_has_no_messages_stays() -> None:
    envelope = open_envelope(orjson.dumps({"model": "lab/m", "input": "x" * 100_000}))
    short = {"model": "lab/m", "messages": [said("user", "x" * 100_000)]}
    call = check_call(open_envelope(orjson.dumps(short)))
    assert fitted(envelope, deployment(8192), call) is None
    assert fitted(open_envelope(orjson.dumps(short)), deployment(8192), call) is None  # the last question is all there is
    assert middle_out.room(call, 600) == 300

"""Every client format against every provider format, through a real node: no cell may be wrong, and a wrong one is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from services.cli.__main__ import main
from services.matrix.capabilities import CAPABILITIES
from services.matrix.clients import CLIENTS
from services.matrix.conversation import Sent, Wrong, events_of
from services.matrix.run import PROVIDERS, Cell, Outcome, run
from services.matrix.table import lines
from services.simulator.answer import Choice, Reply, usage_object
from services.simulator.behaviour import Behaviour
from services.simulator.call import read_call
from services.simulator.formats import chat, gemini, messages, responses
from tests.hosts.cluster import running

FORMATS = {"openai-chat": chat, "openai-responses": responses, "anthropic-messages": messages, "gemini": gemini}


async def test_every_cell_of_the_matrix_passes(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with running(database_url, redis_url, tmp_path, demo=True) as cluster:
        cells = await run(cluster.url(), cluster.key)
        assert [cell for cell in cells if cell.outcome is not Outcome.PASS] == []
        assert len(cells) == len(CLIENTS) * len(PROVIDERS) * len(CAPABILITIES) == 4 * 6 * 8
        booked = await cluster.booked(1)
    assert {row["provider"] for row in booked} <= {f"demo{name}" for name in ("", *("-" + name for name in NAMES))}


NAMES = ("responses", "messages", "gemini", "cohere", "bedrock")


def streamed(name: str) -> bytes:
    """What the simulator would stream in that format."""
    _, call = read_call(b'{"model": "chat", "messages": [{"role": "user", "content": "hi"}]}')
    call.include_usage = True
    reply = Reply("id", "chat", 1, [Choice(0, content=["You", " said:", " hi"])], usage_object(5, 3, 0, 0))
    return b"".join(event for _, event in FORMATS[name].FORMAT.encode_events(reply, Behaviour(), call))


@pytest.mark.parametrize("name", list(CLIENTS))
def test_a_whole_stream_is_understood_and_one_without_its_end_is_wrong(name: str) -> None:
    events = events_of(streamed(name))
    heard = CLIENTS[name].listen(events)
    assert (heard.text, heard.finish, heard.output_tokens) == ("You said: hi", "end", 3)
    with pytest.raises(Wrong):
        CLIENTS[name].listen(events[:-1])


@pytest.mark.parametrize("name", ["openai-responses", "anthropic-messages"])
def test_events_out_of_order_are_wrong(name: str) -> None:
    events = events_of(streamed(name))
    with pytest.raises(Wrong):
        CLIENTS[name].listen([events[1], events[0], *events[2:]])


@pytest.mark.parametrize("name", list(CLIENTS))
@pytest.mark.parametrize("body", [{}, {"error": "no"}, {"message": "no"}, {"error": {"message": "no"}}])
def test_an_error_in_another_format_is_wrong(name: str, body: dict[str, Any]) -> None:
    with pytest.raises(Wrong):
        CLIENTS[name].error(400, body)


def test_a_line_that_is_no_field_is_wrong() -> None:
    assert events_of(b": ping\r\n\r\ndata: 1\r\n\r\n") == [Sent(None, "1")]
    with pytest.raises(Wrong):
        events_of(b'{"error": 1}\n\n')


def test_the_table_says_what_is_wrong_and_why() -> None:
    cells = [Cell(client="gemini", provider="cohere", capability=name, outcome=Outcome.PASS) for name in list(CAPABILITIES)[1:]]
    cells.append(Cell(client="gemini", provider="cohere", capability="text", outcome=Outcome.WRONG, reason="heard nothing"))
    made = lines(cells)
    assert made[2].split() == ["cohere", "WRONG", *["pass"] * 7]
    assert made[-2:] == ["gemini → cohere, text: WRONG: heard nothing", "7 pass, 0 refused, 1 wrong"]


def test_a_gateway_that_is_not_there_is_said_in_one_line() -> None:
    said = CliRunner().invoke(main, ["matrix", "--url", "http://127.0.0.1:9", "--key", "sk-ws-nobody"])
    assert said.exit_code == 1
    assert said.output.startswith("waystation: http://127.0.0.1:9 cannot be reached")


async def test_a_key_that_is_none_makes_every_cell_wrong(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with running(database_url, redis_url, tmp_path) as cluster:
        cells = await run(cluster.url(), "sk-ws-nobody", clients=["gemini"], providers=["cohere"])
    assert {cell.outcome for cell in cells} == {Outcome.WRONG}
    assert json.dumps([cell.reason for cell in cells if cell.capability != "error"]).count("401") == 7

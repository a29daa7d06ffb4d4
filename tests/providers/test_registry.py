"""Reading a catalogue file: what it may say, and that an error names the file, the line and the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.catalogue import Auth, Capability, DataPolicy, Model, Provider, Quirks, WireFormat
from shared.domain.money import Price
from shared.providers.registry import ENDPOINTS, load, parse
from shared.providers.table import CatalogueError

LEAST = 'name = "acme"\ntitle = "Acme"\nprefix = "acme"\n'
DATED = LEAST + 'source = "https://acme.test/prices"\nverified_on = 2026-07-02\n'
PRICED = DATED + '[models."m-1.5"]\n[models."m-1.5".price]\n'
USD = 1_000_000_000


def error_of(text: str) -> str:
    with pytest.raises(CatalogueError) as caught:
        parse(text, "acme.toml")
    return str(caught.value)


def test_the_least_file_has_every_default() -> None:
    assert parse(LEAST, "acme.toml") == Provider(
        name="acme", title="Acme", prefix="acme", base_url=None, wire_format=WireFormat.OPENAI_CHAT, auth=Auth.BEARER,
        endpoints=ENDPOINTS, quirks=Quirks(), data_policy=DataPolicy(), models={},
    )  # fmt: skip


def test_a_whole_file_is_read() -> None:
    text = """
name = "acme"
title = "Acme AI"
prefix = "ac"
aliases = ["acme", "acme-2"]
base_url = "https://api.acme.test/v1"
wire_format = "gemini"
auth = "x-goog-api-key"
source = "https://acme.test/prices"
verified_on = 2026-07-02

[endpoints]
chat = "/models/{model}:generate"
chat_stream = "/models/{model}:stream?alt=sse"

[headers]
acme-version = "1"

[quirks]
drop = ["top_k"]
rename = { max_completion_tokens = "max_tokens" }
stream_usage = false
usage_in_choice = true
forced_tools = ["any"]
reasoning = "object"
tool_ids = "nine"
most_stops = 1
most_messages = 1000

[data_policy]
trains = false
retention_days = 0
region = "eu"

[models.small]

[models."big-1.5"]
context_tokens = 100_000_000
max_output_tokens = 1
capabilities = ["text", "vision"]

[models."big-1.5".price]
input = "0.15"
output = "0.6"
cache_read = "0.0375"
cache_write = "0"
reasoning = "1"
request = "0.005"
verified_on = 2026-08-01
"""
    price = Price(
        input_nano_per_mtok=150_000_000, output_nano_per_mtok=600_000_000, cache_read_nano_per_mtok=37_500_000,
        cache_write_nano_per_mtok=0, reasoning_nano_per_mtok=USD, request_nano=5_000_000, version="catalogue 2026-08-01",
    )  # fmt: skip
    big = Model(
        model_id="big-1.5", context_tokens=100_000_000, max_output_tokens=1,
        capabilities=frozenset({Capability.TEXT, Capability.VISION}),
        described=True, price=price,
    )  # fmt: skip
    assert parse(text, "acme.toml") == Provider(
        name="acme", title="Acme AI", prefix="ac", aliases=("acme", "acme-2"), base_url="https://api.acme.test/v1",
        wire_format=WireFormat.GEMINI, auth=Auth.X_GOOG_API_KEY,
        endpoints={"chat": "/models/{model}:generate", "chat_stream": "/models/{model}:stream?alt=sse"},
        headers={"acme-version": "1"},
        quirks=Quirks(
            drop=("top_k",), rename={"max_completion_tokens": "max_tokens"}, stream_usage=False, usage_in_choice=True,
            forced_tools=("any",), reasoning="object", tool_ids="nine", most_stops=1, most_messages=1000,
        ),
        data_policy=DataPolicy(trains=False, retention_days=0, region="eu"),
        models={"small": Model(model_id="small"), "big-1.5": big},
        source="https://acme.test/prices", verified_on="2026-07-02",
    )  # fmt: skip


def test_an_openai_file_adds_to_openais_endpoints_and_any_other_lists_its_own() -> None:
    endpoints = '[endpoints]\nchat = "/chat"\n'
    assert parse(LEAST + endpoints, "acme.toml").endpoints == ENDPOINTS | {"chat": "/chat"}
    assert parse(LEAST + 'wire_format = "cohere"\n' + endpoints, "acme.toml").endpoints == {"chat": "/chat"}


def test_a_price_is_dated_by_its_own_source_where_the_file_has_none() -> None:
    text = LEAST + '[models.m.price]\ninput = "1"\noutput = "2"\nsource = "s"\nverified_on = 2026-01-02\n'
    price = parse(text, "acme.toml").models["m"].price
    assert price == Price(input_nano_per_mtok=USD, output_nano_per_mtok=2 * USD, version="catalogue 2026-01-02")


@pytest.mark.parametrize(
    "text", ["name = ", "name = 'a'\nname = 'b'", "[a", "name: acme", "[models]\n[models]", 'title = "\x00"', "{}"]
)
def test_what_is_not_toml_names_the_file(text: str) -> None:
    assert error_of(text).startswith("acme.toml: not TOML: ")


def test_what_is_not_toml_names_the_line() -> None:
    assert "(at line 4, column " in error_of(LEAST + "auth = bearer\n")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            LEAST + "\n# a comment\ncolour = 1\n",
            "acme.toml:6: colour: unknown key (known here: aliases, api_version, auth, ",
        ),
        (LEAST + "[colours]\nred = 1\n", "acme.toml:4: colours: unknown key (known here: aliases, "),
        (
            LEAST + '[endpoints]\nchat = "/c"\nchats = "/c"\n',
            "acme.toml:6: endpoints.chats: unknown key (known here: chat)",
        ),
        (LEAST + '[endpoints]\nchats = "/c"\n', "acme.toml:5: endpoints.chats: unknown key (known here: no keys)"),
        (LEAST + 'endpoints = { chats = "/c" }\n', "acme.toml:4: endpoints.chats: unknown key (known here: no keys)"),
        (LEAST + 'endpoints.chats = "/c"\n', "acme.toml:4: endpoints.chats: unknown key (known here: no keys)"),
        (
            LEAST + "[quirks]\ndrop = []\nrewritten = true\n",
            "acme.toml:6: quirks.rewritten: unknown key (known here: alternating, citations, continues, ",
        ),
        (
            LEAST + "[data_policy]\n\nretention = 1\n",
            "acme.toml:6: data_policy.retention: unknown key (known here: region, retention_days, trains)",
        ),
        (
            LEAST + '[models.a]\n[models."m-1.5"]\ncontext = 1\n',
            'acme.toml:6: models."m-1.5".context: unknown key (known here: capabilities, context_tokens, '
            "drop_params, max_output_tokens, quantization, set_params, upstream)",
        ),
        (
            PRICED + 'input = "1"\noutput = "2"\ncached = "1"\n',
            'acme.toml:10: models."m-1.5".price.cached: unknown key (known here: input, least_seconds, longer, output, '
            "source, verified_on)",
        ),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_what_is_known(text: str, error: str) -> None:
    assert error_of(text).startswith(error)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("aliases = 'a'", "acme.toml:4: aliases: must be an array of strings"),
        ("aliases = [1]", "acme.toml:4: aliases: must be an array of strings"),
        ("aliases = ['']", "acme.toml:4: aliases: must be an array of strings"),
        ("aliases = ['a', 'a']", "acme.toml:4: aliases: names something twice"),
        ("aliases = ['A']", "acme.toml:4: aliases: 'A' must be lower-case letters, digits and single dashes"),
        ("base_url = 1", "acme.toml:4: base_url: must be a string"),
        ("base_url = ' '", "acme.toml:4: base_url: must not be empty"),
        ("auth = true", "acme.toml:4: auth: must be a string"),
        (
            "auth = 'kerberos'",
            "acme.toml:4: auth: 'kerberos' is none of bearer, x-api-key, x-goog-api-key, api-key, aws, token, "
            "authorization, none",
        ),
        (
            "wire_format = 'soap'",
            "acme.toml:4: wire_format: 'soap' is none of openai-chat, openai-responses, anthropic-messages, gemini, cohere, "
            "bedrock, deepgram, assemblyai",
        ),
        ("source = ['a']", "acme.toml:4: source: must be a string"),
        ("verified_on = '2026-07-02'", "acme.toml:4: verified_on: must be a date, like 2026-11-20"),
        ("verified_on = 2026-07-02T10:00:00", "acme.toml:4: verified_on: must be a date, like 2026-11-20"),
        ("endpoints = []", "acme.toml:4: endpoints: must be a table"),
        ("endpoints.chat = 1", "acme.toml:4: endpoints.chat: must be a string"),
        ("endpoints.chat = 'chat'", "acme.toml:4: endpoints.chat: 'chat' must be a path that begins with a slash"),
        ("endpoints.chat = '/a b'", "acme.toml:4: endpoints.chat: '/a b' must be a path that begins with a slash"),
        ("endpoints.chat = '/a#b'", "acme.toml:4: endpoints.chat: '/a#b' must be a path that begins with a slash"),
        ("headers = 'a'", "acme.toml:4: headers: must be a table"),
        ("headers.x-version = 1", "acme.toml:4: headers.x-version: must be a string"),
        ('headers."x y" = ""', 'acme.toml:4: headers."x y": must not be empty'),
        ("quirks = 1", "acme.toml:4: quirks: must be a table"),
        ("quirks.drop = 'n'", "acme.toml:4: quirks.drop: must be an array of strings"),
        ("quirks.drop = ['n', 'model']", "acme.toml:4: quirks.drop: 'model' cannot be dropped or renamed"),
        ("quirks.drop = ['stream']", "acme.toml:4: quirks.drop: 'stream' cannot be dropped or renamed"),
        ("quirks.rename = { messages = 'x' }", "acme.toml:4: quirks.rename: 'messages' cannot be dropped or renamed"),
        ("quirks.rename = ['a']", "acme.toml:4: quirks.rename: must be a table"),
        ("quirks.rename = { a = 1 }", "acme.toml:4: quirks.rename.a: must be a string"),
        ("quirks.stream_usage = 1", "acme.toml:4: quirks.stream_usage: must be true or false"),
        ("quirks.usage_in_choice = 'no'", "acme.toml:4: quirks.usage_in_choice: must be true or false"),
        (
            "quirks.reasoning = 'hard'",
            "acme.toml:4: quirks.reasoning: 'hard' is none of effort, object, thinking, enable_thinking, none",
        ),
        ("quirks.tool_ids = 'ten'", "acme.toml:4: quirks.tool_ids: 'ten' is none of nine"),
        ("quirks.most_stops = 0", "acme.toml:4: quirks.most_stops: 0 is not between 1 and 100"),
        ("quirks.most_stops = 101", "acme.toml:4: quirks.most_stops: 101 is not between 1 and 100"),
        ("quirks.most_stops = true", "acme.toml:4: quirks.most_stops: must be a whole number"),
        ("data_policy.trains = 'no'", "acme.toml:4: data_policy.trains: must be true or false"),
        ("data_policy.retention_days = -1", "acme.toml:4: data_policy.retention_days: -1 is not between 0 and 36500"),
        ("data_policy.retention_days = 1.0", "acme.toml:4: data_policy.retention_days: must be a whole number"),
        ("data_policy.region = ''", "acme.toml:4: data_policy.region: must not be empty"),
        ("models = ['m']", "acme.toml:4: models: must be a table"),
        ("models.m = 'x'", "acme.toml:4: models.m: must be a table"),
        ("models.'m/1'.price = '5'", 'acme.toml:4: models."m/1".price: must be a table'),
        ("models.m.context_tokens = '8k'", "acme.toml:4: models.m.context_tokens: must be a whole number"),
        ("models.m.context_tokens = 0", "acme.toml:4: models.m.context_tokens: 0 is not between 1 and 100000000"),
        (
            "models.m.max_output_tokens = 100_000_001",
            "acme.toml:4: models.m.max_output_tokens: 100000001 is not between 1 and 100000000",
        ),
        ("models.m.capabilities = 'text'", "acme.toml:4: models.m.capabilities: must be an array of strings"),
        (
            "models.m.capabilities = ['text', 'magic']",
            "acme.toml:4: models.m.capabilities: 'magic' is none of audio_input, embeddings, images, json_schema, "
            "moderation, reasoning, rerank, speech, text, tools, transcription, vision",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_line(line: str, error: str) -> None:
    assert error_of(LEAST + line + "\n") == error


@pytest.mark.parametrize("key", ["name", "title", "prefix"])
def test_what_must_be_there_is_missed(key: str) -> None:
    text = "".join(line for line in LEAST.splitlines(keepends=True) if not line.startswith(key))
    assert error_of(text) == f"acme.toml:1: {key}: missing"


@pytest.mark.parametrize("key", ["name", "prefix"])
@pytest.mark.parametrize("value", ["Acme", "ac me", "ac_me", "-acme", "acme-", "ac--me", "acmé", "acme/x", "acme\\n"])
def test_a_name_is_of_lower_case_letters_digits_and_single_dashes(key: str, value: str) -> None:
    line = 1 if key == "name" else 3
    assert error_of(LEAST.replace(f'{key} = "acme"', f'{key} = "{value}"')).startswith(f"acme.toml:{line}: {key}: ")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "https://api.acme.test", "http://[::1]:80/v1", "https://a/b/c%20d"]
)
def test_a_url_may_be_called(url: str) -> None:
    assert parse(LEAST + f'base_url = "{url}"\n', "acme.toml").base_url == url


@pytest.mark.parametrize(
    "url",
    [
        "api.acme.test", "ftp://a/v1", "https://", "https:///v1", "https://a/", "https://a/v1/", "https://a/?q=1",
        "https://a/v1#f", "https://u@a/v1", "https://u:p@a/v1", "//a/v1",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_called_is_named(url: str) -> None:
    assert error_of(LEAST + f'base_url = "{url}"\n') == (
        f"acme.toml:4: base_url: {url!r} must be an http(s) URL without credentials, query or final slash"
    )


@pytest.mark.parametrize(
    ("lines", "line", "key", "problem"),
    [
        ("input = 0.15\noutput = '1'\n", 8, "input", 'must be a string of USD, like "0.15"'),
        ("input = '1'\noutput = 2\n", 9, "output", 'must be a string of USD, like "0.15"'),
        ("input = '1'\noutput = '$2'\n", 9, "output", "'$2' is not an amount of USD"),
        ("input = '1'\noutput = '-2'\n", 9, "output", "-2 USD is not between 0 and 9000000"),
        ("input = 'NaN'\noutput = '2'\n", 8, "input", "NaN USD is not between 0 and 9000000"),
        ("input = '9000001'\noutput = '2'\n", 8, "input", "9000001 USD is not between 0 and 9000000"),
        ("input = '1'\noutput = '2'\nrequest = '0.0000000001'\n", 10, "request", "0.0000000001 USD is finer than one nano-USD"),
        ("input = '1'\n", 7, "output", "missing"),
        ("output = '1'\n", 7, "input", "missing"),
    ],
)
def test_a_wrong_price_is_named_with_its_line(lines: str, line: int, key: str, problem: str) -> None:
    assert error_of(PRICED + lines) == f'acme.toml:{line}: models."m-1.5".price.{key}: {problem}'


NIGHT = "cheaper = { peaks = ['01:00-04:00'], "


@pytest.mark.parametrize(
    ("lines", "key", "problem"),
    [
        (NIGHT + "input = '1' }", "cheaper.output", "missing"),
        (NIGHT + "input = '1', output = '1', above = 1 }", "cheaper.above", "unknown key (known here: days, input, "),
        (NIGHT + "input = '1', output = '3' }", "cheaper", "output would cost more than at other times"),
        (NIGHT + "input = '1', output = '1', days = ['x'] }", "cheaper.days", "must be an array of dates"),
        ("cheaper = { input = '1', output = '1' }", "cheaper", "needs peaks, like 01:00-04:00, or until"),
        ("cheaper = { peaks = ['x'], input = '1', output = '1' }", "cheaper", "'x' must be hours of a day (UTC), like"),
        (
            "longer = [{ above = 9, input = '3', output = '3' }]\n" + NIGHT + "input = '1', output = '1' }",
            "cheaper", "a price that depends on the prompt's length cannot depend on the time too",
        ),
    ],
)  # fmt: skip
def test_a_wrong_cheaper_price_is_named_with_its_line(lines: str, key: str, problem: str) -> None:
    line = 10 + lines.count("\n")
    told = error_of(PRICED + f"input = '1'\noutput = '2'\n{lines}\n")
    assert told.startswith(f'acme.toml:{line}: models."m-1.5".price.{key}: {problem}')


def test_a_price_may_be_cheaper_at_times_and_until_a_day() -> None:
    text = (
        "input = '2'\noutput = '4'\nrequest = '0.5'\n"
        + NIGHT
        + "weekends = true, until = 1970-01-03, input = '1', output = '2' }\n"
    )
    price = parse(PRICED + text, "acme.toml").models["m-1.5"].price
    assert price is not None
    hours = {hour: price.during(hour * 3600, hour * 3600).input_nano_per_mtok // USD for hour in (0, 1, 3, 4, 25, 48)}
    assert hours == {0: 1, 1: 2, 3: 2, 4: 1, 25: 2, 48: 2}
    assert price.during(0, 0).request_nano == price.request_nano == USD // 2


@pytest.mark.parametrize("told", ["", 'source = "s"\n', "verified_on = 2026-07-02\n"])
def test_a_price_without_a_source_and_a_date_is_refused(told: str) -> None:
    text = LEAST + told + '[models.m.price]\ninput = "1"\noutput = "2"\n'
    line = 4 + told.count("\n")
    assert error_of(text) == (
        f"acme.toml:{line}: models.m.price: a price needs a source and a verified_on date, its own or the file's"
    )


def test_a_key_of_an_inline_table_is_found_on_its_tables_line() -> None:
    text = DATED + "[models]\na = {}\nb = { price = { input = '1', output = 'x' } }\n"
    assert error_of(text) == "acme.toml:8: models.b.price.output: 'x' is not an amount of USD"


@given(st.lists(st.sampled_from(["", "# note", "   ", "# [models]", "# auth = 'x'"]), max_size=30), st.booleans())
def test_comments_blank_lines_and_windows_line_ends_do_not_shift_the_line(filler: list[str], crlf: bool) -> None:
    text = "\n".join([*filler, LEAST + "  'auth' = 5 # here"])
    line = len(filler) + 4
    assert error_of(text.replace("\n", "\r\n") if crlf else text) == f"acme.toml:{line}: auth: must be a string"


def write(directory: Path, name: str, text: str) -> None:
    (directory / f"{name}.toml").write_text(text, encoding="utf-8")


def least(name: str, prefix: str, more: str = "") -> str:
    return f'name = "{name}"\ntitle = "{name}"\nprefix = "{prefix}"\n{more}'


def load_error(directory: Path) -> str:
    with pytest.raises(CatalogueError) as caught:
        load(directory)
    return str(caught.value)


def test_a_directory_is_loaded_by_name_and_only_its_toml(tmp_path: Path) -> None:
    write(tmp_path, "b", least("b", "x"))
    write(tmp_path, "a", least("a", "a", 'aliases = ["y"]\n'))
    (tmp_path / "notes.md").write_text("no TOML")
    assert [(name, provider.prefix) for name, provider in load(tmp_path).items()] == [("a", "a"), ("b", "x")]


def test_an_empty_directory_has_no_providers(tmp_path: Path) -> None:
    assert load(tmp_path) == {}


def test_an_error_names_the_one_file_that_is_wrong(tmp_path: Path) -> None:
    write(tmp_path, "a", least("a", "a"))
    write(tmp_path, "b", least("b", "b", "auth = 5\n"))
    assert load_error(tmp_path) == "b.toml:4: auth: must be a string"


def test_a_provider_is_called_as_its_file(tmp_path: Path) -> None:
    write(tmp_path, "a", "# first\n" + least("b", "b"))
    assert load_error(tmp_path) == "a.toml:2: name: must be the file's own name, 'a'"


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        (least("a", "x"), least("b", "x"), "b.toml:3: prefix: 'x' already belongs to a.toml"),
        (least("a", "a", 'aliases = ["x"]\n'), least("b", "x"), "b.toml:3: prefix: 'x' already belongs to a.toml"),
        (least("a", "x"), least("b", "b", 'aliases = ["y", "x"]\n'), "b.toml:4: aliases: 'x' already belongs to a.toml"),
        (least("a", "a", '\naliases = ["a"]\n'), least("b", "b"), "a.toml:5: aliases: 'a' already belongs to a.toml"),
    ],
)
def test_a_prefix_belongs_to_one_provider(tmp_path: Path, first: str, second: str, error: str) -> None:
    write(tmp_path, "a", first)
    write(tmp_path, "b", second)
    assert load_error(tmp_path) == error


@pytest.mark.parametrize(
    "url",
    [
        "http://a b",
        "http://a\tb/v1",
        "http://a:99999",
        "http://a:x",
        "http://a:0",
        "http://[::1",
        "http://",
        "http://a/ü",
        "http:/a",
    ],
)
def test_a_url_that_leads_nowhere_is_refused_by_line(url: str) -> None:
    assert error_of(LEAST + f'base_url = "{url}"'.replace("\t", "\\t")).startswith("acme.toml:4: base_url: ")


@pytest.mark.parametrize("line", ['"a b" = "x"', 'x = "a\\r\\nb: c"', '"a:" = "x"', 'x = "ü"'])
def test_a_header_that_cannot_be_sent_is_refused(line: str) -> None:
    assert "is no header that can be sent" in error_of(LEAST + f"[headers]\n{line}\n")


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(CatalogueError, match=r"acme\.toml: not UTF-8"):
        load(tmp_path)

"""gateway.yaml: what is wrong is told by file, line and key; what is right is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.domain.limits import Mode, Period
from shared.store.document import Document, DocumentError, parse, parse_budget

YAML = """\
organisations:
  - name: acme
    teams: [search, ads]
connections:
  - name: lab
    provider: custom
    base_url: https://lab.example/v1/
    api_key: env:LAB_KEY
    models:
      - small
      - {id: big, context_tokens: 1000, set_params: {seed: 1}}
    drop_params: [top_k]
    set_params:
      metadata: {app: waystation}
limits:
  - {team: acme/search, rpm: 10, mode: shadow}
budgets:
  - {organisation: acme, usd: 0.5/day}
prices:
  lab/big: {input: "0.15", output: 2}
"""
TOML = """\
[[connections]]
name = "lab"
provider = "custom"
base_url = "ftp://x"
"""


def read(text: str, name: str = "gateway.yaml") -> Document:
    return parse(Path(name), text)


def test_a_whole_document() -> None:
    made = read(YAML)
    lab = made.connections[0]
    assert (lab.base_url, lab.models[0].id, lab.models[1].context_tokens) == ("https://lab.example/v1", "small", 1000)
    assert (lab.drop_params, lab.set_params) == (("top_k",), {"metadata": {"app": "waystation"}})
    assert lab.models[1].set_params == {"seed": 1}
    assert made.limits[0].mode is Mode.SHADOW
    assert made.budgets[0].amount() == (500_000_000, Period.DAY)
    assert (made.prices["lab/big"].input, made.prices["lab/big"].output) == (150_000_000, 2_000_000_000)
    assert read("") == Document()


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("name: acme", "nmae: acme", "gateway.yaml:2 organisations[0].nmae: Extra inputs are not permitted"),
        ("env:LAB_KEY", "sk-secret", "gateway.yaml:8 connections[0].api_key: must be env:NAME or file:PATH, never the secret"),
        (
            "https://lab.example/v1/",
            "lab.example",
            "gateway.yaml:7 connections[0].base_url: must be a URL like https://host/v1",
        ),
        ("[top_k]", "[max_tokens]", "gateway.yaml:12 connections[0].drop_params: 'max_tokens' decides about routing or money"),
        ("seed: 1", "n: 9", "connections[0].models[1]"),
        (
            "drop_params: [top_k]",
            "profile: {failures: 0.2}",
            "gateway.yaml:12 connections[0].profile.failures: Input should be greater than or equal to 1",
        ),
        ("drop_params: [top_k]", "profile: {kind: vip}", "connections[0].profile.kind: Input should be 'api_key', 'oauth' or"),
        ("app: waystation", "model: other", "'metadata.model' decides about routing or money"),
        ("rpm: 10", "rpm: -1", "gateway.yaml:16 limits[0].rpm: Input should be greater than 0"),
        ("team: acme/search, ", "", "gateway.yaml:16 limits[0]: must name exactly one of organisation, team, key"),
        ("0.5/day", "0.5/year", "gateway.yaml:18 budgets[0]: must be USD/period like 5/month"),
        ('"0.15"', '"cheap"', "gateway.yaml:20 prices.lab/big.input"),
        ('"0.15"', '"0.15", longer: [{above: 9, input: "1", output: "1"}, {above: 9, input: "2", output: "2"}]', "must rise"),
        ('"0.15"', '"0.15", cheaper: {input: "1", output: "0"}', "prices.lab/big.cheaper: needs peaks"),
        ('"0.15"', '"0.15", cheaper: {until: 2027-01-01, input: "1", output: "0"}', "prices.lab/big: input would cost more"),
        ('"0.15"', '"0.15", cheaper: {peaks: [noon], input: "0", output: "0"}', "'noon' must be hours of a day"),
        ("limits:", "prices: {}\nlimits:", "key 'prices' is there twice"),
        ("teams: [search, ads]", "teams: [search", "gateway.yaml:"),
    ],
)
def test_what_is_wrong_is_told_by_line_and_key(before: str, after: str, told: str) -> None:
    assert before in YAML
    with pytest.raises(DocumentError) as caught:
        read(YAML.replace(before, after, 1))
    assert told in str(caught.value)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("written", ["2024-10-21", '"2024-10-21"', "2025-04-01-preview", "preview"])
def test_an_api_version_may_look_like_a_date(written: str) -> None:
    text = f"connections:\n  - name: a\n    provider: azure-deployments\n    api_version: {written}\n"
    assert read(text).connections[0].api_version == written.strip('"')


@pytest.mark.parametrize("written", ["2024", "[a]", "a b", '"?x"', "2024-10-21T10:00:00"])
def test_an_api_version_that_is_none_is_told_by_line(written: str) -> None:
    text = f"connections:\n  - name: a\n    provider: azure-deployments\n    api_version: {written}\n"
    with pytest.raises(DocumentError, match=r"gateway.yaml:4 connections\[0\].api_version: must be letters, digits"):
        read(text)


def test_toml_is_read_as_well() -> None:
    with pytest.raises(DocumentError, match=r"gateway.toml:4 connections\[0\].base_url"):
        read(TOML, "gateway.toml")
    assert read(TOML.replace("ftp", "http"), "gateway.toml").connections[0].base_url == "http://x"
    with pytest.raises(DocumentError, match=r"gateway\.toml"):
        read("x = ", "gateway.toml")


@pytest.mark.parametrize("value", ["5/year", "five", "-1/day", "1e-10/day", ""])
def test_a_budget_that_is_none(value: str) -> None:
    with pytest.raises(ValueError, match="USD/period"):
        parse_budget(value)


LIMITED = """\
connections:
  - name: lab
    provider: custom
    base_url: https://lab.example/v1
    limits:
      rpm: 60
      {more}
"""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("burst_tpm: 5", "gateway.yaml:5 connections[0].limits: burst_tpm needs tpm"),
        ("concurrent: 0", "gateway.yaml:7 connections[0].limits.concurrent: Input should be greater than 0"),
        ("quotas: [{window: day}]", "gateway.yaml:7 connections[0].limits.quotas[0]: must name exactly one of requests"),
        ("quotas: [{tokens: 5, usd: 1, window: day}]", "gateway.yaml:7 connections[0].limits.quotas[0]: must name exactly one"),
        ("quotas: [{tokens: 5, window: 5h, at_hour: 3}]", "gateway.yaml:7 connections[0].limits.quotas[0]: a window of 5h is"),
        ("quotas: [{tokens: 5, window: 6h}]", "gateway.yaml:7 connections[0].limits.quotas[0].window: Input should be '5h'"),
        (
            "quotas: [{tokens: 5, window: day}, {tokens: 6, window: day}]",
            "gateway.yaml:5 connections[0].limits: quotas: two have",
        ),
        ("queue: {most: -1}", "gateway.yaml:7 connections[0].limits.queue.most: Input should be greater than or equal to 0"),
        ("rps: 5", "gateway.yaml:7 connections[0].limits.rps: Extra inputs are not permitted"),
    ],
)
def test_wrong_limits_of_a_connection_are_told_by_line(more: str, said: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(Path("gateway.yaml"), LIMITED.replace("{more}", more))
    assert str(caught.value).startswith(said)

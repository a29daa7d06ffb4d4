"""What the documentation says is there: commands, files, configuration keys, settings, metrics, errors, behaviours."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import msgspec
import pytest

from services.cli.__main__ import main
from services.ingress.app import ROUTES, UNDER
from services.ingress.node import measure
from services.simulator.behaviour import MODELS, RULES
from shared.domain.failure import Failure, FailureClass
from shared.domain.health import PROFILES, Profile, ProfileKind
from shared.domain.refusal import Reason
from shared.domain.routing import Strategy
from shared.providers import registry
from shared.providers.failure import consequence
from shared.routing.eligible import OUT
from shared.settings import Settings
from shared.store.document import parse
from shared.telemetry.metrics import Metrics
from shared.wire.openai_chat import ERRORS
from shared.wire.preferences import KNOWN, PRICES, QUANTILES, VARIANTS
from tests.commands import commands, leaves

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENT_KEYS = (
    "organisations", "connections", "limits", "budgets", "prices", "proxies", "routes", "accounts", "keys", "aliases",
)  # fmt: skip
SUFFIXES = {"histogram": ("", "_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def in_document(language: str) -> list[tuple[str, str]]:
    return [(page.name, block) for page in PAGES for block in blocks(page, language)]


def command_lines() -> list[tuple[str, list[str]]]:
    """Arguments of every `waystation …`, run as it is or by compose."""
    found = []
    for page, block in in_document("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["waystation"]:
                found.append((page, words[1:]))
            elif words[:3] == ["docker", "compose", "run"]:
                found.append((page, words[words.index("migrate") + 1 :]))
    return found


def rows(page: str) -> list[list[str]]:
    """Cells of every table row of a page, code marks removed."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| `")]


def section(page: str, heading: str) -> str:
    return (ROOT / "docs" / page).read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def anchors(page: Path) -> set[str]:
    """Headings as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def exported() -> dict[str, str]:
    """Name and type of every metric of a node and a worker."""
    metrics = Metrics()
    node = SimpleNamespace(
        gateway=SimpleNamespace(in_flight=0, health=SimpleNamespace(marks={})),
        streams=(),
        lane=SimpleNamespace(up=True),
        watch=SimpleNamespace(snapshot=SimpleNamespace(epoch=1)),
    )
    measure(metrics, cast(Any, node), cast(Any, SimpleNamespace(backlog=lambda: 0)))
    text = metrics.render()[0].decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    worker = (ROOT / "services" / "worker" / "__main__.py").read_text()
    types |= dict.fromkeys(re.findall(r'Gauge\("(\w+)"', worker), "gauge")
    return {name: kind for name, kind in types.items() if not name.endswith("_created")}


def series() -> set[str]:
    return {name + suffix for name, kind in exported().items() for suffix in SUFFIXES[kind]}


@pytest.mark.parametrize(("page", "arguments"), command_lines(), ids=lambda value: str(value)[:60])
def test_every_command_parses(page: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAYSTATION_KEY", "sk-ws-of-the-reader")
    if "-f" in arguments:
        at = arguments.index("-f") + 1
        arguments = [*arguments[:at], Path(arguments[at]).name, *arguments[at + 1 :]]
        (tmp_path / arguments[at]).touch()
    command: click.Command = main
    rest = list(arguments)
    while isinstance(command, click.Group):
        name = rest.pop(0)
        known = commands(command)
        assert name in known, f"{page}: there is no command {name!r}"
        command = known[name]
    command.make_context(command.name, rest).close()


def test_every_command_is_documented() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for path, _ in leaves(main):
        assert " ".join(("waystation", *path)) in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


def test_every_document_is_accepted() -> None:
    documents = [
        (page, block)
        for page, block in in_document("yaml")
        if re.search(rf"^({'|'.join(DOCUMENT_KEYS)}):", block, re.MULTILINE)
    ]
    assert documents
    for page, block in documents:
        parsed = parse(Path(f"{page}.yaml"), block)
        for connection in parsed.connections:
            assert connection.provider in registry.load()


def test_every_key_of_the_document_is_named() -> None:
    from shared.store import document

    text = "".join((ROOT / "docs" / page).read_text() for page in ("providers.md", "resilience.md", "upstream-limits.md"))
    for entry in (
        document.UpstreamLimitsEntry,
        document.QueueEntry,
        document.QuotaEntry,
        document.ConnectionEntry,
        document.ProfileEntry,
        document.ModelEntry,
        document.LimitEntry,
        document.BudgetEntry,
        document.PriceEntry,
    ):
        for name in entry.model_fields:
            assert f"`{name}`" in text, name


def test_every_level_of_the_proxies_is_named() -> None:
    from shared.store.document import ProxiesEntry

    listed = [row[1] for row in rows("proxies.md") if len(row) == 3]
    assert {name.rstrip("_") for name in ProxiesEntry.model_fields} | {"HTTPS_PROXY"} == {
        re.findall(r"\w+", cell)[0] for cell in listed
    }


def test_every_key_strategy_and_rule_of_routing_is_named() -> None:
    from shared.store import document

    text = (ROOT / "docs" / "routing.md").read_text()
    entries = (document.RouteEntry, document.TargetEntry, document.PolicyEntry, document.DataPolicyEntry)
    for name in (field for entry in entries for field in entry.model_fields):
        assert re.search(rf"\b{name}\b", text), name
    assert [row[0] for row in rows("routing.md") if row[0] in list(Strategy)] == list(Strategy)
    source = "".join((ROOT / "shared" / file).read_text() for file in ("routing/eligible.py", "flow/choose.py"))
    rules = set(re.findall(r'"((?:key|capability|provider|budget)\.\w+)"', source))
    rules |= {f"capability.{each}" for each in ("vision", "audio_input", "tools", "json_schema")}
    rules |= {f"health.{state}" for state in OUT}
    listed = {rule for row in rows("routing.md") for rule in re.findall(r"[a-z]+\.[a-z_]+", row[0])}
    assert rules <= listed
    assert {rule for rule in listed if rule.partition(".")[0] in ("key", "capability", "health", "budget")} <= rules


def test_openrouters_fields_are_named() -> None:
    named = section("routing.md", "OpenRouter's fields")
    for name in (*KNOWN, *PRICES, *QUANTILES):
        assert name in named, name
    for suffix in VARIANTS:
        assert f"`:{suffix}`" in named


def test_the_catalogue_is_listed() -> None:
    listed = {row[0]: row for row in rows("providers.md") if row[0] in registry.load()}
    assert set(listed) == set(registry.load())
    for provider in registry.load().values():
        row = listed[provider.name]
        assert provider.base_url is None or row[2] == provider.base_url
        assert provider.base_url is None or re.findall(r"[\w-]+", row[1]) == [provider.prefix, *provider.aliases]


def test_settings_are_all_there_with_their_defaults() -> None:
    table = {row[0]: row[1] for row in rows("deploy.md") if re.fullmatch(r"WAYSTATION_\w+|DATABASE_URL|REDIS_URL", row[0])}
    defaults = Settings()
    expected = {}
    for entry in fields(Settings):
        name = entry.name.upper() if entry.name in ("database_url", "redis_url") else f"WAYSTATION_{entry.name.upper()}"
        value = getattr(defaults, entry.name)
        value = str(value).lower() if isinstance(value, bool) else value
        match value:
            case Path():
                expected[name] = f"~/{value.relative_to(Path.home())}"
            case float():
                expected[name] = f"{value:g}"
            case _:
                expected[name] = str(value) or "empty"
    assert table == expected


def test_profiles_are_what_the_code_says() -> None:
    listed = {row[0]: row[1:] for row in rows("resilience.md") if len(row) == 4}
    for name in msgspec.structs.fields(Profile):
        assert listed[name.name] == [f"{getattr(PROFILES[kind], name.name):g}" for kind in ProfileKind]


def test_settings_that_are_mentioned_exist() -> None:
    known = {f"WAYSTATION_{entry.name.upper()}" for entry in fields(Settings)} | {"WAYSTATION_KEY"}
    for page in PAGES:
        assert set(re.findall(r"\bWAYSTATION_[A-Z_]+[A-Z]", page.read_text())) <= known, page.name


def test_metrics_that_are_mentioned_exist() -> None:
    files = [*PAGES, ROOT / "deploy/prometheus/alerts.yml", ROOT / "deploy/grafana/dashboards/waystation.json"]
    for file in files:
        named = set(re.findall(r"\bwaystation_[a-z_]+[a-z]", file.read_text()))
        assert named <= series(), file.name


def test_every_metric_is_documented_with_its_type() -> None:
    listed = {row[0]: row[1] for row in rows("operate.md") if row[0].startswith("waystation_")}
    assert listed == {name: kind for name, kind in exported().items() if name.startswith("waystation_")}


def test_every_alert_is_documented() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "deploy/prometheus/alerts.yml").read_text())
    assert [row[0] for row in rows("operate.md") if row[0].startswith("Waystation")] == alerts


def test_every_reason_is_documented() -> None:
    listed = {row[0]: (row[2], row[3]) for row in rows("errors.md") if len(row) == 6}
    assert listed == {reason.value: ERRORS[reason] for reason in Reason}


def test_every_failure_means_what_is_documented() -> None:
    listed = {row[0]: row for row in rows("errors.md") if len(row) == 4 and row[0] in list(FailureClass)}
    assert set(listed) == {failure.value for failure in FailureClass}
    for name, row in listed.items():
        refusal = consequence(Failure(failure_class=FailureClass(name), message="failed", status=418), "Demo")
        status = "the same status," if refusal.status == 418 else str(refusal.status)
        assert row[2] == f"{status} `{refusal.reason.value}"
        assert row[3].startswith({True: ("yes", "after"), False: ("no",)}[bool(refusal.retry)])
        assert (refusal.retry_after_s is not None) == (row[3] == "after")


def test_every_behaviour_of_the_simulator_is_documented() -> None:
    listed = [row[0] for row in rows("simulator.md")]
    assert [name for name in listed if "/" not in name] == [*MODELS, *(rule.name for rule in RULES)]


def test_json_blocks_are_json() -> None:
    for _, block in in_document("json"):
        json.loads(block)


def test_make_targets_that_are_mentioned_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets, page.name


def test_the_pages_say_what_degraded_mode_is() -> None:
    """The numbers of the outage table come from the code."""
    from shared.admission.degraded import SHARE
    from shared.admission.presence import PATIENCE_S

    assert f"× {SHARE}" in section("operate.md", "Degraded mode")
    assert f"{PATIENCE_S:g} s" in section("money.md", 'How far "hard" goes')


def test_the_urls_in_the_documentation_are_there() -> None:
    """And every URL for clients of an SDK is in the documentation."""
    text = (ROOT / "docs" / "connect.md").read_text()
    section = text.partition("## URLs")[2].partition("\n## ")[0]
    told: set[str] = set()
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`/"):
            base = cells[0].strip("`").rstrip("/")
            told.update(base + path for path in re.findall(r"`(/[^`]+)`", cells[2]))
    known = {path for path in ROUTES if path.startswith(("/v1/", "/v2/", "/v1beta/"))} | {"/api/models/catalog"}
    assert known <= told
    for path in told:
        found = path in ROUTES or any(path.startswith(prefix) for prefix in UNDER)
        assert found or path in ("/v1", "/v1alpha"), path

"""What `deploy/` ships can be read by what reads it, and fits together. No container is started."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cli.__main__ import main
from services.cli.hosts import environment_of
from shared.settings import Settings
from tests.commands import commands

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OURS = ("ingress", "worker", "simulator", "migrate")


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def compose() -> Any:
    return read_yaml(ROOT / "docker-compose.yml")


def ours(compose: Any) -> dict[str, Any]:
    return {name: service for name, service in compose["services"].items() if service.get("image", "").startswith("waystation")}


def test_it_has_every_part(compose: Any) -> None:
    kinds = [name.rpartition("-")[0] or name for name in compose["services"]]
    assert kinds.count("ingress") == 2
    assert kinds.count("worker") == 2
    assert {"balancer", "redis", "postgres", "prometheus", "grafana", "otel-collector"} <= set(compose["services"])
    assert len(ours(compose)) == 6


def test_our_services_run_commands_that_exist(compose: Any) -> None:
    for name, service in ours(compose).items():
        command, *arguments = service["command"]
        assert command in OURS, name
        commands(main)[command].make_context(command, arguments).close()
        assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_our_services_are_confined(compose: Any) -> None:
    for name, service in ours(compose).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name


def test_settings_exist_and_can_be_read(compose: Any) -> None:
    for name, service in ours(compose).items():
        environment = {key: str(value) for key, value in service["environment"].items()}
        settings = Settings.from_environment(environment)
        made = environment_of(settings)
        for key, value in environment.items():
            assert float(made[key]) == float(value) if value.isdecimal() else made[key] == value, name
        assert f":{settings.metrics_port}" in (DEPLOY / "prometheus/prometheus.yml").read_text()


def test_a_node_may_drain_before_it_is_killed(compose: Any) -> None:
    for name, service in ours(compose).items():
        if name.startswith("ingress"):
            settings = Settings.from_environment(service["environment"])
            assert int(service["stop_grace_period"].rstrip("s")) > settings.grace_s + settings.drain_delay_s


def test_mounted_paths_exist_and_volumes_are_declared(compose: Any) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"


def test_each_node_has_a_data_directory_of_its_own(compose: Any) -> None:
    sources = [
        volume.split(":")
        for name, service in compose["services"].items()
        if name.startswith("ingress")
        for volume in service["volumes"]
    ]
    assert len({source for source, _ in sources}) == 2
    assert {target for _, target in sources} == {"/var/lib/waystation"}
    assert "WAYSTATION_DATA_DIR=/var/lib/waystation" in (DEPLOY / "Dockerfile").read_text()


def test_what_is_waited_for_exists_and_can_be_waited_for(compose: Any) -> None:
    for name, service in compose["services"].items():
        needs = service.get("depends_on", {})
        for other in needs:
            assert other in compose["services"], name
            if isinstance(needs, dict) and needs[other]["condition"] == "service_healthy":
                assert "healthcheck" in compose["services"][other], f"{name}: {other}"


def test_secrets_have_no_defaults(compose: Any) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    needed = set(re.findall(r"\$\{(\w+):\?", text))
    assert set(re.findall(r"\$\{(\w+)", text)) == needed
    example = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "compose.env.example").read_text(), re.MULTILINE))
    assert set(example) == needed
    assert not any(example.values())


def test_ports_are_published_on_loopback_only(compose: Any) -> None:
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_redis_never_evicts(compose: Any) -> None:
    command = compose["services"]["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_prometheus_scrapes_services_that_exist(compose: Any) -> None:
    configuration = read_yaml(DEPLOY / "prometheus/prometheus.yml")
    targets = [
        target.partition(":")[0]
        for job in configuration["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    ]
    assert sorted(targets) == ["ingress-1", "ingress-2", "worker-1", "worker-2"]
    mounted = [volume.split(":")[1] for volume in compose["services"]["prometheus"]["volumes"]]
    assert set(configuration["rule_files"]) <= set(mounted)


def test_alerts_are_whole() -> None:
    rules = [rule for group in read_yaml(DEPLOY / "prometheus/alerts.yml")["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["labels"]["severity"] in ("page", "warn")
        assert rule["annotations"]["summary"]


def test_grafana_is_provisioned(compose: Any) -> None:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/waystation.json").read_text())
    source = read_yaml(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    assert "prometheus" in compose["services"]
    assert source["url"] == "http://prometheus:9090"
    assert all(panel["targets"] for panel in dashboard["panels"])
    uids = {panel["datasource"]["uid"] for panel in dashboard["panels"] if isinstance(panel.get("datasource"), dict)}
    assert {uid for uid in uids if not uid.startswith("$")} <= {source["uid"]}
    provider = read_yaml(DEPLOY / "grafana/provisioning/dashboards/waystation.yml")["providers"][0]
    mounted = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted


def test_the_collector_uses_what_it_declares() -> None:
    configuration = read_yaml(DEPLOY / "otel/collector.yaml")
    for pipeline in configuration["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(configuration[kind])
    assert configuration["receivers"]["otlp"]["protocols"]["http"]["endpoint"].endswith(":4318")


def test_the_balancer_knows_the_nodes(compose: Any) -> None:
    lines = [line.split("#")[0].rstrip() for line in (DEPLOY / "haproxy/haproxy.cfg").read_text().splitlines()]
    sections = [line.split() for line in lines if line and not line.startswith(" ")]
    assert [words[0] for words in sections] == ["global", "defaults", "frontend", "backend"]
    inner = [line.split() for line in lines if line.startswith(" ")]
    used = [words[1] for words in inner if words[0] == "default_backend"]
    assert used == [words[1] for words in sections if words[0] == "backend"]
    servers = {words[1]: words[2] for words in inner if words[0] == "server"}
    assert servers == {name: f"{name}:20128" for name in compose["services"] if name.startswith("ingress")}
    assert ["option", "httpchk", "GET", "/readyz"] in inner
    assert [words for words in inner if words[0] == "retry-on"] == [["retry-on", "conn-failure"]], "nothing that was sent"
    assert ["maxconn", str(len(servers) * Settings().max_in_flight)] in inner


def test_the_image_is_locked_and_has_no_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0].isupper()]
    last = max(number for number, line in enumerate(lines) if line[0] == "FROM")
    users = [line[1] for line in lines[last:] if line[0] == "USER"]
    assert users
    assert users[-1] not in ("0", "root")
    from_lock = [line[1] for line in lines if "requirements.lock" in line[1] and line[0] == "RUN"]
    assert from_lock
    assert all("--require-hashes" in command for command in from_lock)
    assert ["ENTRYPOINT", '["waystation"]'] in lines
    copied = [word for kind, rest in lines if kind == "COPY" and "--from" not in rest for word in rest.split()[:-1]]
    assert all((ROOT / word).exists() for word in copied)


def test_the_lock_has_hashes() -> None:
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if "==" in line:
            assert "--hash=sha256:" in line, line

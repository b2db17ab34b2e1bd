"""What is deployed beside the product: its metrics exist, its files make sense, its alerts fire."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from typer.testing import CliRunner

from api import metrics as api_metrics
from api.freshness import Freshness
from projector import metrics
from projector.cli.main import app
from projector.config.env import variable_name
from projector.config.settings import Settings
from projector.gitlab import metrics as gitlab_metrics
from projector.ingest import metrics as ingest_metrics
from tests.absence import skip_test

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
METRIC = re.compile(r"\bprojector_[a-z_]+")
ALERTS = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
RUNBOOK = (REPOSITORY / "docs" / "runbook.md").read_text().splitlines()
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())


def families() -> Iterator[Metric]:
    """Everything that workers, the GitLab bridge, the ingest and the API expose."""
    assert metrics.EVENTS
    assert gitlab_metrics.EVENTS
    yield from ingest_metrics.REGISTRY.collect()
    yield from REGISTRY.collect()
    yield from api_metrics.REGISTRY.collect()
    yield from api_metrics.FreshnessCollector(Freshness(None)).collect()  # type: ignore[arg-type]


def sample_names() -> set[str]:
    suffixes = {
        "counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"],
    }  # fmt: skip
    return {
        family.name + suffix for family in families()
        if family.name.startswith("projector_") for suffix in suffixes[family.type]
    }  # fmt: skip


def expressions(node: Any) -> Iterator[str]:
    """Every `expr` in the dashboard."""
    if isinstance(node, dict):
        if isinstance(node.get("expr"), str):
            yield node["expr"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from expressions(child)


def kebab(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"-\1", name).lower()


def test_every_metric_of_an_alert_is_one_of_ours() -> None:
    used = {name for rule in RULES for name in METRIC.findall(rule["expr"])}
    assert len(used) > 10
    assert used <= sample_names()


def test_every_metric_of_the_dashboard_is_one_of_ours() -> None:
    used = {name for expr in expressions(DASHBOARD) for name in METRIC.findall(expr)}
    assert used <= sample_names()


def test_a_single_bulk_change_can_be_seen_beside_thousands_of_views() -> None:
    [(panel, target)] = [
        (panel, target) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])
        if "projector_bulk_changes_total" in target["expr"]
    ]  # fmt: skip
    assert target["expr"].startswith("sum(increase(")
    assert {
        "id": "custom.axisPlacement", "value": "right"
    } in [
        each for override in panel["fieldConfig"]["overrides"]
        if override["matcher"] == {"id": "byFrameRefID", "options": target["refId"]}
        for each in override["properties"]
    ]  # fmt: skip


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for expr in expressions(DASHBOARD) for name in METRIC.findall(expr)}
    bases = {family.name for family in families() if family.name.startswith("projector_")}
    assert {b for b in bases if not any(name.startswith(b) for name in shown)} == set()


def test_every_metric_is_explained() -> None:
    text = (REPOSITORY / "docs" / "monitoring.md").read_text()
    names = {
        family.name + ("_total" if family.type == "counter" else "") for family in families()
        if family.name.startswith("projector_")
    }  # fmt: skip
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_no_label_can_have_values_without_end() -> None:
    labels = {label for family in families() for s in family.samples
              if family.name.startswith("projector_") for label in s.labels}  # fmt: skip
    assert labels <= {
        "topic", "outcome", "status", "partition", "facts", "what", "reason", "le", "result",
        "source",  # of PROJECTOR_SOURCES
        "type", "table", "kind", "step",  # of the bridge
        "token",  # the name of one in PROJECTOR_INGEST_TOKENS_FILE
    }  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_it_means_and_where_to_read_on(rule: dict[str, Any]) -> None:
    anchor = f"runbook.md#{kebab(rule['alert'])}"
    assert rule["annotations"]["runbook"] == f"docs/{anchor}"
    assert rule["annotations"]["runbook_url"] == "{{ $externalLabels.docs }}/" + anchor
    heading = "### " + kebab(rule["alert"]).replace("-", " ").capitalize()
    assert heading.replace("Api ", "API ") in RUNBOOK
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert f"`{rule['alert']}`" in (REPOSITORY / "docs" / "monitoring.md").read_text()


def test_every_alert_is_proven_to_fire() -> None:
    proofs = (PROMETHEUS / "alerts_test.yaml").read_text()
    for rule in RULES:
        name = rule["alert"]
        assert f'alertname="{name}"' in proofs or f"- alertname: {name}\n" in proofs, name


def test_the_alerts_know_the_jobs_that_prometheus_scrapes() -> None:
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    named = {name for rule in RULES for name in re.findall(r'job="([^"]+)"', rule["expr"])}
    assert named == {job["job_name"] for job in jobs}


def test_prometheus_scrapes_where_compose_lets_them_listen() -> None:
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    places = {
        (job["dns_sd_configs"][0]["names"][0], job["dns_sd_configs"][0]["port"]) for job in jobs
    }
    worker = COMPOSE["services"]["worker"]["environment"]
    bridge = COMPOSE["services"]["bridge"]["environment"]
    ingest = COMPOSE["services"]["ingest"]["command"]
    assert places == {
        ("worker", worker["PROJECTOR_WORKER_WEB_PORT"]), ("api", 8000),
        ("bridge", bridge["PROJECTOR_GITLAB_WEB_PORT"]), ("ingest", int(ingest[-1])),
    }  # fmt: skip
    assert worker["PROJECTOR_WORKER_WEB_HOST"] == "0.0.0.0"
    assert bridge["PROJECTOR_GITLAB_WEB_HOST"] == "0.0.0.0"
    assert ingest[:3] == ["ingest", "--host", "0.0.0.0"]


def sources(service: dict[str, Any]) -> Iterator[str]:
    """Return what the service mounts, with the defaults of its variables."""
    for volume in service.get("volumes", []):
        source = volume["source"] if isinstance(volume, dict) else volume
        yield re.sub(r"\$\{\w+:-(.*?)\}", r"\1", source).split(":")[0]


def test_what_compose_mounts_is_there() -> None:
    found = [source for service in COMPOSE["services"].values() for source in sources(service)]
    own = "./ingest-tokens"  # Docker Compose names it where it is missing
    assert own in found
    for source in found:
        if source.startswith("./"):
            assert source == own or (REPOSITORY / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]


def test_a_replaced_file_of_tokens_is_seen_in_the_container() -> None:
    """A mount of the file itself would go on showing the old one, with the tokens it removed."""
    ingest = COMPOSE["services"]["ingest"]
    (mount,) = ingest["volumes"]
    file = Path(ingest["environment"]["PROJECTOR_INGEST_TOKENS_FILE"])
    assert mount["target"] == str(file.parent)


def test_the_rest_is_started_only_when_asked_for() -> None:
    asked = {name: s["profiles"] for name, s in COMPOSE["services"].items() if "profiles" in s}
    assert asked == {
        "cli": ["tools"], "ingest": ["ingest"], "postgres": ["gitlab"], "bridge": ["gitlab"],
        "ops": ["observe"], "prometheus": ["observe"], "grafana": ["observe"],
    }  # fmt: skip
    for name in ("prometheus", "grafana"):
        assert re.search(r":v?\d+\.\d+\.\d+$", COMPOSE["services"][name]["image"])


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_no_service_of_compose_can_take_the_whole_machine(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert service["mem_limit"]
    assert service["cpus"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_server_of_compose_has_a_health_check(name: str) -> None:
    service = COMPOSE["services"][name]
    if name in ("topics", "cli"):
        assert service["healthcheck"] == {"disable": True}
    elif service["image"] == "allowed-agents-projector":
        assert service.get("healthcheck", {}).get("disable") is None  # the image's, or its own
    else:
        assert service["healthcheck"]["test"]


def test_every_server_comes_back_after_a_start_of_the_machine() -> None:
    for name, service in COMPOSE["services"].items():
        expected = None if name in ("topics", "cli") else "unless-stopped"
        assert service.get("restart") == expected, name


def test_the_database_of_compose_is_prepared_by_the_sql_that_the_product_prints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To mend it: projector gitlab check --sql > deploy/gitlab/role.sql, with these settings."""
    for name in ("DATABASE", "PASSWORD"):
        setting = f"PROJECTOR_GITLAB_{name}"
        monkeypatch.setenv(setting, COMPOSE["services"]["bridge"]["environment"][setting])
    monkeypatch.setattr("projector.log.configure", lambda level: None)
    printed = CliRunner().invoke(app, ["gitlab", "check", "--sql"])
    assert printed.output == (DEPLOY / "gitlab" / "role.sql").read_text()


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    (variable,) = DASHBOARD["templating"]["list"]
    assert (source["uid"], source["url"]) == (
        variable["current"]["value"],
        "http://prometheus:9090",
    )
    (provider,) = yaml.safe_load((folder / "dashboards" / "projector.yaml").read_text())[
        "providers"
    ]
    mounts = [volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]]
    assert any(mount.startswith(provider["options"]["path"]) for mount in mounts)


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "alerts.yaml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "alerts_test.yaml"],
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        reason = "promtool is not installed (Debian's package prometheus)"
        skip_test(reason)
    done = subprocess.run(
        [promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_whole_product_on_one_machine_uses_no_kafka_of_the_shell() -> None:
    """Example events, with tokens that everybody knows, must not reach a Kafka that is in use."""
    for service in COMPOSE["services"].values():
        if service.get("image") == "allowed-agents-projector":
            assert service["environment"]["PROJECTOR_KAFKA"] == "kafka:19092"
            assert service["environment"]["PROJECTOR_REDIS_URL"] == "redis://valkey:6379/0"


def test_what_compose_offers_commented_out_are_settings_in_a_file_that_parses() -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    offered = re.compile(r"^( +)# (PROJECTOR_\w+:|volumes:|  - \./)", re.MULTILINE)
    services = yaml.safe_load(offered.sub(r"\1\2", text))["services"]
    found = {
        service: {name for name in offer["environment"] if name not in known["environment"]}
        for (service, offer), known in zip(
            services.items(), COMPOSE["services"].values(), strict=True
        )
        if "environment" in offer
    }
    assert {service: names for service, names in found.items() if names} == {
        "api": {f"PROJECTOR_JOB_TOKEN_{name}" for name in ("KEYS", "ISSUER", "PREFIX")},
    }
    added = set.union(*found.values())
    assert added <= {variable_name(field) for field in Settings.model_fields}
    (mount,) = services["api"]["volumes"]
    folder = mount.split(":")[1]
    assert services["api"]["environment"]["PROJECTOR_JOB_TOKEN_KEYS"].startswith(f"{folder}/")

"""Whether what the manifests name is there: ports, pods, Secrets, files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.helm.chart import (
    VALUES,
    WITH_PODS,
    Manifest,
    component,
    container,
    environment,
    matches,
    named,
    notes,
    of_kind,
    pods,
    rendered,
)  # fmt: skip

every_file_of_values = pytest.mark.parametrize("name", VALUES)
OPTIONAL = {"ops", "bridge", "ingest"}


def selected(manifests: list[Manifest], selector: dict[str, str]) -> list[str]:
    return [part for part, pod in pods(manifests).items()
            if matches(selector, pod["metadata"]["labels"])]  # fmt: skip


@every_file_of_values
def test_each_selector_selects_the_pods_of_its_component(name: str) -> None:
    manifests = rendered(name)
    for manifest in manifests:
        spec = manifest.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if selector:
            labels = selector.get("matchLabels", selector)
            assert selected(manifests, labels) == [component(manifest)], manifest["kind"]


def test_kubernetes_spreads_the_pods_by_its_defaults() -> None:
    """A constraint by zone and node would switch both off where nodes have no label of a zone."""
    for pod in pods(rendered("minimal")).values():
        assert "topologySpreadConstraints" not in pod["spec"]


def test_the_pods_of_a_part_spread_over_the_keys_that_are_named() -> None:
    manifests = rendered("everything")
    for part in ("api", "ingest", "worker"):
        pod = pods(manifests)[part]
        constraints = pod["spec"]["topologySpreadConstraints"]
        assert [each["topologyKey"] for each in constraints] == [
            "topology.kubernetes.io/zone", "kubernetes.io/hostname",
        ]  # fmt: skip
        for each in constraints:
            assert selected(manifests, each["labelSelector"]["matchLabels"]) == [part]


@every_file_of_values
def test_each_port_is_one_that_the_process_listens_on(name: str) -> None:
    manifests = rendered(name)
    for part, pod in pods(manifests).items():
        only = container(pod)
        ports = {port["name"]: port["containerPort"] for port in only.get("ports", [])}
        if not ports:
            assert part in {"topics", "test"}
            continue
        assert [str(ports["http"])] == list(listening(only))
        for policy in of_kind(manifests, "NetworkPolicy"):
            if component(policy) == part:
                allowed = [p["port"] for rule in policy["spec"]["ingress"] for p in rule["ports"]]
                assert set(allowed) <= {ports["http"]}
    for service in of_kind(manifests, "Service"):
        [port] = service["spec"]["ports"]
        assert port["targetPort"] == "http"


def listening(only: dict[str, Any]) -> Iterator[str]:
    """Yield the port that the arguments or the variables of a container name."""
    arguments = only["args"]
    if "--port" in arguments:
        assert arguments[arguments.index("--host") + 1] == "0.0.0.0"
        yield arguments[arguments.index("--port") + 1]
    variables = {each["name"]: each.get("value") for each in only["env"]}
    for name, value in variables.items():
        if name.endswith("_WEB_PORT"):
            assert variables[name.replace("PORT", "HOST")] == "0.0.0.0"
            yield str(value)


@every_file_of_values
def test_each_file_of_a_variable_is_mounted(name: str) -> None:
    for part, pod in pods(rendered(name)).items():
        if part == "test":
            continue
        mounted = {f"/etc/projector/{item['path']}" for source in sources(pod)
                   for value in source.values() for item in value["items"]}  # fmt: skip
        used = {
            path for value in environment(pod).values() for path in value.split(",")
            if path.startswith("/etc/projector/")
        }  # fmt: skip
        assert used == mounted, part
        assert {v["name"] for v in pod["spec"]["volumes"]} <= {
            m["name"] for m in container(pod)["volumeMounts"]
        }


def sources(pod: Manifest) -> list[dict[str, Any]]:
    [tmp, *others] = pod["spec"]["volumes"]
    assert tmp["name"] == "tmp"
    return [source for volume in others for source in volume["projected"]["sources"]]


@every_file_of_values
def test_what_the_chart_makes_has_the_keys_that_are_mounted(name: str) -> None:
    manifests = rendered(name)
    made = {(m["kind"].lower(), m["metadata"]["name"]): m.get("stringData") or m["data"]
            for m in of_kind(manifests, "Secret", "ConfigMap")}  # fmt: skip
    used = set()
    for part, pod in pods(manifests).items():
        for source in sources(pod) if part != "test" else []:
            [(kind, value)] = source.items()
            key = kind.lower(), value["name"]
            if value["name"].startswith("agents-"):
                used.add(key)
                assert {item["key"] for item in value["items"]} <= made[key].keys()
    assert used == {key for key in made if not key[1].endswith("-dashboard")}


def test_values_name_every_secret_that_is_mounted() -> None:
    """None is made up by the chart: the person who installs it makes each of these."""
    found = {source[kind]["name"] for pod in pods(rendered("everything")).values()
             for source in (sources(pod) if "env" in container(pod) else [])
             for kind in source}  # fmt: skip
    text = VALUES["everything"].read_text()
    assert found
    assert [name for name in found if name not in text] == []


@every_file_of_values
def test_each_autoscaler_and_ingress_leads_to_an_object_that_is_there(name: str) -> None:
    manifests = rendered(name)
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        scaled = named(manifests, target["kind"], target["name"])
        assert "cpu" in container(scaled["spec"]["template"])["resources"]["requests"]
    for ingress in of_kind(manifests, "Ingress"):
        [rule] = ingress["spec"]["rules"]
        [path] = rule["http"]["paths"]
        assert path["path"] == "/api/v4/job/allowed_agents"
        service = named(manifests, "Service", path["backend"]["service"]["name"])
        assert service["spec"]["ports"][0]["name"] == path["backend"]["service"]["port"]["name"]
    for bridge in of_kind(manifests, "StatefulSet"):
        assert named(manifests, "Service", bridge["spec"]["serviceName"])
    for pod in pods(manifests).values():
        assert named(manifests, "ServiceAccount", pod["spec"]["serviceAccountName"])


@every_file_of_values
def test_every_pod_has_a_network_policy(name: str) -> None:
    policies = {component(m) for m in of_kind(rendered(name), "NetworkPolicy")}
    assert policies == (set() if name == "trial" else pods(rendered(name)).keys() - {"test"})


def test_only_named_peers_reach_metrics_and_the_operators_page() -> None:
    def peers(name: str, part: str) -> list[Manifest]:
        policy = named(rendered(name), "NetworkPolicy", f"agents-{part}")["spec"]
        return [peer for rule in policy["ingress"] for peer in rule["from"]
                if "podSelector" not in peer]  # fmt: skip

    def namespace(name: str) -> Manifest:
        return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}

    assert peers("everything", "worker") == [namespace("monitoring")]
    assert peers("everything", "bridge") == [namespace("monitoring")]
    assert peers("everything", "ops") == [namespace("operators")]
    assert peers("everything", "api") == [
        namespace("gitlab"), {"ipBlock": {"cidr": "10.1.0.0/24"}}, namespace("monitoring"),
    ]  # fmt: skip
    closed = {part: named(rendered("minimal"), "NetworkPolicy", f"agents-{part}")["spec"]["ingress"]
              for part in ("worker", "topics", "api")}  # fmt: skip
    assert closed["worker"] == closed["topics"] == []
    assert [peer for peer in closed["api"][0]["from"] if "podSelector" not in peer] == []


def test_pods_reach_the_servers_that_they_use_and_no_others() -> None:
    def ports(name: str, part: str) -> list[set[int]]:
        policy = named(rendered(name), "NetworkPolicy", f"agents-{part}")["spec"]
        return [{port["port"] for port in rule["ports"]} for rule in policy["egress"]]

    assert ports("minimal", "worker") == [{53}, {9092}, {6379}]
    assert ports("minimal", "api") == [{53}, {6379}]
    assert ports("minimal", "topics") == [{53}, {9092}]
    assert ports("bridge", "bridge") == [{53}, {9092}, {7000, 7001}, {5432}]
    assert ports("sentinel", "worker") == [{53}, {9093}, {26379, 6379}]
    assert ports("everything", "worker") == [{53}, {9093, 9094}, {6380}, {4318}]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("api.service.type=LoadBalancer", ["networkPolicy.clients"]),
        ("ingest.service.type=NodePort", ["networkPolicy.ingest"]),
        ("api.service.type=NodePort,networkPolicy.clients[0].ipBlock.cidr=10.0.0.0/8", []),
        ("api.service.type=NodePort,networkPolicy.enabled=false", []),
        ("ops.service.type=NodePort", []),  # not enabled
    ],
)
def test_the_notes_name_a_service_that_nothing_outside_reaches(
    tmp_path: Path, arguments: str, names: list[str]
) -> None:
    said = notes(tmp_path, "ingest", "--set", arguments)
    assert re.findall(r"Name the addresses in ([.\w]+):", said) == names


def test_all_kinds_that_make_pods_are_looked_at() -> None:
    with_template = {m["kind"] for m in rendered("everything") if "template" in m.get("spec", {})}
    assert with_template == WITH_PODS

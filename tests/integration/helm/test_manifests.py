"""The chart's manifests: valid for Kubernetes, without rights, with the product's settings."""

import copy
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from projector.config.env import variable_name
from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings
from projector.ingest.preferences import MAX_WAIT_S
from tests.absence import skip_test
from tests.integration.helm.chart import (
    CHART,
    REPOSITORY,
    VALUES,
    component,
    container,
    environment,
    helm,
    named,
    of_kind,
    parse,
    pods,
    rendered,
    template,
)  # fmt: skip

# Of the Prometheus Operator: not Kubernetes' own, so checked below.
CUSTOM = {"PodMonitor", "PrometheusRule"}
KUBERNETES_VERSIONS = ["1.31.0", "1.37.0"]  # the oldest that the chart takes, the newest
every_file_of_values = pytest.mark.parametrize("name", VALUES)


@every_file_of_values
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    manifests = [m for m in rendered(name) if m["kind"] not in CUSTOM]
    assert len(manifests) > 5
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    worker = named(rendered("minimal"), "Deployment", "agents-worker")
    broken = worker | {"spec": worker["spec"] | {"replica": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES_VERSIONS[0], strict=True)


def test_names_that_yaml_takes_for_other_things_stay_texts() -> None:
    numbers = (
        "ops.tokenSecret", "ops.tokenSecretKey", "redis.user.secret", "redis.user.secretKey",
        "kafka.user.certificateSecret", "kafka.user.certificateKey", "kafka.user.privateKeyKey",
        "kafka.ca.secret", "kafka.ca.key", "bridge.passwordSecret", "bridge.storage.className",
        "ingest.tokensSecret", "api.jobTokens.configMap", "api.ingress.className",
        "api.ingress.tlsSecret", "api.ingress.host", "pods.priorityClassName", "image.repository",
    )  # fmt: skip
    texts = ",".join(f"{name}=123" for name in numbers)
    values = ("--values", str(VALUES["everything"]), "--set-string", texts)
    done = template(*values, "--set-string", "fullnameOverride=on", release="123")
    assert done.returncode == 0, done.stderr
    manifests = parse(done.stdout)
    for manifest in (m for m in manifests if m["kind"] not in CUSTOM):
        kubernetes_validate.validate(manifest, KUBERNETES_VERSIONS[0], strict=True)
    assert named(manifests, "ServiceAccount", "on")


def test_the_ingress_of_every_host_of_a_domain_is_rendered() -> None:
    [ingress] = of_kind(
        rendered("everything", "--set", "api.ingress.host=*.example.com"), "Ingress"
    )
    assert ingress["spec"]["rules"][0]["host"] == "*.example.com"
    assert ingress["spec"]["tls"][0]["hosts"] == ["*.example.com"]


@every_file_of_values
def test_helm_lints_it(name: str) -> None:
    done = helm("lint", "--strict", "--kube-version", "1.34.4", str(CHART), "-f", str(VALUES[name]))
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@every_file_of_values
def test_no_name_is_given_twice(name: str) -> None:
    names = [(m["kind"], m["metadata"]["name"]) for m in rendered(name)]
    assert len(names) == len(set(names))


def weaknesses(pod: dict[str, Any]) -> list[str]:
    """Return what a pod may do that it need not."""
    spec, only = pod["spec"], container(pod)
    rights, own = spec.get("securityContext", {}), only.get("securityContext", {})
    holds = {
        "runs as root": rights.get("runAsNonRoot") is True and rights.get("runAsUser", 0) > 0,
        "no seccomp": rights.get("seccompProfile") == {"type": "RuntimeDefault"},
        "may gain rights": own.get("allowPrivilegeEscalation") is False,
        "writable": own.get("readOnlyRootFilesystem") is True,
        "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
        "token": spec.get("automountServiceAccountToken") is False,
        "service links": spec.get("enableServiceLinks") is False,
        "no bounds": {"cpu", "memory"} <= only["resources"]["requests"].keys()
        and "memory" in only["resources"]["limits"],
        "host": not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(),
        "init": "initContainers" not in spec,
    }
    return [weakness for weakness, held in holds.items() if not held]


@every_file_of_values
def test_no_pod_has_rights(name: str) -> None:
    found = pods(rendered(name))
    assert len(found) > 2
    assert [(part, weakness) for part, pod in found.items() for weakness in weaknesses(pod)] == []


def test_a_pod_with_rights_is_found() -> None:
    pod = pods(rendered("minimal"))["worker"]
    bare = {"spec": {k: v for k, v in pod["spec"].items() if k != "securityContext"}}
    assert weaknesses(bare) == ["runs as root", "no seccomp"]


def test_probes_restart_what_is_stuck_and_take_out_what_cannot_answer() -> None:
    def paths(part: str) -> dict[str, str]:
        probes = container(pods(rendered("everything"))[part])
        assert all(probe["httpGet"]["port"] == "http" for probe in probes_of(probes).values())
        return {kind: probe["httpGet"]["path"] for kind, probe in probes_of(probes).items()}

    def probes_of(only: dict[str, Any]) -> dict[str, Any]:
        return {k.removesuffix("Probe"): v for k, v in only.items() if k.endswith("Probe")}

    live = dict.fromkeys(("startup", "readiness", "liveness"), "/health/live")
    serving = live | {"readiness": "/health/ready"}
    assert paths("worker") == live
    assert paths("api") == serving
    assert paths("ops") == live
    assert paths("ingest") == serving
    # A StatefulSet of one: nothing would read its readiness, and it may take hours to be ready.
    assert paths("bridge") == {"startup": "/health/live", "liveness": "/health/live"}
    assert all("/health/fresh" not in str(pod) for pod in pods(rendered("everything")).values())


def test_a_stuck_process_is_restarted_before_its_pod_would_have_to_end() -> None:
    for part, pod in pods(rendered("everything")).items():
        if probe := container(pod).get("livenessProbe"):
            ending = pod["spec"].get("terminationGracePeriodSeconds", 30)
            assert probe["terminationGracePeriodSeconds"] < ending, part


def test_kubernetes_keeps_the_reason_why_a_container_ended() -> None:
    for pod in pods(rendered("everything")).values():
        assert container(pod)["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_a_worker_has_time_to_hand_over_and_one_is_replaced_at_a_time() -> None:
    worker = named(rendered("minimal"), "Deployment", "agents-worker")["spec"]
    assert worker["template"]["spec"]["terminationGracePeriodSeconds"] >= 20
    assert worker["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert worker["minReadySeconds"] >= 10
    assert not [m for m in of_kind(rendered("everything"), "HorizontalPodAutoscaler")
                if component(m) == "worker"]  # fmt: skip


def test_an_ingest_has_time_to_answer_the_longest_request() -> None:
    ingest = pods(rendered("ingest"))["ingest"]
    pause = container(ingest)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert ingest["spec"]["terminationGracePeriodSeconds"] > pause + MAX_WAIT_S


def test_the_job_of_the_topics_makes_all_its_attempts_while_helm_waits() -> None:
    [job] = of_kind(rendered("minimal"), "Job")
    pauses = sum(10 * 2**attempt for attempt in range(job["spec"]["backoffLimit"]))
    assert pauses < job["spec"]["activeDeadlineSeconds"] < 300


def test_an_autoscaled_deployment_names_no_number_of_pods() -> None:
    """Every `helm upgrade` would set it back."""
    assert "replicas" not in named(rendered("minimal"), "Deployment", "agents-api")["spec"]
    assert named(rendered("trial"), "Deployment", "agents-api")["spec"]["replicas"] == 1
    assert not of_kind(rendered("trial"), "HorizontalPodAutoscaler")


def test_there_is_never_a_second_bridge() -> None:
    bridge = named(rendered("everything"), "StatefulSet", "agents-bridge")["spec"]
    assert bridge["replicas"] == 1
    assert bridge["podManagementPolicy"] == "Parallel"  # so that a rollback replaces a broken pod
    [claim] = bridge["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    state = environment({"spec": bridge["template"]["spec"]})["PROJECTOR_GITLAB_STATE"]
    mounts = {m["name"]: m["mountPath"] for m in container(bridge["template"])["volumeMounts"]}
    assert Path(state).parent == Path(mounts[claim["metadata"]["name"]])
    assert bridge["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"


def known_settings() -> set[str]:
    gitlab = {variable_name(f"gitlab_{field}") for field in GitlabSettings.model_fields}
    return gitlab | {variable_name(field) for field in Settings.model_fields}


def set_by_pods(*names: str) -> set[str]:
    used = {each for name in names for pod in pods(rendered(name)).values()
            if "env" in container(pod) for each in environment(pod)}  # fmt: skip
    return {name for name in used if name.startswith("PROJECTOR_")}


@every_file_of_values
def test_every_variable_is_a_setting(name: str) -> None:
    assert set_by_pods(name) - known_settings() == set()


def test_every_setting_can_be_set() -> None:
    """Passwords are files here, so that no list of processes or pods shows them."""
    passwords = {"PROJECTOR_KAFKA_PASSWORD", "PROJECTOR_REDIS_PASSWORD", "PROJECTOR_OPS_TOKEN",
                 "PROJECTOR_GITLAB_PASSWORD"}  # fmt: skip
    assert known_settings() - set_by_pods(*VALUES) == passwords


def test_numbers_are_written_out() -> None:
    """Helm reads them as floats, and prints large ones as 1.048576e+06."""
    worker = environment(pods(rendered("everything"))["worker"])
    assert worker["PROJECTOR_MAX_VIEW_BYTES"] == "1048576"
    assert worker["PROJECTOR_TOMBSTONE_RETENTION"] == "1209600"
    assert worker["PROJECTOR_MISS_GRACE"] == "1.5"
    assert worker["PROJECTOR_MAX_STALENESS"] == "20"


def test_each_process_gets_its_own_user() -> None:
    found = pods(rendered("everything"))
    users = {
        part: tuple(environment(found[part]).get(f"PROJECTOR_{server}_USERNAME")
                    for server in ("KAFKA", "REDIS"))
        for part in found if part != "test"
    }  # fmt: skip
    assert users == {
        "topics": ("admin", None),
        "worker": ("worker", "worker"),
        "api": (None, "api"),
        "ops": ("operator", "operator"),
        "bridge": ("feeder", "operator"),
        "ingest": ("feeder", "operator"),
    }


def test_a_changed_password_replaces_the_pods_that_have_it() -> None:
    def sums(*arguments: str) -> dict[str, str]:
        found = pods(rendered("trial", *arguments))
        return {part: pod["metadata"]["annotations"]["checksum/secret"]
                for part, pod in found.items() if part != "test"}  # fmt: skip

    before, after = sums(), sums("--set", "worker.redisUser.password=another")
    assert {part for part in before if before[part] != after[part]} == {"worker"}
    version = "allowed-agents-projector/secrets-version"
    of_others = pods(rendered("everything"))
    assert all(of_others[part]["metadata"]["annotations"][version] == "2" for part in before)
    dated = pods(rendered("everything", "--set", "secretsVersion=20261129"))["worker"]
    assert dated["metadata"]["annotations"][version] == "20261129"


def test_no_password_is_outside_a_secret() -> None:
    given = yaml.safe_load(VALUES["trial"].read_text())
    passwords = [given["kafka"]["user"]["password"], given["redis"]["user"]["password"],
                 given["worker"]["redisUser"]["password"]]  # fmt: skip
    secrets = {component(m): m["stringData"] for m in of_kind(rendered("trial"), "Secret")}
    assert secrets["worker"]["kafka-password"] == passwords[0]
    assert secrets["worker"]["redis-password"] == passwords[2]
    assert secrets["api"] == {"redis-password": passwords[1]}
    others = yaml.safe_dump([m for m in rendered("trial") if m["kind"] != "Secret"])
    assert not [password for password in passwords if password in others]


def test_the_hook_brings_everything_that_it_needs_at_a_first_install() -> None:
    for name in ("minimal", "trial", "everything"):
        hooks = {
            (m["kind"], m["metadata"]["name"]): m["metadata"]["annotations"]
            for m in rendered(name)
            if "pre-install" in m["metadata"].get("annotations", {}).get("helm.sh/hook", "")
        }
        weights = {key: int(notes["helm.sh/hook-weight"]) for key, notes in hooks.items()}
        job = pods(rendered(name))["topics"]["spec"]
        needed = {("ServiceAccount", job["serviceAccountName"])}
        if name == "trial":
            needed.add(("Secret", "agents-topics"))
        else:
            needed.add(("NetworkPolicy", "agents-topics"))
        assert all(weights[key] < weights["Job", "agents-topics"] for key in needed)
        assert weights.keys() == needed | {("Job", "agents-topics")}
        assert {notes["helm.sh/hook"] for notes in hooks.values()} == {"pre-install,pre-upgrade"}


def test_the_alerts_are_those_of_deploy_prometheus() -> None:
    ours = yaml.safe_load((REPOSITORY / "deploy/prometheus/alerts.yaml").read_text())
    [rule] = copy.deepcopy(of_kind(rendered("bridge"), "PrometheusRule"))
    for group in ours["groups"]:
        for each in group["rules"]:
            del each["annotations"]["runbook_url"]  # no address is given there
    assert without_release(rule["spec"]) == ours


def without_release(spec: Any) -> Any:
    for each in (each for group in spec["groups"] for each in group["rules"]):
        assert each["labels"].pop("release") == "default/agents"
        each["expr"] = each["expr"].replace('release="default/agents",', "")
        each["expr"] = each["expr"].replace('{release="default/agents"}', "")
    return spec


def test_the_outage_of_one_release_is_seen_beside_another(tmp_path: Path) -> None:
    for release in ("one", "other"):
        done = template("--values", str(VALUES["bridge"]), "--namespace", "ns", release=release)
        [rule] = of_kind(parse(done.stdout), "PrometheusRule")
        (tmp_path / f"{release}.yaml").write_text(yaml.safe_dump(rule["spec"]))
    labels = '{partition="0", release="ns/%s", instance="%s"}'
    owned = {"one": "1x60", "other": "0x60"}
    stale = {"one": "0.3x60", "other": "11x60"}
    series = [
        {"series": name + labels % (release, release), "values": values[release]}
        for release in owned
        for name, values in (("projector_owned_partitions", owned),
                             ("projector_api_staleness_seconds", stale),
                             ("projector_api_redis_reachable", dict.fromkeys(owned, "1x60")))
    ]  # fmt: skip
    expected = [
        {"labels": f'{{alertname="{alert}", release="ns/other"}}', "value": 1}
        for alert in ("NoWorker", "PartitionStale")
    ]
    proof = {
        "rule_files": ["one.yaml", "other.yaml"], "evaluation_interval": "5s",
        "tests": [{"interval": "5s", "input_series": series, "promql_expr_test": [{
            "expr": 'count by (alertname, release) (ALERTS{alertname=~"NoWorker|PartitionStale"})',
            "eval_time": "3m", "exp_samples": expected,
        }]}],
    }  # fmt: skip
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(proof))
    if (promtool := shutil.which("promtool")) is None:
        skip_test("promtool is not installed (Debian's package prometheus)")
    asked = [promtool, "test", "rules", "test.yaml"]
    tested = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_alerts_follow_the_settings() -> None:
    [before] = of_kind(rendered("bridge"), "PrometheusRule")
    [after] = of_kind(rendered("everything"), "PrometheusRule")
    old, new = ({r["alert"]: r for g in m["spec"]["groups"] for r in g["rules"]}
                for m in (before, after))  # fmt: skip
    changed = {name: (old[name]["expr"], new[name]["expr"]) for name in old
               if old[name]["expr"] != new[name]["expr"]}  # fmt: skip
    assert changed.keys() == {"PartitionStale", "SourceSilent", "BridgeBehind", "MissesWaiting"}
    waiting = changed.pop("MissesWaiting")
    assert waiting[1] == waiting[0].replace("> 500", "> 1500") != waiting[0]
    assert all(now == then.replace("> 10", "> 20") for then, now in changed.values())
    url = new["PartitionStale"]["annotations"]["runbook_url"]
    assert url == "https://docs.example.com/projector/runbook.md#partition-stale"


def test_the_alerts_know_the_jobs_of_the_monitors() -> None:
    monitors = of_kind(rendered("everything"), "PodMonitor")
    jobs = {component(m): e["relabelings"][0]["replacement"]
            for m in monitors for e in m["spec"]["podMetricsEndpoints"]}  # fmt: skip
    assert jobs == {part: f"projector-{part}" for part in ("worker", "api", "ingest")} | {
        "bridge": "projector-gitlab"
    }
    scraped = yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yml").read_text())
    assert {"projector-worker", "projector-api"} <= {
        job["job_name"] for job in scraped["scrape_configs"]
    }


def test_custom_objects_have_the_fields_of_the_operator() -> None:
    """Its schemas are not in kubernetes-validate: these are all the fields that the chart uses."""
    for name in ("everything", "bridge"):
        for monitor in of_kind(rendered(name), "PodMonitor"):
            assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
            assert monitor["spec"].keys() == {"selector", "podMetricsEndpoints"}
            assert monitor["spec"]["selector"].keys() == {"matchLabels"}
            [endpoint] = monitor["spec"]["podMetricsEndpoints"]
            assert endpoint.keys() == {"port", "path", "interval", "relabelings"}
            for relabeling in endpoint["relabelings"]:
                assert relabeling.keys() == {"action", "targetLabel", "replacement"}
        [rule] = of_kind(rendered(name), "PrometheusRule")
        assert rule["apiVersion"] == "monitoring.coreos.com/v1"
        assert rule["spec"].keys() == {"groups"}


def test_a_packaged_chart_contains_alerts_and_dashboard(tmp_path: Path) -> None:
    """They are links in the chart, so that there is one of each."""
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    [archive] = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as packed:
        members = {m.name.partition("/")[2]: m for m in packed.getmembers()}
        for file, original in (("alerts.yaml", "prometheus"), ("dashboard.json", "grafana")):
            member = packed.extractfile(members[f"files/{file}"])
            assert member
            assert member.read() == (REPOSITORY / "deploy" / original / file).read_bytes()
        assert not [name for name in members if name.startswith("ci/")]


def test_the_dashboard_is_the_one_of_deploy_grafana() -> None:
    dashboard = named(rendered("bridge"), "ConfigMap", "agents-dashboard")
    [content] = dashboard["data"].values()
    assert content == (REPOSITORY / "deploy/grafana/dashboard.json").read_text()
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_chart_has_the_version_of_the_product() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (REPOSITORY / "pyproject.toml").read_text()
    assert f'\nversion = "{chart["appVersion"]}"\n' in project

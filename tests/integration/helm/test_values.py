"""The values: strict, complete, and equal to the product's settings."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from projector.config.env import variable_name
from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings
from tests.integration.helm.chart import CHART, REPOSITORY, VALUES, refusal, rendered, template

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
TEXT = (CHART / "values.yaml").read_text()
BOUNDS = ("type", "minimum", "maximum", "exclusiveMinimum", "enum")


def objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object of the schema that has fields, with its path."""
    schema = resolved(schema)
    if "properties" in schema:
        yield path, schema
        for name, child in schema["properties"].items():
            yield from objects(child, f"{path}.{name}" if path else name)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    return dict(SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]])


def test_no_object_of_the_values_takes_unknown_names() -> None:
    """Only Kubernetes' own structures are open, and Kubernetes checks those."""
    found = dict(objects(SCHEMA))
    assert len(found) > 20
    assert [path for path, each in found.items() if each.get("additionalProperties") is not False
            ] == []  # fmt: skip


def test_the_schema_and_the_values_have_the_same_names() -> None:
    def names(values: dict[str, Any], schema: dict[str, Any]) -> None:
        fields = resolved(schema).get("properties", {})
        assert values.keys() - fields.keys() == set()
        for name, value in values.items():
            if isinstance(value, dict) and value and "properties" in resolved(fields[name]):
                names(value, fields[name])
                assert resolved(fields[name])["properties"].keys() == value.keys(), name

    names(DEFAULTS, SCHEMA)
    assert SCHEMA["properties"].keys() - DEFAULTS.keys() == {"global"}  # Helm's own


@pytest.mark.parametrize(
    ("fields", "model", "prefix"),
    [
        (SCHEMA["properties"]["settings"]["properties"], Settings, ""),
        (SCHEMA["properties"]["bridge"]["properties"]["settings"]["properties"], GitlabSettings,
         "gitlab_"),
    ],
    ids=["settings", "bridge.settings"],
)  # fmt: skip
def test_settings_have_the_bounds_of_the_product(
    fields: dict[str, Any], model: type[Settings | GitlabSettings], prefix: str
) -> None:
    ours = {
        variable_name(prefix + name): field
        for name, field in model.model_json_schema()["properties"].items()
    }
    for name, field in fields.items():
        known = {bound: ours[name][bound] for bound in BOUNDS if bound in ours[name]}
        given = {bound: field[bound] for bound in BOUNDS if bound in field}
        if "enum" in given:
            known.pop("type")
        assert given == known, name


def test_settings_have_the_defaults_of_the_product() -> None:
    for given, known, model, prefix in (
        (DEFAULTS["settings"], SCHEMA["properties"]["settings"], Settings, "PROJECTOR_"),
        (DEFAULTS["bridge"]["settings"],
         SCHEMA["properties"]["bridge"]["properties"]["settings"], GitlabSettings,
         "PROJECTOR_GITLAB_"),
    ):  # fmt: skip
        assert given.keys() == known["properties"].keys()
        fields: Any = model.model_fields
        for name, value in given.items():
            assert value == fields[name.removeprefix(prefix).lower()].default, name


def test_every_part_has_a_comment() -> None:
    lines = TEXT.splitlines()
    for number, line in enumerate(lines):
        if line.startswith(" ") or not line or line.startswith("#"):
            continue
        headings = {"image:", "kafka:", "redis:", "monitoring:"}
        assert lines[number - 1].startswith("#") or line in headings, line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("replicas=3", "replicas"),
        ("worker.replica=3", "replica"),
        ("settings.PROJECTOR_MAX_STALENES=3", "PROJECTOR_MAX_STALENES"),
        ("settings.PROJECTOR_REDIS_URL=x", "PROJECTOR_REDIS_URL"),
        ("settings.PROJECTOR_SESSION_TIMEOUT=5", "settings.PROJECTOR_SESSION_TIMEOUT"),
        ("worker.replicas=two", "worker.replicas"),
        ("kafka.securityProtocol=TLS", "kafka.securityProtocol"),
        ("kafka.brokers=http://kafka:9092", "kafka.brokers"),
        ("kafka.brokers=kafka", "kafka.brokers"),
        ("redis.url=redis:6379", "redis.url"),
        ("kafka.ca.secret=a,kafka.ca.configMap=b", "kafka.ca"),
        ("kafka.ca.file=ca.pem", "kafka.ca"),
        ("pods.extraEnv[0].name=PROJECTOR_KAFKA", "pods.extraEnv"),
        (r"pods.labels.app\.kubernetes\.io/name=mine", "app.kubernetes.io/name"),
        (r"pods.labels.helm\.sh/chart=mine", "helm.sh/chart"),
        ("fullnameOverride=a.b", "fullnameOverride"),
        ("fullnameOverride=1a", "fullnameOverride"),
        ("api.ingress.host=https://gitlab.example.com/x", "api.ingress.host"),
        ("worker.resources.limits.memory=1K", "worker.resources.limits.memory"),
        ("image.repository=projector:latest", "image.repository"),
        ("worker.terminationGracePeriodSeconds=10", "worker.terminationGracePeriodSeconds"),
        ("api.jobTokens.publicKeys.a=BEGIN PRIVATE KEY", "api.jobTokens.publicKeys"),
        ("networkPolicy.metrics[0].app=1", "networkPolicy.metrics"),
        ("worker.resources.limits.memory=lots", "worker.resources.limits.memory"),
    ],
)
def test_an_unknown_name_or_a_wrong_value_is_refused(arguments: str, reason: str) -> None:
    said = refusal("minimal", "--set", arguments)
    assert "values don't meet the specifications of the schema" in said
    assert reason in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("image.repository=", "image.repository: give"),
        ("kafka.brokers=", "kafka.brokers: give"),
        ("redis.url=", "redis.url: give"),
        ("redis.url=redis://user:secret@redis:6379", "redis.url: leave user and password out"),
        ("redis.urlSecret=url", "redis.url and redis.urlSecret: set one of them"),
        ("redis.ca.secret=ca", "redis.ca: has no effect without TLS; begin redis.url with rediss"),
        ("kafka.ca.secret=ca", "kafka.ca: has no effect without TLS; set kafka.security"),
        ("kafka.securityProtocol=SASL_SSL", "kafka.user: give name and secret"),
        ("kafka.user.name=worker", "kafka.user: has no effect with"),
        ("worker.kafkaUser.name=worker", "worker.kafkaUser: has no effect with"),
        ("redis.user.certificateSecret=tls", "redis.user.certificateSecret: has no effect"),
        ("redis.user.secret=a,redis.user.password=b", "redis.user.secret and .password: set one"),
        ("redis.user.name=worker", "redis.user: give secret"),
        ("kafka.brokers=kafka:99999", "kafka.brokers: correct the port 99999"),
        ("kafka.brokers=kafka:0", "kafka.brokers: correct the port 0"),
        ("redis.url=redis://redis:70000/0", "redis.url: correct the port 70000"),
        ("api.autoscaling.minReplicas=20", "api.autoscaling: minReplicas is above"),
        ("ingest.autoscaling.maxReplicas=1", "ingest.autoscaling: minReplicas is above"),
        ("worker.resources.requests.memory=3Gi", "worker.resources: requests.memory is above"),
        ("api.resources.limits.cpu=400m", "api.resources: requests.cpu is above"),
        ("ops.resources.limits.cpu=0.04", "ops.resources: requests.cpu is above"),
        ("worker.replicas=17", "worker.replicas: at most 16"),
        ("worker.replicas=9,settings.PROJECTOR_PARTITIONS=8", "worker.replicas: at most 8"),
        ("api.jobTokens.issuer=gitlab.example.com", "api.jobTokens.publicKeys: give"),
        ("api.jobTokens.configMap=keys", "api.jobTokens.issuer: give"),
        ("api.ingress.enabled=true", "api.ingress.host: give"),
        ("ops.enabled=true", "ops.tokenSecret: name"),
        ("ingest.enabled=true", "ingest.tokensSecret: name"),
        ("bridge.enabled=true", "bridge.database: give"),
        ("bridge.enabled=true,bridge.database=host=db password=x", "bridge.database: leave the"),
        ("bridge.enabled=true,bridge.database=postgres://me:x@db", "bridge.database: leave the"),
        ("bridge.enabled=true,bridge.database=host=db,bridge.tokens=decrypt", "set both or none"),
    ],
)
def test_values_that_need_one_another_are_named(arguments: str, reason: str) -> None:
    said = refusal("minimal", "--set", arguments)
    assert "the values cannot be used:" in said
    assert f"\n  - {reason}" in said or reason in said.rpartition("  - ")[2]


def test_a_name_of_the_release_that_no_service_can_have_is_refused() -> None:
    for release in ("a.b", "1a"):
        done = template("--values", str(VALUES["minimal"]), release=release)
        assert f"no Service can be called {release}" in done.stderr


def test_limits_that_are_what_is_requested_are_accepted() -> None:
    for given in ("memory=1Gi", "memory=1073741824", "cpu=0.5", "cpu=500m", "memory=2G"):
        assert rendered("minimal", "--set", f"worker.resources.limits.{given}")


def test_all_that_is_wrong_is_named_at_once() -> None:
    said = refusal("minimal", "--set", "image.repository=,kafka.brokers=,worker.replicas=17")
    assert said.count("\n  - ") == 3


def test_parts_that_are_off_leave_nothing_behind() -> None:
    parts = {m["metadata"]["labels"]["app.kubernetes.io/component"] for m in rendered("minimal")}
    assert parts == {"all", "worker", "api", "topics", "test"}


def test_the_examples_of_the_documents_are_accepted(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "kubernetes.md").read_text()
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 4
    for number, block in enumerate(blocks):
        (values := tmp_path / f"{number}.yaml").write_text(dedent(block))
        done = template("--values", str(VALUES["minimal"]), "--values", str(values))
        assert done.returncode == 0, block + done.stderr


@pytest.mark.parametrize("name", VALUES)
def test_every_file_of_values_has_its_reason(name: str) -> None:
    assert VALUES[name].read_text().startswith("# ")

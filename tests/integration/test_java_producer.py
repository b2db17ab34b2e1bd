"""The example producer in Java, on Kafka's own client, follows the contract."""

import json
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests import builders
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import REPOSITORY, eventually, without_apache_kafka

EXAMPLE = REPOSITORY / "examples" / "Feed.java"
CACHE = Path(os.environ.get("KAFKA_CACHE", Path.home() / ".cache" / "allowed-agents-projector"))


@pytest.fixture
def jars() -> str:
    """Return the class path with Kafka's jars, which `make kafka` has fetched."""
    missing = without_apache_kafka() or (None if shutil.which("javac") else "javac not installed")
    if missing:
        pytest.skip(f"NO TEST RUNS THE JAVA PRODUCER: {missing}")
    (found,) = CACHE.glob("kafka-*/complete")
    return f"{found.parent}/*"


def feed(deployment: Deployment, jars: str, events: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["java", "-cp", jars, str(EXAMPLE), deployment.kafka, deployment.prefix],
        input=events, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_what_it_feeds_is_answered_and_nothing_of_it_is_refused(
    deployment: Deployment, jars: str
) -> None:
    deployment.start_all()
    last = builders.event("com.example.instance-agent.removed", {"id": 99}, root="40")
    events = (REPOSITORY / "examples" / "events.ndjson").read_text() + json.dumps(last)
    done = feed(deployment, jars, events)
    assert done.returncode == 0, done.stderr
    deployment.until_agents("example-token-9", 5, 6)
    for partition in range(PARTITIONS):
        facts = f"allowed-agents:facts:{{{partition}}}"
        for broadcast in ("*/user/1", "*/instance-agent/99"):
            eventually(partial(known, deployment, facts, broadcast), f"{broadcast} in {facts}")
    # If the first letter is about a later record, none is about the events that were fed.
    deployment.produce(builders.group(3, id="later") | {"data": {}})
    assert b"later" in (deployment.dead_letters(1)[0].value or b"")


def known(deployment: Deployment, facts: str, thing: str) -> bool:
    return bool(deployment.redis.hexists(facts, thing))


def test_it_fails_where_kafka_does_not_acknowledge(deployment: Deployment, jars: str) -> None:
    """Here the topic accepts only smaller records."""
    assert deployment.command("topics").returncode == 0
    done = feed(deployment, jars, json.dumps(builders.group(3, path="x" * 3_000_000)))
    assert done.returncode != 0
    assert "acknowledged" not in done.stdout

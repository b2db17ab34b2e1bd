"""The commands explain and inspect on real servers, with the example events."""

import json
import subprocess
from typing import Any

from projector.events.model import EVENT_TYPES, Topic
from projector.events.partitioning import partition_of
from tests import builders
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import REPOSITORY

EXAMPLES = (REPOSITORY / "examples" / "events.ndjson").read_text()
# The next offset of agent-config in the partition of namespace 3.
FIRST_FREE = sum(
    EVENT_TYPES[event["type"]].topic == Topic.AGENT_CONFIG
    and partition_of(event["partitionkey"], PARTITIONS) == partition_of("3", PARTITIONS)
    for event in map(json.loads, EXAMPLES.splitlines())
)


def output(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def test_what_is_explained_is_what_is_served_and_names_the_event_that_made_it_so(
    deployment: Deployment,
) -> None:
    deployment.start_all()
    assert deployment.command("feed", "-", stdin=EXAMPLES).returncode == 0
    deployment.until_agents("example-token-9", 5, 6)

    may = deployment.command("explain", "9", "6")
    assert (may.returncode, may.stderr) == (0, "")
    assert may.stdout.splitlines()[0] == (
        "Job 9 may use agent 6: it is configured in project 123213, the job's own"
    )
    may_not = deployment.command("explain", "9", "8")
    assert may_not.returncode == 1
    assert may_not.stdout.splitlines()[0] == (
        "Job 9 may not use agent 8: it is configured in project 123216, not in 123213, "
        "and no configuration that grants it came"
    )
    filtered = output(deployment.command("explain", "9", "7", "--json"))
    assert filtered["explanation"]["agent"]["rule"] == "environments"
    assert filtered["explanation"]["agent"]["configuration_event"]["offset"] == FIRST_FREE - 1

    deployment.feed(builders.removed("agent", 6))
    deployment.until_agents("example-token-9", 5)
    gone = output(deployment.command("explain", "9", "6", "--json"))
    part = gone["explanation"]["agent"]
    assert (gone["agrees"], part["rule"]) == (True, "agent_removed")
    assert part["event"]["offset"] == FIRST_FREE

    read = deployment.command("inspect", "token", "--json", stdin="example-token-9\n")
    assert output(read)["record"]["status"] == 200
    assert "example-token-9" not in read.stdout + read.stderr
    partition = str(gone["explanation"]["partition"])
    held = output(deployment.command("inspect", "partition", partition, "--json"))
    assert held["offsets"]["agent-config"] == FIRST_FREE + 1
    assert output(deployment.command("inspect", "job", "9", "--json"))["facts"][0]["data"]
    assert 9 in output(deployment.command("inspect", "agent", "5", "--json"))["jobs"]
    signed = output(deployment.command("inspect", "job", "39", "--json"))
    assert (signed["job_key"], signed["token"]["sha256"]) == ("record", None)
    assert output(deployment.command("explain", "39", "--json"))["agrees"]
    assert deployment.command("explain", "4711").returncode == 2


def test_the_example_export_is_what_the_example_events_lead_to(deployment: Deployment) -> None:
    deployment.start_all()
    fed = deployment.command("feed", "-", "--wait", "30", stdin=EXAMPLES)
    assert fed.returncode == 0, fed.stderr
    export = str(REPOSITORY / "examples" / "export.ndjson")
    audited = deployment.command("audit", export)
    assert audited.returncode == 0, audited.stdout + audited.stderr


def test_without_redis_the_commands_name_it_and_exit_with_3(
    deployment: Deployment,
) -> None:
    nobody = {"PROJECTOR_REDIS_URL": "redis://127.0.0.1:1/0"}
    deployment.env |= nobody
    for command in (["explain", "9"], ["inspect", "partition", "0"], ["inspect", "agent", "5"]):
        done = deployment.command(*command)
        assert (done.returncode, done.stdout) == (3, "")
        assert "Redis at redis://127.0.0.1:1/0 cannot be reached" in done.stderr
        assert "Kafka" not in done.stderr

"""Lost history: Kafka no longer has the events behind the facts, so lookups get 503."""

import json

import pytest
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition

from projector.events.partitioning import partition_of
from tests import builders
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import Server, eventually

# The embedded broker, which is for trials only, shows neither loss.
pytestmark = pytest.mark.parametrize("kafka", ["apache"], indirect=True)

HOME = partition_of("3", PARTITIONS)
COMPANY = [
    builders.group(3),
    builders.project(7, 3),
    builders.member(1, group_id=3),
    builders.started(9, 7),
]


def stopped_after_work(deployment: Deployment) -> Server:
    deployment.env["PROJECTOR_MAX_STALENESS"] = "3"
    worker = deployment.start_all()
    deployment.feed(*COMPANY)
    deployment.until("token-9", 200)
    worker.stop()
    return worker


def test_a_recreated_topic_is_an_alarm_and_its_lookups_get_503(deployment: Deployment) -> None:
    worker = stopped_after_work(deployment)
    deployment.delete_topic("membership")
    assert deployment.command("topics").returncode == 0
    worker.start()
    eventually(lambda: "membership was recreated" in worker.log(), "the alarm")
    deployment.until("token-9", 503)


def test_a_recreated_topic_that_was_filled_since_is_an_alarm_and_can_be_accepted(
    deployment: Deployment,
) -> None:
    """Its first event is a revocation, and the worker would go on behind it."""
    worker = stopped_after_work(deployment)
    deployment.delete_topic("membership")
    assert deployment.command("topics").returncode == 0
    revoked = builders.event("member.removed", {"user_id": 1, "group_id": 3})
    deployment.feed(revoked, *COMPANY[:2], *(builders.group(number, 3) for number in range(20, 30)))
    worker.start()
    eventually(lambda: "membership was recreated: its id is" in worker.log(), "the alarm")
    deployment.until("token-9", 503)
    refused = deployment.command("rebuild")
    assert refused.returncode == 2
    assert f"partition {HOME}: membership was recreated: its id is" in refused.stderr
    assert "--accept-loss" in refused.stderr
    assert deployment.command("rebuild", "--accept-loss").returncode == 0
    assert deployment.until("token-9", 200).body["allowed_agents"] == []
    deployment.feed(builders.agent(5, 7), COMPANY[2])
    deployment.until_agents("token-9", 5)


def test_a_cut_topic_is_an_alarm_when_everything_must_be_read_again(
    deployment: Deployment,
) -> None:
    worker = stopped_after_work(deployment)
    name = f"{deployment.prefix}membership"
    everything = {
        TopicPartition(name, partition): RecordsToDelete(before_offset=-1)
        for partition in range(PARTITIONS)
    }
    deployment.administrate(lambda admin: admin.delete_records(everything))
    deployment.redis.flushall()
    worker.start()
    eventually(lambda: "membership begins at offset" in worker.log(), "the alarm")
    deployment.until("token-9", 503)


def test_a_wait_counts_no_offset_of_a_former_topic(deployment: Deployment) -> None:
    """The offsets that were applied are as high as those of the new topic, but of other events."""
    worker = stopped_after_work(deployment)
    deployment.delete_topic("membership")
    assert deployment.command("topics").returncode == 0
    again = "\n".join(map(json.dumps, COMPANY[:3]))
    late = deployment.command("feed", "-", "--wait", "2", stdin=again)
    assert (late.returncode, late.stdout) == (1, "3 events acknowledged by Kafka\n")
    assert f"the topics of partition {HOME} in Kafka are not those whose events" in late.stderr
    worker.start()
    assert deployment.command("rebuild", "--accept-loss").returncode == 0
    done = deployment.command("feed", "-", "--wait", "30", stdin=again)
    assert done.returncode == 0, done.stderr

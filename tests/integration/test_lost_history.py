"""Lost history: Kafka no longer has the events behind the facts, so lookups get 503."""

import pytest
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition

from tests import builders
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import Server, eventually

# The embedded broker, which is for trials only, shows neither loss.
pytestmark = pytest.mark.parametrize("kafka", ["apache"], indirect=True)

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

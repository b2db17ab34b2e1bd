"""Topics that would make the projection wrong: the command and the worker refuse them."""

import asyncio
import json

import pytest
from aiokafka.admin import NewPartitions, NewTopic

from projector import errors
from projector.config.settings import Settings
from projector.events.model import Topic
from projector.kafka import topics
from tests import builders
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.servers import eventually


def create(deployment: Deployment, name: str, partitions: int, **configs: str) -> None:
    # Kafka's default is a risk, and the command would warn of it.
    configs = {"message.timestamp.type": "LogAppendTime"} | configs
    topic = NewTopic(deployment.prefix + name, partitions, 1, topic_configs=configs)
    deployment.administrate(lambda admin: admin.create_topics([topic]))
    eventually(lambda: topic.name in deployment.topics(), f"{topic.name} created")


def test_missing_topics_are_created_and_listed(deployment: Deployment) -> None:
    create(deployment, "membership", 6)
    for _ in range(2):
        done = deployment.command("topics")
        assert done.returncode == 0
        assert done.stderr.startswith("PROJECTOR_PARTITIONS is 4 and changes nothing: the exist")
        assert sorted(done.stdout.splitlines()) == [
            f"{deployment.prefix}agent-config: 6 partitions",
            f"{deployment.prefix}dead-letters: 1 partition",
            f"{deployment.prefix}job-lifecycle: 6 partitions",
            f"{deployment.prefix}membership: 6 partitions",
            f"{deployment.prefix}sources: 1 partition",
        ]


def test_topics_are_known_when_their_creation_ends(deployment: Deployment) -> None:
    """Kafka acknowledges a topic before it lists it: a second later for many at once."""

    async def create_one(number: int) -> None:
        prefix = f"{deployment.prefix}{number}."
        await topics.create_topics(
            Settings(kafka=deployment.kafka, topic_prefix=prefix, partitions=PARTITIONS)
        )

    async def create_many() -> None:
        await asyncio.gather(*map(create_one, range(20)))

    asyncio.run(create_many())


def test_a_number_of_partitions_that_is_not_set_is_named_as_final(deployment: Deployment) -> None:
    create(deployment, "membership", 6)
    del deployment.env["PROJECTOR_PARTITIONS"]
    assert deployment.command("topics").stderr.startswith("6 partitions are for good, ")
    deployment.env["PROJECTOR_PARTITIONS"] = "6"
    assert deployment.command("topics").stderr == ""


def test_unequal_numbers_of_partitions_are_refused(deployment: Deployment) -> None:
    assert deployment.command("topics").returncode == 0
    other = Deployment(deployment.kafka, 1, deployment.prefix + "other.", deployment.folder)
    for name, partitions in (("membership", 4), ("agent-config", 5), ("job-lifecycle", 4)):
        create(other, name, partitions)
    create(other, "dead-letters", 1)
    deployment.env["PROJECTOR_TOPIC_PREFIX"] = other.prefix
    for command in ("topics", "worker"):
        refused = deployment.command(command)
        assert refused.returncode == 2
        assert f"{other.prefix}membership 4" in refused.stderr
        assert f"{other.prefix}agent-config 5" in refused.stderr


def test_views_of_another_number_of_partitions_are_refused(deployment: Deployment) -> None:
    assert deployment.command("topics").returncode == 0
    deployment.redis.set("allowed-agents:partitions", PARTITIONS + 1)
    refused = deployment.command("worker")
    assert refused.returncode == 2
    assert "have 4 partitions" in refused.stderr
    assert "written for 5" in refused.stderr


@pytest.mark.usefixtures("real_processes")
@pytest.mark.parametrize("kafka", ["apache"], indirect=True)
def test_a_number_of_partitions_that_changes_ends_the_worker(deployment: Deployment) -> None:
    """Producers would then send events to partitions that no worker reads."""
    worker = deployment.start_all()

    more = {f"{deployment.prefix}membership": NewPartitions(PARTITIONS + 1)}
    deployment.administrate(lambda admin: admin.create_partitions(more))
    assert worker.process.wait(30) == 2
    assert "have 5 partitions" in worker.log()


def test_compaction_is_refused(deployment: Deployment) -> None:
    """The key is the root namespace: compaction would delete all events but the last."""
    create(deployment, "membership", 4, **{"cleanup.policy": "compact"})
    refused = deployment.command("topics")
    assert refused.returncode == 2
    assert "cleanup.policy=compact" in refused.stderr


def test_feed_says_that_topics_are_missing(deployment: Deployment) -> None:
    refused = deployment.command("feed", "-", stdin=json.dumps(builders.project(7)))
    assert refused.returncode == 2
    assert "projector topics" in refused.stderr


def test_the_topics_that_the_command_creates_have_the_brokers_time(deployment: Deployment) -> None:
    """With a producer's slow clock, a removal of today would be older than the export."""
    assert deployment.command("topics").returncode == 0
    settings = Settings(kafka=deployment.kafka, topic_prefix=deployment.prefix)
    asyncio.run(topics.refuse_producers_time(settings))


def test_producers_time_is_refused(deployment: Deployment, kafka: str) -> None:
    for name in Topic:
        create(deployment, name, 1, **{"message.timestamp.type": "CreateTime"})
    create(deployment, "dead-letters", 1)
    settings = Settings(kafka=kafka, topic_prefix=deployment.prefix)
    with pytest.raises(errors.UnusableTopicsError, match="producers' time"):
        asyncio.run(topics.refuse_producers_time(settings))

"""The partitions that events must reach, and the order in which they leave."""

import asyncio
import json
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import RecordMetadata

from projector.config.settings import Settings
from projector.events.model import Topic
from projector.events.partitioning import partition_of
from projector.feed import producer
from projector.feed.event_file import parse_line
from projector.feed.producer import Message, target_partitions
from tests.builders import agent, event, group, removed, shared_agent, started, user

SETTINGS = Settings(kafka="127.0.0.1:1")
INSTANCE = {"id": 5, "name": "shared", "project_id": 3, "configuration": {}}


@pytest.mark.parametrize("root", ["3", "40", "999", "9223372036854775807"])
def test_an_event_goes_to_the_partition_of_its_root_namespace(root: str) -> None:
    for message in (
        group(3, root=root),
        agent(5, 7, root=root),
        shared_agent(6, 9, root=root),
        started(9, 7, root=root),
    ):
        assert list(target_partitions(parse_line(json.dumps(message).encode()), 16)) == [
            partition_of(root, 16)
        ]


@pytest.mark.parametrize(
    "message",
    [user(1), event("instance-agent.set", INSTANCE), removed("instance-agent", 5)],
    ids=lambda message: message["type"],
)
def test_what_belongs_to_no_root_namespace_goes_to_every_partition(message: Any) -> None:
    assert list(target_partitions(parse_line(json.dumps(message).encode()), 16)) == list(range(16))


class Broker:
    """An AIOKafkaProducer whose messages are acknowledged by `acknowledge` only."""

    def __init__(self, **_: Any) -> None:
        self.sent: list[tuple[str, int]] = []
        self.unacknowledged: list[asyncio.Future[RecordMetadata]] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def send(
        self, topic: str, *_: Any, partition: int, **__: Any
    ) -> asyncio.Future[RecordMetadata]:
        self.sent.append((topic, partition))
        self.unacknowledged.append(asyncio.get_running_loop().create_future())
        return self.unacknowledged[-1]

    def acknowledge(self) -> None:
        first = len(self.sent) - len(self.unacknowledged)
        for offset, message in enumerate(self.unacknowledged, start=first):
            message.set_result(metadata(*self.sent[offset], offset))
        self.unacknowledged.clear()


def metadata(topic: str, partition: int, offset: int) -> RecordMetadata:
    return RecordMetadata(topic, partition, TopicPartition(topic, partition), offset, 0, 1, 0)


def message(topic: Topic, partition: int = 0) -> Message:
    return Message(topic, partition, "3", b"{}")


async def test_a_job_leaves_after_the_acknowledgement_of_what_its_answer_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then its first answer has all of that: each of the topics keeps its own order only."""
    broker = Broker()
    monkeypatch.setattr(producer, "AIOKafkaProducer", lambda **_: broker)
    async with producer.sending(SETTINGS) as batch:
        for topic in (Topic.MEMBERSHIP, Topic.AGENT_CONFIG):
            await batch.send(message(topic))
        job = asyncio.ensure_future(batch.send(message(Topic.JOB_LIFECYCLE)))
        await batch.send(message(Topic.JOB_LIFECYCLE, 1))
        await asyncio.sleep(0.01)
        assert ("job-lifecycle", 0) not in broker.sent
        broker.acknowledge()
        await job
        await batch.send(message(Topic.JOB_LIFECYCLE))
        assert broker.sent[-2:] == [("job-lifecycle", 0)] * 2
        broker.acknowledge()


async def test_a_batch_has_the_positions_behind_what_kafka_acknowledged() -> None:
    """One producer may send several batches at the same time; each has its own positions."""
    broker: Any = Broker()
    batches = [producer.Batch(broker, SETTINGS) for _ in range(2)]
    for topic, partition in ((Topic.MEMBERSHIP, 0), (Topic.MEMBERSHIP, 3)):
        for batch in batches:
            await batch.send(message(topic, partition))
    broker.acknowledge()
    first, second = [await batch.acknowledged() for batch in batches]
    assert first == {(Topic.MEMBERSHIP, 0): 1, (Topic.MEMBERSHIP, 3): 3}
    assert second == {(Topic.MEMBERSHIP, 0): 2, (Topic.MEMBERSHIP, 3): 4}
    await batches[0].send(message(Topic.MEMBERSHIP, 0))
    broker.acknowledge()
    assert await batches[0].acknowledged() == first | {(Topic.MEMBERSHIP, 0): 5}


async def test_the_bytes_that_are_not_acknowledged_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broadcast has a copy for each partition."""
    broker: Any = Broker()
    monkeypatch.setattr(producer, "MAX_UNACKNOWLEDGED_BYTES", 10)
    batch = producer.Batch(broker, SETTINGS)
    large = Message(Topic.MEMBERSHIP, 0, "3", b"x" * 6)

    async def broadcast() -> None:
        for partition in range(5):
            await batch.send(large._replace(partition=partition))

    sending = asyncio.create_task(broadcast())
    for expected in (2, 4, 5):
        await asyncio.sleep(0.01)
        assert len(broker.sent) == expected
        broker.acknowledge()
    await sending
    assert len(await batch.acknowledged()) == 5

"""The producer that requests share: its order, its failures and its replacement."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError
from aiokafka.structs import RecordMetadata

from projector.config.settings import Settings
from projector.events.cloudevents import decode_event
from projector.events.model import Topic
from projector.ingest import kafka_sends
from projector.ingest.checks import CheckedEvent
from projector.ingest.kafka_sends import KafkaSends
from tests.builders import group, started, user
from tests.unit.ingest.ingest_world import record


class Producer:
    """Acknowledges or fails what `answer` takes; all that were made are in `made`."""

    made: list["Producer"]

    def __init__(self, **arguments: Any) -> None:
        assert arguments["acks"] == "all"
        self.sent: list[tuple[str, int]] = []
        self.waiting: list[asyncio.Future[RecordMetadata]] = []
        self.stopped = False
        self.changed = asyncio.Event()
        Producer.made.append(self)

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.stopped = True

    async def send(self, topic: str, *_: Any, partition: int, **__: Any) -> Any:
        self.sent.append((topic, partition))
        self.waiting.append(asyncio.get_running_loop().create_future())
        self.changed.set()
        return self.waiting[-1]

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.changed.clear()
            await self.changed.wait()

    def acknowledge(self) -> None:
        waiting, self.waiting = self.waiting, []
        start = len(self.sent) - len(waiting)
        for number, future in enumerate(waiting, start):
            topic, partition = self.sent[number]
            place = TopicPartition(topic, partition)
            future.set_result(RecordMetadata(topic, partition, place, number, 0, 0, 0))

    def fail(self, error: Exception) -> None:
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            future.set_exception(error)


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> KafkaSends:
    Producer.made = []
    monkeypatch.setattr(kafka_sends, "AIOKafkaProducer", Producer)
    return KafkaSends(Settings(kafka="127.0.0.1:1"))


def checked(message: dict[str, Any]) -> CheckedEvent:
    found = record(json.dumps(message).encode())
    return CheckedEvent(decode_event(found), found)


async def begin(sends: KafkaSends, *messages: Any) -> tuple[asyncio.Task[Any], Producer]:
    """Begin to send; return once the first of it is on its way."""
    before = sum(len(made.sent) for made in Producer.made)
    task = asyncio.create_task(sends.send([checked(message) for message in messages], 2))
    while sum(len(made.sent) for made in Producer.made) == before:  # noqa: ASYNC110
        await asyncio.sleep(0)
    return task, Producer.made[-1]


async def test_broadcasts_reach_every_partition_and_each_position_is_returned(
    sends: KafkaSends,
) -> None:
    task, producer = await begin(sends, user(1), group(3))
    await producer.until(lambda: len(producer.sent) == 3)
    assert not task.done()
    producer.acknowledge()
    positions = await task
    assert positions.keys() == {(Topic.MEMBERSHIP, 0), (Topic.MEMBERSHIP, 1)}
    assert max(positions.values()) == 3
    assert sends.lately_acknowledged(Topic.MEMBERSHIP, 1) == positions[Topic.MEMBERSHIP, 1]
    assert sends.lately_acknowledged(Topic.AGENT_CONFIG, 1) == 0


async def test_a_job_waits_for_what_came_before_it_in_its_own_request_alone(
    sends: KafkaSends,
) -> None:
    first, producer = await begin(sends, group(3), started(9, 7))
    other, _ = await begin(sends, started(10, 7))
    assert [topic for topic, _ in producer.sent] == ["membership", "job-lifecycle"]
    producer.acknowledge()
    await other
    await producer.until(lambda: len(producer.sent) == 3)
    producer.acknowledge()
    await first


async def test_a_failed_producer_is_replaced_and_no_error_is_left(sends: KafkaSends) -> None:
    task, failed = await begin(sends, group(3), user(1))
    await failed.until(lambda: len(failed.sent) == 3)
    failed.fail(KafkaTimeoutError())
    with pytest.raises(KafkaTimeoutError):
        await task
    assert sends.lately_acknowledged(Topic.MEMBERSHIP, 1) == 0
    again, producer = await begin(sends, group(3))
    assert producer is not failed
    producer.acknowledge()
    await again
    await sends.stop()
    assert [made.stopped for made in Producer.made] == [True, True]


async def test_without_an_answer_a_request_fails_in_time(
    sends: KafkaSends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_sends, "SEND_S", 0.01)
    task, silent = await begin(sends, group(3))
    with pytest.raises(TimeoutError):
        await task
    _, producer = await begin(sends, group(3))
    assert producer is not silent
    await asyncio.gather(_, return_exceptions=True)
    await sends.stop()


async def test_a_producer_that_cannot_start_is_stopped(
    sends: KafkaSends, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: Producer) -> None:
        raise KafkaConnectionError

    monkeypatch.setattr(Producer, "start", refuse)
    with pytest.raises(KafkaConnectionError):
        await sends.send([checked(group(3))], 2)
    assert Producer.made[0].stopped

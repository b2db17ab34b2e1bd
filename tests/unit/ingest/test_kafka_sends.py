"""The producer that requests share: its order, its failures and its replacement."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, MessageSizeTooLargeError
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


async def test_a_replaced_producer_serves_its_other_requests_to_their_end(
    sends: KafkaSends,
) -> None:
    """One partition without a leader fails the requests of one team alone."""
    ours, producer = await begin(sends, group(3))
    theirs, _ = await begin(sends, group(4))
    mine, other = producer.waiting
    other.set_exception(KafkaTimeoutError())
    with pytest.raises(KafkaTimeoutError):
        await theirs
    assert not producer.stopped
    producer.waiting = [mine]
    producer.sent = producer.sent[:1]
    producer.acknowledge()
    await ours
    await sends.stop()
    assert producer.stopped


async def test_an_event_that_is_too_large_leaves_the_producer(sends: KafkaSends) -> None:
    task, producer = await begin(sends, group(3))
    producer.fail(MessageSizeTooLargeError())
    with pytest.raises(MessageSizeTooLargeError):
        await task
    again, same = await begin(sends, group(3))
    assert same is producer
    producer.acknowledge()
    await again
    await sends.stop()


async def test_requests_with_broadcasts_take_turns(
    sends: KafkaSends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sends, "_broadcasting", asyncio.Semaphore(1))
    first, producer = await begin(sends, user(1))
    second = asyncio.create_task(sends.send([checked(user(2))], 2))
    third, _ = await begin(sends, group(3))
    assert len(producer.sent) == 3
    producer.acknowledge()
    await asyncio.gather(first, third)
    await producer.until(lambda: len(producer.sent) == 5)
    producer.acknowledge()
    await second


async def test_the_last_acknowledged_position_never_goes_back(sends: KafkaSends) -> None:
    """Of two requests at the same time the earlier one may be noted last."""
    first, producer = await begin(sends, group(3))
    second, _ = await begin(sends, group(3))
    lower, higher = producer.waiting
    at = [RecordMetadata("membership", 1, None, n, 0, 0, 0) for n in (7, 8)]
    higher.set_result(at[1])
    await second
    lower.set_result(at[0])
    (place,) = await first
    assert sends.lately_acknowledged(*place) == 9


async def test_a_failed_request_waits_for_what_is_on_its_way(
    sends: KafkaSends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it could arrive behind what its feeder sends again."""
    monkeypatch.setattr(kafka_sends, "SEND_S", 0.01)
    task, producer = await begin(sends, group(3))
    await asyncio.sleep(0.05)
    assert not task.done()
    assert not producer.waiting[0].cancelled()
    producer.acknowledge()
    with pytest.raises(TimeoutError):
        await task


async def test_without_an_answer_a_request_fails_in_time(
    sends: KafkaSends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_sends, "SEND_S", 0.01)
    monkeypatch.setattr(kafka_sends, "ABANDON_S", 0.01)
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

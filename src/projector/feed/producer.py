"""Producer that sends checked events to Kafka and waits until all are acknowledged."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from projector.clients import kafka
from projector.config.settings import Settings
from projector.events.model import MAX_EVENT_BYTES, Event, Topic
from projector.events.partitioning import partition_of
from projector.events.redaction import Headers
from projector.feed.event_file import numbered_lines, parse_line
from projector.kafka import topics

if TYPE_CHECKING:
    from projector.feed.applied import Positions

# Bytes: the largest event allowed, with room for Kafka's own overhead.
MAX_REQUEST_BYTES: Final = 2 * MAX_EVENT_BYTES
CONTENT_TYPE: Final = ("content-type", b"application/cloudevents+json")
# Bound the memory of sends that wait for Kafka's acknowledgement. A broadcast has a copy for each
# partition.
MAX_UNACKNOWLEDGED: Final = 2000
MAX_UNACKNOWLEDGED_BYTES: Final = 4 * MAX_EVENT_BYTES


def target_partitions(event: Event, partitions: int) -> Iterable[int]:
    """Return the partitions that an event must reach."""
    if event.kind.broadcast:
        return range(partitions)
    return (partition_of(event.root, partitions),)


class Message(NamedTuple):
    """An event on its way to one partition."""

    topic: Topic
    partition: int
    root: str
    value: bytes
    headers: Headers = (CONTENT_TYPE,)


class Batch:
    """Messages on their way through one producer, and the positions at which Kafka put them.

    An event about a job leaves once Kafka has acknowledged what came before it in the other topics
    of its partition. So the job's first answer has all of that. Raises `KafkaError`.
    """

    def __init__(self, producer: AIOKafkaProducer, settings: Settings) -> None:
        self._producer = producer
        self._settings = settings
        self._positions: Positions = {}
        self._waiting: list[tuple[Topic, int, asyncio.Future[RecordMetadata]]] = []
        self._bytes = 0
        self._before_jobs: defaultdict[int, list[asyncio.Future[RecordMetadata]]]
        self._before_jobs = defaultdict(list)

    async def send(self, message: Message) -> None:
        """Hand the message to the producer; wait where too many are not acknowledged."""
        if len(self._waiting) > MAX_UNACKNOWLEDGED or self._bytes > MAX_UNACKNOWLEDGED_BYTES:
            await self.acknowledged()
        topic, partition, root, value, headers = message
        if topic is Topic.JOB_LIFECYCLE:
            await _results(self._before_jobs.pop(partition, []))
        name, key = self._settings.topic(topic), root.encode()
        sent = await self._producer.send(name, value, key, partition=partition, headers=[*headers])
        sent.add_done_callback(_forget)
        self._waiting.append((topic, partition, sent))
        self._bytes += len(value)
        if topic is not Topic.JOB_LIFECYCLE:
            self._before_jobs[partition].append(sent)

    async def acknowledged(self) -> "Positions":
        """Wait until Kafka has acknowledged every message; return the positions behind them."""
        found = await _results([sent for *_, sent in self._waiting])
        for (topic, partition, _), at in zip(self._waiting, found, strict=True):
            place = topic, partition
            self._positions[place] = max(at.offset + 1, self._positions.get(place, 0))
        self._clear()
        return dict(self._positions)

    async def abandon(self, timeout_s: float) -> bool:
        """Wait until no message is on its way; return whether that was in time."""
        waiting = [sent for *_, sent in self._waiting]
        self._clear()
        return not waiting or not (await asyncio.wait(waiting, timeout=timeout_s))[1]

    def _clear(self) -> None:
        self._waiting.clear()
        self._before_jobs.clear()
        self._bytes = 0


async def _results(sent: Sequence[asyncio.Future[RecordMetadata]]) -> list[RecordMetadata]:
    """Wait for all results, or the first error.

    A `gather` that is cancelled would cancel what it waits for. The messages would still leave, and
    nobody could wait for them.
    """
    if sent:
        await asyncio.wait(sent, return_when=asyncio.FIRST_EXCEPTION)
    for each in sent:
        if each.done() and (error := each.exception()):
            raise error
    return [each.result() for each in sent]


def _forget(sent: asyncio.Future[RecordMetadata]) -> None:
    """Read the error of a message, since asyncio logs errors that are never read."""
    if not sent.cancelled():
        sent.exception()


async def send_events(
    source: BinaryIO, settings: Settings, sent: Callable[[], object]
) -> "Positions":
    """Send the checked lines in order, and return once Kafka has acknowledged all of them.

    Calls `sent` for each line; returns the positions behind the events. Raises `KafkaError`, and
    the errors of `topics.check_topics`.
    """
    partitions = (await topics.check_topics(settings))[Topic.MEMBERSHIP]
    async with sending(settings) as batch:
        for _, line in numbered_lines(source):
            event = parse_line(line)
            for partition in target_partitions(event, partitions):
                await batch.send(Message(event.kind.topic, partition, event.root, line))
            sent()
        return await batch.acknowledged()


@asynccontextmanager
async def sending(settings: Settings) -> AsyncIterator[Batch]:
    """Open a producer for one batch; at its end Kafka has acknowledged every message.

    Raises `KafkaError`.
    """
    producer = AIOKafkaProducer(
        **kafka.client_arguments(settings),
        acks="all",
        linger_ms=5,
        max_request_size=MAX_REQUEST_BYTES,
    )
    try:
        await producer.start()
        batch = Batch(producer, settings)
        yield batch
        await batch.acknowledged()
    finally:
        await producer.stop()

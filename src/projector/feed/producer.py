"""Producer that sends checked events to Kafka and waits until all are acknowledged."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import BinaryIO, Final, NamedTuple

from aiokafka import AIOKafkaProducer

from projector.clients import kafka
from projector.config.settings import Settings
from projector.events.model import MAX_EVENT_BYTES, Event, Topic
from projector.events.partitioning import partition_of
from projector.events.redaction import Headers
from projector.feed.event_file import numbered_lines, parse_line
from projector.kafka import topics

# Bytes: the largest event allowed, with room for Kafka's own overhead.
MAX_REQUEST_BYTES: Final = 2 * MAX_EVENT_BYTES
CONTENT_TYPE: Final = ("content-type", b"application/cloudevents+json")
# Bounds the memory of sends that wait for Kafka's acknowledgement.
MAX_UNACKNOWLEDGED: Final = 2000


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


Send = Callable[[Message], Awaitable[None]]


async def send_events(source: BinaryIO, settings: Settings, sent: Callable[[], object]) -> None:
    """Send the checked lines in order, and return once Kafka has acknowledged all of them.

    Calls `sent` for each line. Raises `KafkaError`, and the errors of `topics.check_topics`.
    """
    partitions = (await topics.check_topics(settings))[Topic.MEMBERSHIP]
    async with sending(settings) as put:
        for _, line in numbered_lines(source):
            event = parse_line(line)
            for partition in target_partitions(event, partitions):
                await put(Message(event.kind.topic, partition, event.root, line))
            sent()


@asynccontextmanager
async def sending(settings: Settings) -> AsyncIterator[Send]:
    """Open a producer for the block; at its end Kafka has acknowledged every message.

    An event about a job leaves once Kafka has acknowledged what came before it in the other topics
    of its partition. So the job's first answer has all of that. Raises `KafkaError`.
    """
    producer = AIOKafkaProducer(
        **kafka.client_arguments(settings),
        acks="all",
        linger_ms=5,
        max_request_size=MAX_REQUEST_BYTES,
    )
    waiting: set[asyncio.Future[object]] = set()
    before_jobs: defaultdict[int, list[asyncio.Future[object]]] = defaultdict(list)

    async def acknowledged() -> None:
        await asyncio.gather(*waiting)
        waiting.clear()
        before_jobs.clear()

    async def put(message: Message) -> None:
        if len(waiting) > MAX_UNACKNOWLEDGED:
            await acknowledged()
        topic, partition, root, value, headers = message
        if topic is Topic.JOB_LIFECYCLE:
            await asyncio.gather(*before_jobs.pop(partition, ()))
        name, key = settings.topic(topic), root.encode()
        sent = await producer.send(name, value, key, partition=partition, headers=[*headers])
        waiting.add(sent)
        if topic is not Topic.JOB_LIFECYCLE:
            before_jobs[partition].append(sent)

    try:
        await producer.start()
        yield put
        await acknowledged()
    finally:
        await producer.stop()

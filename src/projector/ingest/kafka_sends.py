"""The way to Kafka: one producer for all requests, and the sends of one request in their order."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata

from projector.clients import kafka
from projector.config.settings import Settings
from projector.events.model import SOURCES, Topic
from projector.feed.producer import CONTENT_TYPE, MAX_REQUEST_BYTES, Message, target_partitions
from projector.ingest.checks import CheckedEvent

log = structlog.get_logger()

# A send without acknowledgement for so long counts as failed; then the feeder sends again.
REQUEST_TIMEOUT_MS: Final = 10_000
# Of one request, with its waits for what must come before a job. Then it gets 503.
SEND_S: Final = 20.0
# Bounds the memory of one request's broadcasts that wait for Kafka's acknowledgement.
MAX_UNACKNOWLEDGED: Final = 2000
# The end offsets of the embedded broker may be below what it acknowledged, for a moment.
REMEMBERED_S: Final = 5.0

# The offset after the last record that was sent, by topic and partition.
Positions = dict[tuple[Topic, int], int]


_Sent = asyncio.Future[RecordMetadata]


class RequestSends:
    """The sends of one request, over a producer that is shared.

    An event about a job leaves once Kafka has acknowledged what the request sent before it in the
    other topics of its partition. So the job's first answer has all of that.
    """

    def __init__(self, producer: AIOKafkaProducer, settings: Settings) -> None:
        self._producer = producer
        self._settings = settings
        self._waiting: list[_Sent] = []
        self._before_jobs: defaultdict[int, list[_Sent]] = defaultdict(list)
        self.positions: Positions = {}

    async def put(self, message: Message) -> None:
        """Send a record, once what must come before it is acknowledged; raises `KafkaError`."""
        if len(self._waiting) >= MAX_UNACKNOWLEDGED:
            await self.acknowledged()
        topic, partition, root, value, headers = message
        if topic is Topic.JOB_LIFECYCLE:
            await _all(self._before_jobs.pop(partition, ()))
        name, key = self._settings.topic(topic), root.encode()
        sent = await self._producer.send(name, value, key, partition=partition, headers=[*headers])
        self._waiting.append(sent)
        if topic is not Topic.JOB_LIFECYCLE:
            self._before_jobs[partition].append(sent)

    async def acknowledged(self) -> None:
        """Wait until Kafka has acknowledged every record; raises `KafkaError` if it refused one."""
        waiting, self._waiting = self._waiting, []
        self._before_jobs.clear()
        for record in await _all(waiting):
            topic = Topic(record.topic.removeprefix(self._settings.topic_prefix))
            self.positions[topic, record.partition] = record.offset + 1

    async def abandon(self) -> None:
        """Wait until no record is on its way, whatever became of them."""
        await asyncio.gather(*self._waiting, return_exceptions=True)


async def _all(sent: Iterable[_Sent]) -> list[RecordMetadata]:
    """Wait for all, then raise the first error: a future whose error is not taken is logged."""
    records = await asyncio.gather(*sent, return_exceptions=True)
    for record in records:
        if isinstance(record, BaseException):
            raise record
    return records


class KafkaSends:
    """Sends requests' events by one producer, which is replaced once it has failed.

    Concurrent requests share its batches. A partition has one batch on its way at a time, so the
    order of a request's events in a partition is kept, also where a batch is sent again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._discarding: set[asyncio.Task[None]] = set()
        # Offset and time of the last acknowledgement in each partition.
        self._acknowledged: dict[tuple[Topic, int], tuple[int, float]] = {}

    async def send(self, events: list[CheckedEvent], partitions: int) -> Positions:
        """Send the events in order; return once Kafka has acknowledged all; raises `KafkaError`."""
        producer = await self._started()
        sends = RequestSends(producer, self._settings)
        try:
            async with asyncio.timeout(SEND_S):
                for event, record in events:
                    for partition in target_partitions(event, partitions):
                        await sends.put(
                            Message(
                                event.kind.topic, partition, event.root, record.value or b"",
                                record.headers,
                            )
                        )  # fmt: skip
                await sends.acknowledged()
        except (KafkaError, TimeoutError, OSError):
            self._replace(producer)
            raise
        finally:
            await sends.abandon()
        now = time.monotonic()
        self._acknowledged |= {at: (offset, now) for at, offset in sends.positions.items()}
        return sends.positions

    async def send_heartbeat(self, source: str, value: bytes) -> int:
        """Send a heartbeat; return its offset once it is acknowledged; raises `KafkaError`."""
        producer = await self._started()
        try:
            record = await producer.send_and_wait(
                self._settings.topic(SOURCES), value, source.encode(), 0, headers=[CONTENT_TYPE]
            )
        except (KafkaError, OSError):
            self._replace(producer)
            raise
        return int(record.offset)

    def lately_acknowledged(self, topic: Topic, partition: int) -> int:
        """Return the offset after the last acknowledged record of this process, 0 if long ago."""
        offset, at = self._acknowledged.get((topic, partition), (0, 0.0))
        return offset if time.monotonic() - at < REMEMBERED_S else 0

    async def stop(self) -> None:
        """Disconnect, once what is on its way is acknowledged or has failed."""
        if self._producer:
            self._replace(self._producer)
        await asyncio.gather(*self._discarding, return_exceptions=True)

    async def _started(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **kafka.client_arguments(self._settings),
                    client_id=f"{self._settings.topic_prefix}projector-ingest",
                    acks="all",
                    linger_ms=0,
                    max_request_size=MAX_REQUEST_BYTES,
                    request_timeout_ms=REQUEST_TIMEOUT_MS,
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    def _replace(self, producer: AIOKafkaProducer) -> None:
        """Let the next request start another producer; others may still use this one."""
        if self._producer is producer:
            self._producer = None
            task = asyncio.create_task(_stop(producer))
            self._discarding.add(task)
            task.add_done_callback(self._discarding.discard)


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        await producer.stop()
    except (KafkaError, OSError) as error:
        log.debug("producer ended with an error", reason=str(error))

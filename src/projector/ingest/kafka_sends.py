"""The way to Kafka: one producer for all requests."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from projector.clients import kafka
from projector.config.settings import Settings
from projector.events.model import SOURCES, Event, KafkaRecord, Topic
from projector.feed.applied import Positions
from projector.feed.producer import (
    CONTENT_TYPE,
    MAX_REQUEST_BYTES,
    Batch,
    Message,
    target_partitions,
)
from projector.ingest.checks import CheckedEvent

log = structlog.get_logger()

# A send without acknowledgement for so long counts as failed; then the feeder sends again.
REQUEST_TIMEOUT_MS: Final = 10_000
# Of one request, with its waits for what must come before a job. Then it gets 503.
SEND_S: Final = 20.0
# The end offsets of the embedded broker may be below what it acknowledged, for a moment.
REMEMBERED_S: Final = 5.0


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
        # The position behind the last acknowledged record of each partition, and its time.
        self._acknowledged: dict[tuple[Topic, int], tuple[int, float]] = {}

    async def send(self, events: list[CheckedEvent], partitions: int) -> Positions:
        """Send the events in order; return once Kafka has acknowledged all.

        Raises `KafkaError`, `OSError` and `TimeoutError`.
        """
        async with asyncio.timeout(SEND_S), self._producing() as producer:
            batch = Batch(producer, self._settings)
            try:
                for event, record in events:
                    for partition in target_partitions(event, partitions):
                        await batch.send(_message(event, record, partition))
                positions = await batch.acknowledged()
            finally:
                await batch.abandon()
        now = time.monotonic()
        self._acknowledged |= {place: (position, now) for place, position in positions.items()}
        return positions

    async def send_heartbeat(self, source: str, value: bytes) -> int:
        """Send a heartbeat; return its offset once it is acknowledged; raises `KafkaError`."""
        async with asyncio.timeout(SEND_S), self._producing() as producer:
            record = await producer.send_and_wait(
                self._settings.topic(SOURCES), value, source.encode(), 0, headers=[CONTENT_TYPE]
            )
        return int(record.offset)

    def lately_acknowledged(self, topic: Topic, partition: int) -> int:
        """Return the position behind this process's last acknowledged record, 0 if long ago."""
        position, at = self._acknowledged.get((topic, partition), (0, 0.0))
        return position if time.monotonic() - at < REMEMBERED_S else 0

    async def stop(self) -> None:
        """Disconnect, once what is on its way is acknowledged or has failed."""
        if self._producer:
            self._replace(self._producer)
        await asyncio.gather(*self._discarding, return_exceptions=True)

    @asynccontextmanager
    async def _producing(self) -> AsyncIterator[AIOKafkaProducer]:
        """Yield the producer; replace it if the block fails, or takes too long."""
        producer = await self._started()
        try:
            yield producer
        except (KafkaError, OSError, asyncio.CancelledError):
            self._replace(producer)
            raise

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


def _message(event: Event, record: KafkaRecord, partition: int) -> Message:
    value = record.value or b""
    return Message(event.kind.topic, partition, event.root, value, record.headers)


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        await producer.stop()
    except (KafkaError, OSError) as error:
        log.debug("producer ended with an error", reason=str(error))

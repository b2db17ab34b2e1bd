"""The way to Kafka: one producer for all requests."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

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
from projector.kafka.topic_ids import TopicIds

log = structlog.get_logger()

# A send without acknowledgement for so long counts as failed; then the feeder sends again.
REQUEST_TIMEOUT_MS: Final = 10_000
# Of one request, with its waits for what must come before a job. Then it gets 503.
SEND_S: Final = 20.0
# Of records in one partition. A request of 500 events goes at once, not in eight round trips.
# Not by `send_batch`: of many requests at a time it fails within a second, as others come first.
MAX_BATCH_BYTES: Final = 256 * 1024
# So long a failed request waits for what is still on its way: Kafka may take it until then.
ABANDON_S: Final = 2 * REQUEST_TIMEOUT_MS / 1000
# Of all requests at a time. Their records have a copy for each partition.
BROADCASTS: Final = 4
# The end offsets of the embedded broker may be below what it acknowledged, for a moment.
REMEMBERED_S: Final = 5.0


class KafkaSends:
    """Sends requests' events by one producer, which is replaced once it has failed.

    Concurrent requests share its batches. A partition has one batch on its way at a time, so the
    order of a request's events in a partition is kept, also where a batch is sent again. A producer
    that is replaced stops once no request uses it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._users: Counter[AIOKafkaProducer] = Counter()
        self._broadcasting = asyncio.Semaphore(BROADCASTS)
        self._starting = asyncio.Lock()
        self._topic_ids = TopicIds(settings)
        self._discarding: set[asyncio.Task[None]] = set()
        # The position behind the last acknowledged record of each partition, and its time.
        self._acknowledged: dict[tuple[Topic, int], tuple[int, float]] = {}

    async def send(self, events: list[CheckedEvent], partitions: int) -> Positions:
        """Send the events in order; return once Kafka has acknowledged all.

        Raises `KafkaError`, `OSError` and `TimeoutError`, once none of them is on its way.
        """
        turn = self._broadcasting if any(e.kind.broadcast for e, _ in events) else nullcontext()
        async with asyncio.timeout(SEND_S), turn, self._producing() as producer:
            batch = Batch(producer, self._settings)
            try:
                for event, record in events:
                    for partition in target_partitions(event, partitions):
                        await batch.send(_message(event, record, partition))
                positions = await batch.acknowledged()
            finally:
                if not await batch.abandon(ABANDON_S):
                    self._replace(producer)
        self._note(positions)
        return positions

    def _note(self, positions: Positions) -> None:
        """Note what is acknowledged; of requests at the same time the later one may be lower."""
        now = time.monotonic()
        for place, position in positions.items():
            if position >= self.lately_acknowledged(*place):
                self._acknowledged[place] = position, now

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

    async def topic_ids(self) -> dict[Topic, str]:
        """Ask for the topics' ids; raises `KafkaError` and `TimeoutError`."""
        return await self._topic_ids.read()

    async def stop(self) -> None:
        """Disconnect, once what is on its way is acknowledged or has failed."""
        producers = {*self._users, *filter(None, [self._producer])}
        self._producer = None
        for producer in producers:
            self._discard(producer)
        await asyncio.gather(*self._discarding, return_exceptions=True)
        await self._topic_ids.close()

    @asynccontextmanager
    async def _producing(self) -> AsyncIterator[AIOKafkaProducer]:
        """Yield the producer; replace it if the block fails, or takes too long.

        Not for an event that is too large: aiokafka refuses that by itself.
        """
        producer = await self._started()
        self._users[producer] += 1
        try:
            yield producer
        except MessageSizeTooLargeError:
            raise
        except (KafkaError, OSError, asyncio.CancelledError):
            self._replace(producer)
            raise
        finally:
            self._users[producer] -= 1
            self._discard_unused(producer)

    async def _started(self) -> AIOKafkaProducer:
        if self._producer:
            return self._producer
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **kafka.client_arguments(self._settings),
                    client_id=f"{self._settings.topic_prefix}projector-ingest",
                    acks="all",
                    linger_ms=0,
                    max_batch_size=MAX_BATCH_BYTES,
                    max_request_size=MAX_REQUEST_BYTES,
                    request_timeout_ms=REQUEST_TIMEOUT_MS,
                )
                self._producer = await kafka.started(producer)
            return self._producer

    def _replace(self, producer: AIOKafkaProducer) -> None:
        """Let the next request start another producer; others may still use this one."""
        if self._producer is producer:
            self._producer = None
            self._discard_unused(producer)

    def _discard_unused(self, producer: AIOKafkaProducer) -> None:
        """Stop a producer that was replaced, once no request uses it."""
        if self._producer is not producer and not self._users[producer]:
            self._discard(producer)

    def _discard(self, producer: AIOKafkaProducer) -> None:
        del self._users[producer]
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

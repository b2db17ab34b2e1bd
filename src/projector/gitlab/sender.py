"""The way from the outbox to Kafka, and the offsets that Kafka has acknowledged."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn, Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from projector.clients import kafka
from projector.clients.retry import FIRST_PAUSE_S, LONGEST_PAUSE_S, OUTAGES, Call
from projector.config.settings import Settings
from projector.elapsed import elapsed
from projector.errors import LostTopicsError, TemporaryError
from projector.events.model import EVENT_TYPES, Topic
from projector.events.partitioning import partition_of
from projector.feed.producer import CONTENT_TYPE, MAX_REQUEST_BYTES
from projector.gitlab import metrics
from projector.gitlab.mapping.envelope import (
    BROADCAST,
    MAX_TIME_AGE_MS,
    OutboxRow,
    encode,
    partition_key,
)
from projector.gitlab.own_thread import OwnThread
from projector.kafka.range_reader import RangeReader

log = structlog.get_logger()

# Rows. Bounds the memory of events on their way; a broadcast takes one record per partition.
CHUNK: Final = 2000
MAX_BATCH_BYTES: Final = 256 * 1024
# A send without acknowledgement for so long counts as failed, and is done again.
REQUEST_TIMEOUT_MS: Final = 10_000
# A request under way ends with its connection.
DISCARD_S: Final = 1.0
JOB_STARTED: Final = "job.started"
# An idle sender looks at the clock so often: a process that was paused shows by a longer time.
TICK_S: Final = 1.0
PAUSED_S: Final = 5.0

# By topic and partition.
Offsets = Mapping[str, Mapping[int, int]]


class Outbox(Protocol):
    """The part of the state that the sender works with, in the state's thread."""

    @property
    def last_number(self) -> int:
        """The largest number that an event ever had."""

    def unsent(self, after: int, limit: int) -> Sequence[OutboxRow]:
        """Return the events with larger numbers, in order."""

    def acknowledged(self, upto: int, offsets: Offsets) -> None:
        """Note that Kafka has the events up to a number."""

    def offsets(self) -> Offsets:
        """Return the next offset of every partition that was acknowledged."""


class Sender:
    """Sends what the outbox has, in order, for as long as the process lives.

    Kafka's ends are asked after the state is read: what an earlier run had acknowledged lies below
    them. A failed send begins a new session: another producer, and the ends are asked again. From
    the second session on `check` comes first: meanwhile another bridge may have begun to send.
    """

    def __init__(
        self,
        settings: Settings,
        reader: RangeReader,
        state: OwnThread[Any],
        partitions: int,
        check: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._state = state
        self._partitions = partitions
        self._check = check
        self._call = Call(None)
        self._wake = asyncio.Event()
        self._progress = asyncio.Condition()
        # The next offset of every partition: what Kafka had at the start, and acknowledged since.
        self.offsets: dict[Topic, list[int]] = {topic: [0] * partitions for topic in Topic}
        self.acknowledged = 0
        self.last_number = 0
        # Grows with every failure of Kafka. Ready: the offsets are known.
        self.session = 0
        self.ready = False

    @property
    def unsent(self) -> int:
        """The events that Kafka has not acknowledged."""
        return self.last_number - self.acknowledged

    def remembered(self, last_number: int) -> None:
        """Note that the outbox has events up to this number."""
        self.last_number = max(self.last_number, last_number)
        self._wake.set()

    def doubt(self) -> None:
        """Begin a new session before more is sent: Kafka or this process has stood still."""
        self.ready = False
        self._wake.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that depends on acknowledgements."""
        async with self._progress:
            await self._progress.wait_for(holds)

    async def until_acknowledged(self, number: int) -> None:
        """Wait until Kafka has acknowledged all events up to this number."""
        await self.until(lambda: self.acknowledged >= number)

    async def ask_ends(self) -> None:
        """Compare the acknowledged offsets with Kafka's ends, and take the larger ones.

        Raises `LostTopicsError` if Kafka no longer has what it had acknowledged.
        """
        stored, last = await self._state.run(lambda state: (state.offsets(), state.last_number))
        self.last_number = max(self.last_number, last)
        expected = {
            topic: [
                max(known, stored.get(topic, {}).get(partition, 0))
                for partition, known in enumerate(self.offsets[topic])
            ]
            for topic in Topic
        }
        found = await asyncio.gather(*(self._reader.ends(n) for n in range(self._partitions)))
        for topic in Topic:
            for partition, ends in enumerate(found):
                await self._compare(topic, partition, expected[topic][partition], ends[topic])

    async def _compare(self, topic: Topic, partition: int, expected: int, end: int) -> None:
        # The embedded broker may name an end that is too low.
        if end < expected and not await self._reader.has_reached(partition, topic, expected):
            raise self._lost(topic, partition, end, expected)
        self.offsets[topic][partition] = max(expected, end)

    def _lost(self, topic: Topic, partition: int, found: int, expected: int) -> LostTopicsError:
        return LostTopicsError(
            f"the topic {self._settings.topic(topic)} has only {found} records in partition "
            f"{partition}, but Kafka had acknowledged {expected}: the topic was made anew, or "
            "Kafka lost records. Send everything again with `projector gitlab run --audit`; if the "
            "topic was made anew, workers need an empty Redis database first"
        )

    async def run(self) -> NoReturn:
        """Send until cancelled, through all outages of Kafka; raises `LostTopicsError`."""
        pause = FIRST_PAUSE_S
        try:
            while True:
                before = self.acknowledged
                try:
                    await self._send_session()
                except OUTAGES as error:
                    pause = FIRST_PAUSE_S if self.acknowledged > before else pause
                    self._call.fail(error, pause, "Kafka")
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE_S, 2 * pause)
        finally:
            self._call.end(gave_up=True)

    async def _send_session(self) -> NoReturn:
        self.session += 1
        self.ready = False
        await self.ask_ends()
        if self._check and self.session > 1:
            await self._check()
        async with self._progress:
            self.ready = True
            self._progress.notify_all()
        producer = create_producer(self._settings, "gitlab")
        try:
            await producer.start()
            await self._drain(producer)
        finally:
            await discard_producer(producer)

    async def _drain(self, producer: AIOKafkaProducer) -> NoReturn:
        while True:
            self._wake.clear()
            rows, last = await self._state.run(self._unsent)
            self.last_number = max(self.last_number, last)
            if not self.ready:
                raise TemporaryError("Kafka or this process has stood still")
            if not rows:
                self._call.end()
                await self._advance(last)
                await self._idle()
                continue
            began = time.perf_counter()
            await self._send(producer, rows)
            self._call.end()
            metrics.BATCH.labels("send").observe(time.perf_counter() - began)
            for name, count in Counter(row.type for row in rows).items():
                metrics.EVENTS.labels(name).inc(count)
            await self._advance(rows[-1].number)

    async def _idle(self) -> None:
        """Wait for events, or for a while."""
        began = elapsed()
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK_S):
                await self._wake.wait()
        if elapsed() - began > PAUSED_S:
            self.doubt()

    def _unsent(self, outbox: Outbox) -> tuple[Sequence[OutboxRow], int]:
        # In this order: a number counts as sent once no row up to it is left.
        last = outbox.last_number
        return outbox.unsent(self.acknowledged, CHUNK), last

    async def _advance(self, number: int) -> None:
        if number > self.acknowledged:
            offsets: Offsets = {
                str(topic): dict(enumerate(ends)) for topic, ends in self.offsets.items()
            }
            await self._state.run(lambda state: state.acknowledged(number, offsets))
        async with self._progress:
            self.acknowledged = max(self.acknowledged, number)
            self._progress.notify_all()

    async def _send(self, producer: AIOKafkaProducer, rows: Sequence[OutboxRow]) -> None:
        """Send the rows; a job starts once Kafka has all else, so that its first answer has it.

        A row of a started job may pass later rows of the chunk: their larger `sequence` counts.
        """
        for chosen in (
            [row for row in rows if row.type != JOB_STARTED],
            [row for row in rows if row.type == JOB_STARTED],
        ):
            if chosen:
                await self._acknowledge(await self._put(producer, chosen))

    async def _put(
        self, producer: AIOKafkaProducer, rows: Sequence[OutboxRow]
    ) -> list[RecordMetadata]:
        sent: list[asyncio.Future[RecordMetadata]] = []
        now, max_age = int(time.time() * 1000), max_time_age_ms(self._settings)
        try:
            for row in rows:
                value, key = encode(row, now, max_age), partition_key(row.root).encode()
                topic = self._settings.topic(EVENT_TYPES[row.type].topic)
                for partition in self._targets(row.root):
                    sent.append(
                        await producer.send(
                            topic, value, key, partition=partition, headers=[CONTENT_TYPE]
                        )
                    )
            return await asyncio.gather(*sent)
        except BaseException:
            for future in sent:
                future.add_done_callback(_retrieve)
            raise

    def _targets(self, root: str) -> Iterable[int]:
        if root == BROADCAST:
            return range(self._partitions)
        return (partition_of(root, self._partitions),)

    async def _acknowledge(self, records: Sequence[RecordMetadata]) -> None:
        """Raise the offsets by those of one put; ask for the ends where Kafka names none."""
        by_partition: defaultdict[tuple[Topic, int], list[int]] = defaultdict(list)
        for record in records:
            topic = Topic(record.topic.removeprefix(self._settings.topic_prefix))
            by_partition[topic, record.partition].append(record.offset)
        # aiokafka counts up from the offset of the first record, from -1 on as well.
        unknown = {place for place, offsets in by_partition.items() if min(offsets) < 0}
        for (topic, partition), offsets in by_partition.items():
            if (topic, partition) not in unknown:
                expected = self.offsets[topic][partition]
                if min(offsets) < expected:
                    raise self._lost(topic, partition, min(offsets), expected)
                self.offsets[topic][partition] = max(offsets) + 1
        for topic, partition in unknown:
            end = (await self._reader.ends(partition))[topic]
            await self._compare(topic, partition, self.offsets[topic][partition], end)


def max_time_age_ms(settings: Settings) -> int:
    """Return the age from which an event's time is left out: workers refuse older ones as late."""
    return min(MAX_TIME_AGE_MS, settings.tombstone_retention_ms // 2)


def create_producer(settings: Settings, name: str) -> AIOKafkaProducer:
    """Create a producer that sends at once and waits for all replicas."""
    return AIOKafkaProducer(
        **kafka.client_arguments(settings),
        client_id=f"{settings.topic_prefix}projector-{name}",
        acks="all",
        linger_ms=0,
        max_batch_size=MAX_BATCH_BYTES,
        max_request_size=MAX_REQUEST_BYTES,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )


async def discard_producer(producer: AIOKafkaProducer) -> None:
    """Disconnect at once: what has no acknowledgement is sent again by another producer.

    `stop` would first wait for the acknowledgements, perhaps of a broker that is away.
    """
    producer._closed = True
    sending = producer._sender.sender_task
    if sending is not None:
        sending.cancel()
    await producer.client.close()
    if sending is not None:
        await asyncio.wait({sending}, timeout=DISCARD_S)


def _retrieve(future: asyncio.Future[RecordMetadata]) -> None:
    """Take the error of a send that nobody waits for any more, or asyncio would log it."""
    if not future.cancelled():
        future.exception()

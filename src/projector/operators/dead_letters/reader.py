"""Reader of the topic `dead-letters`, without a consumer group: no committed offset moves."""

import heapq
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from projector.clients import kafka
from projector.config.settings import Settings
from projector.errors import LetterError, UnansweredError
from projector.events import redaction
from projector.events.model import DEAD_LETTERS
from projector.kafka import topics
from projector.kafka.dead_letters import MAX_LETTER_BYTES
from projector.operators.dead_letters.letters import (
    LatestLetters,
    Letter,
    LetterFilter,
    LetterId,
    LetterSummary,
)
from projector.store.replay_marks import FirstLetter, FirstLetters

POLL_MS: Final = 500
# Some ten seconds without a record: Kafka answers, but does not send what it has.
EMPTY_POLLS: Final = 20
REQUEST_TIMEOUT_MS: Final = 10_000
# The embedded broker answers a fetch at the end only after this long.
MAX_WAIT_MS: Final = 100


@asynccontextmanager
async def open_dead_letters(settings: Settings) -> AsyncIterator["DeadLetterReader"]:
    """Open a reader for the block; raises `KafkaError`, and the errors of `check_topics`."""
    partitions = await topics.check_topics(settings)
    async with kafka.open_consumer(
        settings, "letters", request_timeout_ms=REQUEST_TIMEOUT_MS,
        fetch_max_wait_ms=MAX_WAIT_MS, max_partition_fetch_bytes=2 * MAX_LETTER_BYTES,
    ) as consumer:  # fmt: skip
        yield DeadLetterReader(settings, consumer, partitions)


async def read_latest(
    settings: Settings,
    most: int,
    selected: LetterFilter | None = None,
    places: Mapping[str, str] = MappingProxyType({}),
) -> LatestLetters:
    """Read the latest `most` letters; holds no more than that in memory.

    `places` are those of replays, by the letters' marks.

    With a filter the whole topic is read and counted, without one only the end of each partition.
    Raises `KafkaError`, and the errors of `check_topics`.
    """
    latest: list[tuple[int, LetterId, LetterSummary]] = []
    matching = total = replayed = 0
    async with open_dead_letters(settings) as reader:
        async for letter in reader.read(most if selected is None else None):
            total += 1
            # A letter may be large; none is held longer than it takes to sum it up.
            summary = letter.summary(places)
            replayed += summary.replayed is not None
            if selected is None or selected.matches(summary):
                matching += 1
                keep = heapq.heappush if len(latest) < most else heapq.heappushpop
                keep(latest, (letter.timestamp, letter.id, summary))
    letters = [summary for _, _, summary in sorted(latest)]
    return LatestLetters(letters, matching, total, replayed)


class DeadLetterReader:
    """An open reader. `partitions` has the number of partitions of each topic."""

    def __init__(
        self, settings: Settings, consumer: AIOKafkaConsumer, partitions: Mapping[str, int]
    ) -> None:
        self.partitions = partitions
        self._consumer = consumer
        self._name = settings.topic(DEAD_LETTERS)

    async def read(self, latest: int | None = None) -> AsyncIterator[Letter]:
        """Yield every letter up to the present ends, in order by partition; raises `KafkaError`.

        With `latest` only about the last so many of each partition.
        """
        topic = [self._partition(number) for number in range(self.partitions[DEAD_LETTERS])]
        ends = await self._consumer.end_offsets(topic)
        beginnings = await self._consumer.beginning_offsets(topic)
        pending = {each: end for each, end in ends.items() if beginnings[each] < end}
        self._consumer.assign(list(pending))
        for each, end in pending.items():
            skipped = 0 if latest is None else end - latest
            self._consumer.seek(each, max(beginnings[each], skipped))
        async for records in self._polls(pending):
            for record in records:
                yield _letter(record)

    async def _polls(self, pending: dict[TopicPartition, int]) -> AsyncIterator[list[Any]]:
        """Yield the records of each poll until all partitions are read to their ends."""
        corrected: set[TopicPartition] = set()
        idle = 0
        while pending:
            polled = await self._consumer.getmany(timeout_ms=POLL_MS)
            for each in [*pending]:
                highwater = self._consumer.highwater(each)
                # The embedded broker's end offset may be too low, its first highwater is not.
                if highwater is not None and each not in corrected:
                    corrected.add(each)
                    pending[each] = max(pending[each], highwater)
            yield [r for each, rs in polled.items() for r in rs if r.offset < pending.get(each, 0)]
            for each in [*pending]:
                if await self._consumer.position(each) >= pending[each]:
                    del pending[each]
            idle = 0 if polled else idle + 1
            if idle > EMPTY_POLLS:
                raise UnansweredError(
                    f"no more dead letters come, though there are up to {pending}"
                )

    async def letter(self, wanted: LetterId) -> Letter:
        """Read one letter; raises `LetterError` if it does not exist, and `KafkaError`."""
        missing = LetterError(f"there is no dead letter {wanted}")
        if wanted.partition >= self.partitions[DEAD_LETTERS]:
            raise missing
        partition = self._partition(wanted.partition)
        end = (await self._consumer.end_offsets([partition]))[partition]
        self._consumer.assign([partition])
        self._consumer.seek(partition, wanted.offset)
        try:
            record = await self._first(partition, wanted.offset, end)
        except OffsetOutOfRangeError:
            raise missing from None
        if record is None or record.offset != wanted.offset:
            raise missing
        return _letter(record)

    async def _first(
        self, partition: TopicPartition, offset: int, end: int
    ) -> ConsumerRecord | None:
        """Read the first record from `offset` on; None if the partition ends before it."""
        for _ in range(EMPTY_POLLS):
            polled = await self._consumer.getmany(partition, timeout_ms=POLL_MS, max_records=1)
            if polled:
                return polled[partition][0]
            highwater = self._consumer.highwater(partition)
            if highwater is not None and offset >= max(end, highwater):
                return None
        raise UnansweredError(f"the dead letter at offset {offset} does not come")

    async def first(self) -> FirstLetters:
        """Find the first letter of each partition; raises `KafkaError`."""
        count = self.partitions[DEAD_LETTERS]
        return await find_first(self._consumer, [self._partition(n) for n in range(count)])

    def _partition(self, number: int) -> TopicPartition:
        return TopicPartition(self._name, number)


async def find_first(
    consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]
) -> dict[int, FirstLetter]:
    """Find the first letter of each of these partitions that has any; raises `KafkaError`."""
    found = await consumer.offsets_for_times(dict.fromkeys(partitions, 0))
    return {tp.partition: FirstLetter(*first) for tp, first in found.items() if first}


def _letter(record: ConsumerRecord) -> Letter:
    """Redact tokens here too: not every letter was written by a worker."""
    return Letter(
        LetterId(record.partition, record.offset),
        record.timestamp,
        redaction.redact_key(record.key),
        redaction.redact_value(record.value),
        redaction.redact_headers(tuple(record.headers)),
    )

"""Reads dead letters back from Kafka, without a consumer group: nobody's offsets move."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from projector.clients import kafka
from projector.config.settings import Settings
from projector.errors import LetterError, UnansweredError
from projector.events import redaction
from projector.events.model import DEAD_LETTERS, MAX_REASON, BadEvent, KafkaRecord, Topic
from projector.kafka import topics
from projector.kafka.dead_letters import MAX_LETTER_BYTES, PREFIX

POLL_MS: Final = 500
EMPTY_POLLS: Final = 20
REQUEST_TIMEOUT_MS: Final = 10_000
# The embedded broker answers a fetch at the end only after this long.
MAX_WAIT_MS: Final = 100
_ID: Final = re.compile(r"(?:(\d{1,9}):)?(\d{1,18})", re.ASCII)


class LetterId(NamedTuple):
    """Where a letter is in the topic `dead-letters`; written `partition:offset`."""

    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `2:17`, or `17` for partition 0; raises `LetterError`."""
        match = _ID.fullmatch(text)
        if match is None:
            raise LetterError(f"{text} is no letter; name it as `list` does: 0:17, or 17")
        return cls(int(match[1] or 0), int(match[2]))

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


class Letter(NamedTuple):
    """A dead letter as it is in Kafka: whatever somebody may have put there, but no token."""

    id: LetterId
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: redaction.Headers

    def finding(self, name: str) -> str | None:
        """The text of the header `dead-letter-<name>`; the first one is the worker's."""
        contents = (content for header, content in self.headers if header == PREFIX + name)
        content = next(contents, None)
        return None if content is None else content.decode(errors="replace")

    def summary(self) -> dict[str, Any]:
        """What lists say of it, all but `id` or None; `timestamp` (ms) is the original's."""
        texts = ("time", "topic", "reason")
        numbers = ("partition", "offset", "timestamp")
        found = {name: (self.finding(name) or "")[:MAX_REASON] or None for name in texts}
        counted = {name: _number(self.finding(name)) for name in numbers}
        return {"id": str(self.id)} | found | counted

    @property
    def original_headers(self) -> redaction.Headers:
        """The headers that the original came with."""
        return tuple(header for header in self.headers if not header[0].startswith(PREFIX))

    def original(self) -> KafkaRecord:
        """The record that was refused, at its own place; raises `BadEvent` if that is not known."""
        try:
            topic = Topic(self.finding("topic") or "")
            names = ("partition", "offset", "timestamp")
            partition, offset, timestamp = (int(self.finding(name) or "") for name in names)
        except ValueError:
            raise BadEvent(
                "the letter does not say where the original stood; send the event as a new one"
            ) from None
        return KafkaRecord(topic, partition, offset, timestamp, self.key, self.value, self.headers)


@asynccontextmanager
async def open_dead_letters(settings: Settings) -> AsyncIterator["DeadLetterReader"]:
    """The letters in Kafka; raises `KafkaError`, and what `topics.check` raises."""
    partitions = await topics.check_topics(settings)
    async with kafka.open_consumer(
        settings, "letters", request_timeout_ms=REQUEST_TIMEOUT_MS,
        fetch_max_wait_ms=MAX_WAIT_MS, max_partition_fetch_bytes=2 * MAX_LETTER_BYTES,
    ) as consumer:  # fmt: skip
        yield DeadLetterReader(settings, consumer, partitions)


class DeadLetterReader:
    """The topic `dead-letters`; `partitions` says how many each topic has."""

    def __init__(
        self, settings: Settings, consumer: AIOKafkaConsumer, partitions: Mapping[str, int]
    ) -> None:
        self.partitions = partitions
        self._consumer = consumer
        self._name = settings.topic(DEAD_LETTERS)

    async def read(self, latest: int | None = None) -> AsyncIterator[Letter]:
        """Every letter that is there now, each partition's in order; raises `KafkaError`.

        With `latest` no more than the last ones, so many of each partition, or a few more.
        """
        places = [self._place(number) for number in range(self.partitions[DEAD_LETTERS])]
        ends = await self._consumer.end_offsets(places)
        beginnings = await self._consumer.beginning_offsets(places)
        pending = {place: end for place, end in ends.items() if beginnings[place] < end}
        self._consumer.assign(list(pending))
        for place, end in pending.items():
            skipped = 0 if latest is None else end - latest
            self._consumer.seek(place, max(beginnings[place], skipped))
        async for records in self._polls(pending):
            for record in records:
                yield _letter(record)

    async def _polls(self, pending: dict[TopicPartition, int]) -> AsyncIterator[list[Any]]:
        """What each poll brings of every partition, until all have been read to their ends."""
        corrected: set[TopicPartition] = set()
        idle = 0
        while pending:
            polled = await self._consumer.getmany(timeout_ms=POLL_MS)
            for place in [*pending]:
                highwater = self._consumer.highwater(place)
                # The embedded broker's end offset may be too low, its first highwater is not.
                if highwater is not None and place not in corrected:
                    corrected.add(place)
                    pending[place] = max(pending[place], highwater)
            yield [
                r for place, rs in polled.items() for r in rs if r.offset < pending.get(place, 0)
            ]
            for place in [*pending]:
                if await self._consumer.position(place) >= pending[place]:
                    del pending[place]
            idle = 0 if polled else idle + 1
            if idle > EMPTY_POLLS:
                raise UnansweredError(
                    f"no more dead letters come, though there are up to {pending}"
                )

    async def letter(self, wanted: LetterId) -> Letter:
        """One letter; raises `LetterError` if there is none, and `KafkaError`."""
        nothing = LetterError(f"there is no dead letter {wanted}")
        if wanted.partition >= self.partitions[DEAD_LETTERS]:
            raise nothing
        place = self._place(wanted.partition)
        end = (await self._consumer.end_offsets([place]))[place]
        self._consumer.assign([place])
        self._consumer.seek(place, wanted.offset)
        try:
            record = await self._first(place, wanted.offset, end)
        except OffsetOutOfRangeError:
            raise nothing from None
        if record is None or record.offset != wanted.offset:
            raise nothing
        return _letter(record)

    async def _first(self, place: TopicPartition, offset: int, end: int) -> ConsumerRecord | None:
        """The first record from `offset` on, or None if the partition ends before it."""
        for _ in range(EMPTY_POLLS):
            polled = await self._consumer.getmany(place, timeout_ms=POLL_MS, max_records=1)
            if polled:
                return polled[place][0]
            highwater = self._consumer.highwater(place)
            if highwater is not None and offset >= max(end, highwater):
                return None
        raise UnansweredError(f"the dead letter at offset {offset} does not come")

    def _place(self, partition: int) -> TopicPartition:
        return TopicPartition(self._name, partition)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 20 else None


def _letter(record: ConsumerRecord) -> Letter:
    """Without tokens, though a worker has already redacted what it sent."""
    return Letter(
        LetterId(record.partition, record.offset),
        record.timestamp,
        redaction.redact_key(record.key),
        redaction.redact_value(record.value),
        redaction.redact_headers(tuple(record.headers)),
    )

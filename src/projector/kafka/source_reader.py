"""The topic `sources`, read from its end on by a consumer without a group."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import ConsumerRecord, TopicPartition

from projector.clients import kafka
from projector.config.settings import Settings
from projector.events.model import SOURCES, SourceRecord
from projector.kafka import tolerant_batches
from projector.kafka.broker_protocol import PartitionLeader
from projector.kafka.range_reader import RangeReader
from projector.kafka.record_parser import Marker

CLIENT_NAME: Final = "sources"
REQUEST_TIMEOUT_MS: Final = 2000
POLL_MS: Final = 500
# Bounds the records that one poll unpacks.
MAX_POLLED: Final = 500

Poll = Callable[[], Awaitable[list[SourceRecord]]]


class SourceReader:
    """Reads the topic `sources` for one worker."""

    def __init__(self, settings: Settings, reader: RangeReader) -> None:
        self._settings = settings
        self._reader = reader
        self._place = TopicPartition(settings.topic(SOURCES), 0)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[PartitionLeader, int, Poll]]:
        """Begin at the end of the log of the leader that enough replicas name; return both.

        Raises `KafkaError`, as do polls, and `NoAgreementError`.
        """
        leader = await self._reader.source_leader()
        end = await self._reader.source_end(leader)
        async with kafka.open_consumer(
            self._settings, CLIENT_NAME, request_timeout_ms=REQUEST_TIMEOUT_MS
        ) as consumer:
            self._reader.follow(consumer)
            consumer.assign([self._place])
            consumer.seek(self._place, end)
            # Corrects a consumer that has learned of another leader.
            await self._reader.source_leader()

            async def poll() -> list[SourceRecord]:
                polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=MAX_POLLED)
                records = (to_source_record(r) for rs in polled.values() for r in rs)
                return [record for record in records if not isinstance(record.fault, Marker)]

            yield leader, end, poll


def to_source_record(record: ConsumerRecord) -> SourceRecord:
    """Convert aiokafka's record."""
    headers, fault = tolerant_batches.split_fault(record.headers)
    return SourceRecord(record.offset, record.key, record.value, headers, fault)

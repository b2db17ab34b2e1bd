"""Events of one partition, applied to its facts in the order of their offsets.

Records come from Faust or, where Faust skips or stalls, straight from Kafka.
"""

import asyncio
from collections.abc import Mapping

import structlog

from projector import metrics
from projector.clients.retry import retry_outages
from projector.domain.fact_keys import Key
from projector.domain.projection import Policy, Projection
from projector.events.model import KafkaRecord, Topic
from projector.kafka.range_reader import Offsets, RangeReader
from projector.kafka.record_parser import Marker
from projector.worker.dead_letter_outbox import DeadLetterOutbox
from projector.worker.instrumentation import OwnerInstruments, Sizes
from projector.worker.known_logs import KnownLogs
from projector.worker.progress import PartitionProgress

log = structlog.get_logger()


class EventApplier:
    """One partition in memory: its facts, progress, known logs and waiting dead letters.

    `is_complete` once the first claim has written all views and the checkpoint. From then on the
    facts depend on Kafka alone, and survive the loss of Redis. Timers have run up to `now`. All
    events from before `applied_until` are applied. Both are Redis TIME in ms.
    """

    def __init__(
        self,
        partition: int,
        policy: Policy,
        reader: RangeReader,
        outbox: DeadLetterOutbox,
        instruments: OwnerInstruments,
    ) -> None:
        self.partition = partition
        self.projection = Projection(partition, policy)
        self.progress = PartitionProgress()
        self.logs = KnownLogs(partition, reader)
        self.outbox = outbox
        self.is_complete = False
        self.now = 0
        self.applied_until = 0
        self._policy = policy
        self._reader = reader
        self._instruments = instruments

    @property
    def sizes(self) -> Sizes:
        """The numbers of live tokens, facts and waiting letters."""
        facts = self.projection.facts
        return Sizes(facts.live_tokens, len(facts), len(self.outbox))

    def reset(self) -> None:
        """Drop all facts, the identities of logs and waiting dead letters."""
        self.projection = Projection(self.partition, self._policy)
        self.logs.restore({})
        self.outbox.restore({})

    # records

    async def take(self, record: KafkaRecord) -> None:
        """Apply a delivered record, after a gap below it; skip a repeated one."""
        expected = self.progress.next[record.topic]
        if record.offset > expected:
            metrics.GAPS_READ.inc()
            log.info("gap", partition=self.partition, topic=record.topic,
                     expected=expected, delivered=record.offset)  # fmt: skip
            await self.catch_up({record.topic: record.offset})
        if record.offset == self.progress.next[record.topic]:
            await self.outbox.room()
            self._apply(record)
            self.progress.next[record.topic] = record.offset + 1
        else:
            self._instruments.record_repeated(record)

    async def read_stalled(self, ends: Mapping[Topic, int], stall_s: float) -> None:
        """Read what Kafka has below `ends` and Faust has not delivered for `stall_s`."""
        stalled = self.progress.stalled(ends, asyncio.get_running_loop().time(), stall_s)
        opened = await self._open_transactions() if stalled else {}
        for topic in stalled:
            await self._read_up_to(topic, min(ends[topic], opened.get(topic, ends[topic])))

    async def _read_up_to(self, topic: Topic, end: int) -> None:
        expected = self.progress.next[topic]
        if expected < end:
            metrics.STALLS_READ.inc()
            log.info("delivery stalled", partition=self.partition, topic=topic,
                     expected=expected, end=end)  # fmt: skip
            await self.catch_up({topic: end})
        elif self.progress.note_open(topic):
            log.warning("an open transaction holds up the partition", topic=topic,
                        partition=self.partition, offset=expected)  # fmt: skip

    @retry_outages
    async def _open_transactions(self) -> Offsets:
        return await self._reader.open_transactions(self.partition)

    @retry_outages
    async def catch_up(self, ends: Offsets) -> None:
        """Read and apply everything below `ends` straight from Kafka."""
        progress = self.progress
        progress.reading = ends
        async for read in self._reader.read(self.partition, dict(progress.next), ends):
            await self.outbox.room()
            for record in read.records:
                if record.offset >= progress.next[record.topic]:
                    self._apply(record)
            progress.next |= read.positions
        progress.reading = {}

    def _apply(self, record: KafkaRecord) -> None:
        self.logs.note(record)
        if isinstance(record.fault, Marker):
            return
        reason = self.projection.apply(record)
        event = self.projection.latest
        self._instruments.record_applied(record, event, good=reason is None, live=self.is_complete)
        if reason:
            log.warning("bad event", topic=record.topic, partition=record.partition,
                        offset=record.offset, reason=reason)  # fmt: skip
            self.outbox.add(record, reason)

    # time

    def advance(self, now: int) -> None:
        """Run the timers that are due at `now` (ms); time never goes back."""
        self.now = max(self.now, now)
        self.projection.advance(self.now, self.applied_until)

    # the checkpoint

    def take_fields(self) -> dict[Key, bytes | None]:
        """Return the fields that have changed since the last call (None: delete)."""
        return self.projection.take_fields() | self.outbox.take_changes()

    def take_all_fields(self) -> dict[Key, bytes | None]:
        """Return every field; none of them counts as changed any more."""
        self.take_fields()
        return {**self.projection.fields(), **self.outbox.fields()}

    @property
    def field_count(self) -> int:
        """The number of fields of a complete checkpoint."""
        return len(self.projection.facts) + len(self.outbox)

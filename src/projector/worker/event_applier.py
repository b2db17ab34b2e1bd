"""Events of one partition, applied to its facts in the order of their offsets.

Records come from Faust or, where Faust skips or stalls, straight from Kafka.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping

import structlog

from projector import metrics
from projector.clients.retry import retry_outages
from projector.domain.fact_keys import Key
from projector.domain.projection import Policy, Projection
from projector.events.model import KafkaRecord, Topic
from projector.kafka.range_reader import Offsets, RangeReader
from projector.kafka.record_parser import Marker
from projector.store.overlay_line import OverlayLine
from projector.worker.dead_letter_outbox import DeadLetterOutbox
from projector.worker.instrumentation import OwnerInstruments, Sizes
from projector.worker.known_logs import KnownLogs
from projector.worker.progress import PartitionProgress
from projector.worker.timing import in_turns

log = structlog.get_logger()


class EventApplier:
    """One partition in memory: its facts, progress, known logs and waiting dead letters.

    `is_complete` once the first claim has written all views and the checkpoint. From then on the
    facts depend on Kafka alone, and survive the loss of Redis. Timers have run up to `now`. All
    events from before `applied_until` are applied. Both are Redis TIME in ms. `newest` is the
    highest timestamp of a record (ms of the brokers' clocks) since this owner began.
    """

    def __init__(  # noqa: PLR0913  one for each part that it brings together
        self,
        partition: int,
        policy: Policy,
        reader: RangeReader,
        outbox: DeadLetterOutbox,
        instruments: OwnerInstruments,
        *,
        overlay: OverlayLine,
        turn_s: float,
    ) -> None:
        self.partition = partition
        self.projection = Projection(partition, policy)
        self.progress = PartitionProgress()
        self.logs = KnownLogs(partition, reader)
        self.outbox = outbox
        self.is_complete = False
        self.now = 0
        self.applied_until = 0
        self.newest = 0
        self._policy = policy
        self._reader = reader
        self._instruments = instruments
        self._overlay = overlay
        self._turn_s = turn_s

    @property
    def sizes(self) -> Sizes:
        """The numbers of live tokens, facts and waiting letters."""
        facts = self.projection.facts
        return Sizes(facts.live_tokens, len(facts), len(self.outbox))

    def reset(self) -> None:
        """Drop all facts, identities of logs and waiting dead letters; begin a history anew."""
        self.projection = Projection(self.partition, self._policy)
        self.projection.begin_history()
        self.logs.restore({})
        self.outbox.restore({})

    async def settle(self) -> None:
        """End the history that `reset` began, in turns: from here on views can be computed."""
        await in_turns(self.projection.settle(), self._turn_s)

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
            await self._apply(record)
            self.progress.next[record.topic] = record.offset + 1
        else:
            self._instruments.record_repeated(record)

    async def read_stalled(self, ends: Mapping[Topic, int], stall_s: float) -> None:
        """Read what Kafka has below `ends` and Faust has not delivered for `stall_s`."""
        stalled = self.progress.stalled(ends, asyncio.get_running_loop().time(), stall_s)
        if stalled:
            await self.read_up_to_transactions({topic: ends[topic] for topic in stalled})

    async def read_up_to_transactions(self, ends: Mapping[Topic, int]) -> None:
        """Read what Kafka has below `ends` and below each topic's first open transaction."""
        opened = await self._open_transactions()
        for topic, end in ends.items():
            if self.progress.next[topic] < end:
                await self._read_up_to(topic, min(end, opened.get(topic, end)))

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
        """Read and apply everything below `ends` straight from Kafka, and nothing else.

        A read may return more. A job that starts there may be newer than all that is read of the
        other topics, and so its first view would not be complete.
        """
        progress = self.progress
        progress.reading = ends
        async for read in self._reader.read(self.partition, dict(progress.next), ends):
            await self.outbox.room()
            for record in read.records:
                if progress.next[record.topic] <= record.offset < ends[record.topic]:
                    await self._apply(record)
            # A read that finds all in its buffer never waits.
            await asyncio.sleep(0)
            progress.next |= {t: min(at, ends[t]) for t, at in read.positions.items()}
        progress.reading = {}

    async def _apply(self, record: KafkaRecord) -> None:
        """Apply one record, in turns: some change 100,000 facts or views."""
        self.logs.note(record)
        if isinstance(record.fault, Marker):
            return
        if steps := self.projection.apply_in_steps(record):
            await self._take_steps(steps)
        self.newest = max(self.newest, record.timestamp)
        reason, event = self.projection.fault, self.projection.latest
        self._instruments.record_applied(record, event, good=reason is None, live=self.is_complete)
        if reason:
            log.warning("bad event", topic=record.topic, partition=record.partition,
                        offset=record.offset, reason=reason)  # fmt: skip
            self.outbox.add(record, reason)

    async def _take_steps(self, steps: Iterator[None]) -> None:
        """Take the steps in turns; hold back views of a bulk change before all are marked.

        Each name once, though views are marked before and behind the change. The changes that a
        first claim reads are not held back: most of them are long written.
        """
        named: set[str] = set()
        bulk = self.projection.facts.dirty.bulk_names
        await in_turns(steps, self._turn_s, bulk)
        while bulk:
            names = bulk - named
            named |= names
            bulk.clear()
            if names and self.is_complete:
                await self._overlay.add(names)
            await in_turns(steps, self._turn_s, bulk)

    # time

    async def advance(self, now: int) -> None:
        """Run the timers that are due at `now` (ms), in turns; a lower time changes nothing.

        Facts are dropped only where Kafka's clocks agree with Redis': a late event is late by
        Kafka's, and one wrong clock must not end what no other event brings back.
        """
        self.now = max(self.now, now)
        applied_until = min(self.applied_until, self.newest)
        await self._take_steps(self.projection.advance_in_steps(self.now, applied_until))

    async def take_back(self, now: int) -> None:
        """Set the time back to `now` (ms), and judge every fact again, in turns."""
        self.now, self.applied_until = now, 0
        await in_turns(self.projection.judge_again(), self._turn_s)

    # the checkpoint

    @property
    def served_offsets(self) -> Offsets:
        """The offsets below which all is applied and no first view is held back.

        They bound the stamps. Otherwise the API would take a token whose view is held back for
        unknown, and answer 401.
        """
        held = self.projection.facts.dirty.held_since
        return self.progress.next | ({} if held is None else {Topic.JOB_LIFECYCLE: held})

    async def find_jobs(self, ids: Collection[str]) -> list[Key]:
        """Find the jobs with these ids, in all root namespaces."""
        found: list[Key] = []
        await in_turns(self.projection.facts.find_jobs(ids, found), self._turn_s)
        return found

    async def take_fields(self) -> dict[Key, bytes | None]:
        """Return the fields that have changed since the last call (None: delete), in turns."""
        fields: dict[Key, bytes | None] = {}
        await in_turns(self.projection.take_fields_in_steps(fields), self._turn_s)
        fields |= self.outbox.take_changes()
        return fields

    async def take_all_fields(self) -> dict[Key, bytes | None]:
        """Return every field, in turns; none of them counts as changed any more."""
        fields: dict[Key, bytes | None] = {}
        await in_turns(self.projection.take_all_fields_in_steps(fields), self._turn_s)
        self.outbox.take_changes()
        fields |= self.outbox.fields()
        return fields

    @property
    def field_count(self) -> int:
        """The number of fields of a complete checkpoint."""
        return len(self.projection.facts) + len(self.outbox)

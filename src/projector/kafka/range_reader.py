"""Ends of topics, and ranges of records read without Faust.

Faust may skip, repeat or stall. So an owner keeps the next offset that it expects of each topic.
Records that Faust does not deliver are read here, by consumers without a group: they move no
offsets of the workers' group.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from projector.clients import kafka
from projector.config.settings import Settings
from projector.errors import HistoryLostError, RangeError
from projector.events.model import SOURCES, KafkaRecord, Topic
from projector.kafka import tolerant_batches
from projector.kafka.broker_protocol import EARLIEST, LATEST, PartitionLeader
from projector.kafka.record_parser import Damage
from projector.kafka.witnesses import Witnesses

Offsets = dict[Topic, int]

CLIENT_NAME: Final = "reader"
REQUEST_TIMEOUT_MS: Final = 2000
POLL_MS: Final = 500
# A read without progress for this many polls fails; its caller tries again.
EMPTY_POLLS: Final = 20
# Without progress for so many polls, a read returns early if a transaction is open: that may last
# for minutes.
OPEN_POLLS: Final = 2
# Bounds the memory of unpacked records, here and in Faust.
MAX_POLLED: Final = 500


class ReadProgress(NamedTuple):
    """The records of one poll, and the next offset of each topic after it."""

    records: list[KafkaRecord]
    positions: Offsets


class RangeReader:
    """Reads the three topics for one worker, without Faust; asks about `sources` too."""

    def __init__(self, settings: Settings) -> None:
        # Before Faust creates its consumer, which then parses batches alike.
        tolerant_batches.install_tolerant_batches()
        self._settings = settings
        self._witnesses = Witnesses(settings)
        self._names = {settings.topic(topic): topic for topic in Topic}
        self._source = TopicPartition(settings.topic(SOURCES), 0)

    async def start(self) -> None:
        """Connect; raises `KafkaError` if no broker can be reached."""
        await self._witnesses.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._witnesses.stop()

    def follow(self, consumer: AIOKafkaConsumer) -> None:
        """Correct what another consumer takes for leaders, from now on; call it in its loop."""
        self._witnesses.follow(consumer)

    async def leaders(self, partition: int) -> dict[Topic, PartitionLeader]:
        """Ask for the leader, its epoch and the topic id that enough replicas name."""
        agreed = await self._witnesses.agree(self._partitions(partition))
        return {self._names[tp.topic]: leader for tp, leader in agreed.items()}

    async def ends(
        self, partition: int, leaders: Mapping[Topic, PartitionLeader] | None = None
    ) -> Offsets:
        """Ask for the end offset of each topic, of the leaders that enough replicas name.

        What was acknowledged before they were asked, or before this call without `leaders`, is
        below the ends. So are open transactions: a commit may be acknowledged before its marker is
        written, and acknowledged events of other producers may be behind it.
        """
        if leaders is None:
            leaders = await self.leaders(partition)
        named = {self._topic_partition(topic, partition): at for topic, at in leaders.items()}
        return self._by_topic(await self._witnesses.offsets(named, LATEST))

    async def source_leader(self) -> PartitionLeader:
        """Ask for the leader of the topic `sources` that enough replicas name.

        Asked at once with `leaders`, it costs no further question to a broker.
        """
        return (await self._witnesses.agree([self._source]))[self._source]

    async def source_end(self, leader: PartitionLeader) -> int:
        """Ask this leader for the end offset of the topic `sources`."""
        return (await self._witnesses.offsets({self._source: leader}, LATEST))[self._source]

    async def ends_with_source(
        self, partition: int, leaders: Mapping[Topic, PartitionLeader], source: PartitionLeader
    ) -> tuple[Offsets, int]:
        """Ask for the end offset of each topic, and for that of `sources`, as `ends` does."""
        named = {self._topic_partition(topic, partition): at for topic, at in leaders.items()}
        found = await self._witnesses.offsets(named | {self._source: source}, LATEST)
        end = found.pop(self._source)
        return self._by_topic(found), end

    async def beginnings(self, partition: int) -> Offsets:
        """Ask for the offset of the first record that each topic still has."""
        named = await self._witnesses.agree(self._partitions(partition))
        return self._by_topic(await self._witnesses.offsets(named, EARLIEST))

    async def open_transactions(self, partition: int) -> Offsets:
        """Return the offset of the first open transaction of each topic that has one.

        Nothing from there on can be read before that transaction has ended.
        """
        named = await self._witnesses.agree(self._partitions(partition))
        # In this order, or a record that comes in between would look like an open transaction.
        ends = await self._witnesses.offsets(named, LATEST)
        stable = await self._witnesses.offsets(named, LATEST, committed=True)
        return self._by_topic({tp: at for tp, at in stable.items() if at < ends[tp]})

    async def read(
        self, partition: int, starts: Mapping[Topic, int], ends: Mapping[Topic, int]
    ) -> AsyncIterator[ReadProgress]:
        """Read each topic from `starts` until its position has reached `ends`.

        Positions decide, not records, because aborted transactions take offsets without a record.
        An open transaction ends the read early. Raises `KafkaError`, `RangeError`, and
        `HistoryLostError` if a topic no longer has its start.
        """
        wanted = [topic for topic in Topic if starts.get(topic, 0) < ends.get(topic, 0)]
        if not wanted:
            return
        topics = {self._topic_partition(topic, partition): topic for topic in wanted}
        async with self._open_consumer() as consumer:
            await self._assign(consumer, {tp: starts[topic] for tp, topic in topics.items()})
            try:
                async for progress in self._polls(consumer, topics, starts, ends):
                    yield progress
            except OffsetOutOfRangeError as error:
                await self._refuse_kept(partition, {topic: starts[topic] for topic in wanted})
                raise HistoryLostError(f"Kafka no longer has the offsets {error}") from None

    async def _assign(
        self, consumer: AIOKafkaConsumer, starts: Mapping[TopicPartition, int]
    ) -> None:
        """Let the consumer read from these offsets, of the leaders that enough replicas name.

        It learns of leaders from any broker, also from one that was deposed and does not know it.
        """
        consumer.assign(list(starts))
        for tp, offset in starts.items():
            consumer.seek(tp, offset)
        await self._witnesses.agree(starts)

    async def _refuse_kept(self, partition: int, starts: Mapping[Topic, int]) -> None:
        """Raise `RangeError` if Kafka has all these offsets, although a broker denied one.

        A broker that was deposed may have less than was acknowledged.
        """
        begins, ends = await self.beginnings(partition), await self.ends(partition)
        if all(begins[topic] <= start <= ends[topic] for topic, start in starts.items()):
            raise RangeError(f"a broker denies the offsets {dict(starts)}, which Kafka has")

    async def records_at(
        self, partition: int, offsets: Mapping[Topic, int]
    ) -> dict[Topic, KafkaRecord | None]:
        """Read the record at one offset of each topic; None where the log has none there.

        Topics whose record retention has deleted are left out. Raises as `read` does.
        """
        beginnings = await self.beginnings(partition)
        wanted = {topic: at for topic, at in offsets.items() if at >= beginnings[topic]}
        ends = {topic: at + 1 for topic, at in wanted.items()}
        found: dict[Topic, KafkaRecord | None] = dict.fromkeys(wanted)
        reached: Offsets = {}
        async for progress in self.read(partition, wanted, ends):
            at_offset = (r for r in progress.records if r.offset == wanted[r.topic])
            found |= {record.topic: record for record in at_offset}
            reached |= progress.positions
        if unread := [topic for topic, end in ends.items() if reached.get(topic, 0) < end]:
            raise RangeError(f"no answer about the records {wanted} of {', '.join(unread)}")
        return found

    async def has_reached(self, partition: int, topic: Topic, offset: int) -> bool:
        """Whether the topic goes up to `offset`; false if it was cut or recreated.

        Fetches the record before `offset`, because the embedded broker's end offset is too low.
        Raises `KafkaError`, and `RangeError` if no answer comes.
        """
        tp = self._topic_partition(topic, partition)
        async with self._open_consumer() as consumer:
            await self._assign(consumer, {tp: offset - 1})
            try:
                await consumer.getmany(timeout_ms=REQUEST_TIMEOUT_MS)
            except OffsetOutOfRangeError:
                await self._refuse_kept(partition, {topic: offset})
                return False
            highwater: int | None = consumer.highwater(tp)
        if highwater is None:
            raise RangeError(f"no answer about {topic} at offset {offset}")
        return highwater >= offset

    async def _polls(
        self,
        consumer: AIOKafkaConsumer,
        topics: Mapping[TopicPartition, Topic],
        starts: Mapping[Topic, int],
        ends: Mapping[Topic, int],
    ) -> AsyncIterator[ReadProgress]:
        positions = {topic: starts.get(topic, 0) for topic in topics.values()}
        idle = 0
        while any(position < ends[topic] for topic, position in positions.items()):
            polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=MAX_POLLED)
            before = dict(positions)
            for tp, topic in topics.items():
                positions[topic] = await consumer.position(tp)
            records = [to_kafka_record(r, topics[tp]) for tp, rs in polled.items() for r in rs]
            yield ReadProgress(records, dict(positions))
            idle = 0 if records or positions != before else idle + 1
            unread = [tp for tp, topic in topics.items() if positions[topic] < ends[topic]]
            if idle >= OPEN_POLLS and all(_is_open_at(consumer, tp, positions[topics[tp]])
                                          for tp in unread):  # fmt: skip
                return
            if idle:
                # Perhaps this consumer asks a leader that was deposed.
                await self._witnesses.agree(topics)
            if idle > EMPTY_POLLS:
                raise RangeError(f"no progress at {positions} on the way to {dict(ends)}")

    @asynccontextmanager
    async def _open_consumer(self) -> AsyncIterator[AIOKafkaConsumer]:
        async with kafka.open_consumer(
            self._settings, CLIENT_NAME, request_timeout_ms=REQUEST_TIMEOUT_MS
        ) as consumer:
            self._witnesses.follow(consumer)
            yield consumer

    def _topic_partition(self, topic: Topic, partition: int) -> TopicPartition:
        return TopicPartition(self._settings.topic(topic), partition)

    def _partitions(self, partition: int) -> list[TopicPartition]:
        return [self._topic_partition(topic, partition) for topic in Topic]

    def _by_topic(self, offsets: Mapping[TopicPartition, int]) -> Offsets:
        return {self._names[tp.topic]: offset for tp, offset in offsets.items()}


def _is_open_at(consumer: AIOKafkaConsumer, tp: TopicPartition, position: int) -> bool:
    """Whether the last fetch found an open transaction at the position."""
    stable, end = consumer.last_stable_offset(tp), consumer.highwater(tp)
    return stable is not None and end is not None and stable <= position < end


def refuse_lost_history(stored: Mapping[Topic, int], beginnings: Mapping[Topic, int]) -> None:
    """Raise `HistoryLostError` if Kafka no longer has events from the stored offsets on.

    Without a checkpoint, job-lifecycle may begin anywhere: no token is older than its retention.
    """
    for topic, beginning in beginnings.items():
        needed = stored.get(topic, beginning if topic is Topic.JOB_LIFECYCLE else 0)
        if needed < beginning:
            raise HistoryLostError(
                f"{topic} begins at offset {beginning}, but events from {needed} on are needed"
            )


def to_kafka_record(record: ConsumerRecord, topic: Topic) -> KafkaRecord:
    """Convert aiokafka's record; raises `HistoryLostError` if the broker's copy is damaged."""
    headers, fault = tolerant_batches.split_fault(record.headers)
    if isinstance(fault, Damage):
        raise HistoryLostError(f"{topic}: {fault}")
    return KafkaRecord(
        topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        headers,
        fault,
    )

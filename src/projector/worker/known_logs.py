"""The logs whose events one partition's owner has applied, held against those in Kafka."""

import asyncio
from collections.abc import Mapping

from projector.errors import HistoryLostError
from projector.events.log_identity import LogIdentity, RecordMark
from projector.events.model import KafkaRecord, Topic
from projector.kafka.broker_protocol import PartitionLeader, id_of
from projector.kafka.log_check import find_other_logs
from projector.kafka.range_reader import RangeReader

TopicLeaders = Mapping[Topic, PartitionLeader]


class KnownLogs:
    """Identities of one partition's three logs, for its checkpoint."""

    def __init__(self, partition: int, reader: RangeReader) -> None:
        self._partition = partition
        self._reader = reader
        self._known: dict[Topic, LogIdentity] = {}
        # Records whose marks are not computed yet: that is once a checkpoint, not once an event.
        self._latest: dict[Topic, KafkaRecord] = {}
        # Those under which the logs were last found to be the known ones.
        self._leaders: TopicLeaders = {}

    def restore(self, known: Mapping[Topic, LogIdentity]) -> None:
        """Replace the identities by these."""
        self._known, self._latest, self._leaders = dict(known), {}, {}

    def note(self, record: KafkaRecord) -> None:
        """Note the latest record that is applied of its topic."""
        self._latest[record.topic] = record

    def identities(self) -> dict[Topic, LogIdentity]:
        """Return the identity of every log."""
        for topic, record in self._latest.items():
            self._known[topic] = self._of(topic)._replace(mark=RecordMark.of(record))
        self._latest = {}
        return {topic: self._of(topic) for topic in Topic}

    def _of(self, topic: Topic) -> LogIdentity:
        return self._known.get(topic, LogIdentity())

    async def check(self, applied: Mapping[Topic, int]) -> None:
        """Hold the logs against Kafka; everything below `applied` is applied.

        Raises `HistoryLostError`, `KafkaError` and `RangeError`.
        """
        await self._check(applied, await self._reader.leaders(self._partition))

    async def check_changed(
        self, applied: Mapping[Topic, int], leaders: TopicLeaders, timeout_s: float | None = None
    ) -> None:
        """Hold the logs against Kafka if leaders, their epochs or topic ids are not as before.

        Without that, no log can have lost a record that Kafka acknowledged. Raises as `check` does,
        and `TimeoutError`.
        """
        # Nearly always equal, and then compared fast.
        if leaders != self._leaders and _reigns(leaders) != _reigns(self._leaders):
            async with asyncio.timeout(timeout_s):
                await self._check(applied, leaders)

    async def _check(self, applied: Mapping[Topic, int], leaders: TopicLeaders) -> None:
        others = await find_other_logs(
            self._reader, self._partition, self.identities(), applied, leaders
        )
        if others:
            raise HistoryLostError("; ".join(others.values()))
        await self._mark_unmarked(applied)
        for topic, leader in leaders.items():
            known = self._of(topic)
            self._known[topic] = known._replace(topic_id=id_of(leader) or known.topic_id)
        self._leaders = leaders

    async def _mark_unmarked(self, applied: Mapping[Topic, int]) -> None:
        """Mark the last applied record of a checkpoint from before there were marks."""
        before = {
            topic: offset - 1
            for topic, offset in applied.items()
            if offset and self._of(topic).mark is None
        }
        if before:
            found = await self._reader.records_at(self._partition, before)
            for record in filter(None, found.values()):
                self.note(record)


def _reigns(leaders: TopicLeaders) -> dict[Topic, tuple[int, int, object]]:
    """Return what must change before a log can lose what Kafka acknowledged."""
    return {topic: (at.leader, at.epoch, at.topic_id) for topic, at in leaders.items()}

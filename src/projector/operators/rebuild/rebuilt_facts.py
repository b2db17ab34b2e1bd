"""Facts of a partition, rebuilt from the beginning of its topics and compared with the checkpoint.

All is read while the partition's owner goes on; it notices nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from projector.domain.entities import EndedToken, Job
from projector.domain.fact_keys import Key
from projector.domain.facts import AnyFact
from projector.domain.index.fact_index import FactIndex
from projector.domain.projection import Policy, Projection, needed_until
from projector.events.log_identity import LogIdentity
from projector.events.model import KafkaRecord, Topic
from projector.kafka.broker_protocol import id_of
from projector.kafka.log_check import find_other_logs
from projector.kafka.range_reader import Offsets, RangeReader
from projector.kafka.record_parser import Marker
from projector.store.partition_state import PartitionState
from projector.worker.dead_letter_outbox import LetterRef
from projector.worker.known_logs import KnownLogs


class FactChange(NamedTuple):
    """A key whose stored and rebuilt facts differ; None where there is no fact."""

    key: Key
    stored: AnyFact | None
    rebuilt: AnyFact | None


class Rebuilt:
    """One partition's facts, read from the beginning of its topics up to `next`.

    `reported` are the offsets below which every bad record has its dead letter, or a reference to
    one in the checkpoint. `unreported` are the bad records from there on.
    """

    def __init__(self, partition: int, policy: Policy, reader: RangeReader) -> None:
        self.partition = partition
        self.projection = Projection(partition, policy)
        self.projection.begin_history()
        self.beginnings: Offsets = {}
        self.next: Offsets = {}
        self.reported: Offsets = {}
        self.unreported: list[LetterRef] = []
        self.logs = KnownLogs(partition, reader)
        self._reader = reader

    async def begin(self, reported: Offsets) -> None:
        """Find where the topics begin; raises `KafkaError`."""
        leaders = await self._reader.leaders(self.partition)
        self.logs.restore({t: LogIdentity(id_of(leader)) for t, leader in leaders.items()})
        self.beginnings = await self._reader.beginnings(self.partition)
        self.next = dict(self.beginnings)
        self.reported = reported

    async def read(self, ends: Mapping[Topic, int], advance: Callable[[int], object]) -> None:
        """Read on up to `ends`; raises `KafkaError` and `HistoryLostError`.

        `advance` is called with the number of records of each poll.
        """
        async for progress in self._reader.read(self.partition, dict(self.next), ends):
            for record in progress.records:
                if self.next[record.topic] <= record.offset < ends.get(record.topic, 0):
                    self._apply(record)
            for topic, position in progress.positions.items():
                self.next[topic] = max(self.next[topic], min(position, ends[topic]))
            advance(len(progress.records))
        for _ in self.projection.settle():
            pass

    def _apply(self, record: KafkaRecord) -> None:
        self.logs.note(record)
        if isinstance(record.fault, Marker):
            return
        reason = self.projection.apply(record)
        if reason and record.offset >= self.reported.get(record.topic, 0):
            self.unreported.append(LetterRef(record.topic, record.offset, reason))


async def find_losses(
    reader: RangeReader, partition: int, state: PartitionState | None
) -> list[str]:
    """Return a sentence for each loss in the partition's history; raises `KafkaError`.

    Job-lifecycle may begin anywhere: no token is older than its retention.
    """
    beginnings = await reader.beginnings(partition)
    others = await _find_other_logs(reader, partition, state, await reader.ends(partition))
    applied = state.offsets if state else {}
    found = []
    for topic in Topic:
        begins, ended = beginnings[topic], applied.get(topic, 0)
        if begins > 0 and topic is not Topic.JOB_LIFECYCLE:
            found.append(f"{topic} begins at offset {begins}: what was only before it is gone")
        elif begins > ended and ended:
            found.append(f"{topic} begins at offset {begins}: events from {ended} on are gone")
        if topic in others:
            found.append(others[topic])
    return found


async def _find_other_logs(
    reader: RangeReader, partition: int, state: PartitionState | None, ends: Offsets
) -> dict[Topic, str]:
    """Return a sentence for each topic whose log is not the one that was applied."""
    if state is None:
        return {}
    found: dict[Topic, str] = {}
    for topic, applied in state.offsets.items():
        if ends[topic] < applied and not await reader.has_reached(partition, topic, applied):
            found[topic] = (
                f"{topic} was recreated: it ends before offset {applied}, which was applied"
            )
    known = {topic: log for topic, log in state.logs.items() if topic not in found}
    leaders = await reader.leaders(partition)
    return found | await find_other_logs(reader, partition, known, state.offsets, leaders)


async def find_ends(
    reader: RangeReader, partition: int, state: PartitionState | None
) -> tuple[Offsets, Offsets]:
    """Return the offsets up to which to read, and those up to which letters were reported.

    Both are the checkpoint's, so that facts can be compared. Without a checkpoint, and for a topic
    that was recreated, the topic is read to its end, and no letter was reported.
    """
    ends = await reader.ends(partition)
    others = await _find_other_logs(reader, partition, state, ends)
    applied = state.offsets if state else {}
    reported = {topic: offset for topic, offset in applied.items() if topic not in others}
    return ends | reported, reported


def changed_facts(
    stored: FactIndex, rebuilt: FactIndex, now: int, retention_ms: int
) -> Iterator[FactChange]:
    """Yield the facts that differ, in the order of their keys.

    A fact that may be forgotten at `now` (ms) is as good as none, so it does not count.
    """
    ours, theirs = dict(stored.items()), dict(rebuilt.items())
    for key in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(key), theirs.get(key)
        is_same = msgspec.json.encode(one) == msgspec.json.encode(other)
        is_optional = all(_is_optional(fact, now, retention_ms) for fact in (one, other))
        if not is_same and not is_optional:
            yield FactChange(key, one, other)


def _is_optional(fact: AnyFact | None, now: int, retention_ms: int) -> bool:
    """Whether no view depends on the fact, so that it may be missing."""
    if fact is None:
        return True
    if fact.data is None or isinstance(fact.data, EndedToken):
        return needed_until(fact, retention_ms) <= now
    return isinstance(fact.data, Job) and fact.data.expires_at <= now


def is_lost_job(change: FactChange, beginnings: Offsets) -> bool:
    """Whether a job still runs and Kafka no longer has its start, so that its token would end."""
    stored = change.stored
    is_live = stored is not None and isinstance(stored.data, Job) and not stored.data.finished
    is_gone = stored is not None and stored.offset < beginnings.get(Topic.JOB_LIFECYCLE, 0)
    return change.rebuilt is None and is_live and is_gone

"""Logs in Kafka compared with the identities of those whose events were applied."""

from collections.abc import Mapping

from projector.events.log_identity import LogIdentity, RecordMark
from projector.events.model import Topic
from projector.kafka.broker_protocol import PartitionLeader, id_of
from projector.kafka.range_reader import RangeReader


async def find_other_logs(
    reader: RangeReader,
    partition: int,
    known: Mapping[Topic, LogIdentity],
    applied: Mapping[Topic, int],
    leaders: Mapping[Topic, PartitionLeader],
) -> dict[Topic, str]:
    """Return a sentence for each topic whose log is not the known one.

    Everything below the `applied` offsets is applied. A mark that retention has deleted proves
    nothing. Raises `KafkaError`, `RangeError` and `HistoryLostError`.
    """
    found: dict[Topic, str] = {}
    marks: dict[Topic, RecordMark] = {}
    for topic, identity in known.items():
        topic_id, offset = id_of(leaders.get(topic)), applied.get(topic, 0)
        if offset and identity.topic_id and topic_id not in ("", identity.topic_id):
            found[topic] = (
                f"{topic} was recreated: its id is {topic_id}, but up to offset {offset} the topic "
                f"with the id {identity.topic_id} was applied"
            )
        elif identity.mark and identity.mark.offset < offset:
            marks[topic] = identity.mark
    return found | await _find_other_records(reader, partition, marks)


async def _find_other_records(
    reader: RangeReader, partition: int, marks: Mapping[Topic, RecordMark]
) -> dict[Topic, str]:
    if not marks:
        return {}
    records = await reader.records_at(partition, {t: mark.offset for t, mark in marks.items()})
    return {
        topic: f"{topic} is another log: its record at offset {marks[topic].offset} is not the one "
        "that was applied"
        for topic, record in records.items()
        if record is None or RecordMark.of(record) != marks[topic]
    }

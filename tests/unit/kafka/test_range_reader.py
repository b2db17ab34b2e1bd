"""Ranges of records read without Faust: what of a topic's history is enough, and what is not."""

import pytest

from projector.errors import HistoryLostError
from projector.events.model import Topic
from projector.kafka.range_reader import refuse_lost_history, to_kafka_record
from tests.unit.kafka.test_tolerant_batches import VALUE, ordinary, placed, read
from tests.wire import batch, record

ALL_BEGIN = dict.fromkeys(Topic, 5)


def test_what_the_broker_damaged_is_an_alarm_and_no_dead_letter() -> None:
    """It may contain a revocation: its partition must stay stale, and no other."""
    damaged = batch(record(VALUE), record(VALUE, offset_delta=1)).replace(b"a", b"b", 1)
    found, behind, following = read(damaged, placed(ordinary(1), 2))
    assert (found.offset, found.value, behind.offset, following) == (0, None, 2, 3)
    with pytest.raises(HistoryLostError, match=r"membership: .* 0 to 1 is damaged"):
        to_kafka_record(found, Topic.MEMBERSHIP)


def test_history_is_whole_if_every_topic_has_the_stored_offsets() -> None:
    refuse_lost_history(dict.fromkeys(Topic, 5), ALL_BEGIN)
    refuse_lost_history({}, dict.fromkeys(Topic, 0))


@pytest.mark.parametrize("topic", Topic)
def test_a_topic_that_begins_after_a_stored_offset_is_named(topic: Topic) -> None:
    """Events between the two are lost, and a revocation may be among them."""
    stored = dict.fromkeys(Topic, 9) | {topic: 4}
    with pytest.raises(
        HistoryLostError, match=f"{topic} begins at offset 5, but events from 4 on are needed"
    ):
        refuse_lost_history(stored, ALL_BEGIN)


def test_without_a_checkpoint_only_job_lifecycle_may_begin_later() -> None:
    """Its records outlive every token; the others must begin at 0."""
    refuse_lost_history({}, {Topic.JOB_LIFECYCLE: 5, Topic.MEMBERSHIP: 0, Topic.AGENT_CONFIG: 0})
    for topic in (Topic.MEMBERSHIP, Topic.AGENT_CONFIG):
        with pytest.raises(HistoryLostError, match=f"{topic} begins at offset 5"):
            refuse_lost_history({}, dict.fromkeys(Topic, 0) | {topic: 5})

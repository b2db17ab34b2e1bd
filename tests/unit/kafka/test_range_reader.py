"""Ranges of records read without Faust: what of a topic's history is enough, and what is not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import OffsetOutOfRangeError

from projector.config.settings import Settings
from projector.errors import HistoryLostError, RangeError
from projector.events.model import Topic
from projector.kafka.range_reader import Offsets, RangeReader, refuse_lost_history, to_kafka_record
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


@pytest.mark.parametrize(
    ("start", "error"),
    [(4, HistoryLostError), (5, RangeError), (9, RangeError), (10, HistoryLostError)],
)
async def test_a_broker_alone_cannot_deny_what_kafka_has(
    monkeypatch: pytest.MonkeyPatch, start: int, error: type[Exception]
) -> None:
    """A broker that was deposed may have less than was acknowledged. The read is repeated."""
    reader = RangeReader(Settings())
    monkeypatch.setattr(reader, "_open_consumer", denying)
    monkeypatch.setattr(reader._witnesses, "agree", nothing)
    monkeypatch.setattr(reader, "beginnings", answer(ALL_BEGIN))
    monkeypatch.setattr(reader, "ends", answer(dict.fromkeys(Topic, 9)))
    with pytest.raises(error):
        async for _ in reader.read(0, {Topic.MEMBERSHIP: start}, {Topic.MEMBERSHIP: 12}):
            pass


@pytest.mark.parametrize("end", [8, 9])
async def test_a_broker_alone_cannot_prove_that_a_topic_was_cut(
    monkeypatch: pytest.MonkeyPatch, end: int
) -> None:
    reader = RangeReader(Settings())
    monkeypatch.setattr(reader, "_open_consumer", denying)
    monkeypatch.setattr(reader._witnesses, "agree", nothing)
    monkeypatch.setattr(reader, "beginnings", answer(ALL_BEGIN))
    monkeypatch.setattr(reader, "ends", answer(dict.fromkeys(Topic, end)))
    if end < 9:
        assert not await reader.has_reached(0, Topic.MEMBERSHIP, 9)
    else:
        with pytest.raises(RangeError):
            await reader.has_reached(0, Topic.MEMBERSHIP, 9)


@asynccontextmanager
async def denying() -> AsyncIterator[Any]:
    """Open a consumer whose broker has none of the offsets."""
    consumer = Mock(spec=AIOKafkaConsumer)
    consumer.getmany = AsyncMock(side_effect=OffsetOutOfRangeError())
    yield consumer


def answer(offsets: Offsets) -> Any:
    return AsyncMock(return_value=offsets)


nothing = AsyncMock(return_value={})


def test_without_a_checkpoint_only_job_lifecycle_may_begin_later() -> None:
    """Its records outlive every token; the others must begin at 0."""
    refuse_lost_history({}, {Topic.JOB_LIFECYCLE: 5, Topic.MEMBERSHIP: 0, Topic.AGENT_CONFIG: 0})
    for topic in (Topic.MEMBERSHIP, Topic.AGENT_CONFIG):
        with pytest.raises(HistoryLostError, match=f"{topic} begins at offset 5"):
            refuse_lost_history({}, dict.fromkeys(Topic, 0) | {topic: 5})

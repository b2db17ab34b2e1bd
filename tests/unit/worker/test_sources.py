"""The reading of heartbeats: whatever stands in the topic, the worker and good sources go on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.errors import KafkaConnectionError, OffsetOutOfRangeError
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from projector.events.model import MAX_EVENT_BYTES, SourceRecord, Topic
from projector.kafka.broker_protocol import PartitionLeader
from projector.worker.sources import MAX_REMEMBERED, RecentOffsets, SilenceLog, Sources
from projector.worker.vouchers import SourceMark, Vouchers
from tests import builders
from tests.unit.worker.owned_partition import QUICK, until
from tests.unit.worker.source_log import LEADER, Log, heartbeat, named

NEXT = LEADER._replace(leader=2, epoch=6)
OLDER = LEADER._replace(leader=3, epoch=4)
AGAIN = LEADER._replace(topic_id=uuid4())


@pytest.fixture
def topic() -> Log:
    return Log()


@pytest.fixture
async def sources(topic: Log, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sources]:
    """Run sources that take any `after` below a record's own offset."""
    monkeypatch.setattr(Sources, "_refuse_unknown_after", lambda *_: None)
    found = Sources(("gitlab", "hr"), 1, topic, QUICK)
    running = asyncio.create_task(found.run())
    await until(lambda: found.mark(topic.leader, 0).reading)
    yield found
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])


@contextmanager
def listening(sources: Sources) -> Iterator[tuple[Vouchers, list[int]]]:
    vouchers, woken = Vouchers(0, sources.names), list[int]()
    with sources.listening(vouchers, lambda: woken.append(1)):
        yield vouchers, woken


def missing(sources: Sources, vouchers: Vouchers, end: int, leader: Any = LEADER) -> list[str]:
    vouchers.apply(dict.fromkeys(Topic, 0))
    return vouchers.missing(sources.mark(leader, end)._replace(end=end))


def refused(source: str, reason: str) -> float:
    labels = {"source": source, "reason": reason}
    return REGISTRY.get_sample_value("projector_heartbeats_refused_total", labels) or 0


def age(source: str) -> float:
    found = REGISTRY.get_sample_value("projector_source_age_seconds", {"source": source})
    assert found is not None
    return found


async def test_each_owner_gets_each_heartbeat_of_a_named_source(
    topic: Log, sources: Sources
) -> None:
    with listening(sources) as (one, woken), listening(sources) as (other, _):
        topic.add(heartbeat(None), heartbeat(0), named("hr", 1))
        await until(lambda: missing(sources, one, 0) == [])
        assert missing(sources, other, 0) == []
        assert missing(sources, one, 1) == ["gitlab"]
        assert len(woken) == 2
    topic.add(heartbeat(2))
    await until(lambda: sources.mark(LEADER, 0).end == 4)
    assert missing(sources, one, 1) == ["gitlab"]


async def test_the_mark_is_never_below_what_was_read(topic: Log, sources: Sources) -> None:
    """The embedded broker delivers what its end offset does not include yet."""
    topic.add(heartbeat(None), b"garbage")
    await until(lambda: sources.mark(LEADER, 1).end == 2)
    assert sources.mark(LEADER, 9).end == 9


GARBAGE: list[Any] = [
    None,
    b"",
    b"\xff\x00",
    b"[" * 100_000,
    b" " * (MAX_EVENT_BYTES + 1),
    heartbeat(None) | {"type": "group.set"},
    builders.heartbeat("gitlab", None, {topic: [1, 2] for topic in Topic}),
    SourceRecord(0, b"gitlab", b"{}", (), "the batch cannot be unpacked"),
    SourceRecord(0, b"gitlab", b"{}", (("ce_specversion", b"\xff"),)),
]


async def test_garbage_is_counted_and_logged_once_a_minute_and_costs_no_other_source(
    topic: Log, sources: Sources
) -> None:
    before = refused("gitlab", "invalid")
    with listening(sources) as (vouchers, _), capture_logs() as logged:
        topic.add(named("hr", None), *GARBAGE * 50, named("hr", 0), heartbeat(1))
        await until(lambda: missing(sources, vouchers, 0) == [])
    assert refused("gitlab", "invalid") - before == len(GARBAGE) * 50
    assert [line["event"] for line in logged] == ["heartbeat refused"]
    assert logged[0]["source"] == "gitlab"


async def test_names_that_are_not_configured_are_counted_as_others_and_not_decoded(
    topic: Log, sources: Sources
) -> None:
    before = refused("other", "unknown")
    token = b"glcbt-64_abcdefghijklmnopqrst"
    with listening(sources) as (vouchers, woken), capture_logs() as logged:
        for key in (token, None, b"GITLAB", b"\xff" * 100_000, *(b"x%d" % n for n in range(500))):
            topic.add(SourceRecord(0, key, b"{"))
        topic.add(named("hr", 0), heartbeat(0))
        await until(lambda: missing(sources, vouchers, 0) == [])
    assert refused("other", "unknown") - before == 504
    assert len(logged) == 1
    assert token.decode() not in str(logged)
    assert len(woken) == 2


async def test_a_heartbeat_after_itself_is_reported_and_ignored(
    topic: Log, sources: Sources
) -> None:
    before = refused("gitlab", "untrue")
    with listening(sources) as (vouchers, _), capture_logs() as logged:
        topic.add(heartbeat(0), heartbeat(100), named("hr", 1), heartbeat(2))
        await until(lambda: missing(sources, vouchers, 1) == [])
        assert missing(sources, vouchers, 3) == ["gitlab", "hr"]
    assert refused("gitlab", "untrue") - before == 2
    assert [line["kind"] for line in logged] == ["untrue"]


async def test_after_must_be_a_heartbeat_of_the_source_in_this_reading(topic: Log) -> None:
    """A sender from before the topic was made again may name a record of anyone."""
    sources = Sources(("gitlab", "hr"), 1, topic, QUICK)
    running = asyncio.create_task(sources.run())
    await until(lambda: sources.mark(LEADER, 0).reading)
    before = refused("gitlab", "untrue")
    with listening(sources) as (vouchers, _), capture_logs() as logged:
        topic.add(named("hr", None), b"garbage", heartbeat(0), heartbeat(1), named("hr", 0))
        await until(lambda: sources.mark(LEADER, 0).end == 5)
        assert missing(sources, vouchers, 0) == ["gitlab"]
        assert refused("gitlab", "untrue") - before == 2
        assert logged[-1]["reason"].endswith("where no recent heartbeat of 'gitlab' is")
        # From there on it is right, also by a second sender of the name.
        topic.add(heartbeat(3), heartbeat(None), heartbeat(5), heartbeat(6))
        await until(lambda: missing(sources, vouchers, 0) == [])
        await until(lambda: missing(sources, vouchers, 6) == ["hr"])
    assert refused("gitlab", "untrue") - before == 2
    running.cancel()
    await asyncio.wait([running])


async def test_no_mark_is_below_the_beginning_of_the_reading(topic: Log) -> None:
    """A probe's end may have been asked just before; `after` from there on is not looked up."""
    topic.start = 7
    sources = Sources(("gitlab",), 1, topic, QUICK)
    running = asyncio.create_task(sources.run())
    await until(lambda: sources.mark(LEADER, 5) == SourceMark(1, 7))
    running.cancel()
    await asyncio.wait([running])


def test_the_offsets_of_a_source_are_bounded() -> None:
    recent = RecentOffsets()
    for offset in range(MAX_REMEMBERED + 2):
        recent.add(offset)
    assert 1 not in recent
    assert 2 in recent
    assert len(recent._known) == MAX_REMEMBERED


async def test_a_lie_that_several_owners_find_is_reported_once(sources: Sources) -> None:
    before = refused("gitlab", "untrue")
    with capture_logs() as logged:
        for partition in range(16):
            sources.report_untrue("gitlab", 7, partition)
        sources.report_untrue("gitlab", 8, 0)
    assert refused("gitlab", "untrue") - before == 2
    assert len(logged) == 1
    assert "beyond the ends of partition 0" in logged[0]["reason"]


@pytest.mark.parametrize("leader", [NEXT, AGAIN])
async def test_another_leader_or_topic_begins_another_reading(
    topic: Log, sources: Sources, leader: PartitionLeader
) -> None:
    with listening(sources) as (vouchers, _):
        topic.add(named("hr", None), named("hr", 0), heartbeat(1))
        await until(lambda: missing(sources, vouchers, 0) == [])
        topic.leader = leader
        assert sources.mark(leader, 0) == SourceMark(None, 0)
        await until(lambda: sources.mark(leader, 0).reading)
        assert topic.opened == 2
        # What was read before does not count in this log.
        assert missing(sources, vouchers, 0, leader) == ["gitlab", "hr"]
        assert sources.mark(LEADER, 0).reading is None or leader is AGAIN
        assert sources.mark(leader, 0).end == 0


async def test_the_late_answer_of_an_older_epoch_ends_no_reading(
    topic: Log, sources: Sources
) -> None:
    assert sources.mark(OLDER, 3) == SourceMark(None, 3)
    await asyncio.sleep(0.05)
    assert topic.opened == 1
    assert sources.mark(LEADER, 3).reading == 1


@pytest.mark.parametrize("error", [KafkaConnectionError("away"), OffsetOutOfRangeError({})])
async def test_an_outage_or_a_topic_that_was_cut_begins_another_reading(
    topic: Log, sources: Sources, error: Exception
) -> None:
    with listening(sources) as (vouchers, _):
        topic.add(named("hr", None), named("hr", 0), heartbeat(1))
        await until(lambda: missing(sources, vouchers, 0) == [])
        topic.failures.append(error)
        await until(lambda: topic.opened == 2)
        await until(lambda: sources.mark(LEADER, 0).reading == 2)
        assert missing(sources, vouchers, 0) == ["gitlab", "hr"]
        topic.add(named("hr", 2), heartbeat(3))
        await until(lambda: missing(sources, vouchers, 2) == [])


async def test_nothing_vouches_between_two_readings(topic: Log, sources: Sources) -> None:
    """Records between the two may be lost, and the topic another one."""
    assert Sources(("gitlab",), 1, topic, QUICK).mark(LEADER, 0) == SourceMark(None, 0)
    topic.is_open.clear()
    topic.failures.append(KafkaConnectionError("away"))
    await until(lambda: topic.opened == 2)
    assert sources.mark(LEADER, 0) == SourceMark(None, 0)
    topic.is_open.set()
    await until(lambda: sources.mark(LEADER, 0) == SourceMark(2, 0))


async def test_the_age_of_a_source_counts_from_its_last_heartbeat_that_counted(
    topic: Log, sources: Sources
) -> None:
    assert age("gitlab") == float("inf")
    with listening(sources):
        topic.add(heartbeat(None), heartbeat(0))
        await until(lambda: sources.mark(LEADER, 0).end == 2)
        # The owner has not applied its offsets yet.
        assert age("gitlab") == float("inf")
        sources.count("gitlab")
        assert age("gitlab") < 5
    # A worker without partitions still knows that the source is alive.
    assert age("hr") == float("inf")
    topic.add(named("hr", None))
    await until(lambda: sources.mark(LEADER, 0).end == 3)
    assert age("hr") == float("inf")
    topic.add(named("hr", 1))
    await until(lambda: age("hr") < 5)


async def test_large_records_leave_turns_to_others(topic: Log, sources: Sources) -> None:
    turns = 0
    large = b'{"a":"' + b"x" * (MAX_EVENT_BYTES - 8) + b'"}'
    topic.add(*[large] * 40)
    while sources.mark(LEADER, 0).end < 40:
        await asyncio.sleep(0)
        turns += 1
    assert turns > 2


# the log of silences


async def test_a_silence_is_logged_once_for_all_owners_with_its_end(sources: Sources) -> None:
    with capture_logs() as logged:
        for _ in range(3):
            sources.report_silence("gitlab", 1000)
        sources.report_silence("hr", 0)
        for _ in range(2):
            sources.count("gitlab")
    assert [(line["event"], line["source"], line["log_level"]) for line in logged] == [
        ("source silent", "gitlab", "warning"), ("source silent", "hr", "warning"),
        ("source vouches again", "gitlab", "info"),
    ]  # fmt: skip
    assert [line["since"] for line in logged[:2]] == ["1970-01-01T00:00:01.000+00:00", None]


async def test_a_source_that_counts_for_another_partition_is_not_logged_as_silent(
    sources: Sources,
) -> None:
    """Or the log would flap: one owner counts four times a second, another waits."""
    with capture_logs() as logged:
        for _ in range(3):
            sources.count("gitlab")
            sources.report_silence("gitlab", 1000)
    assert logged == []


def test_the_log_of_a_slow_sender_has_a_silence_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silence = SilenceLog("gitlab")
    with capture_logs() as logged:
        for _ in range(5):
            silence.begin(1000)
            silence.end()
        assert len(logged) == 2
        monkeypatch.setattr(silence, "_due", 0.0)
        silence.begin(1000)
    assert len(logged) == 3

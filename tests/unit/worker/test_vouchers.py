"""Vouchers: what counts, what does not yet, what never does, in bounded memory."""

import pytest

from projector.events.heartbeats import Heartbeat
from projector.events.model import Topic
from projector.kafka.range_reader import Offsets
from projector.worker.vouchers import (
    MAX_PENDING,
    UNTRUE_AFTER_S,
    SourceMark,
    Voucher,
    Vouchers,
)

READING = 1
ENDS = dict.fromkeys(Topic, 10)


def offsets(number: int, **others: int) -> Offsets:
    named = {Topic(topic.replace("_", "-")): offset for topic, offset in others.items()}
    return dict.fromkeys(Topic, number) | named


def heartbeat(
    after: int | None, at: Offsets | int = 0, source: str = "gitlab", offset: int = 99
) -> Heartbeat:
    """Return a heartbeat about partition 1 of two; nothing of partition 0 is applied ever."""
    here = at if isinstance(at, dict) else offsets(at)
    return Heartbeat(source, offset, after, {topic: [1000, here[topic]] for topic in Topic})


def vouchers(*names: str) -> Vouchers:
    found = Vouchers(1, names or ("gitlab",))
    found.begin(READING)
    found.take_untrue(ENDS, 0)
    return found


def mark(end: int) -> SourceMark:
    return SourceMark(READING, end)


@pytest.mark.parametrize(("after", "missing"), [(6, ["gitlab"]), (7, []), (8, [])])
def test_only_a_heartbeat_after_one_from_the_mark_on_vouches(
    after: int, missing: list[str]
) -> None:
    """What happened in the source before the mark may be in Kafka above the offsets of others."""
    found = vouchers()
    assert found.note(heartbeat(after), 0)
    assert found.apply(offsets(0)) == ["gitlab"]
    assert found.missing(mark(7)) == missing


@pytest.mark.parametrize("topic", Topic)
def test_a_heartbeat_vouches_once_the_offsets_of_all_topics_are_applied(topic: Topic) -> None:
    found = vouchers()
    found.note(heartbeat(7, 5), 0)
    assert found.apply(offsets(5) | {topic: 4}) == []
    assert found.missing(mark(7)) == ["gitlab"]
    assert found.apply(offsets(5)) == ["gitlab"]
    assert found.missing(mark(7)) == []


def test_the_first_heartbeat_of_a_sender_vouches_for_nothing() -> None:
    found = vouchers()
    assert not found.note(heartbeat(None, 0), 0)
    assert found.apply(offsets(10)) == []
    assert found.missing(mark(0)) == ["gitlab"]
    assert found.counted_at == {"gitlab": None}


def test_every_named_source_must_vouch() -> None:
    found = vouchers("gitlab", "hr")
    found.note(heartbeat(9), 0)
    found.apply(offsets(0))
    assert found.missing(mark(7)) == ["hr"]
    found.note(heartbeat(7, source="hr"), 0)
    found.apply(offsets(0))
    assert found.missing(mark(7)) == []


def test_heartbeats_of_several_senders_of_one_name_vouch_each_for_itself() -> None:
    """The one that is behind in `after` is ahead in what it waits for, and the other way round."""
    found = vouchers()
    found.note(heartbeat(20, 9), 0)
    found.note(heartbeat(11, 3), 0)
    assert found.apply(offsets(3)) == ["gitlab"]
    assert found.missing(mark(11)) == []
    assert found.missing(mark(12)) == ["gitlab"]
    assert found.apply(offsets(9)) == ["gitlab"]
    assert found.missing(mark(20)) == []


def test_a_late_heartbeat_takes_nothing_back() -> None:
    found = vouchers()
    found.note(heartbeat(20, 3), 0)
    found.apply(offsets(3))
    assert not found.note(heartbeat(11, 1), 0)
    found.apply(offsets(3))
    assert found.missing(mark(20)) == []


def test_another_reading_of_the_topic_forgets_everything() -> None:
    """In a topic that was made again, offsets begin at 0, and old heartbeats would be above."""
    found = vouchers()
    found.note(heartbeat(20, 3), 0)
    found.note(heartbeat(30, 9), 0)
    found.apply(offsets(3))
    found.begin(READING + 1)
    assert found.missing(mark(0)) == ["gitlab"]
    assert found.missing(SourceMark(READING + 1, 0)) == ["gitlab"]
    found.apply(offsets(9))
    assert found.missing(SourceMark(READING + 1, 0)) == ["gitlab"]


def test_a_mark_of_no_reading_is_never_vouched_for_and_accuses_no_source() -> None:
    found = vouchers()
    found.note(heartbeat(20), 0)
    found.apply(offsets(0))
    for unread in (SourceMark(None, 0), SourceMark(READING + 1, 0)):
        assert found.missing(unread) == ["gitlab"]
        assert found.silent(unread) == []


def test_a_source_is_silent_only_without_a_heartbeat_that_could_vouch() -> None:
    found = vouchers()
    found.note(heartbeat(6, 9), 0)
    assert found.silent(mark(7)) == ["gitlab"]
    found.note(heartbeat(7, 9), 0)
    assert found.silent(mark(7)) == []
    found.apply(offsets(9))
    assert found.silent(mark(7)) == []
    assert found.silent(mark(8)) == ["gitlab"]


def test_the_time_of_a_mark_may_be_vouched_for_once_every_source_has_gone_on() -> None:
    """Also by a heartbeat beyond the ends, which may have grown since they were asked."""
    found = vouchers("gitlab", "hr")
    assert not found.may_vouch(mark(0))
    found.note(heartbeat(7, 11), 0)
    assert not found.may_vouch(mark(7))
    found.note(heartbeat(6, source="hr"), 0)
    assert not found.may_vouch(mark(7))
    found.note(heartbeat(7, source="hr"), 0)
    assert found.may_vouch(mark(7))
    assert not found.may_vouch(mark(8))
    assert not found.may_vouch(SourceMark(READING + 1, 0))
    found.begin(READING + 1)
    assert not found.may_vouch(SourceMark(READING + 1, 0))


def test_offsets_beyond_the_ends_do_not_vouch_and_are_reported_once_that_is_certain() -> None:
    found = vouchers()
    found.note(heartbeat(7, offsets(10, agent_config=11), offset=55), 100)
    assert found.apply(ENDS) == []
    assert found.silent(mark(7)) == ["gitlab"]
    assert found.take_untrue(ENDS, 100 + UNTRUE_AFTER_S - 0.1) == []
    ((name, voucher),) = found.take_untrue(ENDS, 100 + UNTRUE_AFTER_S)
    assert (name, voucher.offset) == ("gitlab", 55)
    assert found.take_untrue(ENDS, 200) == []
    assert found.apply(offsets(11)) == []


def test_ends_that_lag_for_a_moment_make_no_heartbeat_untrue() -> None:
    found = vouchers()
    found.note(heartbeat(7, 12), 100)
    assert found.take_untrue(offsets(12), 100 + UNTRUE_AFTER_S) == []
    assert found.apply(offsets(12)) == ["gitlab"]
    assert found.missing(mark(7)) == []


@pytest.mark.parametrize("after", [None, 0, 5])
def test_a_lie_is_reported_also_if_it_would_vouch_for_nothing_more(after: int | None) -> None:
    found = vouchers()
    found.note(heartbeat(6), 0)
    found.apply(offsets(0))
    found.note(heartbeat(after, 11), 100)
    found.apply(ENDS)
    assert len(found.take_untrue(ENDS, 200)) == 1


def test_a_sender_that_repeats_a_lie_is_reported_all_the_same() -> None:
    """A newer voucher with the same offsets replaces an older one, unless both are beyond."""
    found = vouchers()
    reported = 0
    for number in range(40):
        now = 100 + number / 4
        found.note(heartbeat(number, 11), now)
        reported += len(found.take_untrue(ENDS, now))
    assert reported >= 30


def test_lies_keep_no_honest_heartbeat_from_counting_and_fill_no_memory() -> None:
    found = vouchers("gitlab", "hr")
    end = 10
    for number in range(1, 2000):
        # Beyond the ends of the last probe, as far as anyone knows.
        found.note(heartbeat(number, end + 2 + number % 7), 100)
        assert len(found._sources["gitlab"].pending) <= MAX_PENDING
        if number % 200 == 0:
            # True: an event has arrived since.
            found.note(heartbeat(number, end + 1), 100)
            found.note(heartbeat(number, 3, source="hr"), 100)
        elif number % 200 == 150 and number > 200:
            end += 1
            found.take_untrue(offsets(end), 101)
            assert "gitlab" in found.apply(offsets(end))
            assert found.missing(mark(number - 150)) == []


def test_a_lie_is_reported_although_an_honest_heartbeat_follows() -> None:
    found = vouchers()
    found.note(heartbeat(6, 11), 100)
    found.note(heartbeat(7, 9), 100)
    assert len(found.take_untrue(ENDS, 200)) == 1


@pytest.mark.parametrize("step", [0, 1, -1])
def test_a_flood_costs_little_and_the_other_sources_nothing(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    found = vouchers("gitlab", "hr")
    looks, excess = 0, Voucher.excess

    def counted(self: Voucher, ends: Offsets) -> int:
        nonlocal looks
        looks += 1
        return excess(self, ends)

    monkeypatch.setattr(Voucher, "excess", counted)
    for number in range(1, 10_001):
        found.note(heartbeat(number, 50_000 + step * number), 100)
    assert looks < 50_000
    assert found.note(heartbeat(7, source="hr"), 100)
    assert found.apply(ENDS) == ["hr"]
    # Lies that come ever nearer to the ends keep their own source from counting, for one probe.
    assert found.note(heartbeat(9, 3), 100) == (step >= 0)
    found.take_untrue(ENDS, 100)
    found.note(heartbeat(10, 3), 100)
    assert found.apply(ENDS) == ["gitlab"]
    assert found.missing(mark(7)) == []


def test_an_owner_that_is_behind_keeps_the_oldest_and_the_newest() -> None:
    """The oldest is applied first, so stamps go on; the newest vouches for the latest time."""
    found = vouchers()
    for number in range(1, 1001):
        found.take_untrue(offsets(10_000), 0)
        found.note(heartbeat(number, number), 0)
        assert len(found._sources["gitlab"].pending) <= MAX_PENDING
    assert found.apply(offsets(1)) == ["gitlab"]
    assert found.missing(mark(1)) == []
    assert found.apply(offsets(1000)) == ["gitlab"]
    assert found.missing(mark(1000)) == []


def test_a_quiet_partition_keeps_one_heartbeat() -> None:
    found = vouchers()
    for number in range(1000):
        found.take_untrue(ENDS, 0)
        found.note(heartbeat(number, 9), 0)
    assert len(found._sources["gitlab"].pending) == 1
    found.apply(offsets(9))
    assert found.missing(mark(999)) == []


def test_the_time_of_the_last_heartbeat_that_counted_is_known() -> None:
    found = vouchers("gitlab", "hr")
    found.note(heartbeat(7), 0)
    assert found.counted_at == {"gitlab": None, "hr": None}
    found.apply(offsets(0))
    first = found.counted_at["gitlab"]
    assert first is not None
    assert first > 1_600_000_000_000
    assert found.counted_at["hr"] is None
    found.apply(offsets(9))
    assert found.counted_at["gitlab"] == first

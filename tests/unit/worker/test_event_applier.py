"""Every event is applied once and in order, even if Faust skips, repeats or stalls."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from projector.domain.fact_keys import Key
from projector.events.model import KafkaRecord, Topic
from projector.kafka.range_reader import ReadProgress
from projector.kafka.record_parser import Marker
from projector.store import schema
from projector.worker import (
    delivery_queue,
)
from tests import builders
from tests.builders import digest
from tests.unit.worker.owned_partition import (
    COMPANY,
    PARTITION,
    PROBES_S,
    QUICK,
    Setup,
    Writes,
    differs,
    gets,
    has_ended,
    until,
)


async def test_what_faust_skips_is_read_from_kafka(setup: Setup) -> None:
    async with setup.owning() as owner:
        records = setup.kafka.add(*COMPANY, builders.started(9, 7))
        setup.deliver(owner, records[2], records[3], records[4])
        await until(lambda: setup.has_applied(Topic.MEMBERSHIP, 3))
        await until(setup.agents)
        assert setup.kafka.reads[-1][1] == {Topic.MEMBERSHIP: 2}


async def test_what_faust_repeats_is_skipped(setup: Setup) -> None:
    async with setup.owning() as owner:
        records = setup.kafka.add(*COMPANY, builders.started(9, 7))
        setup.deliver(owner, *records, *records)
        await until(lambda: len(setup.acked) == 2 * len(records))
        assert await setup.agents() == [5]
        assert setup.kafka.reads == []


async def test_what_is_applied_or_being_read_need_not_be_delivered(setup: Setup) -> None:
    """Faust begins where its commits are: after a rebuild at the beginning."""
    setup.kafka.add(*COMPANY)
    owner = setup.new_owner()
    read, known = setup.kafka.read, []

    async def reading(*args: Any) -> AsyncIterator[ReadProgress]:
        known.append([owner.known_offset(topic) for topic in Topic])
        async for progress in read(*args):
            yield progress

    setup.kafka.read = reading  # type: ignore[method-assign,assignment]
    assert owner.known_offset(Topic.MEMBERSHIP) == 0
    running = asyncio.create_task(owner.run())
    await until(lambda: setup.field("stamp_epoch"))
    assert known == [[3, 1, 0]]
    setup.deliver(owner, *setup.kafka.add(builders.started(9, 7)))
    await until(lambda: setup.acked)
    assert [owner.known_offset(topic) for topic in Topic] == [3, 1, 1]
    owner.stop()
    await asyncio.wait_for(running, 5)


async def test_what_never_comes_is_read_from_kafka(
    setup: Setup,
) -> None:
    setup.timing = QUICK._replace(stall_s=0.05)
    async with setup.owning():
        setup.kafka.add(*COMPANY, builders.started(9, 7))
        await until(setup.agents)


def marker(setup: Setup, topic: Topic) -> KafkaRecord:
    """The end of a transaction, as the topic's next record."""
    offset = len(setup.kafka.records[topic])
    fault = Marker("the end of a transaction")
    record = KafkaRecord(topic, PARTITION, offset, builders.NOW, b"\0\0\0\1", b"", (), fault)
    setup.kafka.records[topic].append(record)
    return record


@pytest.mark.parametrize("way", ["delivered", "read from Kafka"])
async def test_the_end_of_a_transaction_is_passed_and_is_no_event(setup: Setup, way: str) -> None:
    setup.kafka.add(*COMPANY)
    if way == "read from Kafka":
        marker(setup, Topic.JOB_LIFECYCLE)
    async with setup.owning() as owner:
        if way == "delivered":
            setup.deliver(owner, marker(setup, Topic.JOB_LIFECYCLE))
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 1))
        before = await setup.field("stamp")
        await until(lambda: differs(setup, before))
        assert len(owner._applier.outbox) == 0
    assert setup.kafka.letters == []


async def test_an_open_transaction_keeps_its_partition_stale_and_blocks_no_other_topic(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is behind it may be acknowledged, and cannot be read yet.

    So a job's first view waits for it, and a finished job ends at once.
    """
    setup.timing = QUICK._replace(stall_s=0.02)
    setup.kafka.add(*COMPANY, builders.started(8, 7))
    async with setup.owning() as owner:
        setup.kafka.opens = {Topic.MEMBERSHIP: 3}
        setup.kafka.add(builders.member(1, "guest", group_id=3))
        await until(lambda: "an open transaction holds up" in capsys.readouterr().out)
        before = await setup.field("stamp")
        setup.deliver(owner, *setup.kafka.add(builders.started(9, 7), builders.removed("job", 8)))
        await until(lambda: has_ended(setup, "token-8"))
        await asyncio.sleep(PROBES_S)
        assert await setup.field("stamp") == before
        assert await setup.redis.get(schema.record_key(digest("token-9"))) is None
        assert "an open transaction holds up" not in capsys.readouterr().out
        setup.kafka.opens = {}
        await until(lambda: gets(setup, "token-9", []))
        await until(lambda: differs(setup, before))


async def test_a_full_queue_drops_nothing_for_good(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_queue, "MAX_RECORDS", 2)
    setup.timing = QUICK._replace(stall_s=0.05)
    async with setup.owning() as owner:
        records = setup.kafka.add(*COMPANY, *(builders.started(n, 7) for n in range(9, 40)))
        setup.deliver(owner, *records)
        assert len(setup.acked) == len(records) - 2
        await until(lambda: setup.has_applied(Topic.JOB_LIFECYCLE, 31))
        await until(lambda: gets(setup, "token-39", [5]))


async def test_a_bad_event_becomes_a_dead_letter(setup: Setup) -> None:
    async with setup.owning() as owner:
        records = setup.kafka.add(b"{", *COMPANY, builders.started(9, 7))
        setup.deliver(owner, *records)
        await until(lambda: len(setup.acked) == len(records))
        await until(lambda: setup.kafka.letters)
        (letter,) = setup.kafka.letters
        assert (letter.record.offset, letter.record.value) == (0, b"{")
        assert await setup.agents() == [5]


async def test_an_event_that_no_encoding_can_quote_becomes_a_dead_letter(setup: Setup) -> None:
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(b'{"\\ud800": "glcbt-1"}', *COMPANY))
        await until(lambda: setup.kafka.letters)
        await until(lambda: setup.has_applied(Topic.MEMBERSHIP, 4))


async def test_a_read_that_begins_too_early_applies_no_event_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch returns whole batches, so it may begin below the offset that was asked for."""
    read = setup.kafka.read
    async with setup.owning() as owner:
        setup.deliver(owner, *setup.kafka.add(*COMPANY))
        await until(lambda: len(setup.acked) == len(COMPANY))
        applied: list[int] = []
        apply = owner._applier.projection.apply_in_steps

        def noted(record: KafkaRecord) -> Iterator[None] | None:
            applied.append(record.offset)
            return apply(record)

        monkeypatch.setattr(owner._applier.projection, "apply_in_steps", noted)
        setup.kafka.read = lambda partition, _, ends: read(  # type: ignore[method-assign,assignment]
            partition, dict.fromkeys(Topic, 0), ends
        )
        records = setup.kafka.add(builders.group(4), builders.group(5))
        setup.deliver(owner, records[1])
        await until(lambda: setup.has_applied(Topic.MEMBERSHIP, 5))
        assert applied == [3, 4]


async def test_a_large_event_leaves_others_the_loop_and_shows_no_half_of_itself(
    setup: Setup,
) -> None:
    """Other partitions are stamped meanwhile; this one's events and views wait for its end."""
    setup.timing = QUICK._replace(turn_s=-1.0)
    members = [builders.member(user, project_id=7) for user in range(1, 60)]
    setup.kafka.add(*COMPANY, *members, builders.started(9, 7, 2))
    async with setup.owning() as owner:
        writes, facts = Writes(setup, owner), owner._applier.projection.facts
        seen: list[tuple[int, int]] = []

        async def other_partition() -> None:
            while True:
                left = len(list(facts.membership_keys(Key("3/project/7"))))
                seen.append((left, len(writes.order)))
                await asyncio.sleep(0)

        beside = asyncio.create_task(other_partition())
        changes = [builders.removed("project", 7), builders.project(7, 3)]
        setup.deliver(owner, *setup.kafka.add(*changes))
        await until(lambda: gets(setup, "token-9", []))
        beside.cancel()
        unfinished = {left for left, _ in seen if 0 < left < len(members)}
        assert len(unfinished) > len(members) // 2
        assert {written for left, written in seen if left} == {0}
        assert [jobs for jobs in writes.order if jobs != "checkpoint"] == [[9]]

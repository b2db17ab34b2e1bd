"""An owner goes on only in the logs whose events it has applied."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from projector.errors import HistoryLostError
from projector.events.log_identity import LogIdentity, RecordMark
from projector.events.model import Topic
from projector.store import partition_state, schema
from projector.worker.known_logs import KnownLogs
from tests import builders
from tests.unit.worker.owned_partition import (
    COMPANY,
    PARTITION,
    PROBES_S,
    Setup,
    differs,
    is_claimed_above,
    running,
    until,
)

LOGS = [f"log:{topic}" for topic in Topic]


def refill(setup: Setup, topic: Topic = Topic.MEMBERSHIP) -> None:
    """Fill the topic's log anew, beyond what was applied; a revocation is its first event."""
    records = setup.kafka.records[topic]
    number = len(records) + 3
    records.clear()
    setup.kafka.add(builders.event("member.removed", {"user_id": 1, "group_id": 3}))
    setup.kafka.add(*(builders.group(number, path="filled") for number in range(4, 4 + number)))


async def checked(logs: KnownLogs, setup: Setup, applied: dict[Topic, int]) -> None:
    await logs.check_changed(applied, await setup.kafka.leaders(PARTITION))


@pytest.mark.parametrize("sign", ["topic id", "record"])
@pytest.mark.parametrize("when", ["between owners", "while owned", "before a heal"])
async def test_a_log_filled_anew_keeps_the_partition_stale(
    setup: Setup, sign: str, when: str
) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        if when == "between owners":
            pass
        elif sign == "topic id":
            setup.kafka.topic_ids[Topic.MEMBERSHIP] = uuid4()
        elif when == "while owned":
            setup.kafka.epochs[Topic.MEMBERSHIP] += 1
        if when != "between owners":
            refill(setup)
            if when == "before a heal":
                await setup.redis.flushall()
            await until(lambda: owner.loss)
            before = await setup.field("stamp")
            await asyncio.sleep(PROBES_S)
            assert await setup.field("stamp") == before
    if when == "between owners":
        if sign == "topic id":
            setup.kafka.topic_ids[Topic.MEMBERSHIP] = uuid4()
        refill(setup)
        await setup.redis.hdel(schema.partition_key(PARTITION), "stamp")
        async with running(owner := setup.new_owner()):
            assert await setup.field("stamp") is None
    says = "was recreated: its id is" if sign == "topic id" else "membership is another log"
    assert says in str(owner.loss)


async def test_another_leader_with_the_same_log_is_no_loss(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        setup.kafka.looks.clear()
        setup.kafka.epochs[Topic.MEMBERSHIP] += 1
        await until(lambda: setup.kafka.looks)
        before = await setup.field("stamp")
        await until(lambda: differs(setup, before))
        assert owner.loss is None


async def test_without_a_change_nothing_is_read_again(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        await until(lambda: setup.field("stamp"))
        setup.kafka.looks.clear()
        await asyncio.sleep(PROBES_S)
        assert setup.kafka.looks == []


async def test_the_checkpoint_has_the_last_record_of_each_log(setup: Setup) -> None:
    setup.kafka.add(*COMPANY)
    async with setup.owning() as owner:
        (last,) = setup.kafka.add(builders.group(4, 3))
        setup.deliver(owner, last)
        await until(lambda: setup.acked)
        state = await partition_state.read_partition_state(setup.redis, PARTITION)
        assert state is not None
        ids = {topic: str(of) for topic, of in setup.kafka.topic_ids.items()}
        agent = setup.kafka.records[Topic.AGENT_CONFIG][-1]
        assert state.logs == {
            Topic.MEMBERSHIP: LogIdentity(ids[Topic.MEMBERSHIP], RecordMark.of(last)),
            Topic.AGENT_CONFIG: LogIdentity(ids[Topic.AGENT_CONFIG], RecordMark.of(agent)),
            Topic.JOB_LIFECYCLE: LogIdentity(ids[Topic.JOB_LIFECYCLE], None),
        }


async def test_a_checkpoint_of_an_older_worker_is_gone_on_from_and_gets_identities(
    setup: Setup,
) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        pass
    whole = await setup.redis.hmget(schema.partition_key(PARTITION), LOGS)
    await setup.redis.hdel(schema.partition_key(PARTITION), *LOGS, "stamp_epoch")
    setup.kafka.reads.clear()
    async with setup.owning("next"):
        assert setup.kafka.reads == []
        assert await setup.agents() == [5]
        assert await setup.redis.hmget(schema.partition_key(PARTITION), LOGS) == whole


async def test_a_record_that_retention_has_deleted_is_no_loss(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning():
        pass
    setup.kafka.begins = setup.kafka.begins | {Topic.JOB_LIFECYCLE: 1}
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("next"):
        assert await setup.agents() == [5]


async def test_a_topic_made_again_before_its_first_event_is_no_loss(setup: Setup) -> None:
    async with setup.owning() as owner:
        setup.kafka.topic_ids[Topic.MEMBERSHIP] = uuid4()
        before = await setup.field("stamp")
        await until(lambda: differs(setup, before))
        assert owner.loss is None


async def test_a_topic_made_again_is_a_loss_also_where_no_record_is_marked(setup: Setup) -> None:
    """Retention had deleted them all; the new ones before the offset would be skipped."""
    kafka: Any = setup.kafka
    setup.kafka.begins = setup.kafka.begins | {Topic.JOB_LIFECYCLE: 5}
    logs = KnownLogs(PARTITION, kafka)
    applied = dict.fromkeys(Topic, 0) | {Topic.JOB_LIFECYCLE: 5}
    await logs.check(applied)
    setup.kafka.topic_ids[Topic.JOB_LIFECYCLE] = uuid4()
    with pytest.raises(HistoryLostError, match="job-lifecycle was recreated"):
        await checked(logs, setup, applied)


async def test_a_broker_without_topic_ids_keeps_the_known_ones(setup: Setup) -> None:
    """A cluster that is being updated may have brokers of both kinds."""
    setup.kafka.add(*COMPANY)
    kafka: Any = setup.kafka
    logs = KnownLogs(PARTITION, kafka)
    applied = {topic: len(records) for topic, records in setup.kafka.records.items()}
    await logs.check(applied)
    known = logs.identities()
    setup.kafka.topic_ids = dict.fromkeys(Topic)
    await checked(logs, setup, applied)
    assert logs.identities() == known
    setup.kafka.topic_ids = {topic: uuid4() for topic in Topic}
    with pytest.raises(HistoryLostError):
        await checked(logs, setup, applied)


async def test_another_broker_with_a_copy_is_no_reason_to_look(setup: Setup) -> None:
    """No log loses what was acknowledged by getting another copy."""
    kafka: Any = setup.kafka
    logs = KnownLogs(PARTITION, kafka)
    leaders = await setup.kafka.leaders(PARTITION)
    offsets = dict.fromkeys(Topic, 0)
    await logs.check_changed(offsets, leaders)
    before = len(setup.kafka.looks)
    moved = {topic: at._replace(replicas=frozenset({1, 4})) for topic, at in leaders.items()}
    setup.kafka.down = True
    await logs.check_changed(offsets, moved)
    assert len(setup.kafka.looks) == before


async def test_a_checkpoint_that_is_dropped_takes_its_logs_with_it(setup: Setup) -> None:
    setup.kafka.add(*COMPANY, builders.started(9, 7))
    async with setup.owning() as owner:
        epoch = owner.version.epoch
    await setup.redis.hdel(schema.facts_key(PARTITION), "3/group/3")
    setup.kafka.topic_ids[Topic.MEMBERSHIP] = uuid4()
    await setup.redis.hdel(schema.partition_key(PARTITION), "stamp_epoch")
    async with setup.owning("next"):
        assert await is_claimed_above(setup, epoch)
        assert await setup.agents() == [5]

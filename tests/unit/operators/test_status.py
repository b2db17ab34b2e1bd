"""`projector status` of any state in Redis, also of unreadable ones."""

import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from redis.exceptions import ResponseError

from projector.cli.display.status_display import sentences
from projector.clients import redis_batch
from projector.errors import PartitionCountError
from projector.events.model import Topic
from projector.operators import status
from projector.operators.status_model import (
    KafkaFault,
    KafkaTrouble,
    PartitionHealth,
    Severity,
    WorkerHealth,
)
from projector.store import replay_marks, schema
from projector.store.activity import MinuteActivity
from projector.store.replay_marks import FirstLetter, mark_of
from tests.unit.operators.stored_status import OWNER, StoredStatus, ends


@pytest.fixture
async def world() -> AsyncIterator[StoredStatus]:
    world = StoredStatus()
    await world.partitions(1)
    yield world
    await world.redis.aclose()


@pytest.mark.parametrize(
    ("age", "state"),
    [
        (0.3, PartitionHealth.FRESH),
        (2.5, PartitionHealth.LATE),
        (9.0, PartitionHealth.LATE),
        (11.0, PartitionHealth.STALE),
    ],
)
async def test_the_age_of_the_stamp_makes_the_state(
    world: StoredStatus, age: float, state: PartitionHealth
) -> None:
    await world.stamp(0, age)
    found = await world.read()
    assert found.partitions[0].state is state
    assert found.partitions[0].age == pytest.approx(age, abs=0.5)
    assert found.is_fresh is (state is PartitionHealth.FRESH)


async def test_a_partition_without_a_claim_is_unclaimed(world: StoredStatus) -> None:
    found = await world.read()
    (partition,) = found.partitions
    assert (partition.state, partition.owner, partition.age) == (
        PartitionHealth.UNCLAIMED,
        None,
        None,
    )
    assert not found.is_fresh


async def test_a_claim_without_a_stamp_is_stale(world: StoredStatus) -> None:
    await world.redis.hset(schema.partition_key(0), mapping={"epoch": 7, "owner": OWNER})
    (partition,) = (await world.read()).partitions
    assert (partition.state, partition.owner, partition.age) == (PartitionHealth.STALE, OWNER, None)


async def test_a_stamp_from_the_future_is_none(world: StoredStatus) -> None:
    await world.stamp(0, -60)
    assert (await world.read()).partitions[0].state is PartitionHealth.STALE


async def test_without_partitions_nothing_is_fresh(world: StoredStatus) -> None:
    await world.redis.flushall()
    found = await world.read()
    assert (found.partitions, found.is_fresh) == ([], False)
    assert [cause.name for cause in found.causes] == ["no-worker"]
    assert next(sentences(found)) == "0 partitions"


async def test_kafka_knows_the_partitions_that_no_worker_has_named(world: StoredStatus) -> None:
    await world.redis.flushall()
    found = await world.read(ends(partitions=3))
    assert [partition.state for partition in found.partitions] == [PartitionHealth.UNCLAIMED] * 3


async def test_the_lag_is_what_kafka_has_beyond_what_is_applied(world: StoredStatus) -> None:
    await world.stamp(0, 0, **{"offset:agent-config": 9})
    found = await world.read(ends(end=7, dead_letters=2))
    # job-lifecycle: nothing is applied, and Kafka has the offsets from 1 on.
    assert found.partitions[0].lag == {
        Topic.MEMBERSHIP: 3, Topic.AGENT_CONFIG: 0, Topic.JOB_LIFECYCLE: 6,
    }  # fmt: skip
    assert (found.totals.lag, found.dead_letters) == (9, 2)
    assert "lag 9, dead letters 2" in "\n".join(sentences(found))


async def test_without_kafka_the_lag_is_not_known(world: StoredStatus) -> None:
    await world.stamp(0, 0)
    reason = "Kafka at x cannot be reached: no broker answers"
    trouble = KafkaTrouble(KafkaFault.UNREACHABLE, reason, 1_800_000_000_000)
    found = await world.read(trouble=trouble)
    assert (found.partitions[0].lag, found.totals.lag, found.dead_letters) == (None, None, None)
    assert found.kafka == f"{reason} (since 2027-01-15T08:00:00.000+00:00)"
    assert [(c.name, c.severity) for c in found.causes] == [("kafka-unreachable", Severity.NOTICE)]


async def test_the_number_of_partitions_may_differ_from_kafkas(world: StoredStatus) -> None:
    await world.partitions(2)
    found = await world.read(ends(partitions=1))
    assert [partition.lag is None for partition in found.partitions] == [False, True]


async def test_rates_tokens_and_revocations_come_from_the_activity(world: StoredStatus) -> None:
    await world.partitions(2)
    minute = int(time.time()) // 60
    for partition in range(2):
        await world.stamp(partition, 0)
        counts = [0, 0, 3, *[0] * 11]
        done = MinuteActivity(minute, {Topic.MEMBERSHIP: 300}, {}, 6, counts, 0.02)
        await world.publish(partition, done)
    found = await world.read()
    rates = found.partitions[1].rates
    assert rates is not None
    assert 300 / 301 <= rates.events <= 300 / 240
    assert (rates.revocations, rates.revocation_p99) == (3, 0.02)
    assert (found.totals.live_tokens, found.totals.rates.revocations) == (4, 6)
    assert "6 revocations: half within 0.0" in "\n".join(sentences(found))


async def test_workers_are_those_who_hold_claims(world: StoredStatus) -> None:
    await world.partitions(3)
    await world.stamp(0, 1)
    await world.stamp(1, 5)
    await world.stamp(2, 20, owner="host-2-efgh")
    found = await world.read()
    first, second = found.workers
    assert (first.owner, first.partitions) == (OWNER, [0, 1])
    assert first.age == pytest.approx(1, abs=0.5)
    assert (second.owner, second.partitions) == ("host-2-efgh", [2])
    assert (first.state, second.state) == (WorkerHealth.WORKING, WorkerHealth.SILENT)
    cause, rest = found.causes
    assert rest.name == "partitions-late"
    assert (cause.name, cause.what) == ("worker-gone", "The worker host-2-efgh is silent.")
    assert cause.lookups == (
        "Lookups of partition 2 and of unknown tokens get 503; all others are answered."
    )


async def test_a_worker_that_reports_while_it_is_behind_is_not_silent(world: StoredStatus) -> None:
    await world.partitions(1)
    await world.stamp(0, 20, stamp_epoch=6)
    await world.publish(0, written_ago=5)
    found = await world.read(ends(end=1_000_000))
    assert found.workers[0].state is WorkerHealth.BEHIND
    (cause,) = found.causes
    assert cause.name == "partitions-stale"
    assert cause.what == "Partition 0 is behind, although the worker is there."
    assert cause.advice.startswith("Wait while the lag falls.")


@pytest.mark.parametrize(
    ("age", "written_ago", "epoch"),
    [(20, 9, 7), (20, 5, 6), (5, 4, 7), (6, 6, 7)],
    ids=["too old", "a former owner's", "of before it hung", "of the moment it hung"],
)
async def test_a_report_that_proves_no_life_leaves_the_worker_silent(
    world: StoredStatus, age: int, written_ago: int, epoch: int
) -> None:
    await world.partitions(1)
    await world.stamp(0, age)
    await world.publish(0, written_ago=written_ago, epoch=epoch)
    assert (await world.read()).workers[0].state is WorkerHealth.SILENT


async def test_a_worker_that_reports_to_wait_for_kafka_is_cut_off_and_not_silent(
    world: StoredStatus,
) -> None:
    await world.stamp(0, 3)
    await world.publish(0, written_ago=2, unstamped=True, outage="Kafka: no broker")
    found = await world.read(ends())
    assert found.partitions[0].outage == "Kafka: no broker"
    assert found.workers[0].state is WorkerHealth.BEHIND
    assert [cause.name for cause in found.causes] == ["workers-cut-off"]


async def test_a_worker_that_has_just_claimed_is_not_silent(
    world: StoredStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = int(time.time() * 1000)
    await world.stamp(0, 70, stamp_epoch=6, epoch=now)
    with monkeypatch.context() as slow:
        slow.setattr(status, "LATE_S", 60.0)
        assert (await world.read()).workers[0].state is WorkerHealth.BEHIND
    await world.stamp(0, 20, stamp_epoch=6, epoch=now - 60_000)
    assert (await world.read()).workers[0].state is WorkerHealth.SILENT


async def test_the_former_owners_report_is_not_taken_for_that_of_a_new_one(
    world: StoredStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "LATE_S", 60.0)
    await world.stamp(0, 70, stamp_epoch=6, epoch=int(time.time() * 1000))
    await world.publish(0, unstamped=True, epoch=6, outage="Kafka: no broker")
    assert (await world.read(ends())).partitions[0].outage is None


async def test_a_report_from_before_the_last_stamp_proves_no_life(world: StoredStatus) -> None:
    await world.stamp(0, 3)
    await world.publish(0, written_ago=5, unstamped=True, outage="Kafka")
    found = await world.read(ends())
    assert (found.partitions[0].outage, found.workers[0].state) == (None, WorkerHealth.SILENT)


async def test_a_redis_without_memory_is_the_cause_and_not_the_workers(
    world: StoredStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are silent for their reports are refused too."""
    full = {"used_memory": 1_000_000, "maxmemory": 1_000_000, "maxmemory_policy": "noeviction"}

    async def info(_redis: object, _section: str) -> list[dict[str, Any]]:
        return [full]

    monkeypatch.setattr(redis_batch, "info", info)
    await world.partitions(2)
    await world.stamp(0, 70)
    await world.stamp(1, 0)
    # It accepted a stamp a moment ago.
    with monkeypatch.context() as slow:
        slow.setattr(status, "LATE_S", 60.0)
        assert (await world.read()).refused_writes is None
    await world.stamp(1, 3)
    found = await world.read()
    assert [cause.name for cause in found.causes] == ["redis-refuses-writes"]
    assert found.causes[0].detail == "its memory is full: 1000000 of 1000000 bytes"


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch": "x"}, {"epoch": "9" * 30}, {"stamp": "-" + "9" * 400}, {"revision": "-5"},
        {"offset:membership": "9" * 5000}, {"facts": "1e5"},
    ],
)  # fmt: skip
async def test_a_hash_that_cannot_be_read_counts_as_none(
    world: StoredStatus, fields: dict[str, str]
) -> None:
    await world.stamp(0, 0, **fields)
    found = await world.read(ends())
    assert found.partitions[0].state is PartitionHealth.UNCLAIMED
    assert found.partitions[0].damage == "allowed-agents:partition:{0} is unreadable"
    assert found.causes[0].name == "partition-damaged"
    assert msgspec.json.encode(found)


async def test_a_lost_fact_is_damage_although_lookups_are_answered(world: StoredStatus) -> None:
    await world.stamp(0, 0)
    await world.redis.hdel(schema.facts_key(0), "c")
    found = await world.read()
    assert found.partitions[0].damage == "4 facts where 5 were written"
    (cause,) = found.causes
    assert (cause.name, cause.severity) == ("partition-damaged", Severity.NOTICE)
    assert "`projector rebuild --partition 0`" in cause.advice
    assert found.is_fresh


async def test_a_checkpoint_that_is_being_written_is_no_damage(world: StoredStatus) -> None:
    await world.stamp(0, 0, facts=-1)
    await world.redis.delete(schema.facts_key(0))
    assert (await world.read()).causes == []


@pytest.mark.parametrize(
    ("age", "name"), [(0, "other-topics"), (20, "history-lost")], ids=["fresh", "stale"]
)
async def test_topics_of_other_ids_than_were_applied_are_named(
    world: StoredStatus, age: float, name: str
) -> None:
    """With a wrong prefix every partition looked fresh, with lag 0."""
    await world.stamp(0, age, **{"log:membership": "id-1"})
    same, others = (
        ends()._replace(topic_ids={Topic.MEMBERSHIP: each}) for each in ("id-1", "id-2")
    )
    assert name not in [cause.name for cause in (await world.read(same)).causes]
    found = await world.read(others)
    assert found.partitions[0].other_logs == [Topic.MEMBERSHIP]
    assert [cause.name for cause in found.causes] == [name]


async def test_a_partition_without_a_leader_has_no_lag(world: StoredStatus) -> None:
    await world.partitions(2)
    await world.stamp(0, 0)
    await world.stamp(1, 20)
    answer = ends()._replace(leaderless={1: [Topic.AGENT_CONFIG]})
    found = await world.read(answer)
    assert [p.lag is None for p in found.partitions] == [False, True]
    (cause,) = found.causes
    assert cause.name == "partition-leaderless"
    assert cause.what == "Kafka has no leader for agent-config of partition 1."


async def test_keys_of_another_type_count_as_none(world: StoredStatus) -> None:
    await world.redis.set(schema.partition_key(0), "x")
    await world.redis.hset(schema.activity_key(0), "a", "b")
    (partition,) = (await world.read()).partitions
    assert (partition.state, partition.rates) == (PartitionHealth.UNCLAIMED, None)


@pytest.mark.parametrize("count", ["x", "", "-1", "10001", "9" * 4301, "٣"])
async def test_a_number_of_partitions_that_cannot_be_is_said(
    world: StoredStatus, count: str
) -> None:
    await world.partitions(count)
    with pytest.raises(PartitionCountError, match="allowed-agents:partitions in Redis is not a"):
        await world.read()


async def test_old_marks_of_replays_hide_no_letter(world: StoredStatus) -> None:
    """The topic was trimmed, or created anew: 100 old marks hid 50 letters."""
    await world.partitions(1)
    old = {mark_of(0, n, 500_000): "membership 0:1" for n in range(100)}
    await replay_marks.write_marks(world.redis, old)
    first = {0: FirstLetter(0, 1_000_000)}
    found = await world.read(ends(dead_letters=50)._replace(first_letters=first))
    assert (found.replayed, found.waiting_letters) == (0, 50)
    await replay_marks.write_marks(world.redis, {mark_of(0, 3, 1_000_000): "membership 0:2"})
    found = await world.read(ends(dead_letters=50)._replace(first_letters=first))
    assert (found.replayed, found.waiting_letters) == (1, 49)


async def test_a_number_of_partitions_of_another_type_is_no_outage(world: StoredStatus) -> None:
    await world.redis.delete(schema.PARTITIONS_KEY)
    await world.redis.rpush(schema.PARTITIONS_KEY, "1")
    with pytest.raises(PartitionCountError):
        await world.read()


async def test_a_refusal_by_redis_is_no_empty_partition(
    world: StoredStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = world.redis.pipeline

    def refusing(**kwargs: Any) -> Any:
        pipe: Any = pipeline(**kwargs)
        execute = pipe.execute

        async def execute_refused(**more: Any) -> Any:
            return [
                ResponseError("NOPERM this user has no permissions"),
                *(await execute(**more))[1:],
            ]

        pipe.execute = execute_refused
        return pipe

    monkeypatch.setattr(world.redis, "pipeline", refusing)
    with pytest.raises(ResponseError, match="NOPERM"):
        await world.read()

"""`projector status` of any state in Redis, also of unreadable ones."""

import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from redis.exceptions import ResponseError

from projector.cli.status_display import lines
from projector.errors import PartitionCountError
from projector.events.model import Topic
from projector.operators.status_model import PartitionHealth
from projector.store import schema
from projector.store.activity import MinuteActivity
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
    assert list(lines(found))[1] == "0 partitions: no worker has ever run"


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
    text = "\n".join(lines(found))
    assert "membership 3, job-lifecycle 6" in text


async def test_without_kafka_the_lag_is_not_known(world: StoredStatus) -> None:
    await world.stamp(0, 0)
    found = msgspec.structs.replace(await world.read(), kafka="Kafka at x cannot be reached")
    assert (found.partitions[0].lag, found.totals.lag, found.dead_letters) == (None, None, None)
    assert list(lines(found))[-1] == "no lag, no dead letters: Kafka at x cannot be reached"


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
    assert "6 revocations: half within 0.0" in "\n".join(lines(found))


async def test_workers_are_those_who_hold_claims(world: StoredStatus) -> None:
    await world.partitions(3)
    await world.stamp(0, 1)
    await world.stamp(1, 5)
    await world.stamp(2, 20, owner="host-2-efgh")
    first, second = (await world.read()).workers
    assert (first.owner, first.partitions) == (OWNER, [0, 1])
    assert first.age == pytest.approx(1, abs=0.5)
    assert (second.owner, second.partitions) == ("host-2-efgh", [2])


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
    assert msgspec.json.encode(found)


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
